"""NAS-Bench-101: a cell that is any directed acyclic graph of up to seven vertices and nine edges.

Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.base import Choose, Genes, Space
from lswag_hooks.spaces.counting import Cost
from lswag_hooks.spaces.nasbench101_cell import (
    OPS,
    PAIRS,
    VERTICES,
    Spec,
    pruned,
    read,
    relabelled,
    vertex_channels,
    written,
)

WIDTHS = (128, 256, 512)
CELLS = 3  # a stack


class NASBench101(Space):
    """The NAS-Bench-101 space: ``row0/row1/.../row6 op0,op1,...,op6``.

    Rows are those of the adjacency matrix, strictly upper triangular. Vertices that are on no path from the input to
    the output are pruned before anything else is asked: the limit of nine edges is on what remains. Cells of two to
    seven vertices are read; what the space composes itself always has seven before pruning.

    Example:
        >>> from lswag_hooks.spaces.nasbench101_cell import EXAMPLE
        >>> space = NASBench101()
        >>> space.parse("0110/0000/0001/0000 input,maxpool3x3,conv3x3-bn-relu,output")
        Spec(matrix=((0, 1, 0), (0, 0, 1), (0, 0, 0)), ops=('input', 'conv3x3-bn-relu', 'output'))
        >>> space.cost(EXAMPLE)
        Cost(params=2694282, flops=408269824, macs=402002944)
    """

    name: ClassVar[str] = "nasbench101"
    summary: ClassVar[str] = "cells of up to 7 vertices and 9 edges, 3 operations; 423,624 different ones"
    reference: ClassVar[str] = "Ying et al., NAS-Bench-101, ICML 2019, arXiv:1902.09635"
    tasks: ClassVar[dict[str, int]] = {"cifar10": 10}
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = {"cifar10": (3, 32, 32)}

    def compose(self, choose: Choose) -> str:
        """Choose for every pair of the seven vertices whether there is an edge, and the five operations."""
        edges = {pair for pair in PAIRS if choose(f"edge {pair[0]}-{pair[1]}", (0, 1))}
        matrix = tuple(tuple(int((i, j) in edges) for j in range(VERTICES)) for i in range(VERTICES))
        inner = [choose(f"op {vertex}", OPS) for vertex in range(1, VERTICES - 1)]
        return written(Spec(matrix, ("input", *inner, "output")))

    def genes(self, architecture: str) -> Genes:
        """21 edges and 5 operations; a smaller cell is filled up with vertices that have no edge."""
        self.parse(architecture)  # refuses what has too many edges
        spec = read(architecture)
        spare = VERTICES - len(spec.ops)
        place = [*range(len(spec.ops) - 1), VERTICES - 1]
        edges = {(place[i], place[j]) for i, j in spec.edges}
        ops = [*spec.ops[1:-1], *[OPS[0]] * spare]
        return {
            **{f"edge {i}-{j}": int((i, j) in edges) for i, j in PAIRS},
            **{f"op {vertex}": op for vertex, op in enumerate(ops, start=1)},
        }

    def parse(self, architecture: str) -> Spec:
        """The pruned cell; of a disconnected one, input and output without an edge are left.

        Raises:
            InputError: the string has another form, an edge that leads back, an operation that there is not, or more
                than nine edges after pruning.
        """
        return pruned(architecture)

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """The network, initialised as NAS-Bench-Suite-Zero does before it scores.

        Raises:
            InputError: the cell is disconnected, or the images are smaller than 4 × 4.
        """
        return Network(self._connected(architecture), num_classes, _checked(image_shape)[0])

    def encode(self, architecture: str) -> np.ndarray:
        """The pruned cell in 36 numbers: 21 edges, and one-hot operations of five vertices, zero where there is none.

        Strings that prune to the same cell have the same encoding.
        """
        spec = self.parse(architecture)
        place = [*range(len(spec.ops) - 1), VERTICES - 1]
        edges = {(place[i], place[j]) for i, j in spec.edges}
        operations = np.zeros((VERTICES - 2, len(OPS)))
        for vertex, op in enumerate(spec.ops[1:-1]):
            operations[vertex, OPS.index(op)] = 1
        return np.concatenate([[float(pair in edges) for pair in PAIRS], operations.ravel()])

    @property
    def size(self) -> int:
        """Number of different cells; there are many more strings, since pruned and relabelled vertices change them."""
        return 423_624

    def degenerate(self, architecture: str) -> str | None:
        """Whether the input does not reach the output."""
        if self.parse(architecture).edges:
            return None
        return "disconnected: no path leads from the cell's input (vertex 0) to its output (the last vertex)"

    def random(self, rng: np.random.Generator) -> str:
        """Draw edges and operations uniformly until the cell is connected and has at most nine edges.

        The official sampler does the same; it is uniform over strings, not over different cells.
        """
        draw = super().random
        return self._working(lambda: draw(rng))

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Parameters, flops as published and multiply-accumulates, in closed form."""
        return _cost(self._connected(architecture), num_classes, _checked(image_shape))

    def canonical(self, architecture: str) -> str:
        """The pruned cell with its vertices in the order that gives the first string of all.

        Two architectures are isomorphic exactly if these agree. Isomorphic cells compute the same functions but for
        how channels that do not divide evenly are shared out: their parameters may differ slightly.

        Example:
            >>> space = NASBench101()
            >>> first = "0110/0001/0001/0000 input,maxpool3x3,conv3x3-bn-relu,output"
            >>> second = "0110/0001/0001/0000 input,conv3x3-bn-relu,maxpool3x3,output"
            >>> space.canonical(first) == space.canonical(second)
            True
        """
        return min(map(written, relabelled(self.parse(architecture))))

    def _connected(self, architecture: str) -> Spec:
        spec = self.parse(architecture)
        if not spec.edges:
            raise InputError(f"{architecture!r} is {self.degenerate(architecture)}; it has no network.")
        return spec


class Network(nn.Module):
    """Stem, three stacks of three equal cells with max pooling between stacks, and a linear classifier.

    Args:
        spec: the cell, pruned.
        num_classes: number of outputs.
        in_channels: channels of the images.

    Shapes: (N, in_channels, H, W) to (N, num_classes), H and W at least 4.
    """

    def __init__(self, spec: Spec, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = ConvNormReLU(in_channels, WIDTHS[0], 3)
        blocks: list[nn.Module] = []
        before = WIDTHS[0]
        for stack, width in enumerate(WIDTHS):
            if stack:
                blocks.append(nn.MaxPool2d(2, stride=2))
            for _ in range(CELLS):
                blocks.append(Cell(spec, before, width))
                before = width
        self.cells = nn.Sequential(*blocks)
        self.classifier = nn.Linear(before, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.classifier(self.cells(self.stem(images)).mean((2, 3)))  # type: ignore[no-any-return]


class Cell(nn.Module):
    """A graph of operations; (N, C, H, W) to (N, C', H, W).

    The input reaches each vertex through a projection of its own; an inner vertex sums what enters it, the output
    concatenates what enters it and adds the projected input.
    """

    def __init__(self, spec: Spec, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.matrix = spec.matrix
        self.channels = vertex_channels(spec.matrix, in_channels, out_channels)
        self.projections = nn.ModuleDict(
            {str(j): ConvNormReLU(in_channels, self.channels[j], 1) for i, j in spec.edges if i == 0}
        )
        self.operations = nn.ModuleDict(
            {str(v): _operation(op, self.channels[v]) for v, op in enumerate(spec.ops) if op in OPS}
        )

    def forward(self, features: Tensor) -> Tensor:
        """The output vertex."""
        last = len(self.matrix) - 1
        made: dict[int, Tensor] = {}
        for vertex in range(1, last):
            # of the channels that do not divide evenly an earlier vertex may have one more than a later one
            entering = [made[i][:, : self.channels[vertex]] for i in self._inner(vertex)]
            made[vertex] = self.operations[str(vertex)](self._joined(features, vertex, entering))
        leaving = [made[i] for i in self._inner(last)]
        return self._joined(features, last, [torch.cat(leaving, dim=1)] if leaving else [])

    def _inner(self, vertex: int) -> list[int]:
        return [i for i in range(1, vertex) if self.matrix[i][vertex]]

    def _joined(self, features: Tensor, vertex: int, entering: list[Tensor]) -> Tensor:
        if self.matrix[0][vertex]:
            entering = [*entering, self.projections[str(vertex)](features)]
        total = entering[0]
        for tensor in entering[1:]:
            total = total + tensor
        return total


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU; the map keeps its size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


def _operation(op: str, channels: int) -> nn.Module:
    if op == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return ConvNormReLU(channels, channels, _kernel(op))


def _kernel(op: str) -> int:
    return 3 if op == "conv3x3-bn-relu" else 1


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def _checked(image_shape: tuple[int, ...]) -> tuple[int, ...]:
    if min(image_shape[-2:]) < 4:
        raise InputError(f"image_size={image_shape[-2:]}: the network halves an image twice, so give 4 or more.")
    return image_shape


def _cost(spec: Spec, classes: int, image_shape: tuple[int, ...]) -> Cost:
    images, height, width = image_shape
    before = WIDTHS[0]
    total = _conv_cost(images, before, 3, height * width)
    for stack, after in enumerate(WIDTHS):
        if stack:
            height, width = height // 2, width // 2
            total += Cost(0, 4 * before * height * width, 0)
        for _ in range(CELLS):
            total += _cell_cost(spec, before, after, height * width)
            before = after
    return total + Cost((before + 1) * classes, before * classes, before * classes)


def _cell_cost(spec: Spec, before: int, after: int, area: int) -> Cost:
    channels = vertex_channels(spec.matrix, before, after)
    total = Cost(0, 0, 0)
    for j, projected in enumerate(spec.matrix[0]):
        if projected:
            total += _conv_cost(before, channels[j], 1, area)
    for op, wide in zip(spec.ops[1:-1], channels[1:-1], strict=True):
        pool = Cost(0, 9 * wide * area, 0)
        total += pool if op == "maxpool3x3" else _conv_cost(wide, wide, _kernel(op), area)
    return total


def _conv_cost(before: int, after: int, kernel: int, area: int) -> Cost:
    weights = kernel**2 * before * after
    # BatchNorm counts two operations an element, ReLU one
    return Cost(weights + 2 * after, (weights + 3 * after) * area, weights * area)
