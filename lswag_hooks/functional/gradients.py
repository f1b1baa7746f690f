"""Scores of one gradient and the weights: plain, SNIP, gradient norm, weight norm."""

from __future__ import annotations

import torch
from torch import Tensor


def plain(weight: Tensor, gradient: Tensor) -> float:
    r"""One layer's :math:`\sum W \odot g`, signed (Abdelfattah et al., ICLR 2021).

    Example:
        >>> plain(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0]))
        1.0
    """
    return float(torch.dot(weight.flatten(), gradient.flatten()))


def snip(weight: Tensor, gradient: Tensor) -> float:
    r"""One layer's :math:`\sum |W \odot g|` (Lee et al., ICLR 2019).

    Example:
        >>> snip(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0]))
        5.0
    """
    return float((weight * gradient).abs_().sum())


def grad_norm(gradient: Tensor) -> float:
    r"""One layer's :math:`\|g\|_2` (Abdelfattah et al., ICLR 2021).

    Example:
        >>> grad_norm(torch.tensor([3.0, 4.0]))
        5.0
    """
    return float(torch.linalg.vector_norm(gradient))


def l2_norm(weight: Tensor) -> float:
    r"""One layer's :math:`\|W\|_2` (Abdelfattah et al., ICLR 2021).

    Example:
        >>> l2_norm(torch.tensor([[3.0], [4.0]]))
        5.0
    """
    return float(torch.linalg.vector_norm(weight))
