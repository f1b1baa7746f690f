"""BurgerFormer: four stages whose blocks are designed layer by layer, convolutional, attentional or neither.

Yang et al., "Searching for BurgerFormer with Micro-Meso-Macro Space Design", ICML 2022.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import nn

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.spaces.base import Choose, Genes, Space, parsed
from lswag_hooks.spaces.burgerformer_cost import cost
from lswag_hooks.spaces.burgerformer_network import SKIP, BurgerNetwork, Layer, Stage
from lswag_hooks.spaces.counting import Cost

Stages: TypeAlias = tuple[Stage, ...]

DEPTHS = ((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4))
WIDTHS = ((32, 64, 96), (64, 96, 128), (128, 192, 256, 320), (128, 256, 384, 512))
RATIOS = (1, 2, 4, 6)
NORMS = ("BN", "GN", "LN")
ACTS = ("skip", "relu6", "gelu", "silu")
LOCAL_OPS = ("dwise_3x3", "conv_1x1", "avgpool")
GLOBAL_OPS = ("self_atten", "spatial_mlp")  # in stages 3 and 4 only
MEAT_OPS = ("dwise_3x3",)
EXAMPLE = (
    "2,32,4|skip|skip-GN-dwise_3x3-skip-gelu|skip-skip-avgpool-LN-silu"
    " / 4,96,1|skip-skip-dwise_3x3-LN-silu|skip-LN-dwise_3x3-skip-relu6|skip-skip-dwise_3x3-BN-relu6"
    " / 4,192,4|skip-LN-avgpool-skip-silu|skip|skip-GN-spatial_mlp-skip-skip"
    " / 4,384,6|skip|skip-skip-dwise_3x3-LN-skip|skip"
)
NAMED = {  # the published networks
    "BurgerFormer-T": EXAMPLE,
    "BurgerFormer-S": (
        "3,96,1|skip-GN-avgpool-skip-silu|skip-skip-dwise_3x3-LN-silu|skip-skip-dwise_3x3-BN-relu6"
        " / 3,128,6|skip-skip-conv_1x1-BN-relu6|skip-skip-dwise_3x3-GN-skip|skip-skip-avgpool-LN-silu"
        " / 5,256,4|skip-skip-dwise_3x3-BN-gelu|skip|skip"
        " / 4,512,4|skip-skip-avgpool-LN-relu6|skip-skip-dwise_3x3-GN-skip|skip-BN-spatial_mlp-skip-silu"
    ),
    "BurgerFormer-B": (
        "2,96,2|skip-skip-avgpool-GN-silu|skip|skip-LN-avgpool-skip-skip"
        " / 2,128,6|skip-BN-dwise_3x3-skip-skip|skip|skip-GN-dwise_3x3-skip-relu6"
        " / 6,320,6|skip-skip-self_atten-GN-silu|skip-skip-dwise_3x3-LN-silu|skip-skip-conv_1x1-LN-gelu"
        " / 3,512,6|skip-LN-self_atten-skip-gelu|skip|skip-skip-avgpool-GN-silu"
    ),
    "BurgerFormer-L": (
        "4,96,6|skip-skip-avgpool-LN-skip|skip-skip-dwise_3x3-LN-silu|skip-GN-dwise_3x3-skip-skip"
        " / 4,128,6|skip-BN-dwise_3x3-skip-silu|skip-GN-dwise_3x3-skip-relu6|skip-BN-conv_1x1-skip-skip"
        " / 8,320,6|skip-skip-self_atten-GN-relu6|skip-skip-dwise_3x3-GN-gelu|skip-GN-conv_1x1-skip-relu6"
        " / 4,512,6|skip-BN-conv_1x1-skip-silu|skip-skip-dwise_3x3-GN-skip|skip-GN-self_atten-skip-gelu"
    ),
}

_TASKS = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}
_MACRO = re.compile(r"[1-9]\d*,[1-9]\d*,[1-9]\d*", re.ASCII)


class BurgerFormer(Space):
    """The BurgerFormer space: four stages ``depth,width,ratio|bread|meat|bread``, joined by a slash between two blanks.

    A layer is ``act-norm-op-norm-act`` as published: the first activation is always ``skip``, exactly one of the norms
    is one; or it is ``skip`` altogether. Every layer has a residual of its own, but bread that is ``skip`` is left out.

    Args:
        spatial_mlp: whether bread of the last two stages may be ``spatial_mlp``, which is bound to one image size;
            detectors do without.
        max_params: architectures with more parameters are not drawn; counted for ImageNet at 224 x 224.

    Example:
        >>> space = BurgerFormer()
        >>> space.cost(NAMED["BurgerFormer-B"])
        Cost(params=26207776, flops=3852988648, macs=3816998912)
        >>> space.parse(NAMED["BurgerFormer-B"])[0].layers[0]
        Layer(before='skip', op='avgpool', behind='GN', act='silu')
    """

    name: ClassVar[str] = "burgerformer"
    summary: ClassVar[str] = "four stages of three-layer blocks, convolutions and attention; 4.5e28 architectures"
    reference: ClassVar[str] = "Yang et al., Searching for BurgerFormer with Micro-Meso-Macro Space Design, ICML 2022"
    tasks: ClassVar[dict[str, int]] = _TASKS
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = dict.fromkeys(_TASKS, (3, 224, 224))
    rates: ClassVar[dict[str, float]] = {"depth": 0.3, "width": 0.3, "ratio": 0.3, "layer": 0.3}

    def __init__(self, spatial_mlp: bool = True, max_params: int | None = None) -> None:
        self.spatial_mlp = spatial_mlp
        self.max_params = max_params

    def compose(self, choose: Choose) -> str:
        """Choose each stage's depth, width, ratio and three layers."""
        stages = []
        for i in range(4):
            macro = [
                choose(f"depth {i + 1}", DEPTHS[i]),
                choose(f"width {i + 1}", WIDTHS[i]),
                choose(f"ratio {i + 1}", RATIOS),
            ]
            layers = [choose(f"layer {i + 1}.{j + 1}", self.options(i, j)) for j in range(3)]
            stages.append("|".join([",".join(map(str, macro)), *layers]))
        return " / ".join(stages)

    def genes(self, architecture: str) -> Genes:
        """``depth 1``, ``width 1``, ``ratio 1``, ``layer 1.1``, ``layer 1.2``, ``layer 1.3`` and so on."""
        genes: Genes = {}
        for i, stage in enumerate(self.parse(architecture), start=1):
            genes |= {f"depth {i}": stage.depth, f"width {i}": stage.width, f"ratio {i}": stage.ratio}
            genes |= {f"layer {i}.{j}": _written(layer) for j, layer in enumerate(stage.layers, start=1)}
        return genes

    def parse(self, architecture: str) -> Stages:
        """The four stages.

        Raises:
            InputError: the string has another form, or a choice that there is not.
        """
        stages = _parse(architecture)
        if not self.spatial_mlp and any(layer.op == "spatial_mlp" for stage in stages for layer in stage.layers):
            raise InputError(
                f"{architecture!r}: this space is without spatial_mlp; give BurgerFormer(spatial_mlp=True)."
            )
        return stages

    def options(self, stage: int, layer: int) -> tuple[str, ...]:
        """What a layer may be, both counted from 0: 25 kinds of meat, 73 of bread, 121 of it in the last two stages."""
        return tuple(_layers(stage, layer, self.spatial_mlp))

    def random(self, rng: np.random.Generator) -> str:
        """Draw as the published search does: a layer's operation first, ``skip`` among them, then all about it."""

        def choose(name: str, options: Sequence[Any]) -> Any:
            if name.startswith("layer"):
                by_op = _by_op(tuple(options))
                options = by_op[int(rng.integers(len(by_op)))]
            return options[int(rng.integers(len(options)))]

        return self.compose(choose)

    def mutate(self, architecture: str, rng: np.random.Generator | int | None = None) -> str:
        """Take each choice, a whole layer being one, from an architecture drawn anew with a chance of 0.3."""
        generator = np.random.default_rng(rng)
        own = self.genes(architecture)

        def attempt() -> str:
            fresh = self.genes(self.random(generator))
            changed = {name for name in own if generator.random() < self.rates[name.split(" ")[0]]}
            return self.compose(lambda name, _: fresh[name] if name in changed else own[name])

        return self._working(attempt, {architecture})

    def degenerate(self, architecture: str) -> str | None:
        """Whether there are more parameters than ``max_params``; every architecture works."""
        if self.max_params is None:
            return None
        params = self.cost(architecture).params
        if params <= self.max_params:
            return None
        return f"too large: {params:,} parameters are more than the limit of {self.max_params:,}"

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """The network without stochastic depth; :meth:`network` has more options."""
        channels, height, width = image_shape
        return BurgerNetwork(self.parse(architecture), num_classes, (height, width), channels)

    def network(self, architecture: str, image_size: int | tuple[int, int] = 224, **options: Any) -> BurgerNetwork:
        """The network with the options of :class:`BurgerNetwork`, such as a detector's backbone or stochastic depth.

        Example:
            >>> space = BurgerFormer(spatial_mlp=False)
            >>> backbone = space.network(NAMED["BurgerFormer-B"], out_norms=True)
            >>> sum(p.numel() for p in backbone.parameters())
            25695864
        """
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        return BurgerNetwork(self.parse(architecture), image_size=size, **options)

    def encode(self, architecture: str) -> np.ndarray:
        """Each stage's depth, width and ratio, and each layer's norm, operation, norm and activation one-hot: 228."""
        numbers: list[float] = []
        for stage in self.parse(architecture):
            numbers += [stage.depth, stage.width, stage.ratio]
            for layer in stage.layers:
                for value, options in (
                    (layer.before, ("skip", *NORMS)),
                    (layer.op, ("skip", *LOCAL_OPS, *GLOBAL_OPS)),
                    (layer.behind, ("skip", *NORMS)),
                    (layer.act, ACTS),
                ):
                    numbers += [float(value == option) for option in options]
        return np.array(numbers, dtype=np.float64)

    @property
    def size(self) -> int:
        """Every string, those with more than ``max_params`` parameters included."""
        return math.prod(
            len(DEPTHS[i]) * len(WIDTHS[i]) * len(RATIOS) * math.prod(len(self.options(i, j)) for j in range(3))
            for i in range(4)
        )

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Parameters, flops as the published search estimates them, and multiply-accumulates, in closed form.

        The estimate counts norms, activations and biases too. Its own count of parameters leaves out the scales of the
        layers; that here does not.
        """
        channels, height, width = image_shape
        return cost(self.parse(architecture), num_classes, (height, width), channels)

    def from_descriptor(self, descriptor: Mapping[str, Mapping[str, Any]]) -> str:
        """Read the dictionary of the published code, ``{"stage-1": {"macro": {...}, "meso": {...}}, ...}``.

        ``macro`` holds ``depth``, ``width`` and ``ratio``, ``meso`` the layers ``"1"``, ``"2"`` and ``"3"``; its
        residual edges and flags follow from the layers and are not read.

        Raises:
            InputError: one of these is missing, or is no choice of this space.
        """
        try:
            stages = [(descriptor[f"stage-{i}"]["macro"], descriptor[f"stage-{i}"]["meso"]) for i in (1, 2, 3, 4)]
            parts = [
                "|".join(
                    [
                        ",".join(str(macro[key]) for key in ("depth", "width", "ratio")),
                        *("skip" if _op(meso[key]) == "skip" else str(meso[key]) for key in ("1", "2", "3")),
                    ]
                )
                for macro, meso in stages
            ]
        except KeyError as error:
            raise InputError(f"the descriptor of a BurgerFormer has no {error}.") from None
        architecture = " / ".join(parts)
        self.parse(architecture)
        return architecture

    def __repr__(self) -> str:
        return f"BurgerFormer(spatial_mlp={self.spatial_mlp}, max_params={self.max_params})"


def _written(layer: Layer) -> str:
    return "skip" if layer == SKIP else f"skip-{layer.before}-{layer.op}-{layer.behind}-{layer.act}"


def _op(layer: str) -> str:
    return layer.split("-")[2] if layer.count("-") == 4 else layer


@functools.cache
def _layers(stage: int, layer: int, spatial_mlp: bool) -> dict[str, Layer]:
    """What a layer may be, by its string."""
    ops = MEAT_OPS if layer == 1 else LOCAL_OPS if stage < 2 else (*LOCAL_OPS, *GLOBAL_OPS[: 1 + spatial_mlp])
    slots = [(norm, "skip") for norm in NORMS] + [("skip", norm) for norm in NORMS]
    kinds = [Layer(before, op, behind, act) for op, (before, behind), act in itertools.product(ops, slots, ACTS)]
    return {_written(kind): kind for kind in (SKIP, *kinds)}


@functools.cache
def _by_op(layers: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group) for _, group in itertools.groupby(layers, _op))


@parsed
def _parse(architecture: str) -> Stages:
    stages = architecture.split(" / ") if isinstance(architecture, str) else []
    if len(stages) != 4:
        raise InputError(f"{architecture!r} is no BurgerFormer architecture: write four stages like {EXAMPLE!r}.")
    return tuple(_stage(architecture, i, stage) for i, stage in enumerate(stages))


def _stage(architecture: str, index: int, stage: str) -> Stage:
    where = f"{architecture!r}, stage {index + 1}"
    macro, *layers = stage.split("|")
    if not _MACRO.fullmatch(macro) or len(layers) != 3:
        example = EXAMPLE.split(" / ")[index]
        raise InputError(f"{where}: {stage!r} is not 'depth,width,ratio|bread|meat|bread': write it like {example!r}.")
    depth, width, ratio = map(int, macro.split(","))
    for what, value, numbers in (
        ("depth", depth, DEPTHS[index]),
        ("width", width, WIDTHS[index]),
        ("ratio", ratio, RATIOS),
    ):
        if value not in numbers:
            raise InputError(f"{where}: there is no {what} {value}, only {', '.join(map(str, numbers))}.")
    read = []
    for j, layer in enumerate(layers):
        kinds = _layers(index, j, True)
        if layer not in kinds:
            ops = ", ".join(_op(group[0]) for group in _by_op(tuple(kinds))[1:])
            raise InputError(
                f"{where}: {layer!r} is no layer {j + 1}.{near_matches(layer, kinds)} A layer is 'skip' or "
                f"'skip-norm-op-norm-act' with one of the norms {', '.join(NORMS)} and the other 'skip', an operation "
                f"of {ops} and an activation of {', '.join(ACTS)}."
            )
        read.append(kinds[layer])
    return Stage(depth, width, ratio, (read[0], read[1], read[2]))
