"""SynFlow: how much flows through every weight (Tanaka et al., NeurIPS 2020)."""

from __future__ import annotations

from torch import Tensor


def synflow(weight: Tensor, gradient: Tensor) -> float:
    r"""One layer's :math:`\sum |W \odot \partial R / \partial W|`; the score is the logarithm of the layers' sum.

    Args:
        weight: absolute weights.
        gradient: of the summed outputs for an input of ones, all parameters replaced by their absolute values.

    Example:
        >>> import torch
        >>> synflow(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]))
        5.0
    """
    return float((weight * gradient).abs_().sum())
