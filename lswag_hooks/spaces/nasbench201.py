"""NAS-Bench-201: a cell of four nodes with one of five operations on each of its six edges.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.spaces.base import Choose, Genes, Space, parsed
from lswag_hooks.spaces.counting import Cost

Ops: TypeAlias = tuple[str, ...]

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order of the string: by the node they enter
WIDTHS = (16, 32, 64)
CELLS = 5  # a stage
EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"

# NASLib numbers edges by the node that they leave, and operations in an order of its own
_INDEX_EDGES = tuple(sorted(EDGES))
_INDEX_OPS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")

_FORM = re.compile(
    r"\|([^|~]*)~0\|"
    r"\+\|([^|~]*)~0\|([^|~]*)~1\|"
    r"\+\|([^|~]*)~0\|([^|~]*)~1\|([^|~]*)~2\|"
)


class NASBench201(Space):
    """The NAS-Bench-201 space: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``, all 15,625 of it.

    Groups stand for nodes 1, 2 and 3; inside a group stand the edges from node 0, 1 and 2.

    Example:
        >>> space = NASBench201()
        >>> space.parse("|skip_connect~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|avg_pool_3x3~2|")
        ('skip_connect', 'none', 'nor_conv_1x1', 'none', 'none', 'avg_pool_3x3')
        >>> space.cost(EXAMPLE)
        Cost(params=858426, flops=124126912, macs=121815680)
    """

    name: ClassVar[str] = "nasbench201"
    summary: ClassVar[str] = "cells of 4 nodes and 6 edges, 5 operations; 15,625 architectures"
    reference: ClassVar[str] = "Dong and Yang, NAS-Bench-201, ICLR 2020, arXiv:2001.00326"
    tasks: ClassVar[dict[str, int]] = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120}
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = {
        "cifar10": (3, 32, 32),
        "cifar100": (3, 32, 32),
        "imagenet16-120": (3, 16, 16),
    }

    def compose(self, choose: Choose) -> str:
        """Choose the operation of every edge."""
        return _written([choose(_gene(edge), OPS) for edge in EDGES])

    def genes(self, architecture: str) -> Genes:
        """``edge 0-1`` and so on: the operation of each edge."""
        return dict(zip(map(_gene, EDGES), self.parse(architecture), strict=True))

    def parse(self, architecture: str) -> Ops:
        """Operations of the edges 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3.

        Raises:
            InputError: the string has another form, or an operation that there is not.
        """
        return _parse(architecture)

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """The network as the benchmark trained it, with affine BatchNorm."""
        return Network(self.parse(architecture), num_classes, image_shape[-3])

    def encode(self, architecture: str) -> np.ndarray:
        """One-hot operations, edge by edge: 30 numbers."""
        chosen = [OPS.index(op) for op in self.parse(architecture)]
        return np.eye(len(OPS))[chosen].ravel()

    @property
    def size(self) -> int:
        """Every string, 15,625; many of them are isomorphic."""
        return 15_625  # five operations on each of six edges

    def __iter__(self) -> Iterator[str]:
        """All architectures, the degenerate ones included."""
        return map(_written, itertools.product(OPS, repeat=len(EDGES)))

    def degenerate(self, architecture: str) -> str | None:
        """Whether every path from the input to the output of the cell has a ``none`` on it."""
        ops = dict(zip(EDGES, self.parse(architecture), strict=True))
        reached = {0}
        for source, target in EDGES:  # all edges into a node come before those that leave it
            if source in reached and ops[source, target] != "none":
                reached.add(target)
        if 3 in reached:
            return None
        return "disconnected: every path from the cell's input (node 0) to its output (node 3) has a 'none' on it"

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Parameters, flops as published and multiply-accumulates, in closed form."""
        ops = self.parse(architecture)
        skeleton, per_op = _costs(num_classes, image_shape)
        return sum((per_op[op] for op in ops), start=skeleton)

    @staticmethod
    def from_indices(indices: Sequence[int]) -> str:
        """Read NASLib's six integers: edges 0-1, 0-2, 0-3, 1-2, 1-3, 2-3, each with the index of its operation.

        Its operations are numbered skip_connect, none, nor_conv_3x3, nor_conv_1x1, avg_pool_3x3.

        Raises:
            InputError: they are not six numbers from 0 to 4.

        Example:
            >>> NASBench201.from_indices([2, 3, 0, 2, 3, 2]) == EXAMPLE
            True
        """
        if len(indices) != len(EDGES) or not set(indices) <= set(range(len(OPS))):
            raise InputError(f"{list(indices)} is no NAS-Bench-201 cell: give six numbers from 0 to 4, one an edge.")
        ops = {edge: _INDEX_OPS[index] for edge, index in zip(_INDEX_EDGES, indices, strict=True)}
        return _written([ops[edge] for edge in EDGES])


class Network(nn.Module):
    """Stem, three stages of five equal cells with a residual block between stages, and a linear classifier.

    Args:
        ops: operation of each edge of the cell, in the order of the string.
        num_classes: number of outputs.
        in_channels: channels of the images.

    Shapes: (N, in_channels, H, W) to (N, num_classes), any H and W.
    """

    def __init__(self, ops: Ops, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0])
        )
        blocks: list[nn.Module] = []
        for stage, width in enumerate(WIDTHS):
            if stage:
                blocks.append(ResidualBlock(WIDTHS[stage - 1], width))
            blocks += [Cell(ops, width) for _ in range(CELLS)]
        self.cells = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(WIDTHS[-1])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        features = self.relu(self.norm(self.cells(self.stem(images))))
        return self.classifier(self.pool(features).flatten(1))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """Four nodes, each the sum of its incoming edges; shape (N, C, H, W) is kept."""

    def __init__(self, ops: Ops, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {f"{i}_{j}": _operation(op, channels) for (i, j), op in zip(EDGES, ops, strict=True)}
        )

    def forward(self, features: Tensor) -> Tensor:
        """The last node."""
        nodes = [features]
        for target in (1, 2, 3):
            incoming = [self.edges[f"{source}_{target}"](nodes[source]) for source in range(target)]
            nodes.append(functools.reduce(torch.add, incoming))
        return nodes[-1]


class ResidualBlock(nn.Module):
    """Halves the map; (N, C, H, W) to (N, C', ceil(H / 2), ceil(W / 2))."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = relu_conv_norm(in_channels, out_channels, 3, stride=2)
        self.second = relu_conv_norm(out_channels, out_channels, 3)
        self.shortcut = nn.Sequential(
            # ceil_mode changes nothing on the even maps of the benchmark, and fits the convolution on odd ones
            nn.AvgPool2d(2, stride=2, ceil_mode=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Main path plus shortcut."""
        return self.second(self.first(features)) + self.shortcut(features)  # type: ignore[no-any-return]


class Zero(nn.Module):
    """The operation ``none``: fresh zeros, so that what lies behind does not depend on the input, nor on its NaNs."""

    def forward(self, features: Tensor) -> Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(features)


def relu_conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution without bias, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _operation(op: str, channels: int) -> nn.Module:
    if op == "none":
        return Zero()
    if op == "skip_connect":
        return nn.Identity()
    if op == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return relu_conv_norm(channels, channels, 1 if op == "nor_conv_1x1" else 3)


def _gene(edge: tuple[int, int]) -> str:
    return f"edge {edge[0]}-{edge[1]}"


def _written(ops: Sequence[str]) -> str:
    a, b, c, d, e, f = ops
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


@parsed
def _parse(architecture: str) -> Ops:
    match = _FORM.fullmatch(architecture) if isinstance(architecture, str) else None
    if match is None:
        raise InputError(f"{architecture!r} is no NAS-Bench-201 architecture: write it like {EXAMPLE!r}.")
    for op in match.groups():
        if op not in OPS:
            raise InputError(
                f"{architecture!r}: NAS-Bench-201 has no operation {op!r}.{near_matches(op, OPS)} "
                f"There are {', '.join(OPS)}; an architecture looks like {EXAMPLE!r}."
            )
    return match.groups()


@functools.lru_cache(maxsize=64)
def _costs(classes: int, image_shape: tuple[int, ...]) -> tuple[Cost, dict[str, Cost]]:
    """Cost of all that is the same in every network, and of an operation on one edge of all cells."""
    channels, height, width = image_shape
    nothing = Cost(0, 0, 0)
    per_op = dict.fromkeys(OPS, nothing)
    skeleton = _conv(channels, WIDTHS[0], 3, height * width)
    for stage, wide in enumerate(WIDTHS):
        if stage:
            before, area = WIDTHS[stage - 1], height * width
            height, width = -(-height // 2), -(-width // 2)
            halved = height * width
            skeleton += _relu(before * area) + _conv(before, wide, 3, halved)
            skeleton += _relu(wide * halved) + _conv(wide, wide, 3, halved)
            skeleton += Cost(0, 4 * before * halved, 0) + _conv(before, wide, 1, halved, norm=False)
        area = height * width
        per_op["avg_pool_3x3"] += Cost(0, 9 * wide * area, 0) * CELLS
        for op, kernel in (("nor_conv_1x1", 1), ("nor_conv_3x3", 3)):
            per_op[op] += (_relu(wide * area) + _conv(wide, wide, kernel, area)) * CELLS
    last, area = WIDTHS[-1], height * width
    skeleton += Cost(2 * last, 2 * last * area, 0) + _relu(last * area)
    skeleton += Cost(0, last * (height + 1) * (width + 1), 0)  # the published count of a global pool is off by one
    return skeleton + Cost((last + 1) * classes, last * classes, last * classes), per_op


def _conv(before: int, after: int, kernel: int, area: int, *, norm: bool = True) -> Cost:
    weights = kernel**2 * before * after
    conv = Cost(weights, weights * area, weights * area)
    return conv + Cost(2 * after, 2 * after * area, 0) if norm else conv


def _relu(elements: int) -> Cost:
    return Cost(0, elements, 0)
