"""Weights that are computed from parameters, that are used more than once, or that are looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lswag_hooks.hooks.rules.source import GradientSource


@dataclass
class DerivedGradient:
    """Per-sample gradients of a parameter behind a derived weight (standardised, normalised, split, concatenated).

    Args:
        effective: source for the weight as it is used in the product.
        pull_back: maps (samples, *effective shape) to (samples, *parameter shape), through the parameters' own graph.
        shape: shape of the parameter.
    """

    effective: GradientSource
    pull_back: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        self.samples = self.effective.samples
        self.rows = self.shape[0] if self.shape else 1
        self.columns = max(1, int(torch.Size(self.shape).numel()) // max(1, self.rows))
        self.row_group = 0
        self.device_bytes = self.effective.device_bytes

    def block(self, samples: slice, rows: slice) -> Tensor:
        return self.pull_back(_whole(self.effective, samples)).reshape(-1, self.rows, self.columns)

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.rows, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(*matrix.shape[:-2], *self.shape)


@dataclass
class BroadcastGradient:
    """Per-sample gradients of a tensor that is broadcast over samples: its share of the output gradient.

    Args:
        gradients: of the result with respect to the tensor before the sum over what it was broadcast over, shape
            (samples * blocks, ...).
        shape: of the tensor.
        samples: number of samples.
    """

    gradients: Tensor
    shape: tuple[int, ...]
    samples: int

    def __post_init__(self) -> None:
        self.rows, self.columns = 1, int(torch.Size(self.shape).numel())
        self.row_group = 0
        self.device_bytes = self.gradients.element_size()

    def block(self, samples: slice, rows: slice) -> Tensor:
        """See :class:`GradientSource`."""
        per, many = len(self.gradients) // self.samples, samples.stop - samples.start
        part = self.gradients[samples.start * per : samples.stop * per]
        part = part.reshape(many, per, *part.shape[1:])
        shape = [1] * (part.dim() - 1 - len(self.shape)) + list(self.shape)
        repeated = self.samples > 1 and shape[0] == len(self.gradients)
        shape[0] = per if repeated else shape[0]
        summed = [axis + 1 for axis, size in enumerate(shape) if size == 1 and part.shape[axis + 1] != 1]
        part = part.sum(summed, keepdim=True) if summed else part
        if not repeated:
            return part.reshape(many, 1, self.columns)
        out = part.new_zeros(
            many, self.samples, *part.shape[1:]
        )  # a table repeated for every sample: only its own part
        out[torch.arange(many), torch.arange(samples.start, samples.stop)] = part
        return out.reshape(many, 1, self.columns)

    def arrange(self, weight: Tensor) -> Tensor:
        """See :class:`GradientSource`."""
        return weight.reshape(1, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        """See :class:`GradientSource`."""
        return matrix.reshape(*matrix.shape[:-2], *self.shape)


class SumGradient:
    """Per-sample gradients of a weight that several calls share: summed per sample before any statistic."""

    def __init__(self, sources: Sequence[GradientSource], shape: tuple[int, ...]) -> None:
        self.sources = sources
        self.shape = shape
        self.samples = sources[0].samples
        self.rows = shape[0] if shape else 1
        self.columns = max(1, int(torch.Size(shape).numel()) // max(1, self.rows))
        self.row_group = 0
        self.device_bytes = sources[0].device_bytes

    def block(self, samples: slice, rows: slice) -> Tensor:
        total = _whole(self.sources[0], samples)
        for source in self.sources[1:]:
            total = total + _whole(source, samples)
        return total.reshape(-1, self.rows, self.columns)

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.rows, self.columns)

    def restore(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(*matrix.shape[:-2], *self.shape)


@dataclass
class EmbeddingGradient:
    """Per-sample gradients of a looked-up table, for the table that is also a linear layer's weight.

    Args:
        indices: shape (samples, positions).
        gradients: of the looked-up rows, shape (samples, positions, columns).
        shape: of the table.
        padding: an index that gets no gradient, -1 for none.
    """

    indices: Tensor
    gradients: Tensor
    shape: tuple[int, ...]
    padding: int = -1

    def __post_init__(self) -> None:
        self.samples = len(self.indices)
        self.rows, self.columns = self.shape
        self.row_group = 0
        self.device_bytes = self.gradients.element_size()

    def block(self, samples: slice, rows: slice) -> Tensor:
        indices, gradients = self.indices[samples], self.gradients[samples]
        out = gradients.new_zeros(len(indices), *self.shape)
        out.scatter_add_(1, indices[..., None].expand_as(gradients), gradients)
        if self.padding >= 0:
            out[:, self.padding] = 0
        return out

    def arrange(self, weight: Tensor) -> Tensor:
        return weight

    def restore(self, matrix: Tensor) -> Tensor:
        return matrix


def _whole(source: GradientSource, samples: slice) -> Tensor:
    """Per-sample gradients of some samples in the weight's own shape."""
    if source.row_group in (0, source.rows):
        return source.restore(source.block(samples, slice(0, source.rows)))
    parts = [
        source.block(samples, slice(first, first + source.row_group))
        for first in range(0, source.rows, source.row_group)
    ]
    return source.restore(torch.cat(parts, 1))
