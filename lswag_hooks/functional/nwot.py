"""NASWOT: how differently a network's activations code the samples (Mellor et al., ICML 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from lswag_hooks.devices import double


def nwot(agreement: Tensor) -> float:
    r""":math:`\ln |\det K|`, :math:`K_{ij}` the number of units whose codes of samples i and j agree.

    Args:
        agreement: K, shape (samples, samples).

    Returns:
        The logarithm; ``-inf`` for a singular K (two samples with the same codes everywhere).

    Example:
        >>> round(nwot(torch.tensor([[2.0, 1.0], [1.0, 2.0]])), 6)  # ln 3
        1.098612
    """
    return float(torch.linalg.slogdet(double(agreement)).logabsdet)
