"""What a table says about its proxies: which rows and columns count, correlations, biases and information gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lswag_hooks.correlation import pearson, spearman
from lswag_hooks.ensembles.information import bin_count, crowded, discretise, entropy, information_gain, marks
from lswag_hooks.ensembles.tables import Given
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.wording import named

if TYPE_CHECKING:
    import pandas as pd

LEAST = 10  # networks below which nothing is chosen
FEW = 100  # networks below which an information gain is mostly chance
SHARE = 0.5  # of values that a row, then a column, must have
BIASES = {"pearson_of_ranks": spearman, "pearson": pearson}
OUTLIERS = ("quantile", "refuse", "keep")
Directions = Mapping[str, bool] | str | None  # the only text is "fit"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Proxies and accuracies of the same networks, and what they say about each other.

    Attributes:
        scores: one row a network, one column a proxy; complete, and turned so that higher is better.
        accuracy: with the same index.
        higher_is_better: of each proxy, as it was given.
        size: name of the column of sizes, None if there is none to use.
        bins: rule of the bins.
        bias: ``"pearson_of_ranks"`` or ``"pearson"``.
        crowded: columns (``"accuracy"`` may be one) whose values nearly all share a bin.
        outliers: what is done with those: ``"quantile"`` or ``"keep"``.
        marks: values of each proxy that stand for "no value", where there are any.
        notes: what was left out or turned round, and why.
    """

    scores: pd.DataFrame
    accuracy: pd.Series
    higher_is_better: dict[str, bool]
    size: str | None
    bins: str
    bias: str
    crowded: tuple[str, ...]
    outliers: str
    marks: dict[str, set[float]]
    notes: tuple[str, ...]

    @property
    def proxies(self) -> list[str]:
        """Names, in the order of the table."""
        return list(self.scores)

    @cached_property
    def correlations(self) -> dict[str, float]:
        """Spearman of each proxy, turned so that higher is better, with accuracy."""
        truth = self.accuracy.to_numpy()
        return {name: spearman(self.scores[name].to_numpy(), truth) for name in self.scores}

    @cached_property
    def biases(self) -> dict[str, float]:
        """Correlation of each proxy with the size; empty without one."""
        return {name: self._bias(self.scores[name].to_numpy()) for name in self.scores} if self.size else {}

    @cached_property
    def accuracy_bias(self) -> float:
        """Correlation of the accuracy with the size; NaN without one."""
        return self._bias(self.accuracy.to_numpy()) if self.size else float("nan")

    @property
    def best(self) -> str:
        """The proxy of the highest correlation; of equals the first in the table."""
        return max(self.correlations, key=lambda name: self.correlations[name])

    def within(self, tolerance: float | None) -> list[str]:
        """Other proxies within a tolerance of the best one's correlation, best first; None: all others."""
        least = -np.inf if tolerance is None else self.correlations[self.best] - tolerance
        near = [name for name in self.proxies if name != self.best and self.correlations[name] >= least]
        return sorted(near, key=lambda name: -self.correlations[name])

    def rule_of(self, name: str) -> str:
        """How the values of a column are put into bins."""
        return "quantile" if name in self.crowded and self.outliers == "quantile" else self.bins

    def entropy(self, name: str) -> float:
        """Entropy of a proxy, or of ``"accuracy"``, in bits."""
        return entropy(self._labels[name])

    def gain(self, new: str, *given: str) -> float:
        """Information gain IG(accuracy; new | given), in bits."""
        return information_gain(self._labels["accuracy"], self._labels[new], *(self._labels[name] for name in given))

    def alike(self, first: str, second: str) -> float:
        """Spearman of two proxies with each other."""
        return spearman(self.scores[first].to_numpy(), self.scores[second].to_numpy())

    def needed(self, first: str, second: str) -> float:
        r"""The correlation with accuracy above which a second proxy helps the first one, about.

        With correlations :math:`\rho_1, \rho_2` and :math:`c` to each other the sum of two standardised variables
        correlates :math:`(\rho_1 + \rho_2) / \sqrt{2 (1 + c)}`, which is more than :math:`\rho_1` from
        :math:`\rho_1 (\sqrt{2 (1 + c)} - 1)` on. So it does for a sum of ranks; for one of logarithms nearly.
        """
        return float(self.correlations[first] * (np.sqrt(2 * (1 + self.alike(first, second))) - 1))

    @cached_property
    def _labels(self) -> dict[str, np.ndarray]:
        columns = {name: self.scores[name].to_numpy() for name in self.scores} | {"accuracy": self.accuracy.to_numpy()}
        return {name: discretise(values, self.rule_of(name)) for name, values in columns.items()}

    def _bias(self, values: np.ndarray) -> float:
        assert self.size is not None
        sizes = self.scores[self.size].to_numpy()
        return BIASES[self.bias](values, sizes if self.higher_is_better[self.size] else -sizes)


def gather(
    given: Given,
    *,
    size: str | None = "params",
    bins: str = "sturges",
    bias: str = "pearson_of_ranks",
    outliers: str = "quantile",
    higher_is_better: Directions = None,
) -> Evidence:
    """Leave out what cannot be compared, and say so.

    In this order: marks for "no value" become NaN; rows without an accuracy go; rows with values of less than half of
    the proxies go; proxies with values on less than half of the rest go; rows that still lack a value go, so that all
    proxies are compared on the same networks; constant proxies go.

    Args:
        given: scores and accuracies.
        size: the column of sizes, or None.
        bins: see :func:`~lswag_hooks.ensembles.information.bin_count`.
        bias: ``"pearson_of_ranks"`` or ``"pearson"`` (of values).
        outliers: columns that outliers crowd into one bin are binned by ``"quantile"``, or kept as they are
            (``"keep"``, the published behaviour), or an error (``"refuse"``).
        higher_is_better: False for proxies that are better when lower; or ``"fit"``: the sign of the correlation.

    Raises:
        InputError: an option is unknown, fewer than 10 networks or no proxy are left, the accuracy is constant.
    """
    for argument, value, known in (("bias", bias, BIASES), ("outliers", outliers, OUTLIERS)):
        if value not in known:
            near = near_matches(str(value), known)
            raise InputError(f"{argument}={value!r}:{near} there are {', '.join(map(repr, known))}.")
    bin_count(1, bins)  # refuses an unknown rule
    if "accuracy" in given.scores:
        raise InputError("a proxy is called 'accuracy': rename that column, or give it as the accuracies.")
    notes = list(given.notes)
    found = {name: marks(given.scores[name].to_numpy()) for name in given.scores}
    table, truth = _complete(given, found, notes)
    if len(table) < LEAST:
        raise InputError(
            f"{len(table)} networks have an accuracy and every proxy, {LEAST} are the least"
            f"{': ' + '; '.join(notes) if notes else ''}."
        )
    constant = [name for name in table if table[name].nunique() == 1]
    if constant:
        notes.append(f"left out: {named(constant)}, the same for all networks")
        table = table.drop(columns=constant)
    if truth.nunique() == 1:
        raise InputError("the accuracy is the same for all networks: there is nothing to fit to.")
    if not table.shape[1]:
        raise InputError(f"no proxy is left: {'; '.join(notes) or 'the table has no columns'}.")
    if len(table) < FEW:
        notes.append(f"only {len(table)} networks: correlations are uncertain, and information gains mostly chance")

    up = _directions(table, truth, higher_is_better, list(given.scores), notes)
    turned = table * [1 if up[name] else -1 for name in table]
    if size is None or size not in turned:
        if size is not None:
            notes.append(f"no column {size!r} of sizes to use, so that biases are unknown; name yours by size=")
        size = None
    columns = {name: turned[name] for name in turned} | {"accuracy": truth}
    full = tuple(name for name, values in columns.items() if crowded(values.to_numpy(), bins))
    if full:
        said = f"{named(full)}: outliers leave nine tenths of the networks in one bin"
        if outliers == "refuse":
            raise InputError(f"{said}. Take logarithms, leave the column out, or bin by outliers='quantile'.")
        done = "binned by quantiles instead" if outliers == "quantile" else "kept so; a gain of them means little"
        notes.append(f"{said}; {done}")
    found = {name: values for name, values in found.items() if values and name in turned}
    return Evidence(turned, truth, up, size, bins, bias, full, outliers, found, tuple(notes))


def _complete(given: Given, found: Mapping[str, set[float]], notes: list[str]) -> tuple[pd.DataFrame, pd.Series]:
    """Rows and columns that are compared; what is left out is appended to notes."""
    if not given.scores.index.is_unique:
        raise InputError("two rows of scores have the same label: make the index unique.")
    table, truth = without(given.scores, found, notes), given.accuracy
    truth = truth[~truth.isin(marks(truth.to_numpy()))].dropna()

    def keep(rows: pd.Index, reason: str) -> None:
        nonlocal table
        if len(rows) < len(table):
            notes.append(f"left out: {len(table) - len(rows)} of {len(table)} networks without {reason}")
        table = table.loc[rows]

    keep(truth.index, "an accuracy")
    keep(table.index[table.notna().mean(axis=1) >= SHARE], "values of half of the proxies")
    rare = [name for name in table if table[name].notna().mean() < SHARE]
    if rare:
        notes.append(f"left out: {named(rare)}, without values for more than half of the networks")
        table = table.drop(columns=rare)
    keep(table.dropna().index, "values of every proxy that is left")
    return table, truth[table.index]


def without(table: pd.DataFrame, found: Mapping[str, Iterable[float]], notes: list[str]) -> pd.DataFrame:
    """The table with NaN in place of the marks of each column; which and how many is appended to notes."""
    table = table.copy()
    for name, values in found.items():
        where = table[name].isin(list(values))
        if where.any():
            shown = named(f"{value:g}" for value in sorted(values))
            notes.append(f'{name}: {where.sum()} values stand for "no value": {shown}')
            table.loc[where, name] = np.nan
    return table


def _directions(
    table: pd.DataFrame, truth: pd.Series, higher_is_better: Directions, known: list[str], notes: list[str]
) -> dict[str, bool]:
    if higher_is_better == "fit":
        up = {name: spearman(table[name].to_numpy(), truth.to_numpy()) >= 0 for name in table}
        down = [name for name, higher in up.items() if not higher]
        if down:
            notes.append(f"turned round, because lower was better here: {named(down)}")
        return up
    if isinstance(higher_is_better, str):
        raise InputError(f"higher_is_better={higher_is_better!r}: give a dict of proxies, 'fit', or None.")
    declared = dict(higher_is_better or {})
    unknown = [name for name in declared if name not in known]
    if unknown:
        raise InputError(f"higher_is_better names {unknown[0]!r}, which is no column.{near_matches(unknown[0], known)}")
    return {name: bool(declared.get(name, True)) for name in table}
