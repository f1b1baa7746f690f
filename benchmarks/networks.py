"""The networks that speed is measured on."""

from __future__ import annotations

import timm
from torch import Tensor, nn


class ReLUConvBN(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class Cell(nn.Module):
    """NAS-Bench-201's ``|conv3x3~0|+|conv3x3~0|conv3x3~1|+|skip~0|conv3x3~1|conv3x3~2|``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(ReLUConvBN(channels, channels) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        first = self.edges[0](x)
        second = self.edges[1](x) + self.edges[2](first)
        return x + self.edges[3](first) + self.edges[4](second)


class Reduction(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(ReLUConvBN(inputs, outputs, 2), ReLUConvBN(outputs, outputs))
        self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.short(x)


def nasbench201(classes: int = 10) -> nn.Module:
    """The evaluation network of the cell above: three stages of five cells, 16 to 64 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)]
    for stage, channels in enumerate((16, 32, 64)):
        layers += [Reduction(channels // 2, channels)] if stage else []
        layers += [Cell(channels) for _ in range(5)]
    head = (nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return nn.Sequential(*layers, *head)


CASES = {
    "nasbench201": (nasbench201, (64, 3, 32, 32)),
    "vit_tiny_patch16_224": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10), (8, 3, 224, 224)),
    # as timm builds it, the last gain of each block is zero: no gradient reaches 98 % of the weights
    "resnet18": (lambda: timm.create_model("resnet18", num_classes=10), (8, 3, 224, 224)),
    "resnet18_awake": (lambda: timm.create_model("resnet18", num_classes=10, zero_init_last=False), (8, 3, 224, 224)),
}
