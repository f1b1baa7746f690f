"""One ranking from several: the sums of AZ-NAS and TE-NAS over ranks, and a sum of z-scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from lswag_hooks.errors import InputError, near_matches

if TYPE_CHECKING:
    import pandas as pd


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.asarray(stats.rankdata(values))


def _logarithms(values: np.ndarray) -> np.ndarray:
    return np.log(_ranks(values) / len(values))


def _z_scores(values: np.ndarray) -> np.ndarray:
    deviation = values.std()
    # a constant column has rounding alone for a deviation, not always zero
    if deviation <= 1e-12 * np.abs(values).max():
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / deviation)


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log": _logarithms,
    "rank": _ranks,
    "zscore": _z_scores,
}


def merge_ranks(
    scores: pd.DataFrame | Mapping[str, Any],
    rule: str = "log",
    higher_is_better: Mapping[str, bool] | None = None,
    weights: Mapping[str, float] | None = None,
) -> pd.Series:
    r"""Merge several proxies into one score, higher is better, for the candidates given.

    With :math:`r_i` the rank of a candidate by proxy i among n (1 is the worst, n the best, equal values share the mean
    of their ranks) and :math:`w_i` its weight, 1 by default:

    - ``"log"``: :math:`\sum_i w_i \ln(r_i / n)` (AZ-NAS, Lee and Ham, CVPR 2024): a candidate that is bad by
      any one proxy is bad;
    - ``"rank"``: :math:`\sum_i w_i r_i` (TE-NAS, Chen et al., ICLR 2021);
    - ``"zscore"``: :math:`\sum_i w_i (x_i - \bar x) / \sigma`, which keeps distances, and so bows to outliers.

    The result says something about these candidates together only: another candidate moves everyone's ranks. A
    candidate that lacks the value of a proxy (NaN or infinite) gets NaN, and is not counted among the n. A constant
    proxy adds the same to all.

    Args:
        scores: one column a proxy, one row a candidate.
        rule: ``"log"``, ``"rank"`` or ``"zscore"``.
        higher_is_better: False for proxies that are better when lower; the others are better when higher.
        weights: of the proxies, at least 0; those not named count once.

    Returns:
        A Series with the index of ``scores``, of shape (candidates,).

    Raises:
        InputError: no columns, something is no number, the rule is unknown, or a weight or direction names no column.

    Example:
        >>> scores = {"zico": [10.0, 30.0, 20.0, float("nan")], "latency": [5.0, 9.0, 1.0, 2.0]}
        >>> merge_ranks(scores, "rank", higher_is_better={"latency": False}).tolist()
        [3.0, 4.0, 5.0, nan]
        >>> merge_ranks(scores, higher_is_better={"latency": False}).idxmax()
        2
    """
    import pandas as pd

    if rule not in RULES:
        raise InputError(f"rule={rule!r}:{near_matches(str(rule), RULES)} there are {', '.join(map(repr, RULES))}.")
    columns = as_columns(scores)
    if columns.shape[1] == 0:
        raise InputError("there is no column to merge: give one a proxy.")
    _check_names("higher_is_better", higher_is_better, columns)
    _check_names("weights", weights, columns)
    bad = {name: weight for name, weight in (weights or {}).items() if not 0 <= weight < float("inf")}
    if bad:
        raise InputError(f"weights={bad}: give numbers of at least 0; for a proxy to turn round use higher_is_better.")
    merged = pd.Series(np.nan, index=columns.index, name=rule)
    complete = np.isfinite(columns.to_numpy()).all(axis=1)
    if complete.any():
        total = np.zeros(complete.sum())
        for name in columns:
            values = columns[name].to_numpy()[complete]
            signed = values if (higher_is_better or {}).get(name, True) else -values
            total += (weights or {}).get(name, 1.0) * RULES[rule](signed)
        merged[complete] = total
    return merged


def as_columns(scores: pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    """Scores as a table of floats; None is NaN.

    Raises:
        InputError: two columns share a name, columns are of different lengths, or something is no number.

    Example:
        >>> as_columns({"a": [1, None]})["a"].tolist()
        [1.0, nan]
    """
    import pandas as pd

    try:
        table = scores if isinstance(scores, pd.DataFrame) else pd.DataFrame(dict(scores))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the scores are no table ({error}): give one column a proxy, one value a candidate."
        ) from None
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"two columns are called {twice[0]!r}: rename one.")
    for name in table:
        try:
            pd.to_numeric(table[name])
        except (ValueError, TypeError):
            raise InputError(f"column {name!r} holds something that is no number: leave it out.") from None
    return table.astype(float)


def _check_names(argument: str, given: Mapping[str, Any] | None, columns: pd.DataFrame) -> None:
    unknown = [name for name in given or {} if name not in columns]
    if unknown:
        near = near_matches(str(unknown[0]), map(str, columns))
        raise InputError(f"{argument} names {unknown[0]!r}, which is no column.{near}")
