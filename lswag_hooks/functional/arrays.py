"""What the scores of one layer are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lswag_hooks.functional.lswag import inverse_roots, sum_and_largest
from lswag_hooks.stats import Moments


@dataclass(frozen=True)
class LayerArrays:
    """Arrays of some weights of a layer (all of them, or the rows of one tile), in one order of elements.

    Attributes:
        weight: the weights, shape (rows, columns); None if no score needs them.
        moments: of the per-sample gradients of the per-sample loss, same shape; None if not asked for.
        gradient: gradient of the mean loss over the batch, same shape; None if not asked for.
    """

    weight: Tensor | None = None
    moments: Moments | None = None
    gradient: Tensor | None = None

    @cached_property
    def inverse(self) -> tuple[float, float]:
        """Sum and largest of the inverse deviations, which several readers want."""
        assert self.moments is not None
        if self.alive < self.moments.m2_abs.numel():
            return sum_and_largest(self._roots, self.moments.samples)
        scale = math.sqrt(self.moments.samples)
        return float(self._roots.sum()) * scale, self._largest * scale

    @cached_property
    def relative(self) -> float:
        """Sum of mean over deviation of the absolute gradient, likewise."""
        assert self.moments is not None
        return float(torch.dot(self._roots, self.moments.mean_abs.flatten())) * math.sqrt(self.moments.samples)

    @cached_property
    def deviation(self) -> float:
        """Sum of the deviations of the absolute gradient, of which a square root of its own would cost a pass."""
        assert self.moments is not None
        return float(torch.dot(self._roots, self.moments.m2_abs.flatten())) / math.sqrt(self.moments.samples)

    @cached_property
    def alive(self) -> int:
        """Number of weights whose variance is not exactly zero."""
        assert self.moments is not None
        m2 = self.moments.m2_abs
        # all are, as a rule, which the largest of the inverse roots shows: that of zero is infinite
        return m2.numel() if math.isfinite(self._largest) else int(torch.count_nonzero(m2))

    @cached_property
    def _inverse_roots(self) -> Tensor:
        assert self.moments is not None
        return self.moments.m2_abs.flatten().rsqrt()

    @cached_property
    def _largest(self) -> float:
        return float(self._inverse_roots.amax()) if self._inverse_roots.numel() else 0.0

    @cached_property
    def _roots(self) -> Tensor:
        assert self.moments is not None
        m2 = self.moments.m2_abs.flatten()
        if self.alive == m2.numel():
            return self._inverse_roots
        return inverse_roots(m2) if self.alive else m2


@dataclass(frozen=True)
class LayerWhole:
    """What is known of a layer once all its weights were seen.

    Attributes:
        size: number of weights.
        channel_energy: mean over samples of the squared sum over positions of activation times gradient of the mean
            loss, one number an output channel; None if not asked for or not defined.
        bias: moments of the bias, where biases count and the layer has one.
    """

    size: int
    channel_energy: Tensor | None = None
    bias: Moments | None = None
