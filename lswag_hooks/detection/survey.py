"""What a backbone costs in a detector: counted at full size without values, and its time measured."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
from torch import nn

from lswag_hooks.detection.pyramid import STRIDES, Pyramid
from lswag_hooks.devices import wait
from lswag_hooks.hooks.kept import kept_bytes
from lswag_hooks.hooks.session import ProbeSession

FULL = (800, 1344)  # a picture of 1333 x 800, padded to multiples of 32
REPEATS = 3


def survey(model: Pyramid, timed: tuple[int, int], repeats: int = REPEATS) -> dict[str, Any]:
    """Costs of a backbone with its pyramid.

    Args:
        model: backbone and pyramid; it is left as it was.
        timed: height and width of the picture to measure the time on.
        repeats: of the measurement, after one to warm up.

    Returns:
        ``backbone_params``; ``macs`` of the forward pass and ``activation_bytes`` kept for the backward pass, both for
        one picture of 1333 x 800; ``latency`` in seconds, the median of forward passes of one picture of ``timed``;
        ``strides`` and ``channels``. What cannot be counted is None.
    """
    macs, activations = counted(model)
    return {
        "backbone_params": sum(parameter.numel() for parameter in model.backbone.parameters()),
        "macs": macs,
        "activation_bytes": activations,
        "latency": latency(model, timed, repeats),
        "strides": list(STRIDES),
        "channels": list(model.backbone.channels),
    }


def counted(model: nn.Module, size: tuple[int, int] = FULL) -> tuple[float | None, int | None]:
    """Multiply-accumulates of a forward pass of one picture, and bytes that it keeps for the backward pass.

    Both on the meta device: there are no values, and it takes no time. Weights do not count as kept, and attention is
    taken in its plain form for the multiply-accumulates.

    Example:
        >>> counted(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), (10, 10))
        (2400.0, 4400)
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    try:
        ghost = copy.deepcopy(model).to("meta").train()
        pictures = torch.empty(1, 3, *size, device="meta")
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            ghost(pictures)
        return counter.get_total_flops() / 2, kept_bytes(ghost, pictures)
    except Exception:  # a network may need values on its way
        return None, None


def kept_of(model: nn.Module, size: tuple[int, int]) -> int | None:
    """What ``kept_bytes`` says of one picture for a model that is scored; None where it needs values."""
    try:
        ghost = copy.deepcopy(model).to("meta").eval().requires_grad_(True)
        return kept_bytes(ghost, torch.empty(1, 3, *size, device="meta"))
    except Exception:  # as above
        return None


def latency(model: nn.Module, size: tuple[int, int], repeats: int = REPEATS) -> float:
    """Median seconds of a forward pass of one picture, in evaluation mode, where the model lies."""
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    pictures = torch.zeros(1, 3, *size, device=device)
    seconds = []
    with ProbeSession(model, "eval"), torch.inference_mode():
        for _ in range(1 + repeats):
            wait(device)
            start = time.perf_counter()
            model(pictures)
            wait(device)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
