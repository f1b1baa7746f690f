"""Networks of DARTS genotypes: the proxy networks of NAS-Bench-301, evaluation networks for CIFAR-10 and ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lswag_hooks.errors import InputError, near_matches

Edge: TypeAlias = tuple[str, int]  # operation, source
Stem: TypeAlias = Literal["cifar", "imagenet"]

NODES = (2, 3, 4, 5)  # 0 and 1 are the two inputs of a cell
OPERATIONS = (  # in the order of NAS-Bench-301's numbers
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


class CellPlan(NamedTuple):
    """Channels of a cell's two inputs and of its nodes, whether it halves the image, and whether the one before did."""

    before_last: int
    last: int
    channels: int
    reduction: bool
    after_reduction: bool


def cell_plans(channels: int, layers: int, stem: Stem) -> list[CellPlan]:
    """The cells of a network in order: two of them, at a third and two thirds, double the channels and halve the image.

    Example:
        >>> [plan.channels for plan in cell_plans(32, 8, "cifar")]
        [32, 32, 64, 64, 64, 128, 128, 128]
    """
    before_last = last = 3 * channels if stem == "cifar" else channels
    reductions = (layers // 3, 2 * layers // 3)
    after_reduction = stem == "imagenet"  # the second stem halves the image, as a reduction cell would
    plans = []
    for index in range(layers):
        reduction = index in reductions
        channels *= 1 + reduction
        plans.append(CellPlan(before_last, last, channels, reduction, after_reduction))
        before_last, last, after_reduction = last, 4 * channels, reduction
    return plans


def relu_conv_norm(entering: int, leaving: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """ReLU, a convolution that keeps the size but for its stride, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(leaving)
    )


class FactorizedReduce(nn.Module):
    """Halves an image without losing every other pixel: two 1×1 convolutions of stride 2, one of them shifted by one.

    Shapes: (N, entering, H, W) to (N, leaving, ceil(H/2), ceil(W/2)); odd sides are padded with zeros.

    Example:
        >>> FactorizedReduce(4, 8)(torch.zeros(2, 4, 7, 6)).shape
        torch.Size([2, 8, 4, 3])
    """

    def __init__(self, entering: int, leaving: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(entering, leaving // 2, 1, 2, bias=False)
        self.shifted_conv = nn.Conv2d(entering, leaving - leaving // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(leaving, affine=affine)

    def forward(self, images: Tensor) -> Tensor:
        """Halve the images."""
        x = self.relu(images)
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
        return self.norm(torch.cat([self.conv(x), self.shifted_conv(padded[:, :, 1:, 1:])], 1))  # type: ignore[no-any-return]


def separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise convolution, 1×1 convolution, BatchNorm."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def operation(name: str, channels: int, stride: int = 1, affine: bool = True, pool_norm: bool = False) -> nn.Module:
    """One operation of the DARTS space.

    Args:
        name: one of ``OPERATIONS``.
        channels: of its input and output.
        stride: 1, or 2 to halve the image.
        affine: whether BatchNorm has weights.
        pool_norm: whether a pooling is followed by a BatchNorm (which never has weights).

    Raises:
        InputError: there is no such operation.

    Example:
        >>> operation("sep_conv_5x5", 8, stride=2)(torch.zeros(2, 8, 7, 7)).shape
        torch.Size([2, 8, 4, 4])
    """
    if name not in OPERATIONS:
        raise InputError(
            f"{name!r} is no operation of DARTS.{near_matches(name, OPERATIONS)} They are: {', '.join(OPERATIONS)}."
        )
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    if name.endswith("pool_3x3"):
        pool = nn.MaxPool2d(3, stride, 1) if name[:3] == "max" else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) if pool_norm else pool
    kernel = int(name[-1])
    if name[:3] == "dil":
        return nn.Sequential(*separable(channels, kernel, stride, 2, affine))
    return nn.Sequential(*separable(channels, kernel, stride, 1, affine), *separable(channels, kernel, 1, 1, affine))


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Set whole samples to zero with a chance of ``rate``, and scale up the others so that the mean stays."""
    kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - rate)
    return x * (kept / (1 - rate))


class Cell(nn.Module):
    """Four nodes, each the sum of two operations on earlier ones, concatenated.

    Args:
        edges: eight operations with their sources, two a node.
        plan: channels and strides.
        affine: whether BatchNorm inside operations has weights; in front of them it always has.
        pool_norm: whether a pooling is followed by a BatchNorm.
    """

    def __init__(self, edges: Sequence[Edge], plan: CellPlan, affine: bool, pool_norm: bool) -> None:
        super().__init__()
        self.preprocess_0 = preprocessing(plan.before_last, plan.channels, plan.after_reduction)
        self.preprocess_1 = preprocessing(plan.last, plan.channels, False)
        self.sources = [source for _, source in edges]
        self.operations = nn.ModuleList(
            operation(name, plan.channels, edge_stride(source, plan.reduction), affine, pool_norm)
            for name, source in edges
        )

    def forward(self, before_last: Tensor, last: Tensor, drop_path_rate: float = 0.0) -> Tensor:
        """The four nodes, from the outputs of the two cells before."""
        nodes = [self.preprocess_0(before_last), self.preprocess_1(last)]
        arriving: list[Tensor] = []
        for source, run in zip(self.sources, self.operations, strict=True):
            x = run(nodes[source])
            if self.training and drop_path_rate > 0 and not isinstance(run, nn.Identity):
                x = drop_path(x, drop_path_rate)
            arriving.append(x)
            if len(arriving) == 2:
                nodes.append(arriving[0] + arriving[1])
                arriving = []
        return torch.cat(nodes[2:], 1)


def preprocessing(entering: int, leaving: int, halve: bool) -> nn.Module:
    """What brings an input of a cell to the channels and size of its nodes."""
    return FactorizedReduce(entering, leaving) if halve else relu_conv_norm(entering, leaving)


def edge_stride(source: int, reduction: bool) -> int:
    """Reduction cells halve the image on the edges from their inputs."""
    return 2 if reduction and source < 2 else 1


def stems(kind: Stem, in_channels: int, channels: int) -> list[nn.Module]:
    """One stem for CIFAR, which feeds both inputs of the first cell; two in a row for ImageNet, one for each."""

    def conv_norm(entering: int, leaving: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(entering, leaving, 3, stride, 1, bias=False), nn.BatchNorm2d(leaving)]

    if kind == "cifar":
        return [nn.Sequential(*conv_norm(in_channels, 3 * channels, 1))]
    half = channels // 2
    return [
        nn.Sequential(*conv_norm(in_channels, half, 2), nn.ReLU(), *conv_norm(half, channels, 2)),
        nn.Sequential(nn.ReLU(), *conv_norm(channels, channels, 2)),
    ]


class ImageNetPool(nn.AvgPool2d):
    """The published ImageNet networks' average over 7×7, which here is the whole map at other image sizes too."""

    def forward(self, images: Tensor) -> Tensor:
        """Average over all positions."""
        return F.avg_pool2d(images, images.shape[-2:])  # type: ignore[no-any-return, unused-ignore]


class AuxiliaryHead(nn.Module):
    """The second classifier of training, on the output of the last reduction cell.

    Args:
        channels: of that output.
        num_classes: number of outputs.
        stem: for ImageNet the pooling has stride 2, and the last BatchNorm is missing, as in the published networks.

    Shapes: (N, channels, H, W) to (N, num_classes). H and W are 8 (CIFAR-10, 32×32) or 7 (ImageNet, 224×224); on larger
    maps the mean over positions is taken.
    """

    def __init__(self, channels: int, num_classes: int, stem: Stem) -> None:
        super().__init__()
        stride = 3 if stem == "cifar" else 2
        self.smallest = 5 + stride
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, 0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if stem == "cifar" else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        if min(images.shape[-2:]) < self.smallest:
            raise InputError(
                f"the auxiliary head needs feature maps of {self.smallest}×{self.smallest} or larger, got "
                f"{images.shape[-2]}×{images.shape[-1]}: use larger images, or auxiliary=False."
            )
        return self.classifier(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


class DARTSNetwork(nn.Module):
    """A network of normal and reduction cells.

    Args:
        normal: the eight edges of the normal cell.
        reduce: the eight edges of the reduction cell.
        channels: of the first cells' nodes.
        layers: number of cells.
        num_classes: number of outputs.
        auxiliary: whether there is an auxiliary head; it works in training mode alone.
        drop_path: first value of ``drop_path_rate``.
        affine: whether BatchNorm inside operations has weights.
        pool_norm: whether a pooling is followed by a BatchNorm.
        stem: ``"cifar"`` keeps the image's size, ``"imagenet"`` has two stems of total stride 8.
        in_channels: channels of the images.

    Attributes:
        drop_path_rate: chance that an edge (identities apart) is dropped for a sample in training; to be set freely.

    Shapes: (N, in_channels, H, W) to (N, num_classes), and twice that with an auxiliary head in training mode.
    """

    def __init__(
        self,
        normal: Sequence[Edge],
        reduce: Sequence[Edge],
        channels: int,
        layers: int,
        num_classes: int,
        auxiliary: bool = False,
        drop_path: float = 0.0,
        affine: bool = True,
        pool_norm: bool = False,
        stem: Stem = "cifar",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check(channels, layers, drop_path, stem)
        self.drop_path_rate = drop_path
        plans = cell_plans(channels, layers, stem)
        self.stems = nn.ModuleList(stems(stem, in_channels, channels))
        self.cells = nn.ModuleList(
            Cell(reduce if plan.reduction else normal, plan, affine, pool_norm) for plan in plans
        )
        self.auxiliary_after = 2 * layers // 3
        self.auxiliary = (
            AuxiliaryHead(4 * plans[self.auxiliary_after].channels, num_classes, stem) if auxiliary else None
        )
        self.pool = nn.AdaptiveAvgPool2d(1) if stem == "cifar" else ImageNetPool(7)
        self.classifier = nn.Linear(4 * plans[-1].channels, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; in training mode with an auxiliary head: logits and auxiliary logits."""
        before_last = self.stems[0](images)
        last = self.stems[1](before_last) if len(self.stems) == 2 else before_last
        extra: Tensor | None = None
        for index, cell in enumerate(self.cells):
            before_last, last = last, cell(before_last, last, self.drop_path_rate)
            if self.auxiliary is not None and self.training and index == self.auxiliary_after:
                extra = self.auxiliary(last)
        logits: Tensor = self.classifier(self.pool(last).flatten(1))
        return logits if extra is None else (logits, extra)


def _check(channels: int, layers: int, drop_path: float, stem: str) -> None:
    if channels < 2 or channels % 2:
        raise InputError(f"channels={channels}: give an even number, which factorised reductions cut in half.")
    if layers < 1:
        raise InputError(f"layers={layers}: give one or more.")
    if not 0 <= drop_path < 1:
        raise InputError(f"drop_path={drop_path}: give a chance of at least 0 and less than 1.")
    if stem not in ("cifar", "imagenet"):
        raise InputError(f"stem={stem!r}: use 'cifar' or 'imagenet'.")
