"""AutoFormer: vision transformers whose blocks each choose their number of heads and the width of their MLP.

Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.autoformer_network import AutoFormer, AutoFormerSpec, cost
from lswag_hooks.spaces.base import Choose, Genes, Space, parsed
from lswag_hooks.spaces.counting import Cost

PATCH = 16
EXAMPLE = "d12 e192 h3-4-3-3-4-3-3-3-4-3-3-4 r3.5-4-4-3.5-4-4-3.5-4-4-4-3.5-4"

_TASKS = {
    "imagenet": 1000,
    "cifar10": 10,
    "cifar100": 100,
    "svhn": 10,
    "pets": 37,
    "flowers": 102,
    "chaoyang": 4,
    "spherical_cifar100": 100,
}
_NUMBER = r"\d+(?:\.\d+)?"
_FORM = re.compile(rf"d(\d+) e(\d+) h(\d+(?:-\d+)*) r({_NUMBER}(?:-{_NUMBER})*)", re.ASCII)


class AutoFormerSpace(Space):
    """What the three sizes of AutoFormer share; an architecture is ``d<depth> e<width> h<heads> r<MLP ratios>``.

    Heads and ratios stand block by block, joined by dashes. Class attributes: ``depths``, ``widths``, ``heads`` and
    ``ratios``, the choices; ``further_heads`` and ``further_ratios``, which published architectures have and which are
    read but never drawn.
    """

    reference: ClassVar[str] = "Chen et al., AutoFormer, ICCV 2021, arXiv:2107.00651"
    tasks: ClassVar[dict[str, int]] = _TASKS
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = dict.fromkeys(_TASKS, (3, 224, 224))
    # of the released search; the paper's text has .2 for the depth and .4 for the blocks
    rates: ClassVar[dict[str, float]] = {"depth": 0.4, "ratio": 0.2, "heads": 0.2, "dim": 0.4}

    depths: ClassVar[tuple[int, ...]]
    widths: ClassVar[tuple[int, ...]]
    heads: ClassVar[tuple[int, ...]]
    ratios: ClassVar[tuple[float, ...]]
    further_heads: ClassVar[tuple[int, ...]] = ()
    further_ratios: ClassVar[tuple[float, ...]] = ()

    def compose(self, choose: Choose) -> str:
        """Choose the depth, ratio and heads of each block, and the width."""
        depth = choose("depth", self.depths)
        ratios = [choose(f"ratio {i + 1}", self.ratios) for i in range(depth)]
        heads = [choose(f"heads {i + 1}", self.heads) for i in range(depth)]
        return self.format(AutoFormerSpec(depth, choose("dim", self.widths), tuple(heads), tuple(ratios)))

    def genes(self, architecture: str) -> Genes:
        """``depth``, ``ratio 1`` ..., ``heads 1`` ..., ``dim``: the order of the published encoding.

        Crossover takes genes of blocks that one parent alone has from it; the published search crosses none but
        parents of equal depth.
        """
        spec = self.parse(architecture)
        ratios = {f"ratio {i + 1}": ratio for i, ratio in enumerate(spec.ratios)}
        heads = {f"heads {i + 1}": number for i, number in enumerate(spec.heads)}
        return {"depth": spec.depth, **ratios, **heads, "dim": spec.embed_dim}

    def parse(self, architecture: str) -> AutoFormerSpec:
        """Depth, width, heads and ratios.

        Raises:
            InputError: the string has another form, or a number that this space does not have.
        """
        spec = parse(architecture)
        for what, values, options in (
            ("depth", (spec.depth,), self.depths),
            ("width", (spec.embed_dim,), self.widths),
            ("number of heads", spec.heads, (*self.further_heads, *self.heads)),
            ("MLP ratio", spec.ratios, (*self.further_ratios, *self.ratios)),
        ):
            for value in values:
                if value not in options:
                    there_are = ", ".join(f"{option:g}" for option in options)
                    raise InputError(f"{architecture!r}: {self.name} has no {what} {value:g}, only {there_are}.")
        return spec

    @staticmethod
    def format(spec: AutoFormerSpec) -> str:
        """Write a description as a string, the inverse of :meth:`parse`."""
        heads, ratios = _joined(spec.heads), _joined(spec.ratios)
        return f"d{spec.depth} e{spec.embed_dim} h{heads} r{ratios}"

    @classmethod
    def from_encoding(cls, encoding: Sequence[float]) -> str:
        """Read the list of the released search: depth, ratio of each block, heads of each block, width.

        Raises:
            InputError: the list has not 2 + 2 x depth numbers.

        Example:
            >>> AutoFormerTiny.from_encoding([2, 3.5, 4, 3, 4, 192])
            'd2 e192 h3-4 r3.5-4'
        """
        depth = int(encoding[0]) if len(encoding) else 0
        if depth < 1 or len(encoding) != 2 + 2 * depth:
            raise InputError(
                f"{list(encoding)} is no AutoFormer encoding: give the depth, as many ratios, as many heads, the width."
            )
        ratios, heads = encoding[1 : depth + 1], encoding[depth + 1 : -1]
        spec = AutoFormerSpec(depth, int(encoding[-1]), tuple(map(int, heads)), tuple(map(float, ratios)))
        return cls.format(spec)

    def to_encoding(self, architecture: str) -> list[float]:
        """Write the list that :meth:`from_encoding` reads."""
        spec = self.parse(architecture)
        return [spec.depth, *spec.ratios, *spec.heads, spec.embed_dim]

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """The network for patches of 16 x 16, without dropout or stochastic depth (see :func:`network` for these)."""
        channels, height, width = image_shape
        return AutoFormer(self.parse(architecture), num_classes, (height, width), PATCH, channels)

    def encode(self, architecture: str) -> np.ndarray:
        """Depth, width, ratios and heads; blocks that are not there have zeros."""
        spec = self.parse(architecture)
        missing = [0.0] * (max(self.depths) - spec.depth)
        return np.array([spec.depth, spec.embed_dim, *spec.ratios, *missing, *spec.heads, *missing], dtype=np.float64)

    @property
    def size(self) -> int:
        """Every width with every choice of heads and ratios, for each depth."""
        per_block = len(self.heads) * len(self.ratios)
        return len(self.widths) * sum(int(per_block**depth) for depth in self.depths)

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Parameters and multiply-accumulates in closed form, the products with relative positions included.

        Published tables do not count flops of these networks by module: they are the multiply-accumulates here.
        Papers leave the relative positions out, as ``autoformer_network.macs(spec, relative=False)`` does.
        """
        channels, height, width = image_shape
        return cost(self.parse(architecture), num_classes, (height, width), PATCH, channels)


class AutoFormerTiny(AutoFormerSpace):
    """AutoFormer-Tiny, 5 to 11 million parameters.

    Example:
        >>> space = AutoFormerTiny()
        >>> space.cost(EXAMPLE)
        Cost(params=5859112, flops=1481938432, macs=1481938432)
    """

    name: ClassVar[str] = "autoformer_tiny"
    summary: ClassVar[str] = "vision transformers of 12 to 14 blocks, width 192 to 240; 1.1e9 architectures"
    depths: ClassVar[tuple[int, ...]] = (12, 13, 14)
    widths: ClassVar[tuple[int, ...]] = (192, 216, 240)
    heads: ClassVar[tuple[int, ...]] = (3, 4)
    ratios: ClassVar[tuple[float, ...]] = (3.5, 4.0)
    further_ratios: ClassVar[tuple[float, ...]] = (3.0,)  # in AutoFormer-T itself


class AutoFormerSmall(AutoFormerSpace):
    """AutoFormer-Small, 13 to 35 million parameters.

    Example:
        >>> space = AutoFormerSmall()
        >>> space.cost(NAMED["AutoFormer-S"]).params
        22891432
    """

    name: ClassVar[str] = "autoformer_small"
    summary: ClassVar[str] = "vision transformers of 12 to 14 blocks, width 320 to 448; 7.7e13 architectures"
    depths: ClassVar[tuple[int, ...]] = (12, 13, 14)
    widths: ClassVar[tuple[int, ...]] = (320, 384, 448)
    heads: ClassVar[tuple[int, ...]] = (5, 6, 7)
    ratios: ClassVar[tuple[float, ...]] = (3.0, 3.5, 4.0)


class AutoFormerBase(AutoFormerSpace):
    """AutoFormer-Base, 42 to 77 million parameters.

    Example:
        >>> space = AutoFormerBase()
        >>> space.cost(NAMED["AutoFormer-B"]).params
        53691688
    """

    name: ClassVar[str] = "autoformer_base"
    summary: ClassVar[str] = "vision transformers of 14 to 16 blocks, width 528 to 624; 1.0e13 architectures"
    depths: ClassVar[tuple[int, ...]] = (14, 15, 16)
    widths: ClassVar[tuple[int, ...]] = (528, 576, 624)
    heads: ClassVar[tuple[int, ...]] = (9, 10)
    ratios: ClassVar[tuple[float, ...]] = (3.0, 3.5, 4.0)
    further_heads: ClassVar[tuple[int, ...]] = (8,)  # in the released configuration of subnets


def parse(architecture: str) -> AutoFormerSpec:
    """Read the string of any such transformer, whichever space it belongs to, if any.

    Raises:
        InputError: the string has another form; each transformer has one string.

    Example:
        >>> parse("d2 e64 h1-3 r2-3.5")
        AutoFormerSpec(depth=2, embed_dim=64, heads=(1, 3), ratios=(2.0, 3.5))
    """
    return _parse(architecture)


def from_columns(depth: int, embed_dim: int, num_heads: str | Iterable[int], mlp_ratio: str | Iterable[float]) -> str:
    """Read the columns of published tables, in which heads and ratios are lists joined by dashes.

    Raises:
        InputError: these are no numbers, or not one of each a block.

    Example:
        >>> from_columns(2, 192, "3-4", "3.5-4.0")
        'd2 e192 h3-4 r3.5-4'
    """
    heads, ratios = (x.split("-") if isinstance(x, str) else x for x in (num_heads, mlp_ratio))
    try:
        read = tuple(map(int, heads)), tuple(map(float, ratios))
    except ValueError:
        raise InputError(f"num_heads={num_heads!r}, mlp_ratio={mlp_ratio!r}: write them like '3-4-3'.") from None
    return AutoFormerSpace.format(AutoFormerSpec(int(depth), int(embed_dim), *read))


def network(
    architecture: str | AutoFormerSpec,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] = 224,
    patch_size: int = PATCH,
    channels: int = 3,
    **rates: Any,
) -> AutoFormer:
    """Build any such transformer, of whatever width, patch size and channels; weights from the global random state.

    Args:
        architecture: string or description; it need not belong to a space.
        num_classes: number of outputs.
        image_size: a side, or height and width.
        patch_size: side of a patch.
        channels: of the images.
        rates: ``dropout``, ``attention_dropout`` and ``drop_path``, by default 0.

    Raises:
        InputError: the string has another form, or the image is no whole number of patches.

    Example:
        >>> sum(p.numel() for p in network("d1 e64 h1 r2", 10, image_size=8, patch_size=2, channels=1).parameters())
        43402
    """
    spec = parse(architecture) if isinstance(architecture, str) else architecture
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return AutoFormer(spec, num_classes, size, patch_size, channels, **rates)


def _joined(numbers: Iterable[float]) -> str:
    return "-".join(f"{number:g}" for number in numbers)


@parsed
def _parse(architecture: str) -> AutoFormerSpec:
    match = _FORM.fullmatch(architecture) if isinstance(architecture, str) else None
    if match is None:
        raise InputError(f"{architecture!r} is no AutoFormer architecture: write it like {EXAMPLE!r}.")
    depth, width, heads, ratios = match.groups()
    numbers = tuple(map(int, heads.split("-"))), tuple(map(float, ratios.split("-")))
    spec = AutoFormerSpec(int(depth), int(width), *numbers)
    if AutoFormerSpace.format(spec) != architecture:  # one string for each, so that equal ones compare equal
        raise InputError(f"{architecture!r}: write this architecture {AutoFormerSpace.format(spec)!r}.")
    return spec


# by Chen et al.; AZ-NAS: Lee and Ham, CVPR 2024, for 21 to 23 and 21 to 24 million parameters; TF-TAS: Zhou et al.,
# "Training-free Transformer Architecture Search", CVPR 2022
NAMED = {
    "AutoFormer-T": "d13 e192 h3-3-3-3-3-3-3-3-3-3-4-3-3 r3.5-3.5-3-3.5-3-3-4-4-3.5-4-3.5-4-3.5",
    "AutoFormer-S": "d13 e384 h6-6-5-7-5-5-5-6-6-7-7-6-7 r3-3.5-3-3.5-4-4-4-4-4-4-4-3.5-4",
    "AutoFormer-B": "d14 e576 h9-9-9-9-9-10-9-9-10-9-10-9-9-10 r3.5-3.5-4-3.5-4-3.5-3.5-3-4-4-3-4-3-3.5",
    "AZ-NAS-S": "d14 e384 h7-7-6-6-5-6-6-6-7-7-5-5-6-7 r3-3-3-4-3.5-3-3-3.5-4-3-3-3-3-4",
    "AZ-NAS-S-24M": "d14 e384 h7-6-7-7-6-5-7-6-7-7-7-7-6-5 r3-3-3-3-4-3.5-3-3.5-3-4-3.5-3.5-3.5-4",
    "TF-TAS-S": "d14 e384 h6-6-6-6-7-6-5-7-5-5-5-7-6-7 r4-4-4-3-4-3-3-3.5-4-3.5-3.5-4-3-3.5",
}
