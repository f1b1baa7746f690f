"""DSS of TF-TAS: synaptic diversity and saliency of a transformer (Zhou et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from lswag_hooks.functional.synflow import synflow


def nuclear(matrix: Tensor) -> float:
    """Sum of singular values.

    Example:
        >>> nuclear(torch.eye(3))
        3.0
    """
    return float(torch.linalg.svdvals(matrix.cpu()).sum())


def dss(weight: Tensor, gradient: Tensor, attention: bool) -> float:
    r"""One linear layer's :math:`\|W\|_* \|\partial R / \partial W\|_*` in attention, else its SynFlow.

    Args:
        weight: absolute weights, shape (out, in).
        gradient: as for :func:`lswag_hooks.functional.synflow.synflow`.
        attention: the layer is a projection of attention: its synaptic diversity counts.

    Example:
        >>> dss(torch.eye(2), torch.eye(2), attention=True), dss(torch.eye(2), torch.eye(2), attention=False)
        (4.0, 2.0)
    """
    return nuclear(weight) * nuclear(gradient) if attention else synflow(weight, gradient)
