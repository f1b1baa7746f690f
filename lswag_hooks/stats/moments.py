r"""Mean and variance of per-sample gradients, weight by weight, without losing digits.

The variance that L-SWAG inverts (arXiv 2505.07300, Eq. 7) can be ten orders of magnitude below the squared mean, where
:math:`E[g^2] - E[g]^2` in single precision is noise, and a weight whose variance is *exactly* zero must be told from
one whose variance is small. Everything here therefore works on differences from one of the samples: their rounding is
relative to the deviation, their cancellation is bounded by the number of samples, and equal values give exactly zero.
Pieces are merged by the rule of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Moments(NamedTuple):
    r"""First two moments over ``samples`` per-sample gradients of every weight of a layer.

    Attributes:
        samples: number of samples n.
        mean_abs: :math:`\frac1n\sum_i |g_i|`.
        m2_abs: :math:`\sum_i (|g_i| - \mathrm{mean\_abs})^2`; the population variance times n.
        mean: :math:`\frac1n\sum_i g_i`, if signed moments were asked for.
        m2: :math:`\sum_i (g_i - \mathrm{mean})^2`, likewise.
    """

    samples: int
    mean_abs: Tensor
    m2_abs: Tensor
    mean: Tensor | None = None
    m2: Tensor | None = None

    @property
    def variance_abs(self) -> Tensor:
        """Population variance of the absolute gradient, per weight."""
        return self.m2_abs / self.samples

    @property
    def variance(self) -> Tensor:
        """Population variance of the signed gradient, per weight."""
        if self.m2 is None:
            raise ValueError("signed moments were not collected: ask for them with signed=True")
        return self.m2 / self.samples

    def rearrange(self, function: Callable[[Tensor], Tensor]) -> Moments:
        """Apply a rearrangement of weights to every array."""
        return Moments(
            self.samples,
            function(self.mean_abs),
            function(self.m2_abs),
            None if self.mean is None else function(self.mean),
            None if self.m2 is None else function(self.m2),
        )


def _deviations(values: Tensor, partial: bool) -> tuple[Tensor, Tensor]:
    """Mean over dim 0 of ``values``, which are overwritten, and the sum of squared deviations from it."""
    count, origin = len(values), values[0].clone()
    first = values.sub_(origin).sum(0).div_(count)
    second = values.square_().sum(0)
    # the origin is one of the samples, so n * first^2 is at most n - 1 times the result: no digits are lost
    if partial:
        origin, second = _double(origin), _double(second)
    mean = origin + first
    return mean, second.sub_(first.square_(), alpha=count).clamp_(min=0)


def _double(values: Tensor) -> Tensor:
    return values if values.device.type == "mps" else values.double()  # which has no double precision


def moments_of(gradients: Tensor, signed: bool = False, overwrite: bool = False, partial: bool = False) -> Moments:
    r"""Moments of the per-sample gradients of some weights.

    Args:
        gradients: shape (samples, \*weights).
        signed: also moments of the signed gradient (ZiCo needs them).
        overwrite: the input may be used as scratch memory.
        partial: the result will be merged with others: keep it in double precision, or the rounding of the means
            would swamp the deviations between them.

    Example:
        >>> m = moments_of(torch.tensor([[1.0], [-3.0]]), signed=True)
        >>> m.mean_abs.item(), m.variance_abs.item(), m.mean.item(), m.variance.item()
        (2.0, 1.0, -1.0, 4.0)
    """
    samples = len(gradients)
    magnitude = gradients.abs() if signed or not overwrite else gradients.abs_()
    mean_abs, m2_abs = _deviations(magnitude, partial)
    if not signed:
        return Moments(samples, mean_abs, m2_abs)
    values = gradients if overwrite else gradients.clone()
    mean, m2 = _deviations(values, partial)
    return Moments(samples, mean_abs, m2_abs, mean, m2)


def _merge_pair(n: int, mean: Tensor, m2: Tensor, k: int, other: Tensor, other_m2: Tensor) -> tuple[Tensor, Tensor]:
    delta = other - mean
    return mean + delta * (k / (n + k)), m2 + other_m2 + delta.square() * (n * k / (n + k))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of samples together (Chan, Golub and LeVeque, 1979).

    Example:
        >>> x = torch.randn(8, 3)
        >>> whole, parts = moments_of(x), merge_moments(moments_of(x[:5]), moments_of(x[5:]))
        >>> torch.allclose(whole.variance_abs, parts.variance_abs)
        True
    """
    mean_abs, m2_abs = _merge_pair(a.samples, a.mean_abs, a.m2_abs, b.samples, b.mean_abs, b.m2_abs)
    if a.mean is None or a.m2 is None or b.mean is None or b.m2 is None:
        return Moments(a.samples + b.samples, mean_abs, m2_abs)
    mean, m2 = _merge_pair(a.samples, a.mean, a.m2, b.samples, b.mean, b.m2)
    return Moments(a.samples + b.samples, mean_abs, m2_abs, mean, m2)


class GradientMoments(Metric):
    r"""Streaming :class:`Moments` of per-sample gradients as a torchmetrics metric.

    ``update`` takes per-sample gradients of shape (samples, \*weights); ``compute`` returns :class:`Moments`. Sums are
    merged exactly across updates and across processes.

    Args:
        signed: also keep the moments of the signed gradient.
        **kwargs: for :class:`torchmetrics.Metric`.

    Example:
        >>> metric = GradientMoments()
        >>> metric.update(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> metric.update(torch.tensor([[-5.0, -2.0]]))
        >>> metric.compute().mean_abs.tolist()
        [3.0, 2.0]
    """

    full_state_update = False
    samples: list[Tensor] | Tensor
    mean_abs: list[Tensor] | Tensor
    m2_abs: list[Tensor] | Tensor
    mean: list[Tensor] | Tensor
    m2: list[Tensor] | Tensor

    def __init__(self, signed: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.signed = signed
        # one entry a process after a sync ("cat" over a leading axis of one); never more than one before it
        self.add_state("samples", default=[], dist_reduce_fx="cat")
        for name in ("mean_abs", "m2_abs", "mean", "m2"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, gradients: Tensor) -> None:
        """Fold in per-sample gradients, shape (samples, *weights)."""
        self.merge(moments_of(gradients, self.signed, partial=True))

    def merge(self, moments: Moments) -> None:
        """Fold in moments that were computed elsewhere."""
        if self.samples:
            moments = merge_moments(self._merged(), moments)
        device = moments.mean_abs.device
        self.samples = [torch.tensor([moments.samples], device=device)]
        self.mean_abs, self.m2_abs = [moments.mean_abs[None]], [moments.m2_abs[None]]
        if moments.mean is not None and moments.m2 is not None:
            self.mean, self.m2 = [moments.mean[None]], [moments.m2[None]]
        self._update_count = max(1, self._update_count)
        self._computed = None

    def _merged(self) -> Moments:
        def column(state: list[Tensor] | Tensor) -> Sequence[Tensor]:
            return torch.cat(state) if isinstance(state, list) and state else state  # type: ignore[return-value]

        counts = [int(n) for n in column(self.samples)]
        signed = len(self.mean) > 0
        parts = [
            Moments(n, column(self.mean_abs)[i], column(self.m2_abs)[i])
            if not signed
            else Moments(n, column(self.mean_abs)[i], column(self.m2_abs)[i], column(self.mean)[i], column(self.m2)[i])
            for i, n in enumerate(counts)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = merge_moments(total, part)
        return total

    def compute(self) -> Moments:
        """Moments over everything seen, in every process."""
        return self._merged()
