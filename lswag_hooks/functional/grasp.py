"""GraSP: how removing a weight changes the flow of gradients (Wang et al., ICLR 2020)."""

from __future__ import annotations

from torch import Tensor


def grasp(weight: Tensor, product: Tensor) -> float:
    r"""One layer's :math:`-\sum W \odot (H g)`, with the sign that zero-cost proxies take (Abdelfattah et al., 2021).

    Args:
        weight: the layer's weights.
        product: the layer's part of the Hessian of the loss times its gradient.

    Example:
        >>> import torch
        >>> grasp(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]))
        -1.0
    """
    return -float((weight * product).sum())
