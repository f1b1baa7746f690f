"""How well scores put networks in order: rank correlations with bootstrap intervals, alone and given size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lswag_hooks.errors import InputError

LEAST = 5  # pairs below which a correlation says nothing
RESAMPLES = 1000
Statistic = Callable[..., float]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap confidence interval.

    Attributes:
        value: on the whole sample; NaN where it cannot be had.
        low: lower end of the interval.
        high: upper end of the interval.
        pairs: number of networks it is from.
    """

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def spearman(scores: np.ndarray, accuracy: np.ndarray) -> float:
    r"""Spearman's :math:`\rho`, ties at their mean rank; NaN if either is constant."""
    return _pearson(stats.rankdata(scores), stats.rankdata(accuracy))


def kendall(scores: np.ndarray, accuracy: np.ndarray) -> float:
    r"""Kendall's :math:`\tau_b`; NaN if either is constant."""
    return float(stats.kendalltau(scores, accuracy).statistic)


def pearson(scores: np.ndarray, accuracy: np.ndarray) -> float:
    """Pearson's correlation; NaN if either is constant."""
    return _pearson(scores, accuracy)


STATISTICS: dict[str, Statistic] = {"spearman": spearman, "kendall": kendall, "pearson": pearson}


def partial_spearman(scores: np.ndarray, accuracy: np.ndarray, *given: np.ndarray) -> float:
    """Rank correlation of scores with accuracy *given* other measures, such as the networks' sizes.

    All are turned into ranks; what the ranks of the others explain linearly is taken off those of the scores and of
    the accuracies; what is left is correlated.

    Args:
        scores: of shape (networks,).
        accuracy: of shape (networks,).
        given: the other measures, each of shape (networks,).

    Returns:
        The correlation of the residuals; NaN if nothing is left of either.

    Example:
        >>> size = np.arange(20.0)
        >>> luck = np.random.default_rng(0).normal(size=20)
        >>> bool(np.isnan(partial_spearman(size**2, size + luck, size)))  # a score that is size, given size
        True
    """
    ranks = [stats.rankdata(values) for values in (scores, accuracy, *given)]
    design = np.column_stack([np.ones(len(ranks[0])), *ranks[2:]])
    # ranks of n values leave rounding residuals of some 1e-13 n where everything is explained
    residuals = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in ranks[:2]]
    floor = 1e-9 * len(ranks[0])
    if any(np.abs(residual).max() < floor for residual in residuals):
        return float("nan")
    return _pearson(*residuals)


def estimate(
    statistic: Statistic, *columns: np.ndarray, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """A statistic of paired columns with its percentile bootstrap interval over networks.

    Rows in which a column is not finite are left out. Resamples in which the statistic is undefined do not count.

    Args:
        statistic: of as many columns as are given, such as :func:`spearman`.
        columns: each of shape (networks,).
        resamples: number of bootstrap resamples.
        confidence: of the interval.
        seed: of the resamples.

    Example:
        >>> x = np.arange(100.0)
        >>> print(estimate(spearman, x, x**3))
        1.000 [1.000, 1.000]
    """
    table = np.column_stack(columns).astype(float)
    table = table[np.isfinite(table).all(1)]
    pairs = len(table)
    nothing = float("nan")
    if pairs < LEAST:
        return Estimate(nothing, nothing, nothing, pairs)
    columns = tuple(table.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of constant resamples; they are NaN, and left out below
        value = statistic(*columns)
        if not np.isfinite(value):
            return Estimate(nothing, nothing, nothing, pairs)
        drawn = stats.bootstrap(
            columns,
            statistic,
            paired=True,
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (nothing, nothing)
    return Estimate(float(value), float(low), float(high), pairs)


def correlations(
    scores: Mapping[str, Sequence[float]],
    accuracy: Sequence[float],
    given: Sequence[str] = (),
    higher_is_better: Mapping[str, bool] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Spearman, Kendall and Pearson of each score with accuracy, and Spearman given some of the scores.

    Args:
        scores: columns by name, each one value a network; NaN where there is none.
        accuracy: one value a network.
        given: names of columns whose part is taken off for ``partial``: the size baselines.
        higher_is_better: which way a score is better; one that is better when lower counts with its sign turned.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For each name ``spearman``, ``kendall``, ``pearson``, and with ``given`` also ``partial``.

    Raises:
        InputError: the columns are of different lengths, or ``given`` names one that is not there.

    Example:
        >>> table = correlations({"a": [1, 2, 3, 4, 5, 6]}, [10, 20, 30, 40, 60, 50])
        >>> round(table["a"]["spearman"].value, 3)
        0.943
    """
    truth = np.asarray(accuracy, dtype=float)
    columns = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    for name, values in columns.items():
        if values.shape != truth.shape:
            raise InputError(f"{name} has {len(values)} values, the accuracies are {len(truth)}: give one a network.")
    unknown = [name for name in given if name not in columns]
    if unknown:
        raise InputError(f"given={unknown!r} are no scores here: there are {', '.join(columns)}.")
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    table = {}
    for name, values in columns.items():
        signed = values if (higher_is_better or {}).get(name, True) else -values
        table[name] = {key: estimate(statistic, signed, truth, **options) for key, statistic in STATISTICS.items()}
        if given:
            others = [columns[other] for other in given if other != name]
            table[name]["partial"] = estimate(partial_spearman, signed, truth, *others, **options)
    return table


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")
