"""Random inputs, weights and signs, drawn on the CPU so that every device gets the same."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lswag_hooks.passes.common import CONVOLUTIONS, WEIGHTED

Init = Literal["normal", "kaiming_in", "kaiming_out"]
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def generator(seed: int) -> torch.Generator:
    """A generator of the pass's own: the random states of the process stay untouched."""
    return torch.Generator().manual_seed(seed)


def normal_like(tensor: Tensor, source: torch.Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape, dtype and device."""
    return torch.randn(tensor.shape, generator=source, device="cpu").to(tensor)


def signs_like(tensor: Tensor, source: torch.Generator) -> Tensor:
    """Fair signs of a tensor's shape, dtype and device."""
    drawn = torch.randint(0, 2, tensor.shape, generator=source, dtype=torch.int8, device="cpu")
    return drawn.mul_(2).sub_(1).to(tensor)


@torch.no_grad()
def redraw(model: nn.Module, init: Init, source: torch.Generator) -> None:
    """Draw convolutions and linear layers anew, biases zero, gains of norms one; only inside a session.

    Args:
        model: its running statistics stay as they are, as in the published codes.
        init: ``"normal"``: N(0, 1); ``"kaiming_in"``, ``"kaiming_out"``: N(0, 2 / fan).
        source: of the draws.
    """
    for module in model.modules():
        weighted = isinstance(module, WEIGHTED)
        if not weighted and not isinstance(module, _NORMS):
            continue
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if name == "weight" and weighted:
                parameter.copy_(normal_like(parameter, source) * _deviation(module, parameter, init))
            elif name == "bias":
                parameter.zero_()
            elif name == "weight":
                parameter.fill_(1.0)


def _deviation(module: nn.Module, weight: Tensor, init: Init) -> float:
    if init == "normal":
        return 1.0
    kernel = math.prod(weight.shape[2:])
    ins, outs = weight.shape[1] * kernel, weight.shape[0] * kernel  # as torch counts fans, grouped or not
    if isinstance(module, CONVOLUTIONS) and "Transpose" in type(module).__name__:
        ins, outs = outs, ins
    return math.sqrt(2 / (ins if init == "kaiming_in" else outs))
