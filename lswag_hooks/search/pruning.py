"""The pruning of TE-NAS, by any proxy or several: a supernet loses what it needs least, until a network is left.

Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.measuring import Measured, Work
from lswag_hooks.ranking import images_of, progress_bar
from lswag_hooks.search.evaluation import Evaluator, Interrupted, Rate
from lswag_hooks.search.loop import Seen
from lswag_hooks.search.problem import Objective, Problem, check_budget
from lswag_hooks.search.random import Proposal
from lswag_hooks.spaces.darts_genotypes import CELLS
from lswag_hooks.spaces.darts_supernet import (
    EDGES,
    FULL,
    OPERATIONS,
    Live,
    Supernet,
    genotype,
    places,
    read,
    without,
    written,
)

FIGURES = 3  # changes that agree in so many significant figures are equal, as in TE-NAS
KEPT = 2  # edges of a node

Removal = tuple[int, int, tuple[int, ...]]  # cell, edge, operations


@dataclass(frozen=True)
class Pruning:
    """Prunes a DARTS supernet in the two phases of TE-NAS, with its settings for CIFAR-10.

    First operations: each is left out alone, all of them are put in order by what that changes, and every edge loses
    its ``operations`` most dispensable ones, but never its last; again, until each edge has one. Then edges: every node
    keeps the two that it can spare least. With several proxies the order is the sum of their ranks.

    A supernet of TE-NAS's size has few weights; L-SWAG's paper does not say how large its own is.

    Args:
        supernet: its size.
        operations: how many an edge loses in a round.
        repeats: draws of the weights over which changes are averaged; with and without an operation they are the same.
    """

    name: ClassVar[str] = "pruning"
    supernet: Supernet = field(default_factory=Supernet)
    operations: int = 3
    repeats: int = 3

    def __post_init__(self) -> None:
        check_budget(operations=self.operations, repeats=self.repeats)

    @property
    def supernets(self) -> int:
        """How many are scored: the whole, in each round each operation left out, and what is left of them.

        Example:
            >>> Pruning().supernets
            1005
        """
        total, live = 2 + 2 * (3 + 4 + 5), len(OPERATIONS)
        while live > 1:
            total += len(CELLS) * len(EDGES) * live + (live < len(OPERATIONS))
            live = max(1, live - self.operations)
        return self.repeats * total


@dataclass(frozen=True)
class SupernetWork(Work):
    """What it takes to score supernets; the architecture is :func:`~lswag_hooks.spaces.darts_supernet.written`."""

    supernet: Supernet = field(default_factory=Supernet)
    in_channels: int = 3

    def conditions(self) -> dict[str, Any]:
        """The supernet's size, too."""
        return {**super().conditions(), "supernet": asdict(self.supernet)}

    def network(self, architecture: str) -> tuple[nn.Module, Any]:
        """The supernet with the operations that are alive."""
        classes = self.num_classes or 10
        return self.supernet.build(read(architecture), classes, self.in_channels, self.seed), None


Evaluate = Callable[[Sequence[str]], Sequence[Sequence[Measured]]]  # one list of results a draw of the weights


def prune(pruning: Pruning, objective: Objective, evaluate: Evaluate) -> tuple[str, list[dict[str, Any]]]:
    """Prune a supernet to an architecture.

    Args:
        pruning: settings.
        objective: whose proxies decide.
        evaluate: scores supernets, once a draw of the weights.

    Returns:
        The architecture, and what was pruned step by step.

    Raises:
        InputError: the supernet cannot be scored.
    """
    live = FULL
    history: list[dict[str, Any]] = []
    known: dict[str, tuple[Measured, ...]] = {}  # by supernet, one result a draw of the weights

    def losses(reference: Live, removals: Sequence[Removal]) -> np.ndarray:
        asked = [written(reference), *(written(without(live, *removal)) for removal in removals)]
        missing = [name for name in dict.fromkeys(asked) if name not in known]
        known.update(zip(missing, zip(*evaluate(missing), strict=True), strict=True))
        return rank_sums(list(zip(*(known[name] for name in asked), strict=True)), objective)

    while any(len(alive) > 1 for _, _, alive in places(live)):
        removals = [(cell, edge, (index,)) for cell, edge, alive in places(live) if len(alive) > 1 for index in alive]
        sums = losses(live, removals)
        before, pruned = live, []
        for cell, edge, alive in places(before):
            own = [row for row, removal in enumerate(removals) if removal[:2] == (cell, edge)]
            own.sort(key=lambda row: sums[row])  # stable: among equals the first in order goes first
            for row in own[: min(pruning.operations, len(alive) - 1)]:
                live = without(live, *removals[row])
                pruned.append(_told(removals[row]))
        history.append({"phase": "operations", "removals": len(removals), "pruned": pruned})

    reference = live
    for cell in range(len(CELLS)):
        for node in dict.fromkeys(end for _, end in EDGES):
            group = [(cell, edge, live[cell][edge]) for edge, (_, end) in enumerate(EDGES) if end == node]
            if len(group) <= KEPT:
                continue
            sums = losses(reference, group)
            order = sorted(range(len(group)), key=lambda row: sums[row])
            gone = [group[row] for row in order[: len(group) - KEPT]]
            for removal in gone:
                live = without(live, *removal)
            history.append({"phase": "edges", "removals": len(group), "pruned": [_told(removal) for removal in gone]})
    return genotype(live), history


def run_pruning(
    pruning: Pruning,
    problem: Problem,
    objective: Objective,
    work: Work,
    place: dict[str, Any],
    resume: bool = False,
    progress: bool = True,
) -> tuple[Seen, int, int, float, list[dict[str, Any]]]:
    """Prune, and score the architecture that is left.

    Args:
        pruning: settings.
        problem: whose space is DARTS.
        objective: whose proxies decide.
        work: what it takes to score an architecture.
        place: store, engine and workers of an :class:`~lswag_hooks.search.evaluation.Evaluator`.
        resume: as there.
        progress: show a progress bar.

    Returns:
        The architecture as the only candidate, how many scores were computed and reused, the seconds that took, and
        what was pruned step by step.
    """
    start = time.perf_counter()
    classes = problem.space.tasks[str(work.task)] if work.num_classes is None else work.num_classes
    shape = images_of(work.batch)
    channels = shape[0] if isinstance(shape, tuple) else 3
    own = {one.name: getattr(work, one.name) for one in fields(Work)} | {"num_classes": classes}
    seen = Seen(problem, objective)
    history: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack, progress_bar(pruning.supernets, progress) as advance:
        rate = Rate(advance)
        evaluators = []
        for repeat in range(pruning.repeats):
            drawn = SupernetWork(**own | {"seed": work.seed + repeat}, supernet=pruning.supernet, in_channels=channels)
            evaluators.append(stack.enter_context(Evaluator(drawn, resume=resume and repeat == 0, **place)))
        last = stack.enter_context(Evaluator(work, **place))
        try:
            architecture, history = prune(pruning, objective, lambda names: [one(names, rate) for one in evaluators])
            seen.add([Proposal(architecture, "pruning")], last([architecture]), 0)
        except Interrupted:
            seen.interrupted = True
        every = [*evaluators, last]
    seen.seconds = time.perf_counter() - start
    counts = sum(one.computed for one in every), sum(one.reused for one in every), sum(one.seconds for one in every)
    return (seen, *counts, history)


def rank_sums(draws: Sequence[Sequence[Measured]], objective: Objective) -> np.ndarray:
    """How much each removal costs: the sum over proxies of its rank, 0 for the one that leaves the highest score.

    Args:
        draws: for each draw of the weights what the supernet scored, and then what it scored after each removal.
        objective: whose proxies they are.

    Returns:
        Shape (removals,); equal losses share a rank, and the next rank is one more.

    Raises:
        InputError: the supernet itself cannot be scored.
    """
    directions, weights = objective.directions(), objective.weights()
    total = np.zeros(len(draws[0]) - 1)
    for proxy in objective.proxies:
        losses = np.zeros(len(total))
        for whole, *removed in draws:
            full = whole.scores[proxy.key]
            if not math.isfinite(full):
                raise InputError(f"the supernet cannot be scored by {proxy.key}: {whole.reasons.get(proxy.key)}")
            sign = 1 if directions[proxy.key] else -1
            left = np.array([one.scores[proxy.key] for one in removed], dtype=np.float64)
            # TE-NAS rounds these to three decimals, which larger supernets' changes are often below
            losses += sign * (full - left) / (abs(full) or 1.0)
        losses[~np.isfinite(losses)] = np.inf  # what cannot be scored without it is kept
        _, ranks = np.unique([_rounded(loss) for loss in losses], return_inverse=True)
        total += weights[proxy.key] * ranks
    return total


def _rounded(value: float) -> float:
    return float(f"{value:.{FIGURES}g}")


def _told(removal: Removal) -> str:
    cell, edge, operations = removal
    source, node = EDGES[edge]
    return f"{CELLS[cell]} {OPERATIONS[operations[0]]} {source}->{node}"
