"""Measure many architectures of one space alike, in processes, with what a store has of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from lswag_hooks.batch import Batch
from lswag_hooks.engines import Failure, run
from lswag_hooks.errors import InputError, decided, told
from lswag_hooks.hooks.session import Mode
from lswag_hooks.images import Size
from lswag_hooks.models import build
from lswag_hooks.proxies import Proxy
from lswag_hooks.ranking import progress_bar
from lswag_hooks.scoring import score
from lswag_hooks.spaces import Space
from lswag_hooks.store import FailedAttempt, Key, Record, Store, canonical


@dataclass(frozen=True)
class Work:
    """What it takes to score any architecture of a benchmark; the same for all, and held by every worker.

    Attributes:
        space: search space; None for names that :func:`lswag_hooks.build` knows.
        task: of the space.
        batch: in the form that the task wants.
        proxies: to compute.
        seed: of the weights.
        num_classes: None for the task's own.
        image_size: to build for; None for the task's own.
        mode: as for :func:`lswag_hooks.score`.
        init: as for :func:`lswag_hooks.score`.
    """

    space: Space | None
    task: str | None
    batch: Batch
    proxies: tuple[Proxy, ...]
    seed: int = 0
    num_classes: int | None = None
    image_size: Size | None = None
    mode: Mode = "score"
    init: str | None = None

    def conditions(self) -> dict[str, Any]:
        """What a score depends on beside architecture, proxy, seed and batch."""
        return {
            "task": self.task,
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "mode": self.mode,
            "init": self.init,
        }

    @property
    def name(self) -> str:
        """Of the space; empty for names that :func:`lswag_hooks.build` knows."""
        return "" if self.space is None else self.space.name

    @property
    def kept(self) -> tuple[Proxy, ...]:
        """All that is measured of an architecture, each kept under its own key."""
        return self.proxies

    def measured(self, architecture: str) -> Measured:
        """Build and score an architecture.

        Raises:
            Exception: whatever building and scoring raises.
        """
        return self.scored(*self.network(architecture), self.proxies)

    def scored(self, model: nn.Module, loss: Any, proxies: Sequence[Proxy]) -> Measured:
        """Score a network by some of the proxies."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes on one network of a thousand
            model = model.to(self.batch.device)  # spaces build where PyTorch does by default
            result = score(model, self.batch, proxies, loss, seed=self.seed, mode=self.mode, init=self.init)
        return Measured(dict(result.scores), dict(result.reasons), broken=frozenset(result.broken))

    def ruled_out(self, measured: Measured) -> Measured | None:
        """What is to be told of an architecture that needs no more than what was measured; None if it does."""
        return None

    def network(self, architecture: str) -> tuple[nn.Module, Any]:
        """Build an architecture; the network and its loss, None for cross-entropy.

        Raises:
            InputError: the architecture cannot work.
        """
        if self.space is None:
            size = self.image_size
            return build(architecture, num_classes=self.num_classes, seed=self.seed, image_size=size), None
        reason = self.space.validate(architecture)
        if reason is not None:
            raise InputError(reason)
        size, task = self.image_size, self.task
        model = self.space.build(architecture, self.num_classes, task=task, image_size=size, seed=self.seed)
        return model, self.space.objective(task)


@dataclass(frozen=True)
class Measured:
    """What one architecture scored.

    Attributes:
        scores: by proxy; NaN where there is none.
        reasons: why, for those.
        seconds: of building and scoring.
        broken: those without a score because something broke down (want of memory, a mistake in a space's code): that
            is no property of the architecture, and is tried again another time.
        left_out: those that were not computed, because the others made them needless.
        ruled_out: why the architecture is out of question, whatever it scores; empty if it is not.
    """

    scores: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    broken: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    ruled_out: str = ""

    @classmethod
    def nothing(cls, work: Work, reason: str, seconds: float = 0.0, broken: bool = True) -> Measured:
        """No score at all, for one reason."""
        keys = [proxy.key for proxy in work.kept]
        lost = dict.fromkeys(keys, float("nan"))
        return cls(lost, dict.fromkeys(keys, reason), seconds, frozenset(keys if broken else ()))


def measure(work: Work, architecture: str) -> Measured:
    """Build and score one architecture; one that cannot be scored has NaN everywhere, with the reason."""
    start = time.perf_counter()
    try:
        return replace(work.measured(architecture), seconds=time.perf_counter() - start)
    except Exception as error:  # whatever it is, the other architectures are worth their scores
        return Measured.nothing(work, told(error), time.perf_counter() - start, broken=not decided(error))


def measure_all(
    work: Work,
    architectures: Sequence[str],
    *,
    store: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> tuple[dict[str, Measured], bool]:
    """Score architectures, those that a store has excepted, and keep each as it is finished.

    Returns:
        What each scored, in the order given, and whether it was interrupted.
    """
    measured: dict[str, Measured] = {}
    interrupted = False
    keep = None if store is None else Store(store)
    try:
        if keep is not None:
            measured = known_scores(keep, work, architectures)
        missing = [name for name in architectures if name not in measured]
        with progress_bar(len(architectures), progress) as advance:
            advance("", len(measured))
            try:
                for index, outcome in run(measure, missing, payload=work, workers=workers):
                    name = missing[index]
                    if isinstance(outcome, Failure):
                        outcome = Measured.nothing(work, outcome.reason)
                    measured[name] = outcome
                    if keep is not None:
                        keep_measured(keep, work, name, outcome)
                    advance(name, 1)
            except KeyboardInterrupt:
                interrupted = True
    finally:
        if keep is not None:
            keep.close()
    return {name: measured[name] for name in architectures if name in measured}, interrupted


def known_scores(store: Store, work: Work, architectures: Sequence[str]) -> dict[str, Measured]:
    """What a store holds of architectures, those alone of which it holds all that is needed."""
    keys = {name: {proxy.key: _key(work, name, proxy) for proxy in work.kept} for name in architectures}
    found = store.get(key for wanted in keys.values() for key in wanted.values())
    known = {}
    for name, wanted in keys.items():
        there = {label: found[key] for label, key in wanted.items() if key in found}
        scores = {label: record.value for label, record in there.items()}
        reasons = {label: record.reason for label, record in there.items() if record.reason}
        seconds = max((record.seconds or 0.0 for record in there.values()), default=0.0)
        one = Measured(scores, reasons, seconds)
        out = work.ruled_out(one)
        if out is not None:
            known[name] = out
        elif len(there) == len(wanted):
            known[name] = one
    return known


def keep_measured(store: Store, work: Work, architecture: str, measured: Measured) -> None:
    """Keep what one architecture scored; what broke down is kept as a failure, which is tried again."""
    found = []
    for proxy in work.kept:
        key, label = _key(work, architecture, proxy), proxy.key
        if label in measured.broken:
            store.fail(FailedAttempt(key, measured.reasons[label]))
        elif label not in measured.left_out:
            found.append(Record(key, measured.scores[label], measured.reasons.get(label), measured.seconds))
    if found:
        store.put(found)


def _key(work: Work, architecture: str, proxy: Proxy) -> Key:
    settings = canonical({"proxy": proxy.name, **proxy.settings()})
    conditions = canonical(work.conditions())
    return Key(architecture, settings, work.seed, work.batch.fingerprint, work.name, conditions)
