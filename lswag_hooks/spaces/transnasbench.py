"""The two spaces of TransNAS-Bench-101: cells (micro) and skeletons (macro), each on seven vision tasks."""

from __future__ import annotations

import abc
import itertools
import re
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.spaces.base import Choose, Genes, Space, option_index, parsed
from lswag_hooks.spaces.counting import Cost, piece_cost
from lswag_hooks.spaces.transnasbench_batches import task_batch
from lswag_hooks.spaces.transnasbench_network import (
    BASE,
    EDGES,
    HALVING,
    WIDER,
    Architecture,
    encoder,
    encoder_cost,
)
from lswag_hooks.spaces.transnasbench_tasks import (
    DENSE,
    IMAGE_SHAPES,
    LOSSES,
    TASKS,
    TILES,
    TaskNetwork,
    check_sides,
    head,
)

MICRO_MACRO = "41414"  # the modules of every micro architecture
CELL_DIGITS = (0, 1, 2, 3)
MODULE_DIGITS = (1, 2, 3, 4)
MODULES = (4, 5, 6)


class _TransNASBench(Space):
    reference: ClassVar[str] = (
        "Duan et al., TransNAS-Bench-101: Improving Transferability and Generalizability of Cross-Task Neural "
        "Architecture Search, CVPR 2021"
    )
    tasks: ClassVar[dict[str, int]] = TASKS
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = IMAGE_SHAPES

    @abc.abstractmethod
    def parse(self, architecture: str) -> Architecture: ...

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """Encoder and head; GAN training's discriminator for the generative tasks is no part of it."""
        description = self.parse(architecture)
        if task in DENSE:
            check_sides(image_shape[-2:], description.halvings)
        made = encoder(description, image_shape[-3])
        return TaskNetwork(made, task, description.channels, description.halvings, num_classes)

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Parameters, flops as published (of one tile for jigsaw) and multiply-accumulates, unbuilt."""
        description = self.parse(architecture)
        in_channels, *sides = image_shape[-3:]
        if task in DENSE:
            check_sides(sides, description.halvings)
        encoding, height, width = encoder_cost(description, in_channels, *sides)
        channels, tiles = description.channels, TILES if task == "jigsaw" else 1
        # of decoders alone does the number of doublings matter
        ups = description.halvings if task in DENSE else 0
        deciding = piece_cost(head, (task, channels, ups, num_classes), (tiles * channels, height, width))
        total = encoding + deciding
        return Cost(total.params, total.flops, tiles * encoding.macs + deciding.macs)

    def objective(self, task: str | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """The task's loss of (outputs, targets), a mean over samples, to be passed to ``score(..., loss=)``."""
        return LOSSES[self.check_task(task)]

    def batch(self, images: Batch, task: str | None = None, seed: int = 0) -> Batch:
        """A classification batch in the task's form; where natural images have no targets for it, with stand-ins.

        See :func:`lswag_hooks.spaces.transnasbench_batches.task_batch` for what they are.
        """
        return task_batch(images, self.check_task(task), seed)


class TransNASBenchMicro(_TransNASBench):
    """The cell space of TransNAS-Bench-101: one cell of four nodes and six edges, ten times.

    An architecture is ``64-41414-a_bc_def``: one digit an edge, 0→1, 0→2, 1→2, 0→3, 1→3, 2→3; 0 none, 1 skip, 2 and 3
    a 1×1 and a 3×3 convolution. Images may have any size, for the tasks with a decoder multiples of 32; for jigsaw
    ``image_size`` is that of one of the nine tiles.

    Example:
        >>> space = TransNASBenchMicro()
        >>> space.cost("64-41414-3_33_333", task="class_scene").params
        41443935
        >>> space.degenerate("64-41414-3_33_000")
        'no path of operations from the input to the output of the cell: the output is constant'
    """

    name: ClassVar[str] = "transnasbench_micro"
    summary: ClassVar[str] = "cells of four nodes and six edges, four operations, seven vision tasks"

    def compose(self, choose: Choose) -> str:
        """Choose a digit an edge."""
        return _cell_string([choose(f"edge {source}-{target}", CELL_DIGITS) for source, target in EDGES])

    def genes(self, architecture: str) -> Genes:
        """The six digits, by edge."""
        digits = map(int, self.parse(architecture).cell)
        return {f"edge {source}-{target}": digit for (source, target), digit in zip(EDGES, digits, strict=True)}

    def parse(self, architecture: str) -> Architecture:
        """Read a micro architecture."""
        return _parse_micro(str(architecture))

    def degenerate(self, architecture: str) -> str | None:
        """Disconnected cells: their output is constant."""
        reached = {0}
        for (source, target), digit in zip(EDGES, self.parse(architecture).cell, strict=True):
            if digit != "0" and source in reached:
                reached.add(target)
        if 3 in reached:
            return None
        return "no path of operations from the input to the output of the cell: the output is constant"

    def encode(self, architecture: str) -> np.ndarray:
        """Six edges × four operations, one where an edge has that operation: 24 entries."""
        return _one_hot(list(map(int, self.parse(architecture).cell)), CELL_DIGITS, len(EDGES))

    @property
    def size(self) -> int:
        """Number of architectures: 4^6, of which 169 are disconnected."""
        return 4096

    def __iter__(self) -> Iterator[str]:
        return map(_cell_string, itertools.product(CELL_DIGITS, repeat=len(EDGES)))


class TransNASBenchMacro(_TransNASBench):
    """The skeleton space of TransNAS-Bench-101: four to six modules of two residual blocks.

    An architecture is ``64-<digits>-basic``, one digit a module: 1 keeps channels and size, 2 doubles the channels, 3
    halves the size, 4 does both. One to four digits halve the size, one to three double the channels. Images may have
    any size, for the tasks with a decoder multiples of 2 to the number of halvings, 64 at most; for jigsaw
    ``image_size`` is that of one of the nine tiles.

    Example:
        >>> space = TransNASBenchMacro()
        >>> len(list(space)), space.cost("64-111114-basic").params
        (3256, 1297796)
    """

    name: ClassVar[str] = "transnasbench_macro"
    summary: ClassVar[str] = "four to six modules of residual blocks, seven vision tasks"

    def compose(self, choose: Choose) -> str:
        """Choose the number of modules, and a digit for each."""
        modules = choose("modules", MODULES)
        return _skeleton_string([choose(f"module {index + 1}", MODULE_DIGITS) for index in range(modules)])

    def genes(self, architecture: str) -> Genes:
        """The number of modules and their digits."""
        digits = list(map(int, self.parse(architecture).modules))
        return {"modules": len(digits), **{f"module {index + 1}": digit for index, digit in enumerate(digits)}}

    def parse(self, architecture: str) -> Architecture:
        """Read a macro architecture."""
        return _parse_macro(str(architecture))

    def encode(self, architecture: str) -> np.ndarray:
        """Six modules × four digits, one where a module has that digit, zero where there is none: 24 entries."""
        return _one_hot(list(map(int, self.parse(architecture).modules)), MODULE_DIGITS, MODULES[-1])

    @property
    def size(self) -> int:
        """Number of architectures."""
        return 3256

    def __iter__(self) -> Iterator[str]:
        for modules in MODULES:
            for digits in itertools.product("1234", repeat=modules):
                if _skeleton_fault("".join(digits)) is None:
                    yield _skeleton_string(digits)


def _cell_string(digits: tuple[int, ...] | list[int]) -> str:
    a, b, c, d, e, f = digits
    return f"{BASE}-{MICRO_MACRO}-{a}_{b}{c}_{d}{e}{f}"


def _skeleton_string(digits: tuple[str, ...] | list[int]) -> str:
    return f"{BASE}-{''.join(map(str, digits))}-basic"


def _one_hot(values: list[int], options: tuple[int, ...], length: int) -> np.ndarray:
    code = np.zeros((length, len(options)))
    for place, value in enumerate(values):
        code[place, option_index(options, value)] = 1
    return code.ravel()


@parsed
def _parse_micro(architecture: str) -> Architecture:
    found = re.fullmatch(rf"{BASE}-{MICRO_MACRO}-([0-3])_([0-3]{{2}})_([0-3]{{3}})", architecture)
    if found is None:
        raise InputError(
            f"{architecture!r} is no micro architecture of TransNAS-Bench-101: write {BASE}-{MICRO_MACRO}- and six "
            f"digits from 0 to 3, as in '{BASE}-{MICRO_MACRO}-3_33_333'."
        )
    return Architecture(MICRO_MACRO, "".join(found.groups()))


@parsed
def _parse_macro(architecture: str) -> Architecture:
    found = re.fullmatch(rf"{BASE}-([1-4]{{4,6}})-basic", architecture)
    if found is None:
        raise InputError(
            f"{architecture!r} is no macro architecture of TransNAS-Bench-101: write {BASE}-, four to six digits from "
            f"1 to 4, and -basic, as in '{BASE}-1234-basic'."
        )
    fault = _skeleton_fault(found[1])
    if fault is not None:
        raise InputError(f"{architecture!r} is outside TransNAS-Bench-101: {fault}.")
    return Architecture(found[1], "basic")


def _skeleton_fault(modules: str) -> str | None:
    halving, wider = (sum(digit in which for digit in modules) for which in (HALVING, WIDER))
    if not 1 <= halving <= 4:
        return f"{halving} of its modules halve the size (digits 3 and 4), one to four must"
    if not 1 <= wider <= 3:
        return f"{wider} of its modules double the channels (digits 2 and 4), one to three must"
    return None
