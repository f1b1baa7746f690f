"""TE-NAS: the condition number of the tangent kernel, and linear regions (Chen et al., ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def condition_number(kernel: Tensor) -> float:
    r""":math:`\kappa = \lambda_{max} / \lambda_{min}`; lower is better.

    Args:
        kernel: the neural tangent kernel, symmetric, shape (samples, samples).

    Returns:
        The ratio; infinity for a kernel that is singular to double precision.

    Example:
        >>> condition_number(torch.diag(torch.tensor([1.0, 4.0])))
        4.0
    """
    kernel = kernel.double()
    if not bool(torch.isfinite(kernel).all()):
        return float("nan")
    values = torch.linalg.eigvalsh((kernel + kernel.T) / 2)
    floor = float(values[-1]) * len(values) * torch.finfo(torch.float64).eps
    return float(values[-1] / values[0]) if float(values[0]) > floor else float("inf")


def linear_regions(same: Tensor) -> int:
    """Number of regions in which the samples lie.

    Args:
        same: for every two samples, whether all their codes are the same; boolean, shape (samples, samples).

    Example:
        >>> linear_regions(torch.tensor([[True, True, False], [True, True, False], [False, False, True]]))
        2
    """
    earlier = torch.ones_like(same).tril(-1)
    return int((~(same & earlier).any(1)).sum())
