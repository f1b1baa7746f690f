r"""ZiCo: inverse coefficient of variation of gradients (Li et al., ICLR 2023)."""

from __future__ import annotations

import math

import torch

from lswag_hooks.stats import Moments


def zico(moments: Moments) -> float:
    r"""One layer's term, :math:`\ln \sum_w \frac1n\sum_i |g_{iw}| / \sigma_w`, :math:`\sigma` of the signed gradient.

    Args:
        moments: signed moments, over mini-batches (as published) or over samples.

    Returns:
        The logarithm; 0 if no weight has a non-zero variance.

    Example:
        >>> from lswag_hooks.stats import moments_of
        >>> zico(moments_of(torch.tensor([[1.0], [-1.0]]), signed=True))  # mean |g| = 1, deviation 1
        0.0
    """
    variance = moments.variance
    alive = variance > 0
    total = float((moments.mean_abs[alive] * variance[alive].rsqrt()).sum(dtype=torch.float64))
    return math.log(total) if total > 0 else 0.0
