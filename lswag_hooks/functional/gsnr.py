"""Signal-to-noise ratio of gradients (Liu et al., ICLR 2020), and xi-GSNR (Sun et al., ICCV 2023)."""

from __future__ import annotations

from lswag_hooks.stats import Moments


def gsnr(moments: Moments, xi: float = 0.0) -> float:
    r""":math:`\sum_w \bar g_w^2 / (\mathrm{Var}\, g_w + \xi)`, population variance of the signed gradient.

    Args:
        moments: signed moments, over samples or over mini-batches.
        xi: added to the variance; with 0, weights of exactly zero variance are left out. The value depends on the scale
            of the loss where xi is not far below the variances.

    Example:
        >>> import torch
        >>> from lswag_hooks.stats import moments_of
        >>> gsnr(moments_of(torch.tensor([[1.0], [3.0]]), signed=True))  # mean 2, variance 1
        4.0
    """
    if moments.m2 is None or moments.mean is None:
        raise ValueError("the signal-to-noise ratio needs signed moments: collect them with signed=True")
    if xi == 0:
        ratio = moments.mean.square() / moments.variance
        return float(ratio.where(moments.m2 > 0, 0.0).sum())
    if not bool(moments.m2.any()):
        return 0.0  # as published: a layer without any variance is skipped
    return float((moments.mean.square() / (moments.variance + xi)).sum())
