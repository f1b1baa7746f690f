"""The networks of BurgerFormer: stages of "hamburgers", a meat layer between two of bread, each designed anew.

Written from the description in Yang et al., "Searching for BurgerFormer with Micro-Meso-Macro Space Design", ICML 2022,
and from the sizes of the published networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from lswag_hooks.errors import InputError

STEM = 24  # channels inside the stem
HEADS = (0, 0, 4, 8)  # attention heads by stage


@dataclass(frozen=True)
class Layer:
    """What a layer does: a norm before or behind an operation, and an activation; each may be ``skip``.

    Attributes:
        before: norm before the operation.
        op: operation.
        behind: norm behind the operation.
        act: activation at the end.
    """

    before: str = "skip"
    op: str = "skip"
    behind: str = "skip"
    act: str = "skip"


SKIP = Layer()


@dataclass(frozen=True)
class Stage:
    """Equal hamburgers one after another.

    Attributes:
        depth: how many.
        width: channels of the maps.
        ratio: channels inside the meat layer, as a multiple of ``width``.
        layers: top bread, meat, bottom bread.
    """

    depth: int
    width: int
    ratio: int
    layers: tuple[Layer, Layer, Layer]


class BurgerNetwork(nn.Module):
    """A stem of stride 4 and four stages; classifies the mean of the last map.

    Args:
        stages: four of them.
        num_classes: number of outputs; 0 for none, where ``forward`` gives the mean itself.
        image_size: height and width of the images; only ``spatial_mlp`` is bound to it.
        channels: of the images.
        drop_path: rate of the last hamburger; it grows linearly from 0 at the first.
        layer_scale: initial value of the scale of each layer's channels.
        out_norms: give each stage's map a norm of its own, for :meth:`features`, and leave out the last norm and the
            classifier: the backbone of a detector.

    Shapes: (N, channels, H, W) to (N, num_classes).

    Example:
        >>> net = BurgerNetwork([Stage(1, 32, 1, (SKIP, SKIP, SKIP))] * 4, num_classes=10)
        >>> net(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 10])
        >>> [tuple(map.shape[1:]) for map in net.features(torch.zeros(1, 3, 64, 96))]
        [(32, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3)]
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        channels: int = 3,
        *,
        drop_path: float = 0.0,
        layer_scale: float = 1e-5,
        out_norms: bool = False,
    ) -> None:
        super().__init__()
        widths = [stage.width for stage in stages]
        blocks = sum(stage.depth for stage in stages)
        rates = iter([drop_path * i / max(1, blocks - 1) for i in range(blocks)])
        self.stem = Stem(channels, widths[0])
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), norm("GN", after))
            for before, after in itertools.pairwise(widths)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*[Burger(stage, size, heads, next(rates), layer_scale) for _ in range(stage.depth)])
            for stage, size, heads in zip(stages, map_sizes(image_size), HEADS, strict=True)
        )
        self.out_norms = nn.ModuleList(norm("GN", width) for width in widths) if out_norms else None
        headless = out_norms or num_classes == 0
        self.norm = nn.Identity() if out_norms else norm("GN", widths[-1])
        self.head = nn.Identity() if headless else nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.norm(self.features(images)[-1]).mean((2, 3)))  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps behind the four stages, of strides 4, 8, 16 and 32."""
        maps = [self.stages[0](self.stem(images))]
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            maps.append(stage(down(maps[-1])))
        if self.out_norms is None:
            return maps
        return [out_norm(features) for out_norm, features in zip(self.out_norms, maps, strict=True)]


class Stem(nn.Module):
    """Two convolutions of stride 2 with a residual pair between them; (N, C, H, W) to (N, width, H / 4, W / 4)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, STEM, stride=2)
        self.residual = nn.Sequential(conv_norm_relu(STEM, STEM), conv_norm_relu(STEM, STEM))
        self.last = nn.Conv2d(STEM, width, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Features of stride 4."""
        features = self.first(images)
        return self.last(features + self.residual(features))  # type: ignore[no-any-return]


class Burger(nn.Module):
    """Top bread, meat and bottom bread, each with a residual; bread that does nothing is left out."""

    def __init__(self, stage: Stage, size: tuple[int, int], heads: int, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        width, hidden = stage.width, stage.width * stage.ratio
        top, meat, bottom = stage.layers
        middle = nn.Sequential(
            norm("GN", width),
            nn.Conv2d(width, hidden, 1),
            nn.GELU(),
            chain(meat, hidden, size, heads),
            nn.Conv2d(hidden, width, 1),
        )
        self.layers = nn.Sequential(
            *[
                Scaled(inner, width, drop_path, layer_scale)
                for inner in (chain(top, width, size, heads), middle, chain(bottom, width, size, heads))
                if not isinstance(inner, nn.Identity)
            ]
        )

    def forward(self, features: Tensor) -> Tensor:
        """The layers one after another; shape (N, width, H, W) is kept."""
        return self.layers(features)  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """Residual around a module whose output has a learnt scale for each channel; shape (N, C, H, W) is kept."""

    def __init__(self, inner: nn.Module, channels: int, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.full((channels, 1, 1), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Input plus scaled output."""
        return features + self.drop_path(self.scale * self.inner(features))  # type: ignore[no-any-return]


class Detail(nn.Module):
    """What a 3 x 3 average takes away, as a change: the average minus the input."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, features: Tensor) -> Tensor:
        """Average minus input; shape (N, C, H, W) is kept."""
        return self.pool(features) - features  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Self-attention between all places of a map, without positions; shape (N, C, H, W) is kept."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Attend."""
        n, channels, height, width = features.shape
        tokens = features.flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).view(n, height * width, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, places, channels / heads)
        # explicit products: the fused attention of the CPU has no second derivative, which some proxies need
        weights = (q * (channels // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        out = self.proj((weights @ v).transpose(1, 2).reshape(n, height * width, channels))
        return out.transpose(1, 2).reshape(n, channels, height, width)  # type: ignore[no-any-return]


class SpatialMLP(nn.Module):
    """A linear layer from all places of a map to all places, the same for every channel, for maps of one size."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.mix = nn.Linear(size[0] * size[1], size[0] * size[1])

    def forward(self, features: Tensor) -> Tensor:
        """Mix places; shape (N, C, H, W) is kept."""
        if features.shape[2:] != self.size:
            raise InputError(
                f"a spatial_mlp built for maps of {self.size[0]} x {self.size[1]} got {features.shape[2]} x "
                f"{features.shape[3]}: build the network with the image_size of its images, or choose an architecture "
                "without spatial_mlp, as BurgerFormer(spatial_mlp=False) does."
            )
        return self.mix(features.flatten(2)).view_as(features)  # type: ignore[no-any-return]


def chain(layer: Layer, channels: int, size: tuple[int, int], heads: int) -> nn.Module:
    """Norm, operation, norm and activation of a layer, those that it has; nn.Identity for none at all."""
    if layer == SKIP:
        return nn.Identity()
    parts: list[nn.Module] = []
    if layer.before != "skip":
        parts.append(norm(layer.before, channels))
    parts.append(operation(layer.op, channels, size, heads))
    if layer.behind != "skip":
        parts.append(norm(layer.behind, channels))
    if layer.act != "skip":
        parts.append({"relu6": nn.ReLU6, "gelu": nn.GELU, "silu": nn.SiLU}[layer.act]())
    return nn.Sequential(*parts)


def operation(op: str, channels: int, size: tuple[int, int], heads: int) -> nn.Module:
    """Module of an operation."""
    if op == "dwise_3x3":
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    if op == "conv_1x1":
        return nn.Conv2d(channels, channels, 1)
    if op == "avgpool":
        return Detail()
    return SelfAttention(channels, heads) if op == "self_atten" else SpatialMLP(size)


def norm(kind: str, channels: int) -> nn.Module:
    """BN; GN of a single group; or LN over the channels of each place."""
    if kind == "BN":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1, channels) if kind == "GN" else LayerNorm2d(channels)


def conv_norm_relu(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def map_sizes(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the maps of the four stages.

    Example:
        >>> map_sizes((224, 250))
        [(56, 63), (28, 32), (14, 16), (7, 8)]
    """
    height, width = image_size
    return [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
