"""Search a space for the architectures that proxies think best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from lswag_hooks.batch import Batch
from lswag_hooks.ensembles import Libra
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.functional.lswag import Interval, check_interval
from lswag_hooks.hooks.session import MODES, Mode
from lswag_hooks.images import Size
from lswag_hooks.latency import Latency
from lswag_hooks.measuring import Measured, Work
from lswag_hooks.proxies import LSWAG, Proxy, resolve_proxies
from lswag_hooks.ranking import images_of, progress_bar
from lswag_hooks.rng import check_seed
from lswag_hooks.search.evaluation import Evaluator, Rate
from lswag_hooks.search.evolution import Evolution
from lswag_hooks.search.loop import Algorithm, run_generations
from lswag_hooks.search.problem import LATENCY, Limits, Objective, Problem, check_budget, objective
from lswag_hooks.search.pruning import Pruning, run_pruning
from lswag_hooks.search.random import RandomSearch
from lswag_hooks.search.result import SearchResult
from lswag_hooks.search.trials import OptunaSearch
from lswag_hooks.search.work import search_work
from lswag_hooks.spaces import Space, get_space

__all__ = ["ALGORITHMS", "Evolution", "Latency", "OptunaSearch", "Pruning", "RandomSearch", "SearchResult", "search"]

ALGORITHMS: dict[str, Any] = {
    "evolution": Evolution,
    "random": RandomSearch,
    "pruning": Pruning,
    "optuna": OptunaSearch,
}
EVALUATIONS = 1000

AnyAlgorithm: TypeAlias = Algorithm | Pruning


def search(
    space: str | Space,
    batch: Batch,
    proxies: str | Proxy | Libra | Sequence[str | Proxy] = "lswag",
    *,
    algorithm: str | AnyAlgorithm = "evolution",
    objectives: str | Sequence[str] = "score",
    evaluations: int | None = None,
    seed: int = 0,
    max_params: int | None = None,
    min_params: int | None = None,
    max_flops: int | None = None,
    min_flops: int | None = None,
    require: Mapping[str, float] | None = None,
    early_exit: bool = True,
    latency: Latency | None = None,
    merge: str = "log",
    task: str | None = None,
    num_classes: int | None = None,
    image_size: Size | None = None,
    interval: Interval | None = None,
    mode: Mode = "score",
    init: str | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    progress: bool = True,
) -> SearchResult:
    """Search a space for the architectures that proxies think best.

    The same arguments give the same result, with any number of workers, and also where the search was killed and
    called again with the same ``store``: what is there is not scored again, and the search takes the same way.
    Ctrl-C ends it and gives what is finished.

    Args:
        space: a search space, or its name: see :func:`~lswag_hooks.list_spaces`.
        batch: images with labels; the space puts them into the form that the task wants.
        proxies: names, or proxies with options, or a fitted :class:`~lswag_hooks.Libra`. Several are merged by their
            ranks among the candidates seen so far.
        algorithm: ``"evolution"`` (the default of AutoFormer; NSGA-II with several objectives), ``"random"``,
            ``"pruning"`` (TE-NAS, for DARTS), ``"optuna"``; or one of these classes with settings of your own, such as
            ``Evolution(population=20, mutations=10, crossovers=10)``.
        objectives: ``"score"``, or ``("score", "params", "latency")`` and the like, for a Pareto front: the score and
            what is to be small beside it: ``"params"``, ``"flops"``, ``"macs"`` (counted), ``"latency"`` (measured).
        evaluations: how many candidates are scored, or taken from the store; by default 1,000. Pruning takes as many as
            it needs.
        seed: of the search and of the weights.
        max_params: most parameters of a candidate. All limits are kept by construction, and counted with
            ``num_classes`` and ``image_size`` where these are given, else with the task's own, however small the images
            of the batch.
        min_params: fewest parameters.
        max_flops: most flops, as the space counts them.
        min_flops: fewest flops.
        require: what a candidate must have, such as ``{"swap": 200, "latency": 0.02}``: proxies, of those above or
            others, and the latency in seconds, with the least good value. It is measured first; a candidate that misses
            it is no parent and not among the best, whatever else it scores.
        early_exit: do not compute that else. False computes it, and gives the same result later.
        latency: how it is measured, by default ``Latency()``: one image at a time, on the CPU.
        merge: rule for several proxies, of :func:`~lswag_hooks.merge_ranks`.
        task: of the space; by default its first.
        num_classes: number of outputs; by default the task's.
        image_size: to build for; by default that of the batch.
        interval: first and last percentile of layers that L-SWAG counts.
        mode: as for :func:`~lswag_hooks.score`.
        init: as for :func:`~lswag_hooks.score`.
        store: an SQLite file of finished scores; made where it does not exist.
        resume: insist that the store has scores of this space and batch, instead of beginning anew.
        engine: ``"local"`` or ``"ray"``.
        workers: number of processes; 1: this one.
        address: of a started Ray cluster.
        progress: show a progress bar, on stderr, where that is a terminal.

    Raises:
        InputError: an argument makes no sense, no architecture keeps the limits (says what the nearest one has), or
            there is nothing to resume; told before any work.

    Example:
        >>> batch = Batch.builtin("digits", size=(3, 8, 8), samples=8)
        >>> few = Evolution(population=4, mutations=2, crossovers=1)
        >>> found = search("nasbench201", batch, "swap", algorithm=few, evaluations=8, max_params=500_000)
        >>> found.evaluations, all(params <= 500_000 for params in found.to_pandas()["params"])
        (8, True)
    """
    chosen = _algorithm(algorithm)
    named = get_space(space) if isinstance(space, str) else space
    goal = _objective(proxies, objectives, merge, interval)
    limits = Limits(min_params, max_params, min_flops, max_flops)
    check_seed(seed)
    budget = EVALUATIONS if evaluations is None else evaluations
    check_budget(evaluations=budget)
    _check_scoring(mode, init)
    task = named.check_task(task)
    problem = Problem(named, limits, task, num_classes, image_size)
    if isinstance(chosen, Pruning):
        _check_pruning(problem, goal, evaluations, require)
    prepared = named.batch(batch, task, seed)
    size = _size(prepared) if image_size is None else image_size
    work = Work(named, task, prepared, goal.proxies, seed, num_classes, size, mode, init)
    asked = search_work(work, goal, dict(require or {}), _latency(latency, problem, goal, require, workers), early_exit)
    problem.check(seed)
    settings = {
        "space": named.name,
        "algorithm": chosen.name,
        "options": _options(chosen),
        "evaluations": None if isinstance(chosen, Pruning) else budget,
        "limits": {name: value for name, value in vars(limits).items() if value is not None},
        **goal.settings(),
        "require": dict(asked.required),
        "latency": None if asked.latency is None else asked.latency.settings(),
        "seed": seed,
        "batch": prepared.fingerprint,
        "data": prepared.name,
        "samples": len(prepared),
        **work.conditions(),
        "engine": engine,
        "workers": workers,
    }
    place: dict[str, Any] = {"store": store, "engine": engine, "workers": workers, "address": address}
    if isinstance(chosen, Pruning):
        return SearchResult(*run_pruning(chosen, problem, goal, work, place, resume, progress), settings=settings)
    with Evaluator(asked, resume=resume, **place) as evaluator, progress_bar(budget, progress) as advance:
        best = _Best(goal)
        rate = Rate(advance, best)
        seen = run_generations(problem, goal, chosen, lambda names: best.of(evaluator(names, rate)), budget, seed)
    result = SearchResult(seen, evaluator.computed, evaluator.reused, evaluator.seconds, settings=settings)
    result.spared = sum(bool(one.left_out) for one in seen.measured) if early_exit else 0
    result.history = _history(result)
    return result


class _Best:
    """The best score so far in a few characters, for the progress bar; nothing where scores are merged ranks."""

    def __init__(self, goal: Objective) -> None:
        self._goal, self._value = goal, float("-inf")

    def of(self, measured: Sequence[Measured]) -> Sequence[Measured]:
        if not self._goal.merged:
            self._value = max([self._value, *(value for value in self._goal.fitness(measured) if value == value)])
        return measured

    def __call__(self) -> str:
        (first, *_) = self._goal.proxies
        value = self._value if self._goal.directions()[first.key] else -self._value
        return "" if self._goal.merged or abs(value) == float("inf") else f"best {first.key} {value:.4g}"


def _history(result: SearchResult) -> list[dict[str, Any]]:
    """The best score after each generation; merged scores are ranks among all candidates of the search."""
    import numpy as np

    rows = []
    scores, generations = result.values[:, 0], np.array(result.seen.generations)
    for generation in dict.fromkeys(result.seen.generations):
        until = np.flatnonzero(generations <= generation)
        finite = until[np.isfinite(scores[until])]
        best = int(finite[np.argmax(scores[finite])]) if len(finite) else None
        rows.append(
            {
                "generation": generation,
                "evaluations": len(until),
                "best": None if best is None else result.seen.architectures[best],
                "score": None if best is None else float(scores[best]),
            }
        )
    return rows


def _algorithm(algorithm: str | AnyAlgorithm) -> AnyAlgorithm:
    if isinstance(algorithm, str):
        if algorithm not in ALGORITHMS:
            near = near_matches(algorithm, ALGORITHMS)
            raise InputError(f"algorithm={algorithm!r}:{near} there are {', '.join(ALGORITHMS)}.")
        made: AnyAlgorithm = ALGORITHMS[algorithm]()
        return made
    if not isinstance(algorithm, Pruning) and not hasattr(algorithm, "propose"):
        raise InputError(f"algorithm={algorithm!r}: give a name ({', '.join(ALGORITHMS)}) or one of their classes.")
    return algorithm


def _objective(
    proxies: str | Proxy | Libra | Sequence[str | Proxy],
    objectives: str | Sequence[str],
    merge: str,
    interval: Interval | None,
) -> Objective:
    if interval is None:
        return objective(proxies, objectives, merge)
    check_interval(interval)
    if isinstance(proxies, Libra):
        raise InputError("interval= is of the proxies that are named: a LIBRA was fitted to its own.")
    wanted = [LSWAG(interval=interval) if proxy == LSWAG() else proxy for proxy in resolve_proxies(proxies)]
    return objective(wanted, objectives, merge)


def _check_scoring(mode: str, init: str | None) -> None:
    for name, value, known in (("mode", mode, MODES), ("init", init, (None, "wake"))):
        if value not in known:
            raise InputError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, known))}.")


def _check_pruning(
    problem: Problem, goal: Objective, evaluations: int | None, require: Mapping[str, float] | None
) -> None:
    if problem.space.name != "darts":
        raise InputError(f"pruning needs a supernet, and {problem.space.name} has none here: use it on 'darts'.")
    if problem.limits != Limits():
        raise InputError("pruning keeps no limits on parameters or flops: leave them out, or use 'evolution'.")
    if require:
        raise InputError("pruning scores no candidates but the last: leave require out, or use 'evolution'.")
    if len(goal.names) > 1:
        raise InputError("pruning has the score as its only objective: leave the others out, or use 'evolution'.")
    if evaluations is not None:
        raise InputError("pruning takes as many evaluations as it needs: leave their number out.")


def _latency(
    latency: Latency | None,
    problem: Problem,
    goal: Objective,
    require: Mapping[str, float] | None,
    workers: int,
) -> Latency | None:
    """How latency is to be measured; None if it is not asked for."""
    if LATENCY not in (*goal.names, *(require or ())):
        if latency is not None:
            raise InputError("latency= says how to measure what is not asked for: name 'latency' in objectives, too.")
        return None
    if workers > 1:
        raise InputError(f"workers={workers}: latency is measured on a machine that does nothing else: use workers=1.")
    how = Latency() if latency is None else latency
    size = problem.image_size if how.image_size is None else how.image_size
    return replace(how, image_size=size, num_classes=how.num_classes or problem.num_classes)


def _size(batch: Batch) -> Size:
    shape = images_of(batch)
    return shape if shape is not None else tuple(batch.inputs.shape[-3:])


def _options(algorithm: AnyAlgorithm) -> dict[str, Any]:
    if isinstance(algorithm, Pruning):
        return asdict(algorithm)
    return {name: value for name, value in vars(algorithm).items() if not name.startswith("_")}
