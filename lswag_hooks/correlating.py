"""Score architectures of known accuracy and tell how well proxies put them in order."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lswag_hooks.agreement import BASELINES, TENTHS, Agreement
from lswag_hooks.batch import Batch
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.engines import Failure, run
from lswag_hooks.errors import InputError, decided, told
from lswag_hooks.functional.lswag import Interval
from lswag_hooks.hooks.session import Mode
from lswag_hooks.images import Size
from lswag_hooks.models import build
from lswag_hooks.proxies import LSWAG, Proxy, resolve_proxies
from lswag_hooks.ranking import images_of, progress_bar
from lswag_hooks.scoring import score
from lswag_hooks.spaces import Space, get_space
from lswag_hooks.store import FailedAttempt, Key, Record, Store, canonical

DRAWN = 1000
DEFAULT = "lswag,lswag_robust,zico,swap,nwot"


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


def correlate(
    space: str | Space,
    batch: Batch,
    proxies: str | Proxy | Sequence[str | Proxy] = DEFAULT,
    *,
    benchmark: Benchmark | str | Path | None = None,
    task: str | None = None,
    architectures: int | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    image_size: Size | None = None,
    interval: Interval | None = None,
    tenths: bool = False,
    mode: Mode = "score",
    init: str | None = None,
    store: str | Path | None = None,
    workers: int = 1,
    resamples: int = 1000,
    progress: bool = True,
) -> Agreement:
    """Score architectures of a benchmark and correlate the scores with their known accuracies.

    The sizes (params, flops, depth and log size) are always scored too: a proxy that is no better than they are, or
    says nothing *given* them, is not worth its passes. Ctrl-C stops and gives what is finished; with a ``store``
    every finished score is kept, and the same call goes on where the last one ended.

    Args:
        space: a search space or its name, see :func:`lswag_hooks.list_spaces`; or ``"timm"``.
        batch: images with labels; the space puts them into the form that the task wants.
        proxies: names, or proxies with options.
        benchmark: the accuracies: a :class:`~lswag_hooks.Benchmark`, or a file; by default the one named as the space.
        task: of the benchmark; by default its first.
        architectures: how many to draw, without replacement; 0: all; None: 1,000, or all where there are fewer.
        seed: of the draw and of the weights.
        num_classes: number of outputs; by default the task's.
        image_size: by default that of the batch.
        interval: first and last percentile of layers that L-SWAG counts.
        tenths: also L-SWAG over each tenth of the layers alone, as in Fig. 2 of the paper.
        mode: as for :func:`~lswag_hooks.score`.
        init: as for :func:`~lswag_hooks.score`.
        store: an SQLite file of finished scores; made where it does not exist.
        workers: number of processes; 1: this one.
        resamples: of the bootstrap.
        progress: show a progress bar, on stderr, where that is a terminal.

    Raises:
        InputError: an argument makes no sense, a benchmark is missing; told before any work.

    Example:
        >>> batch = Batch.builtin("digits", size=(3, 8, 8), samples=8)
        >>> found = correlate("nasbench201", batch, "swap", architectures=6, resamples=20, progress=False)
        >>> list(found.scores)
        ['swap', 'params', 'flops', 'depth', 'log_size']
    """
    known_space = None if space == "timm" else get_space(space) if isinstance(space, str) else space
    name = "timm" if known_space is None else known_space.name
    found = benchmark if isinstance(benchmark, Benchmark) else Benchmark.load(benchmark or name)
    if found.space not in (None, name):
        raise InputError(f"{found.name} holds accuracies of {found.space}, not of {name}: name that space.")
    wanted = _wanted(proxies, interval, tenths)
    task = found.tasks[0] if task is None else task
    known = len(found.architectures(task))
    chosen = found.sample(task, min(DRAWN, known) if architectures is None else architectures or known, seed)
    own_task = None if known_space is None else (task if task in known_space.tasks else None)
    prepared = batch if known_space is None else known_space.batch(batch, own_task, seed)
    size = image_size
    if size is None:
        shape = images_of(prepared)
        size = shape if shape is not None else tuple(prepared.inputs.shape[-3:])
    work = Work(known_space, own_task, prepared, tuple(wanted), seed, num_classes, size, mode, init)
    names = chosen.architectures(task)
    # in random order: what is finished when it is interrupted is then a fair sample, and not the head of a sorted file
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    measured, interrupted = measure_all(work, shuffled, store=store, workers=workers, progress=progress)
    measured = {name: measured[name] for name in names if name in measured}
    return _agreement(work, chosen, task, measured, interrupted, resamples)


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


def _wanted(proxies: str | Proxy | Sequence[str | Proxy], interval: Interval | None, tenths: bool) -> list[Proxy]:
    wanted = resolve_proxies(proxies)
    if interval is not None:
        wanted = [LSWAG(interval=interval) if proxy == LSWAG() else proxy for proxy in wanted]
    keys = {proxy.key for proxy in wanted}
    wanted += [proxy for proxy in resolve_proxies(BASELINES) if proxy.key not in keys]
    if tenths:
        wanted += [LSWAG(interval=(tenth, tenth), label=label) for tenth, label in enumerate(TENTHS)]
    return wanted


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
    return Key(architecture, settings, work.seed, work.batch.fingerprint, _name(work), conditions)


def _name(work: Work) -> str:
    return "" if work.space is None else work.space.name


def _agreement(
    work: Work, benchmark: Benchmark, task: str, measured: dict[str, Measured], interrupted: bool, resamples: int
) -> Agreement:
    import pandas as pd

    keys = [proxy.key for proxy in work.proxies]
    scores = pd.DataFrame({key: {name: one.scores[key] for name, one in measured.items()} for key in keys})
    reasons = {}
    for name, one in measured.items():
        said = dict.fromkeys(f"{key}: {one.reasons[key]}" for key in one.reasons if key not in TENTHS)
        every = set(one.reasons.values())
        if said:
            reasons[name] = every.pop() if len(every) == 1 else "; ".join(said)
    published = benchmark.proxies(task)
    return Agreement(
        scores,
        benchmark.accuracy(task).loc[list(measured)],
        reasons,
        {proxy.key: proxy.higher_is_better for proxy in work.proxies},
        {
            "space": _name(work) or "timm",
            "benchmark": benchmark.name,
            "source": benchmark.source,
            "task": task,
            "architectures": len(benchmark.architectures(task)),
            "seed": work.seed,
            "batch": work.batch.fingerprint,
            "data": work.batch.name,
            "samples": len(work.batch),
            **work.conditions(),
            "proxies": {proxy.key: {"proxy": proxy.name, **proxy.settings()} for proxy in work.proxies},
        },
        {name: one.seconds for name, one in measured.items()},
        published if len(published.columns) else None,
        interrupted,
        resamples,
    )
