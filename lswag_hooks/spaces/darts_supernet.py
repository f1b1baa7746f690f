"""The DARTS supernet: every edge holds every operation that is still alive, in equal shares.

It is what TE-NAS prunes: Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lswag_hooks.errors import InputError
from lswag_hooks.rng import seeded
from lswag_hooks.spaces.darts_genotypes import CELLS, Genotype
from lswag_hooks.spaces.darts_network import NODES, CellPlan, edge_stride, operation, preprocessing

Live: TypeAlias = tuple[tuple[tuple[int, ...], ...], ...]  # cell, edge, operations that are alive

OPERATIONS = (  # in the order of TE-NAS, which decides between equals; its ``none`` is dead from the start
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "avg_pool_3x3",
    "max_pool_3x3",
)
EDGES = tuple((source, node) for node in NODES for source in range(node))  # 14 of each cell
FULL: Live = tuple(tuple(tuple(range(len(OPERATIONS))) for _ in EDGES) for _ in CELLS)


@dataclass(frozen=True)
class Supernet:
    """How large a supernet is; the defaults are those of TE-NAS.

    Args:
        channels: of the first cell's nodes.
        cells: how many; the reduction cells are the last of two, else those at a third and at two thirds.
        stem: channels of the stem, as a multiple of ``channels``.

    Raises:
        InputError: fewer than one channel, or than two cells: both kinds must be there.

    Example:
        >>> sum(p.numel() for p in Supernet().build(num_classes=10, seed=0).parameters())
        5431
    """

    channels: int = 1
    cells: int = 2
    stem: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (("channels", self.channels, 1), ("cells", self.cells, 2), ("stem", self.stem, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r} of the supernet: give a whole number of at least {least}.")

    def build(
        self,
        live: Live = FULL,
        num_classes: int = 10,
        in_channels: int = 3,
        seed: int | None = None,
        thin: bool = False,
    ) -> SupernetNetwork:
        """Build it with the operations that are alive; the same seed gives them the same weights, whatever is pruned.

        Args:
            live: which operations are alive.
            num_classes: number of outputs.
            in_channels: channels of the images.
            seed: of the weights; None: from the global random state.
            thin: without its stem in the forward pass, as TE-NAS counts linear regions.
        """
        if seed is None:
            return SupernetNetwork(self, live, num_classes, in_channels, thin)
        with seeded(seed):
            return SupernetNetwork(self, live, num_classes, in_channels, thin)

    def plans(self, entering: int) -> list[CellPlan]:
        """Its cells in order."""
        reductions = {1} if self.cells == 2 else {self.cells // 3, 2 * self.cells // 3}
        before_last = last = entering
        channels, after_reduction, plans = self.channels, False, []
        for index in range(self.cells):
            reduction = index in reductions
            channels *= 1 + reduction
            plans.append(CellPlan(before_last, last, channels, reduction, after_reduction))
            before_last, last, after_reduction = last, len(NODES) * channels, reduction
        return plans


class SupernetNetwork(nn.Module):
    """The network of a :class:`Supernet`: (N, in_channels, H, W) to (N, num_classes)."""

    def __init__(self, size: Supernet, live: Live, num_classes: int, in_channels: int, thin: bool) -> None:
        super().__init__()
        wide = size.stem * size.channels
        self.thin = thin
        self.stem = nn.Sequential(nn.Conv2d(in_channels, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide))
        plans = size.plans(in_channels if thin else wide)
        self.cells = nn.ModuleList(SuperCell(live[plan.reduction], plan) for plan in plans)
        leaving = len(NODES) * plans[-1].channels
        self.last = nn.Sequential(nn.BatchNorm2d(leaving), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(leaving, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        before_last = last = images if self.thin else self.stem(images)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
        return self.classifier(self.pool(self.last(last)).flatten(1))  # type: ignore[no-any-return]


class SuperCell(nn.Module):
    """Four nodes, each the sum over all earlier ones of the mean of an edge's live operations, concatenated."""

    def __init__(self, live: tuple[tuple[int, ...], ...], plan: CellPlan) -> None:
        super().__init__()
        self.preprocess_0 = preprocessing(plan.before_last, plan.channels, plan.after_reduction)
        self.preprocess_1 = preprocessing(plan.last, plan.channels, False)
        self.edges, self.ends = nn.ModuleList(), []
        for (source, node), alive in zip(EDGES, live, strict=True):
            # the dead are built, too, so that the living get the same weights with them and without
            every = [operation(name, plan.channels, edge_stride(source, plan.reduction)) for name in OPERATIONS]
            if alive:
                self.edges.append(Mixture(every[index] for index in alive))
                self.ends.append((source, node))
        missing = set(NODES) - {node for _, node in self.ends}
        if missing:
            raise InputError(f"node {min(missing)} of the supernet has no live operation left: keep one.")

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        """The four nodes, from the outputs of the two cells before."""
        nodes = [self.preprocess_0(before_last), self.preprocess_1(last)]
        for node in NODES:
            edges = zip(self.ends, self.edges, strict=True)
            arriving = [edge(nodes[source]) for (source, end), edge in edges if end == node]
            nodes.append(torch.stack(arriving).sum(0))
        return torch.cat(nodes[2:], 1)


class Mixture(nn.Module):
    """The mean of some operations: what a softmax over equal architecture weights gives."""

    def __init__(self, operations: Iterable[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)

    def forward(self, images: Tensor) -> Tensor:
        """Their mean, of one as it is."""
        first, *others = (run(images) for run in self.operations)
        for other in others:
            first = first + other
        return first / (1 + len(others)) if others else first  # type: ignore[no-any-return]


def without(live: Live, cell: int, edge: int, dead: tuple[int, ...]) -> Live:
    """A supernet without some operations of one edge.

    Example:
        >>> without(FULL, 1, 13, (0, 2))[1][13]
        (1, 3, 4, 5, 6)
    """
    kept = tuple(index for index in live[cell][edge] if index not in dead)
    edges = (*live[cell][:edge], kept, *live[cell][edge + 1 :])
    return (*live[:cell], edges, *live[cell + 1 :])


def places(live: Live) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Every edge of every cell with its live operations: cell, edge, operations."""
    for cell, edges in enumerate(live):
        for edge, alive in enumerate(edges):
            yield cell, edge, alive


def written(live: Live) -> str:
    """A supernet as a string: for each cell its 14 edges, each with the numbers of its live operations.

    Example:
        >>> written(FULL)[:23]
        'normal 0123456 0123456 '
    """
    return " ".join(
        " ".join([name, *("".join(map(str, alive)) or "-" for alive in edges)])
        for name, edges in zip(CELLS, live, strict=True)
    )


def read(text: str) -> Live:
    """The inverse of :func:`written`.

    Raises:
        InputError: the text has another form.
    """
    words = text.split(" ")
    half = len(EDGES) + 1
    numbers = {str(index) for index in range(len(OPERATIONS))}
    if len(words) != 2 * half or (words[0], words[half]) != tuple(CELLS):
        raise InputError(f"{text!r} is no supernet: write it like {written(FULL)!r}.")
    cells = []
    for edges in (words[1:half], words[half + 1 :]):
        for word in edges:
            if word != "-" and not set(word) <= numbers:
                raise InputError(f"{text!r}: {word!r} is no edge: write the numbers of its live operations, or -.")
        cells.append(tuple(() if word == "-" else tuple(map(int, word)) for word in edges))
    return tuple(cells)


def genotype(live: Live) -> str:
    """The architecture of which a pruned supernet consists, as a string of the DARTS space.

    Raises:
        InputError: some node has not two edges with one operation each.
    """
    cells = []
    for edges in live:
        found = [
            (node, OPERATIONS[alive[0]], source) for (source, node), alive in zip(EDGES, edges, strict=True) if alive
        ]
        if [node for node, _, _ in found] != [node for node in NODES for _ in range(2)] or any(
            len(alive) > 1 for alive in edges
        ):
            raise InputError("the supernet is not pruned to two edges a node with one operation each.")
        cells.append(tuple((name, source) for _, name, source in found))
    return str(Genotype(*cells))
