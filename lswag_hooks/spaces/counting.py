"""Parameters, flops and multiply-accumulates of a network, by the conventions of the published tables.

NAS-Bench-Suite-Zero counts *per leaf module that ran, its last call only*: a convolution its multiply-accumulates (plus
one a place and channel for a bias), BatchNorm and activations one or two operations an element, pooling its window
times its output, a linear layer inputs times outputs. Whatever is no leaf module counts nothing. These are the columns
``params`` and ``flops`` of its tables; ``macs`` is what other papers call FLOPs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: parameters of the modules that run in a forward pass.
        flops: operations as NAS-Bench-Suite-Zero counts them, one sample.
        macs: multiply-accumulates of convolutions, linear layers and matrix products, one sample.
    """

    params: int
    flops: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.flops + other.flops, self.macs + other.macs)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.params * times, self.flops * times, self.macs * times)


def count(model: nn.Module, images: Tensor) -> Cost:
    """Count by running the network once; with the network and the images on the meta device nothing is computed.

    Args:
        model: in evaluation mode, or on the meta device.
        images: one sample.

    Example:
        >>> with torch.device("meta"):
        ...     net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        ...     count(net.eval(), torch.empty(1, 3, 8, 8))
        Cost(params=232, flops=8640, macs=7776)
    """
    from torch.utils.flop_counter import FlopCounterMode

    flops: dict[nn.Module, int] = {}

    def ran(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        flops[module] = leaf_flops(module, inputs[0], output)  # the last call stays

    hooks = [module.register_forward_hook(ran) for module in model.modules() if not list(module.children())]
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    seen = {id(parameter): parameter.numel() for module in flops for parameter in module.parameters(recurse=False)}
    own = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if list(module.children())
        for parameter in module.parameters(recurse=False)
    }
    return Cost(sum({**seen, **own}.values()), sum(flops.values()), counter.get_total_flops() // 2)


@functools.lru_cache(maxsize=16_384)
def piece_cost(build: Callable[..., nn.Module], arguments: tuple[Any, ...], shape: tuple[int, ...]) -> Cost:
    """Cost of a piece of a network, counted once: the networks of a space are made of few different pieces.

    Args:
        build: a class or function that makes the piece.
        arguments: what it is called with.
        shape: of one sample that enters it.

    Example:
        >>> piece_cost(nn.Conv2d, (3, 8, 1), (3, 4, 4))
        Cost(params=32, flops=512, macs=384)
    """
    with torch.device("meta"):
        return count(build(*arguments).eval(), torch.empty(1, *shape))


def leaf_flops(module: nn.Module, entered: Any, output: Any) -> int:
    """Operations of one call of a leaf module, as NAS-Bench-Suite-Zero counts them."""
    if isinstance(module, nn.Conv2d):
        per_place = module.weight[0].numel() + (module.bias is not None)
        return int(per_place * output[0].numel())
    if isinstance(module, nn.Linear):
        return int(module.weight.numel())
    if isinstance(module, nn.BatchNorm2d):
        return int(entered[0].numel()) * (2 if module.affine else 1)
    if isinstance(module, (nn.ReLU, nn.ReLU6, nn.LeakyReLU)):
        return int(entered[0].numel())
    if isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)):
        window = module.kernel_size
        height, width = window if isinstance(window, tuple) else (window, window)
        return int(height * width * output[0].numel())
    if isinstance(module, nn.AdaptiveAvgPool2d):
        channels, height, width = entered.shape[-3:]
        return int(channels * (height + 1) * (width + 1))  # the tool is off by one, and the tables with it
    return 0
