"""T-CET: compression and expressivity, layer by layer (Xiang et al., AutoML 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lswag_hooks.devices import double
from lswag_hooks.functional.nwot import nwot


def saliency_sums(saliency: Tensor) -> Tensor:
    """Sum and sum of squares of some weights' saliencies; sums of several parts add up.

    Example:
        >>> saliency_sums(torch.tensor([1.0, 3.0])).tolist()
        [4.0, 10.0]
    """
    exact = double(saliency)
    return torch.stack([exact.sum(), exact.square().sum()]).cpu()


def log_ratio(sums: Tensor, size: int) -> float:
    r""":math:`\ln(\sum S / \mathrm{std}\, S)`, unbiased; :math:`\ln \sum S` without deviation, 0 without saliency.

    Args:
        sums: of all the layer's weights, as :func:`saliency_sums` gives.
        size: number of weights.

    Example:
        >>> round(log_ratio(torch.tensor([4.0, 10.0]), 2), 6)  # ln(4 / sqrt 2)
        1.039721
    """
    total, squares = (float(value) for value in sums)
    if total <= 0:
        return 0.0
    variance = (squares - total * total / size) / (size - 1) if size > 1 else 0.0
    return math.log(total) - (0.5 * math.log(variance) if variance > 1e-14 * squares / size else 0.0)


def expressivity(kernel: Tensor) -> float:
    r""":math:`\ln |\det K|` of a layer's own codes; 0 for a singular K, as of a head with few classes.

    Example:
        >>> expressivity(torch.ones(2, 2)), round(expressivity(torch.tensor([[2.0, 1.0], [1.0, 2.0]])), 6)
        (0.0, 1.098612)
    """
    if int(torch.linalg.matrix_rank(double(kernel), hermitian=True)) < len(kernel):
        return 0.0
    value = nwot(kernel)
    return value if math.isfinite(value) else 0.0
