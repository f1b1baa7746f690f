r"""Binarised activations: packed into bits, counted exactly.

A unit's *activation pattern* is its code over the samples, code = output > 0 (SWAP, Peng et al., ICLR 2024; L-SWAG,
arXiv 2505.07300, Eq. 8). Eight samples make a byte, so that a batch of 64 costs eight bytes a unit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lswag_hooks.devices import no_autocast

CHUNK_BYTES = 1 << 20  # of codes at a time: few enough to stay in cache, many enough to make a call worth it
SMALL = 2  # bytes a unit for which counting in a table beats sorting


def _chunks(units: int, samples: int) -> Iterator[slice]:
    step = max(4096, CHUNK_BYTES // max(1, samples))
    for first in range(0, units, step):
        yield slice(first, min(first + step, units))


def _positive(outputs: Tensor, nonnegative: bool) -> Tensor:
    # a comparison with a number is several times slower on a CPU than a clamp and a conversion to bool
    if outputs.dtype == torch.bool:
        return outputs
    return (outputs if nonnegative else outputs.clamp_min(0)).bool()


def pack(outputs: Tensor, nonnegative: bool = False) -> Tensor:
    """Codes of a layer's units, eight samples to a byte.

    Args:
        outputs: shape (samples, units), any dtype; boolean codes are taken as they are.
        nonnegative: the caller knows that no output is below zero, which saves a pass.

    Returns:
        uint8, shape (ceil(samples / 8), units).

    Example:
        >>> pack(torch.tensor([[1.0, -1.0], [2.0, 3.0]])).tolist()
        [[3, 2]]
    """
    samples, units = outputs.shape
    packed = torch.empty(-(-samples // 8), units, dtype=torch.uint8, device=outputs.device)
    for part in _chunks(units, samples):
        rows = _positive(outputs[:, part], nonnegative).view(torch.uint8)
        if full := samples // 8:  # halves onto halves: three calls for all bytes
            bits = rows[: full * 8].unflatten(0, (full, 8))
            for shift in (4, 2, 1):
                bits = torch.add(bits[:, :shift], bits[:, shift:], alpha=1 << shift)
            packed[:full, part] = bits[:, 0]
        if samples % 8:
            word = rows[-1]
            for row in reversed(rows[full * 8 : -1].unbind(0)):
                word = torch.add(row, word, alpha=2)
            packed[full, part] = word
    return packed


def unpack(packed: Tensor, samples: int) -> Tensor:
    """The codes behind :func:`pack`: boolean, shape (samples, units).

    Example:
        >>> unpack(torch.tensor([[3, 2]], dtype=torch.uint8), 2).tolist()
        [[True, False], [True, True]]
    """
    bits = torch.arange(8, dtype=torch.uint8, device=packed.device)[:, None]
    return (packed[:, None] >> bits & 1).flatten(0, 1)[:samples].bool()


def _words(packed: Tensor) -> list[Tensor]:
    """Bytes of each unit joined into 64-bit words, one tensor a word."""
    padded = F.pad(packed, (0, 0, 0, -len(packed) % 8))
    joined = padded.T.reshape(-1).view(torch.int64)  # flat first: a single unit has no stride to speak of
    return list(joined.view(packed.shape[1], -1).unbind(1))


def _ranks(values: Tensor) -> tuple[Tensor, int]:
    kinds, ids = torch.unique(values, return_inverse=True)
    return ids, len(kinds)


def _count_sorted(values: Tensor) -> int:
    if not values.numel():
        return 0
    if values.device.type == "cpu":
        ordered = np.sort(values.numpy())  # vectorised sort: three times faster than torch.unique
        return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + 1
    return len(torch.unique(values))


def count_distinct(packed: Tensor) -> int:
    """Number of distinct columns of packed codes, exactly.

    Args:
        packed: uint8, shape (bytes, units), as :func:`pack` gives.

    Example:
        >>> count_distinct(pack(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])))
        2
    """
    if packed.shape[1] == 0:
        return 0
    if packed.device.type == "mps":  # whose unique and sort err on large whole numbers (pytorch issues 195595, 155560)
        packed = packed.cpu()
    if len(packed) == 1:
        return int(torch.count_nonzero(torch.bincount(packed[0], minlength=256)))
    if len(packed) <= SMALL:
        keys = packed[0].to(torch.int32) | packed[1].to(torch.int32) << 8
        return int(torch.count_nonzero(torch.bincount(keys, minlength=1 << 16)))
    words = _words(packed)
    key = words[0]
    for word in words[1:]:  # more than 64 samples: replace both words by their ranks, which fit into one
        left, _ = _ranks(key)
        right, kinds = _ranks(word)
        key = left * kinds + right
    return _count_sorted(key)


def agreement(outputs: Tensor, nonnegative: bool = False) -> Tensor:
    r"""For every two samples, the number of units whose codes agree: :math:`b b^\top + (1-b)(1-b)^\top`.

    The kernel of NASWOT (Mellor et al., ICML 2021), before its determinant.

    Args:
        outputs: shape (samples, units).
        nonnegative: the caller knows that no output is below zero, which saves a pass.

    Returns:
        float64, shape (samples, samples), whole numbers.

    Example:
        >>> agreement(torch.tensor([[1.0, -1.0], [2.0, 3.0]])).tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """
    samples, units = outputs.shape
    both = torch.zeros(samples, samples, dtype=torch.float64, device="cpu")  # not every device has double precision
    with no_autocast(outputs.device):
        for part in _chunks(units, samples):
            code = _codes(outputs[:, part], nonnegative)
            product = code @ code.T  # whole numbers below 2^24: exact in single precision
            both += product.cpu()
    on = both.diagonal()
    return units - on[:, None] - on[None, :] + 2 * both


def _codes(outputs: Tensor, nonnegative: bool) -> Tensor:
    """0/1 codes in single precision, for a matrix product."""
    if outputs.is_floating_point():
        signs = outputs.sign() if nonnegative else outputs.clamp_min(0).sign_()
        return signs.to(torch.float32)  # signs first: a double may be too small for a float
    return outputs.to(torch.float32)
