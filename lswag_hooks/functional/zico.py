r"""ZiCo: inverse coefficient of variation of gradients (Li et al., ICLR 2023)."""

from __future__ import annotations

import math

from lswag_hooks.functional.lswag import inverse_roots, logarithm
from lswag_hooks.stats import Moments


def zico_sum(moments: Moments) -> float:
    r""":math:`\sum_w \frac1n\sum_i |g_{iw}| / \sigma_w` over weights whose deviation is not exactly zero.

    Args:
        moments: signed moments; :math:`\sigma` is that of the signed gradient (L-SWAG takes the absolute one).
    """
    if moments.m2 is None:
        raise ValueError("ZiCo needs signed moments: collect them with signed=True")
    return float(inverse_roots(moments.m2).mul_(moments.mean_abs).sum()) * math.sqrt(moments.samples)


def zico(moments: Moments) -> float:
    r"""One layer's term, the logarithm of :func:`zico_sum`; 0 if no weight has a non-zero variance.

    Args:
        moments: signed moments, over mini-batches (as published) or over samples.

    Example:
        >>> import torch
        >>> from lswag_hooks.stats import moments_of
        >>> zico(moments_of(torch.tensor([[1.0], [-1.0]]), signed=True))  # mean |g| = 1, deviation 1
        0.0
    """
    return logarithm(zico_sum(moments))
