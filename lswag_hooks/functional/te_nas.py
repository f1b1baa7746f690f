"""TE-NAS: the condition number of the tangent kernel, and linear regions (Chen et al., ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from lswag_hooks.devices import double


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
    kernel = double(kernel)
    if not bool(torch.isfinite(kernel).all()):
        return float("nan")
    values = torch.linalg.eigvalsh((kernel + kernel.T) / 2)
    floor = float(values[-1]) * len(values) * torch.finfo(torch.float64).eps
    return float(values[-1] / values[0]) if float(values[0]) > floor else float("inf")


def linear_regions(codes: Tensor) -> int:
    """Number of regions in which the samples lie: of distinct rows.

    Args:
        codes: of all activations, shape (samples, bytes).

    Example:
        >>> linear_regions(torch.tensor([[3, 0], [3, 0], [3, 1]], dtype=torch.uint8))
        2
    """
    return len({row.tobytes() for row in codes.cpu().contiguous().numpy()})
