"""Rows back to samples: which rows of a layer's input belong to which sample of the batch.

The first dimension is the sample in 96 % of real calls. Windows (Swin, MaxViT) put contiguous blocks there,
``nn.MultiheadAttention`` interleaves (its rows are position-major whatever ``batch_first`` says), detector heads see a
different number of regions of interest of each image, and position networks never see a sample at all. A shape that
happens to be divisible proves nothing, so that what is not obvious is settled by an experiment: one forward pass of
the samples (a, a, b), whose first two parts must be equal and differ from the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

LayoutKind = Literal["blocks", "interleaved", "regions"]


INDEPENDENT = "it does not depend on the sample"


@dataclass(frozen=True)
class Layout:
    """How rows map to samples.

    Attributes:
        kind: ``blocks``: equal contiguous blocks, the ordinary case of one row a sample included; ``interleaved``: row
            r belongs to sample r mod samples; ``regions``: contiguous blocks of the lengths in ``counts``.
        counts: rows of each sample, for regions.
    """

    kind: LayoutKind = "blocks"
    counts: tuple[int, ...] = ()


BLOCKS, INTERLEAVED = Layout("blocks"), Layout("interleaved")


def obvious_layout(shape: tuple[int, ...], samples: int, features: int, attention: bool) -> Layout | None:
    """Layout that the shape alone proves, or None.

    Args:
        shape: of the operand before it was flattened to a matrix.
        samples: batch size.
        features: how many trailing dimensions are not rows.
        attention: the weight belongs to an ``nn.MultiheadAttention``.
    """
    rows = shape[: len(shape) - features]
    if attention:
        fits = (len(rows) >= 2 and rows[1] == samples) or (len(rows) == 1 and rows[0] % samples == 0)
        return INTERLEAVED if fits else None
    if rows and rows[0] == samples and samples not in rows[1:]:
        return BLOCKS
    return None


def region_layout(rows: int, regions: Sequence[tuple[int, ...]]) -> Layout | None:
    """Layout of a head that sees regions of interest, from the counts of the latest pooling with as many rows."""
    for counts in reversed(regions):
        if sum(counts) == rows:
            return Layout("regions", counts)
    return None


def probed_layout(rows: Tensor) -> Layout | str:
    """Layout of an operand in the experiment (a, a, b), or the reason why there is none.

    Args:
        rows: the operand with the row dimension first.
    """
    if len(rows) % 3:
        return f"{len(rows)} rows for 3 samples: the number of rows is not a multiple of the samples"
    flat = rows.detach().reshape(len(rows), -1).float()
    scale = float(flat.abs().max()) or 1.0

    def same(a: Tensor, b: Tensor) -> bool:
        return float((a - b).abs().max()) <= 1e-4 * scale

    fits = []
    per = len(rows) // 3
    for layout, parts in (
        (BLOCKS, flat.view(3, per, -1)),
        (INTERLEAVED, flat.view(per, 3, -1).transpose(0, 1)),
    ):
        if same(parts[0], parts[1]) and not same(parts[0], parts[2]):
            fits.append(layout)
    if len(fits) == 1 or (fits and per == 1):
        return fits[0]
    if not fits and same(flat[:per], flat[per : 2 * per]) and same(flat[:per], flat[2 * per :]):
        return INDEPENDENT
    return "its rows fit neither blocks of samples nor interleaved samples"


def to_blocks(rows: Tensor, layout: Layout, samples: int) -> Tensor:
    """Rearrange rows so that equal contiguous blocks belong to the samples; short ones are filled with zeros.

    Example:
        >>> import torch
        >>> to_blocks(torch.tensor([[1.0], [2.0], [3.0]]), Layout("regions", (1, 2)), 2).flatten().tolist()
        [1.0, 0.0, 2.0, 3.0]
    """
    if layout.kind == "interleaved":
        return rows.reshape(-1, samples, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)
    if layout.kind == "regions":
        longest = max(1, *layout.counts)
        out = rows.new_zeros(samples, longest, *rows.shape[1:])
        for sample, part in enumerate(rows.split(list(layout.counts))):
            out[sample, : len(part)] = part
        return out.flatten(0, 1)
    return rows


def by_sample(matrix: Tensor, layout: Layout, samples: int) -> Tensor:
    """A (rows, features) matrix as (samples, positions, features), without a copy where that is possible."""
    if layout.kind == "interleaved":
        return matrix.reshape(-1, samples, matrix.shape[1]).transpose(0, 1)
    return to_blocks(matrix, layout, samples).reshape(samples, -1, matrix.shape[1])


def units_of(output: Tensor) -> Tensor:
    """An activation's output, samples first, as (samples, units), the units in the order in which they lie in memory.

    So that nothing is copied where images are laid out channels last.

    Example:
        >>> import torch
        >>> images = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> units_of(images.to(memory_format=torch.channels_last)).tolist()
        [[0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]]
    """
    inner = sorted(range(1, output.dim()), key=output.stride, reverse=True)
    return output.permute(0, *inner).reshape(len(output), -1)


def codes_by_sample(output: Tensor, layout: Layout, samples: int) -> Tensor:
    """An activation's output as (samples, units)."""
    if layout.kind == "interleaved":  # (positions, samples, features)
        return output.reshape(-1, samples, output.shape[-1]).transpose(0, 1).reshape(samples, -1)
    return to_blocks(output, layout, samples).reshape(samples, -1)


__all__ = [
    "BLOCKS",
    "INTERLEAVED",
    "Layout",
    "by_sample",
    "codes_by_sample",
    "obvious_layout",
    "probed_layout",
    "region_layout",
    "to_blocks",
    "units_of",
]
