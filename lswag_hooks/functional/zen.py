"""Zen: how far features move when the input does (Lin et al., ICCV 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def zen(difference: float, variances: Sequence[float]) -> float:
    r""":math:`\ln \Delta + \sum_b \frac12 \ln \sigma_b^2`.

    Args:
        difference: mean over samples of the summed absolute difference of features.
        variances: of each BatchNorm, mean over channels.

    Returns:
        The score; ``-inf`` where the features do not move.

    Example:
        >>> zen(1.0, [math.e**2, 1.0])
        1.0
    """
    if min([difference, *variances]) <= 0:
        return -math.inf
    return math.log(difference) + sum(0.5 * math.log(variance) for variance in variances)
