"""SWAP: sample-wise activation patterns of a whole network (Peng et al., ICLR 2024)."""

from __future__ import annotations

import math


def regularised(patterns: float, parameters: int, mu: float, sigma: float) -> float:
    r"""Regularised SWAP, :math:`\mathrm{SWAP} \cdot e^{-(P - \mu)^2 / \sigma}`, P in thousands of parameters.

    Args:
        patterns: number of distinct patterns.
        parameters: number of parameters.
        mu: preferred size, in thousands.
        sigma: width of the preference, not squared (as published), in thousands squared.

    Example:
        >>> regularised(100.0, 8000, mu=8.0, sigma=10.0)
        100.0
    """
    return patterns * math.exp(-((parameters / 1000 - mu) ** 2) / sigma)
