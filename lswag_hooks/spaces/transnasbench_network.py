"""The networks of TransNAS-Bench-101: skeletons, cells, residual blocks and encoders."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lswag_hooks.spaces.counting import Cost, piece_cost
from lswag_hooks.spaces.darts_network import FactorizedReduce, relu_conv_norm

BASE = 64
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order of a cell's digits
OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv_3x3")  # their digits are their places
WIDER, HALVING = "24", "34"  # the module digits that double the channels, and those that halve the image


@dataclass(frozen=True)
class Architecture:
    """A skeleton and what its blocks are.

    Attributes:
        modules: one digit a module: 1 keeps channels and size, 2 doubles the channels, 3 halves the size, 4 does both.
        cell: the six digits of a micro cell in the order of ``EDGES``, or "basic" for residual blocks.
    """

    modules: str
    cell: str

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Channels in, channels out and stride of every block; a module's change happens in the first of its two."""
        channels, blocks = BASE, []
        for digit in self.modules:
            wider = channels * (1 + (digit in WIDER))
            blocks += [(channels, wider, 1 + (digit in HALVING)), (wider, wider, 1)]
            channels = wider
        return blocks

    @property
    def channels(self) -> int:
        """Channels of the encoder's output."""
        return self.blocks[-1][1]

    @property
    def halvings(self) -> int:
        """How many times the encoder halves an image, twice in the stem."""
        return 2 + sum(digit in HALVING for digit in self.modules)


def stem(in_channels: int) -> nn.Sequential:
    """Two convolutions of stride 2."""
    half = BASE // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), *relu_conv_norm(half, BASE, 3, 2)
    )


def cell_operation(digit: int, entering: int, leaving: int, stride: int) -> nn.Module:
    """The operation of a cell's edge; ``none`` (0) has no module."""
    if OPERATIONS[digit] == "skip_connect":
        return nn.Identity() if stride == 1 and entering == leaving else FactorizedReduce(entering, leaving)
    return relu_conv_norm(entering, leaving, {"conv_1x1": 1, "conv_3x3": 3}[OPERATIONS[digit]], stride)


class Cell(nn.Module):
    """A micro cell of four nodes, each the sum of what arrives at it; edges from the input change channels and size.

    Args:
        digits: the operations of the six edges, in the order of ``EDGES``.
        entering: channels of the input.
        leaving: channels of the output.
        stride: 2 to halve the image.
    """

    def __init__(self, digits: str, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.leaving, self.stride = leaving, stride
        self.edges = nn.ModuleDict(
            {
                f"{source}-{target}": cell_operation(digit, *edge_shape(source, entering, leaving, stride))
                for (source, target), digit in zip(EDGES, map(int, digits), strict=True)
                if digit
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """The last node."""
        nodes = [images]
        for target in (1, 2, 3):
            keys = [(source, f"{source}-{target}") for source in range(target)]
            arriving = [self.edges[key](nodes[source]) for source, key in keys if key in self.edges]
            nodes.append(functools.reduce(torch.add, arriving) if arriving else self._zeros(images))
        return nodes[-1]

    def _zeros(self, images: Tensor) -> Tensor:
        height, width = (-(-side // self.stride) for side in images.shape[-2:])
        return images.new_zeros(len(images), self.leaving, height, width)


def edge_shape(source: int, entering: int, leaving: int, stride: int) -> tuple[int, int, int]:
    """Channels in, channels out and stride of a cell's edge."""
    return (entering, leaving, stride) if source == 0 else (leaving, leaving, 1)


class BasicBlock(nn.Module):
    """A residual block of two 3×3 convolutions, with no activation after the sum."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(*relu_conv_norm(entering, leaving, 3, stride), *relu_conv_norm(leaving, leaving, 3))
        self.shortcut = (
            nn.Identity()
            if stride == 1 and entering == leaving
            else nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))
        )

    def forward(self, images: Tensor) -> Tensor:
        """The block's output."""
        return self.main(images) + self.shortcut(images)  # type: ignore[no-any-return]


def encoder(architecture: Architecture, in_channels: int = 3) -> nn.Sequential:
    """Stem and blocks, with no norm, activation or pooling after the last; convolutions are Kaiming normal, fan out."""
    build: Callable[..., nn.Module] = (
        BasicBlock if architecture.cell == "basic" else functools.partial(Cell, architecture.cell)
    )
    made = nn.Sequential(stem(in_channels), *(build(*block) for block in architecture.blocks))
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return made


def encoder_cost(architecture: Architecture, in_channels: int, height: int, width: int) -> tuple[Cost, int, int]:
    """Cost of an encoder, and the size of its feature maps."""
    total = piece_cost(stem, (in_channels,), (in_channels, height, width))
    height, width = math.ceil(height / 4), math.ceil(width / 4)
    for block in architecture.blocks:
        entering, leaving, stride = block
        after = math.ceil(height / stride), math.ceil(width / stride)
        if architecture.cell == "basic":
            total += piece_cost(BasicBlock, block, (entering, height, width))
        else:
            for (source, _), digit in zip(EDGES, map(int, architecture.cell), strict=True):
                shape = (entering, height, width) if source == 0 else (leaving, *after)
                if digit:
                    total += piece_cost(cell_operation, (digit, *edge_shape(source, *block)), shape)
        height, width = after
    return total, height, width
