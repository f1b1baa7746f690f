"""Cost of BurgerFormer networks in closed form: parameters, the published search's estimate of flops, and macs.

The estimate counts multiply-accumulates and biases of layers, two operations an element of a norm, and one an element
of an activation or a pooling; residuals and their scales count nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lswag_hooks.spaces.burgerformer_network import SKIP, STEM, Layer, Stage, map_sizes
from lswag_hooks.spaces.counting import Cost


def cost(stages: Sequence[Stage], num_classes: int, image_size: tuple[int, int], channels: int = 3) -> Cost:
    """Cost of a network in closed form.

    Args:
        stages: four of them.
        num_classes: number of outputs.
        image_size: height and width of the images.
        channels: of the images.

    Example:
        >>> cost([Stage(1, width, 1, (SKIP, SKIP, SKIP)) for width in (32, 64, 128, 128)], 1000, (224, 224))
        Cost(params=465472, flops=221154280, macs=216988672)
    """
    height, width = image_size
    half = -(-height // 2) * -(-width // 2)
    areas = [rows * columns for rows, columns in map_sizes(image_size)]
    total = _conv(channels, STEM, half, bias=False) + (_norm(STEM, half) + Cost(0, STEM * half, 0)) * 3
    total += _conv(STEM, STEM, half, bias=False) * 2 + _conv(STEM, stages[0].width, areas[0])
    for (before, large), (after, small) in itertools.pairwise(zip(stages, areas, strict=True)):
        total += _conv(before.width, after.width, small)
        total += Cost(2 * after.width, 2 * before.width * large, 0)  # the estimate has this norm on the map before
    for stage, area in zip(stages, areas, strict=True):
        total += _burger(stage, area) * stage.depth
    return total + _norm(stages[-1].width, areas[-1]) + _conv(stages[-1].width, num_classes, 1, taps=1)


def _burger(stage: Stage, area: int) -> Cost:
    width, hidden = stage.width, stage.width * stage.ratio
    top, meat, bottom = stage.layers
    scale = Cost(width, 0, 0)
    total = _norm(width, area) + _conv(width, hidden, area, taps=1) + Cost(0, hidden * area, 0)
    total += _layer(meat, hidden, area) + _conv(hidden, width, area, taps=1) + scale
    for bread in (top, bottom):
        if bread != SKIP:
            total += _layer(bread, width, area) + scale
    return total


def _layer(layer: Layer, channels: int, area: int) -> Cost:
    total = Cost(0, 0 if layer.act == "skip" else channels * area, 0)
    for kind in (layer.before, layer.behind):
        if kind != "skip":
            total += _norm(channels, area)
    if layer.op == "dwise_3x3":
        total += _conv(1, channels, area)
    elif layer.op == "conv_1x1":
        total += _conv(channels, channels, area, taps=1)
    elif layer.op == "avgpool":
        total += Cost(0, channels * area, 0)
    elif layer.op == "self_atten":
        products = 4 * channels**2 * area + 2 * area**2 * channels
        total += Cost(4 * channels**2 + channels, products, products)
    elif layer.op == "spatial_mlp":
        total += Cost(area**2 + area, area**2 * channels + area, area**2 * channels)
    return total


def _conv(before: int, after: int, area: int, taps: int = 9, bias: bool = True) -> Cost:
    """Of a depth-wise convolution ``before`` is 1."""
    weights, biases = taps * before * after, after if bias else 0
    return Cost(weights + biases, (weights + biases) * area, weights * area)


def _norm(channels: int, area: int) -> Cost:
    return Cost(2 * channels, 2 * channels * area, 0)
