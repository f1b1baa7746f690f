"""Build and score candidates with each of their seeds; whatever happens to one, the others are worth their scores."""

from __future__ import annotations

import contextlib
import gc
import logging
import pickle
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lswag_hooks.batch import Batch
from lswag_hooks.candidates import Candidate
from lswag_hooks.engines import Failure, runner
from lswag_hooks.errors import InputError, LSWAGError, decided, told
from lswag_hooks.hooks.session import Mode
from lswag_hooks.images import Size
from lswag_hooks.models import Spec, build
from lswag_hooks.objective import Reduction
from lswag_hooks.proxies import Proxy
from lswag_hooks.results import ScoreResult
from lswag_hooks.scoring import score

if TYPE_CHECKING:
    from lswag_hooks.keeping import Keeper

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """What is the same for all candidates of a ranking; sent once to each worker.

    Attributes:
        batch: the samples.
        proxies: to compute.
        keys: those of them that were asked for; the others are counted beside.
        num_classes: to build with.
        image_size: to build for.
        loss: as for :func:`~lswag_hooks.score`.
        mode: as for :func:`~lswag_hooks.score`.
        reduction: as for :func:`~lswag_hooks.score`.
        init: as for :func:`~lswag_hooks.score`.
        max_memory: as for :func:`~lswag_hooks.score`.
    """

    batch: Batch
    proxies: tuple[Proxy, ...]
    keys: tuple[str, ...]
    num_classes: int | None = None
    image_size: Size | None = None
    loss: Any = None
    mode: Mode = "score"
    reduction: Reduction | None = None
    init: str | None = None
    max_memory: int | float | str | None = None

    def build(self, spec: Spec, seed: int) -> nn.Module:
        """Build a candidate."""
        size, device = self.image_size, self.batch.device
        return build(spec, num_classes=self.num_classes, seed=seed, image_size=size, device=device)

    def score(self, model: nn.Module, seed: int) -> ScoreResult:
        """Score a network.

        Raises:
            InputError: nothing that was asked for can be had.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lswag_hooks\.attempts")  # a ranking has notes instead
            result = score(
                model,
                self.batch,
                self.proxies,
                self.loss,
                seed=seed,
                mode=self.mode,
                reduction=self.reduction,
                init=self.init,
                max_memory=self.max_memory,
            )
        check_any(result, self.keys)
        return result


@dataclass
class Outcome:
    """What became of one candidate.

    Attributes:
        found: result of each seed that could be scored.
        failures: reason of each that could not.
        settled: those of them that would fail again in the same way.
        fixed: every seed would give the same weights.
        interrupted: Ctrl-C.
        seconds: time that it took.
    """

    found: dict[int, ScoreResult] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    fixed: bool = False
    interrupted: bool = False
    seconds: float = 0.0

    def joined(self, other: Outcome, seeds: Sequence[int]) -> Outcome:
        """This and what came later, by seed."""
        found, failures = {**self.found, **other.found}, {**self.failures, **other.failures}
        return Outcome(
            {seed: found[seed] for seed in seeds if seed in found},
            {seed: failures[seed] for seed in seeds if seed in failures},
            self.settled | other.settled,
            self.fixed or other.fixed,
            self.interrupted or other.interrupted,
            other.seconds + sum(result.seconds for result in self.found.values()),
        )


def all_seeds(
    terms: Terms,
    candidate: Candidate,
    seeds: Sequence[int],
    done: Collection[int] = (),
    keep: Callable[[int, Outcome], None] = lambda seed, outcome: None,
    advance: Callable[[str, int], None] = lambda name, steps: None,
) -> Outcome:
    """Score one candidate with each of its seeds.

    Args:
        terms: how.
        candidate: what.
        seeds: of the weights.
        done: those whose results are there already; they are left out.
        keep: told of each seed as it is finished.
        advance: told of steps done.
    """
    outcome, start = Outcome(fixed=isinstance(candidate.spec, nn.Module)), time.perf_counter()
    left, earlier = len(seeds), None
    last: weakref.ref[nn.Module] | None = None
    try:
        for seed in seeds[:1] if outcome.fixed else seeds:
            advance(candidate.name, 0)
            if seed in done:
                earlier = seed
            else:
                if last is None and earlier is not None:  # it is built again to know one that is the same module
                    with contextlib.suppress(Exception):  # the attempt itself will tell
                        last = weakref.ref(terms.build(candidate.spec, earlier))
                last = _attempt(terms, candidate, seed, last, outcome)
                if outcome.fixed and seed not in (outcome.found | outcome.failures):
                    break
                keep(seed, outcome)
            left -= 1
            advance(candidate.name, 1)
    except KeyboardInterrupt:
        outcome.interrupted = True
    advance(candidate.name, left)
    outcome.seconds = time.perf_counter() - start
    return outcome


def attempt(terms: Terms, job: tuple[Candidate, Sequence[int], Collection[int]]) -> Outcome:
    """Score one candidate in a worker; the job is the candidate, its seeds, and those that are done."""
    return all_seeds(terms, *job)


def check_any(result: ScoreResult, keys: Sequence[str]) -> None:
    """Refuse a result with none of the proxies that were asked for, whatever was counted beside them."""
    if all(key in result.reasons for key in keys):
        said = "; ".join(f"{key}: {result.reasons[key]}" for key in keys)
        raise InputError(said) from (LSWAGError("a pass broke down") if {*keys} & {*result.broken} else None)


def free(model: weakref.ref[nn.Module], spec: Spec) -> None:
    """Free a network that only the garbage collector can free: the next candidate may need its memory."""
    if model() is not None and not isinstance(spec, nn.Module):
        gc.collect()


def _attempt(
    terms: Terms, candidate: Candidate, seed: int, last: weakref.ref[nn.Module] | None, outcome: Outcome
) -> weakref.ref[nn.Module] | None:
    """Build and score; returns what was built if it could be scored, else what was before."""
    scoring = False
    try:
        model = terms.build(candidate.spec, seed)
        if last is not None and model is last():  # the factory gives the same module again
            outcome.fixed = True
            return last
        scoring = True
        outcome.found[seed] = terms.score(model, seed)
    except Exception as error:  # whatever it is, the other candidates are worth their scores
        logger.debug("%s, seed %d", candidate.name, seed, exc_info=True)
        outcome.failures[seed] = told(error)
        if scoring and decided(error):  # a build may fail for want of something that is there the next time
            outcome.settled.add(seed)
        return last
    last = weakref.ref(model)
    del model
    free(last, candidate.spec)
    return last


def score_all(
    terms: Terms,
    candidates: Sequence[Candidate],
    seeds: Sequence[int],
    keeper: Keeper | None,
    advance: Callable[[str, int], None],
    engine: str,
    workers: int,
    address: str | None,
) -> Iterator[tuple[str, Outcome]]:
    """What became of each candidate, by name, what a store has of it included; Ctrl-C ends it early."""
    alone = engine == "local" and workers == 1
    known: dict[str, Outcome] = {}
    jobs: list[tuple[Candidate, Sequence[int], list[int]]] = []
    with contextlib.suppress(KeyboardInterrupt):
        for candidate in candidates:
            there = Outcome() if keeper is None else keeper.known(candidate, seeds)
            done = [*there.found, *there.failures]
            if alone:

                def keep(seed: int, outcome: Outcome, candidate: Candidate = candidate) -> None:
                    if keeper is not None:
                        keeper.keep(candidate, seed, outcome)

                outcome = all_seeds(terms, candidate, seeds, done, keep, advance)
                yield candidate.name, there.joined(outcome, seeds)
                if outcome.interrupted:
                    return
            else:
                known[candidate.name] = there
                jobs.append((candidate, seeds, done))
                _check_sendable(candidate)
        if alone:
            return
        shared = {"threads": max(1, torch.get_num_threads() // workers)}
        there_is = {} if address is None else {"address": address}
        for index, outcome in runner(engine)(attempt, jobs, payload=terms, workers=workers, **shared, **there_is):
            candidate, _, done = jobs[index]
            if isinstance(outcome, Failure):
                outcome = Outcome(failures={seed: outcome.reason for seed in seeds if seed not in done})
            if keeper is not None:
                for seed in [*outcome.found, *outcome.failures]:
                    keeper.keep(candidate, seed, outcome)
            advance(candidate.name, len(seeds))
            yield candidate.name, known[candidate.name].joined(outcome, seeds)


def _check_sendable(candidate: Candidate) -> None:
    """Refuse, before any work, what could not be sent to a worker."""
    try:
        pickle.dumps(candidate.spec)
    except Exception as error:  # pickle raises whatever an object's own methods raise
        raise InputError(
            f"candidate {candidate.name!r} cannot be sent to another process ({error}): give a function or class of a "
            "module, or a spec such as 'timm/resnet18'; or use workers=1."
        ) from None
