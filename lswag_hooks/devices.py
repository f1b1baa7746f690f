"""What differs from device to device: double precision, products in a lower one, and that a GPU is not waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def double(values: Tensor) -> Tensor:
    """In double precision: where the values lie, or on the CPU if they lie on MPS, which has none.

    Example:
        >>> double(torch.ones(2)).dtype
        torch.float64
    """
    return values.cpu().double() if values.device.type == "mps" else values.double()


def no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A block in which products keep the type of their operands, also inside the caller's ``torch.autocast``.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), no_autocast(x.device):
        ...     (x @ x).dtype
        torch.float32
    """
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else contextlib.nullcontext()


@contextlib.contextmanager
def no_tf32(device: torch.device) -> Iterator[None]:
    """A block in which CUDA rounds no operand of a product to TF32's ten bits, as it does in convolutions by default.

    Left as they are where the caller chose the precision of each operation by torch's newer settings, which do not mix
    with those used here.
    """
    allowed: list[Any] = []
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            allowed = [part for part in (torch.backends.cuda.matmul, torch.backends.cudnn) if part.allow_tf32]
    try:
        for part in allowed:
            part.allow_tf32 = False
        yield
    finally:
        for part in allowed:
            part.allow_tf32 = True


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was asked to; before and after what is timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
