"""AZ-NAS: expressivity, progressivity and trainability of a network's blocks (Lee and Ham, CVPR 2024)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from lswag_hooks.devices import double


def entropy(spectrum: Tensor) -> float:
    r"""One feature's :math:`-\sum_k p_k \ln(p_k + 10^{-8})`, p its covariance's eigenvalues over their sum.

    Args:
        spectrum: eigenvalues; those below zero, which rounding gives where the rank is not full, count as zero.

    Example:
        >>> import torch
        >>> round(entropy(torch.tensor([1.0, 1.0, -1e-9])), 6)
        0.693147
    """
    values = double(spectrum).clamp_min(0)
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values / total
    return -float((shares * (shares + 1e-8).log()).sum())


def progressivity(entropies: Sequence[float]) -> float:
    """Smallest step of the entropies from block to block.

    Example:
        >>> progressivity([1.0, 3.0, 4.0])
        1.0
    """
    return min(after - before for before, after in itertools.pairwise(entropies))


def trainability(gains: Sequence[float]) -> float:
    r"""Mean over blocks of :math:`2 - s - 1/(s + 10^{-6})`, at most 0, where the gain s of gradients is 1.

    Args:
        gains: largest singular value of each block.

    Example:
        >>> round(trainability([1.0, 2.0]), 3)
        -0.25
    """
    return math.fsum(2 - gain - 1 / (gain + 1e-6) for gain in gains) / len(gains)
