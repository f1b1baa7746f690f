"""What the recipe searches: one of AutoFormer's spaces, or a smaller one of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.spaces import Cost, get_space
from lswag_hooks.spaces.autoformer import PATCH, AutoFormerSpace
from lswag_hooks.spaces.autoformer_network import AutoFormer, AutoFormerSpec, cost

# blocks, width, heads and ratio of the published supernets; those of Tiny and Base are wider than any subnet
PUBLISHED = {
    "autoformer_tiny": (14, 256, 4, 4.0),
    "autoformer_small": (14, 448, 7, 4.0),
    "autoformer_base": (16, 640, 10, 4.0),
}


@dataclass(frozen=True)
class Choices:
    """What subnets of a space of one's own choose from; heads have 64 features each, as in AutoFormer.

    Args:
        depths: numbers of blocks.
        widths: of the tokens.
        heads: numbers of heads, of each block.
        ratios: of the MLP's width to the tokens', of each block.
    """

    depths: Sequence[int]
    widths: Sequence[int]
    heads: Sequence[int]
    ratios: Sequence[float]

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not values or min(values) <= 0:
                raise InputError(f"{name}={list(values)}: give one or more positive numbers.")


class OwnSpace(AutoFormerSpace):
    """A space of AutoFormer's kind with choices and a patch size of one's own."""

    def __init__(self, name: str, choices: Choices, patch_size: int) -> None:
        # the same string stands for another network with other patches, and stores key scores by the space's name
        self.name = f"{name}_patch{patch_size}"  # type: ignore[misc]
        self.summary = f"vision transformers like AutoFormer's, with patches of {patch_size}"  # type: ignore[misc]
        self.patch_size = patch_size
        for field, values in asdict(choices).items():
            setattr(self, field, tuple(values))

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        channels, height, width = image_shape
        return AutoFormer(self.parse(architecture), num_classes, (height, width), self.patch_size, channels)

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        channels, height, width = image_shape
        return cost(self.parse(architecture), num_classes, (height, width), self.patch_size, channels)


def resolve_space(space: str | Choices, patch_size: int = PATCH) -> AutoFormerSpace:
    """The space of a name, or of choices of one's own.

    Raises:
        InputError: it is none of AutoFormer's.
    """
    if isinstance(space, Choices):
        return OwnSpace("autoformer_own", space, patch_size)
    known = get_space(space)
    if not isinstance(known, AutoFormerSpace):
        raise InputError(f"{space!r} is no space of AutoFormer: there are {', '.join(PUBLISHED)}.")
    if patch_size == PATCH:
        return known
    return OwnSpace(known.name, Choices(known.depths, known.widths, known.heads, known.ratios), patch_size)


def largest(space: AutoFormerSpace) -> AutoFormerSpec:
    """The supernet's own architecture, of which every subnet is a part."""
    own = max(space.depths), max(space.widths), max(space.heads), max(space.ratios)
    depth, width, heads, ratio = PUBLISHED.get(space.name.split("_patch")[0], own)
    return AutoFormerSpec(depth, width, (heads,) * depth, (ratio,) * depth)


def largest_subnet(space: AutoFormerSpace) -> str:
    """The largest architecture that the space has."""
    return space.compose(lambda _, options: max(options))


def plain(space: str | Choices) -> str | dict[str, list[Any]]:
    """A space as plain data for a checkpoint, the inverse of :func:`from_plain`."""
    return space if isinstance(space, str) else {name: list(values) for name, values in asdict(space).items()}


def from_plain(space: str | dict[str, list[Any]]) -> str | Choices:
    """A space from plain data."""
    return space if isinstance(space, str) else Choices(**space)


def read_architecture(architecture: str, space: AutoFormerSpace) -> str:
    """An architecture, or the best one of a file that a search wrote.

    Raises:
        InputError: it does not parse, is not of the space, or the file has none.
    """
    if architecture.endswith((".yaml", ".yml")):
        path = Path(architecture).expanduser()
        if not path.is_file():
            raise InputError(
                f"there is no file {architecture}: give an architecture, or a YAML file that search wrote."
            )
        try:
            architecture = yaml.safe_load(path.read_text(encoding="utf-8"))["architectures"][0]["architecture"]
        except (yaml.YAMLError, KeyError, IndexError, TypeError):
            raise InputError(f"{path} has no list `architectures`: give a YAML file that search wrote.") from None
    space.parse(architecture)
    return architecture
