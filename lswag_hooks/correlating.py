"""Score architectures of known accuracy and tell how well proxies put them in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lswag_hooks.agreement import BASELINES, TENTHS, Agreement
from lswag_hooks.batch import Batch
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.errors import InputError
from lswag_hooks.functional.lswag import Interval
from lswag_hooks.hooks.session import Mode
from lswag_hooks.images import Size
from lswag_hooks.measuring import Measured, Work, measure_all
from lswag_hooks.proxies import LSWAG, Proxy, resolve_proxies
from lswag_hooks.ranking import images_of
from lswag_hooks.spaces import Space, get_space

DRAWN = 1000
DEFAULT = "lswag,lswag_robust,zico,swap,nwot"


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


def _wanted(proxies: str | Proxy | Sequence[str | Proxy], interval: Interval | None, tenths: bool) -> list[Proxy]:
    wanted = resolve_proxies(proxies)
    if interval is not None:
        wanted = [LSWAG(interval=interval) if proxy == LSWAG() else proxy for proxy in wanted]
    keys = {proxy.key for proxy in wanted}
    wanted += [proxy for proxy in resolve_proxies(BASELINES) if proxy.key not in keys]
    if tenths:
        wanted += [LSWAG(interval=(tenth, tenth), label=label) for tenth, label in enumerate(TENTHS)]
    return wanted


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
            "space": work.name or "timm",
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
