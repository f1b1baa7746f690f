"""How much proxies say about accuracy, in bits: binning, entropy, information gain, and values that spoil the bins."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.readers import NO_VALUE

COUNTS: dict[str, Callable[[int], int]] = {
    "sturges": lambda n: math.ceil(1 + math.log2(n)),
    "nbsz": lambda n: round(1 + 3.322 * math.log(n)),
    "quantile": lambda n: math.ceil(1 + math.log2(n)),
}
CROWDED = 0.9  # share of a column's values in one bin from which its bins say nothing
APART = 10  # spreads of all other values between them and a repeated extreme, from which it is taken for a mark


def bin_count(n: int, rule: str = "sturges") -> int:
    r"""Number of bins for n values.

    - ``"sturges"``, ``"quantile"``: :math:`\lceil 1 + \log_2 n\rceil` (L-SWAG's paper, App. G);
    - ``"nbsz"``: :math:`1 + 3.322 \ln n`, rounded, which NAS-Bench-Suite-Zero's code does: the factor belongs to a
      logarithm of base 10, so that there are twice as many as Sturges meant.

    Raises:
        InputError: the rule is unknown, or n is below 1.

    Example:
        >>> bin_count(1000), bin_count(1000, "nbsz")
        (11, 24)
    """
    if rule not in COUNTS:
        raise InputError(f"bins={rule!r}:{near_matches(str(rule), COUNTS)} there are {', '.join(map(repr, COUNTS))}.")
    if n < 1:
        raise InputError(f"n={n}: there must be values to bin.")
    return COUNTS[rule](n)


def discretise(values: np.ndarray, rule: str = "sturges") -> np.ndarray:
    """Put values into bins, numbered from 0.

    ``"sturges"`` and ``"nbsz"`` make bins of equal width between the least and the greatest value; ``"quantile"`` does
    so with their ranks, so that bins hold equally many and no outlier matters. Equal values share a bin, and a constant
    is all in bin 0.

    Args:
        values: shape (networks,), finite.
        rule: see :func:`bin_count`.

    Returns:
        Bins, int64, shape (networks,).

    Raises:
        InputError: a value is not finite, or the rule is unknown.

    Example:
        >>> discretise(np.array([0.0, 1.0, 2.0, 99.0])).tolist()
        [0, 0, 0, 2]
        >>> discretise(np.array([0.0, 1.0, 2.0, 99.0]), "quantile").tolist()
        [0, 1, 2, 2]
    """
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        raise InputError("values that are NaN or infinite have no bin: leave their rows out first.")
    bins = bin_count(len(values), rule)
    if rule == "quantile":
        values = stats.rankdata(values)
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(len(values), dtype=np.int64)
    edges = np.linspace(low, high, bins + 1)
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)


def entropy(*labels: np.ndarray) -> float:
    r"""Joint Shannon entropy in bits, :math:`-\sum_v p(v) \log_2 p(v)` over the combinations of values that occur.

    Args:
        labels: whole numbers, each of shape (networks,).

    Raises:
        InputError: none are given.

    Example:
        >>> entropy(np.array([0, 0, 1, 1])), entropy(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        (1.0, 2.0)
    """
    if not labels:
        raise InputError("the entropy of nothing was asked for: give labels.")
    joint = np.zeros(len(labels[0]), dtype=np.int64)
    for one in labels:
        combined = joint * (int(one.max()) + 1) + one
        joint = np.unique(combined, return_inverse=True)[1]
    shares = np.bincount(joint) / len(joint)
    return float(max(0.0, -(shares * np.log2(shares)).sum()))


def conditional_entropy(labels: np.ndarray, *given: np.ndarray) -> float:
    """H(labels | given) = H(labels, given) - H(given), in bits (the paper's Eq. 20); without ``given`` the entropy.

    Example:
        >>> conditional_entropy(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7]))
        0.0
    """
    return entropy(labels, *given) - entropy(*given) if given else entropy(labels)


def information_gain(labels: np.ndarray, new: np.ndarray, *given: np.ndarray) -> float:
    r"""What ``new`` adds to what ``given`` says about labels: :math:`H(y|z_1) - H(y|z_1, z_2)`, in bits (Eq. 9).

    From few networks it is mostly chance: with more combinations of bins than networks each combination holds one
    network, of which everything is "known". A proxy whose values crowd into few bins then gains least.

    Example:
        >>> y, first, second = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        >>> information_gain(y, second, first), information_gain(y, first, first)
        (1.0, 0.0)
    """
    return conditional_entropy(labels, *given) - conditional_entropy(labels, new, *given)


def marks(values: np.ndarray) -> set[float]:
    """Values that stand for "no value": -1e8, infinities, and a repeated extreme far from everything else.

    The last is the least or the greatest value, found at least twice but not in half of the rows, and further from the
    next one than ten times the range of all others. A single extreme value may be real: see :func:`crowded`.

    Args:
        values: shape (networks,); NaN is allowed.

    Example:
        >>> sorted(marks(np.array([1.0, 2.0, 3.0, 2.5, -999.0, -999.0, np.inf])))
        [-999.0, inf]
    """
    values = np.asarray(values, dtype=float)
    found = {float(value) for value in (NO_VALUE, np.inf, -np.inf) if (values == value).any()}
    rest = np.sort(values[np.isfinite(values) & (values != NO_VALUE)])
    for extreme in (rest[:1], rest[-1:]):
        others = rest[rest != extreme] if len(extreme) else rest
        if not 2 <= len(rest) - len(others) < len(others):
            continue
        gap = min(abs(others[0] - extreme[0]), abs(others[-1] - extreme[0]))
        spread = others[-1] - others[0]
        if spread > 0 and gap > APART * spread:
            found.add(float(extreme[0]))
    return found


def crowded(values: np.ndarray, rule: str = "sturges") -> bool:
    """Whether nearly all values share one bin of equal width though they differ: outliers stretch the bins.

    Such a column gains no information whatever it knows, and LIBRA would pick it for that. Columns of few distinct
    values (one value alone has more than half of the networks) are not meant.

    Args:
        values: shape (networks,), finite.
        rule: see :func:`bin_count`; bins by quantile are never crowded.

    Example:
        >>> usual = np.arange(50.0)
        >>> crowded(usual), crowded(np.append(usual, 1e9)), crowded(np.append(usual, 1e9), "quantile")
        (False, True, False)
    """
    shares = np.bincount(discretise(values, rule)) / len(values)
    commonest = np.unique(values, return_counts=True)[1].max() / len(values)
    return bool(shares.max() >= CROWDED and commonest <= 0.5)
