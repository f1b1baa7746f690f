r"""Mean and variance of per-sample gradients, weight by weight, without losing digits.

The variance that L-SWAG inverts (arXiv 2505.07300, Eq. 7) can be ten orders of magnitude below the squared mean, where
:math:`E[g^2] - E[g]^2` in single precision is noise, and a weight whose variance is *exactly* zero must be told from
one whose variance is small. Everything here therefore works on differences from one of the samples: their rounding is
relative to the deviation, their cancellation is bounded by the number of samples, and equal values give exactly zero.
Pieces are merged by the rule of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lswag_hooks.devices import double


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

    def like(self, tensor: Tensor) -> Moments:
        """In the type of a tensor, and where it lies."""
        return self.rearrange(lambda array: array.to(tensor))


def _deviations(values: Tensor, partial: bool) -> tuple[Tensor, Tensor]:
    """Mean over dim 0 of ``values``, which are overwritten, and the sum of squared deviations from it."""
    count, origin, others = len(values), values[0], values[1:]
    first = others.sub_(origin).sum(0)
    second = others.square_().sum(0)
    # the origin is one of the samples, so first^2 / n is at most n - 1 times the result: no digits are lost
    if partial:
        origin, second = double(origin), double(second)
        first = first.to(origin)
    return origin.add(first, alpha=1 / count), second.addcmul_(first, first, value=-1 / count).clamp_(min=0)


def _with_sign(found: Moments, mean: Tensor, mean_abs: Tensor) -> Moments:
    """Signed moments from absolute ones: the squares are the same, the means alone differ.

    Both means are summed in one order, so that they are equal where all samples have one sign; where they have not, the
    variance is of the order of the squared mean, and the difference of the two loses nothing beside it.
    """
    size = mean.abs()
    gap = mean_abs - size
    m2 = found.m2_abs + (gap * (mean_abs + size)).clamp_(min=0).mul_(found.samples)
    return found._replace(mean=torch.where(gap > 0, mean, found.mean_abs.copysign(mean)), m2=m2)


def moments_of(gradients: Tensor, signed: bool = False, overwrite: bool = False, partial: bool = False) -> Moments:
    r"""Moments of the per-sample gradients of some weights.

    Args:
        gradients: shape (samples, \*weights).
        signed: also moments of the signed gradient (ZiCo needs them).
        overwrite: the input may be used as scratch memory.
        partial: the result will be merged with others: keep it in double precision, or the rounding of the means
            would swamp the deviations between them; on the CPU, if the gradients lie on MPS.

    Example:
        >>> import torch
        >>> m = moments_of(torch.tensor([[1.0], [-3.0]]), signed=True)
        >>> m.mean_abs.item(), m.variance_abs.item(), m.mean.item(), m.variance.item()
        (2.0, 1.0, -1.0, 4.0)
    """
    samples = len(gradients)
    if signed and partial:
        mean, m2 = _deviations(gradients.clone(), partial)
        return Moments(samples, *_deviations(gradients.abs(), partial), mean, m2)
    if not signed:
        return Moments(samples, *_deviations(gradients.abs_() if overwrite else gradients.abs(), partial))
    values = gradients if overwrite else gradients.clone()
    mean, mean_abs = values.mean(0), values.abs_().mean(0)  # of one piece of memory, whose order both sums follow
    return _with_sign(Moments(samples, *_deviations(values, partial)), mean, mean_abs)


def _merge_pair(n: int, mean: Tensor, m2: Tensor, k: int, other: Tensor, other_m2: Tensor) -> tuple[Tensor, Tensor]:
    delta = other - mean
    return mean + delta * (k / (n + k)), m2 + other_m2 + delta.square() * (n * k / (n + k))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of samples together (Chan, Golub and LeVeque, 1979).

    Example:
        >>> import torch
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
