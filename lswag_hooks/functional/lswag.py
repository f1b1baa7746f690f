r"""L-SWAG: trainability times expressivity, layer by layer (Casarin et al., CVPR 2025, arXiv 2505.07300).

.. math:: \sum_{l = l_0}^{l_1} \Lambda_l \Psi_l, \qquad
          \Lambda_l = \ln \sum_{w \in l} \frac{1}{\sqrt{\mathrm{Var}_i |g_{iw}|}}

with :math:`g_{iw}` the gradient of sample i's loss and :math:`\Psi_l` the number of distinct sample-wise activation
patterns of the layer (Eq. 1, 6, 7 and 8).
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Sequence

from torch import Tensor

from lswag_hooks.errors import InputError
from lswag_hooks.stats import Moments

BINS = 10  # PERC_BINS of the paper
PAIRINGS = ("nearest", "percentile", "feeding", "total")
Interval = tuple[int, int]


def percentile(index: int, count: int) -> int:
    r"""Percentile of layer ``index`` of ``count`` in call order: :math:`\lfloor 10\, l / L \rfloor` (Eq. 6).

    Example:
        >>> [percentile(i, 4) for i in range(4)]
        [0, 2, 5, 7]
    """
    return BINS * index // count


def check_interval(interval: Interval | None) -> Interval:
    """The interval of percentiles, all of them for None.

    Raises:
        InputError: it does not lie within 0..9.
    """
    if interval is None:
        return 0, BINS - 1
    try:
        first, last = (operator.index(value) for value in interval)
    except (TypeError, ValueError):
        first, last = -1, -1
    if not 0 <= first <= last < BINS:
        raise InputError(
            f"interval={interval!r}: give the first and the last percentile of layers to count, two whole numbers with "
            f"0 <= first <= last <= {BINS - 1}, for example (7, 9) for the last three tenths."
        )
    return first, last


def inverse_deviations(moments: Moments) -> tuple[float, float]:
    """Sum and largest of 1 / deviation of the absolute gradient, over weights whose variance is not exactly zero."""
    return sum_and_largest(inverse_roots(moments.m2_abs), moments.samples)


def sum_and_largest(roots: Tensor, samples: int) -> tuple[float, float]:
    """What :func:`inverse_deviations` gives, from the inverse roots of the sums of squared deviations."""
    scale = math.sqrt(samples)
    return float(roots.sum()) * scale, float(roots.amax()) * scale if roots.numel() else 0.0


def inverse_roots(m2: Tensor) -> Tensor:
    """1 / square root, and 0 where that is infinite: the weights that are left out."""
    return m2.rsqrt().nan_to_num_(posinf=0.0)


def trainability(moments: Moments) -> float:
    r""":math:`\Lambda = \ln \sum_w 1/\sigma_w`, weights of exactly zero variance left out (as in ZiCo).

    Args:
        moments: of the per-sample gradients of the layer's weight.

    Returns:
        The logarithm, or 0 if no weight is left.

    Example:
        >>> import torch
        >>> from lswag_hooks.stats import moments_of
        >>> round(trainability(moments_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))), 6)  # deviations 1 and 0
        0.0
    """
    return logarithm(inverse_deviations(moments)[0])


def mean_over_deviation(moments: Moments) -> float:
    """Sum of mean / deviation of the absolute gradient, over weights whose variance is not exactly zero."""
    inverse = inverse_roots(moments.m2_abs)
    return float(inverse.mul_(moments.mean_abs).sum()) * math.sqrt(moments.samples)


def gates(sensitivities: Sequence[float], tau: float) -> list[float]:
    r"""How far each layer counts: :math:`s_l / (s_l + \tau \tilde s)`, :math:`\tilde s` the median of all layers.

    A layer whose weights hardly change the loss, beside the others of the same network, is one that training hardly
    reaches. The inverse of its tiny deviations would count for more than that of any working layer.

    Args:
        sensitivities: of all weight layers, see :class:`lswag_hooks.profile.WeightRow`.
        tau: where a layer counts half, as a share of the median.

    Example:
        >>> [round(gate, 3) for gate in gates([0.0, 0.1, 1.0, 1.0, 9.0], tau=0.1)]
        [0.0, 0.5, 0.909, 0.909, 0.989]
    """
    alive = [value for value in sensitivities if value > 0]
    reference = tau * statistics.median(alive) if alive else 0.0
    return [value / (value + reference) if value > 0 else 0.0 for value in sensitivities]


def logarithm(total: float) -> float:
    """Natural logarithm of a layer's sum; a layer with no weight left contributes 0."""
    return math.log(total) if total > 0 else 0.0


def nearest(index: int, weights: int, activations: int) -> int:
    r"""Activation at the same relative depth as weight layer ``index``: :math:`\lfloor i\,m / n \rfloor`."""
    return index * activations // weights


def combine(
    trainabilities: Sequence[float],
    expressivities: Sequence[float],
    interval: Interval | None = None,
    pairing: str = "nearest",
    feeding: Sequence[int | None] | None = None,
) -> float:
    """L-SWAG of a network from its layers' parts.

    The paper does not say how n weight layers meet m activation layers. ``"nearest"`` (default) gives weight layer i
    the activation layer floor(i m / n), so that no layer drops out; ``"percentile"`` sums both within each tenth of
    the depth and multiplies tenth by tenth, so that a tenth without an activation counts nothing; ``"feeding"`` takes
    the activation that feeds the weight layer; ``"total"`` multiplies the two totals.

    Args:
        trainabilities: of all weight layers in call order.
        expressivities: of all activation layers in call order.
        interval: first and last percentile that count.
        pairing: see above.
        feeding: for ``"feeding"``, the index of the activation that feeds each weight layer, None where none does.

    Example:
        >>> combine([1.0, 2.0, 3.0], [10.0, 20.0], pairing="total")
        180.0
        >>> combine([1.0, 2.0, 3.0], [10.0, 20.0], pairing="nearest")  # activations 0, 0 and 1
        90.0
    """
    if pairing not in PAIRINGS:
        raise InputError(f"pairing={pairing!r} is unknown: use one of {', '.join(map(repr, PAIRINGS))}.")
    first, last = check_interval(interval)
    n, m = len(trainabilities), len(expressivities)
    if not n or not m:
        return 0.0
    inside = [i for i in range(n) if first <= percentile(i, n) <= last]
    active = [j for j in range(m) if first <= percentile(j, m) <= last]
    if pairing == "total":
        return sum(trainabilities[i] for i in inside) * sum(expressivities[j] for j in active)
    if pairing == "percentile":
        lambdas, psis = [0.0] * BINS, [0.0] * BINS
        for i in inside:
            lambdas[percentile(i, n)] += trainabilities[i]
        for j in active:
            psis[percentile(j, m)] += expressivities[j]
        return sum(a * b for a, b in zip(lambdas, psis, strict=True))
    if pairing == "feeding":
        if feeding is None:
            raise InputError("pairing='feeding' needs to know which activation feeds each layer.")
        fed = [(i, j) for i in inside for j in (feeding[i],) if j is not None]
        return sum(trainabilities[i] * expressivities[j] for i, j in fed)
    return sum(trainabilities[i] * expressivities[nearest(i, n, m)] for i in inside)
