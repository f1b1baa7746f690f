"""What every rule for per-sample gradients offers, and how its work is cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

TILE_BYTES = 2 << 20  # read again while it is in cache; smaller ones cost products their speed
UNCUT = 4  # times as much for one matrix product, which loses more by being cut than its statistics gain


class GradientSource(Protocol):
    """Per-sample gradients of one weight, formed on demand."""

    samples: int
    rows: int
    columns: int
    row_group: int  # a block of rows must not straddle a multiple of this (0: rows cannot be split at all)
    device_bytes: int  # bytes of one element of a block

    def block(self, samples: slice, rows: slice) -> Tensor:
        """Per-sample gradients of some rows, shape (samples, rows, columns)."""
        ...

    def arrange(self, weight: Tensor) -> Tensor:
        """The weight as a (rows, columns) matrix in this source's order of elements."""
        ...

    def restore(self, matrix: Tensor) -> Tensor:
        """A (..., rows, columns) array back in the weight's own shape, leading dimensions kept."""
        ...


def blocks(source: GradientSource, tile_bytes: int = TILE_BYTES) -> Iterator[tuple[slice, list[slice]]]:
    """Cut a source into tiles of about ``tile_bytes``, one that is a single matrix product into larger ones.

    Yields a block of rows and the blocks of samples to fold into it. All samples of a few rows make one tile wherever
    rows can be split, since statistics of a complete tile need no accumulator.
    """
    if source.row_group == source.rows:
        tile_bytes *= UNCUT
    whole = source.samples * source.columns * source.device_bytes  # one row, all samples
    if source.row_group:
        group = source.row_group
        step = min(group, max(32, tile_bytes // max(1, whole)))
        # equal blocks: a last one of a few rows would cost a call for little
        step = -(-group // -(-group // step))
        row_blocks = [
            slice(start + first, min(start + first + step, start + group))
            for start in range(0, source.rows, group)
            for first in range(0, group, step)
        ]
        per_block = step * source.columns * source.device_bytes
    else:
        row_blocks = [slice(0, source.rows)]
        per_block = source.rows * source.columns * source.device_bytes
    many = source.samples if source.samples * per_block <= 2 * tile_bytes else max(1, tile_bytes // per_block)
    sample_blocks = [slice(first, min(first + many, source.samples)) for first in range(0, source.samples, many)]
    for rows in row_blocks:
        yield rows, sample_blocks
