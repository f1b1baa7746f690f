"""L-SWAG in parts: every form of the paper's ablations is a sum over tenths of the layers, and these are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd

from lswag_hooks.correlation import spearman
from lswag_hooks.functional.arrays import LayerArrays
from lswag_hooks.functional.lswag import BINS, Interval, combine, percentile
from lswag_hooks.intervals import GradientCurves
from lswag_hooks.profiling import TenthDeviation
from lswag_hooks.proxies import LSWAG, Missing, Observation, Proxy, resolve_proxies
from lswag_hooks.report import plots
from recipes.paper.tasks import TASKS, Measuring, Scores, measure, prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["trainability", "expressivity", "product"]
Curve = Literal["deviation", "trainability"]
ALL: Interval = (0, BINS - 1)

# rows of Tab. 3: what is summed, whether the mean is in the numerator, whether over chosen layers alone
FORMS: dict[str, tuple[Kind, bool, bool]] = {
    "ZiCo": ("trainability", True, False),
    "no mean": ("trainability", False, False),
    "layers": ("trainability", True, True),
    "expressivity": ("expressivity", False, False),
    "no mean + layers": ("trainability", False, True),
    "no mean + expressivity": ("product", False, False),
    "layers + expressivity": ("product", True, True),
    "L-SWAG": ("product", False, True),
}


@dataclass(frozen=True)
class Tenth(LSWAG):
    r"""One part of L-SWAG in one tenth of the layers.

    Args:
        kind: :math:`\sum\Lambda_l` of weight layers, :math:`\sum\Psi_l` of activation layers, or the sum of their
            products, paired as ``pairing`` says.
        mean: the mean in the numerator of :math:`\Lambda`, as ZiCo has it.
    """

    name: ClassVar[str] = "tenth"
    summary: ClassVar[str] = "one part of L-SWAG in one tenth of the layers"
    kind: Kind = "product"
    mean: bool = False

    def part(self, arrays: LayerArrays) -> float:
        """Sum of inverse deviations, or of means over deviations."""
        return arrays.relative if self.mean else arrays.inverse[0]

    def total(self, seen: Observation) -> float | Missing:
        """The tenth's sum; 0 where no layer lies in it."""
        assert self.interval is not None
        tenth, terms = self.interval[0], seen.terms[self.key]
        weights, activations = seen.profile.weights, seen.profile.activations
        if self.kind == "trainability":
            return sum(term for term, row in zip(terms, weights, strict=True) if row.percentile == tenth)
        expressivities = [row.expressivity or 0.0 for row in activations]
        if self.kind == "expressivity":
            rows = zip(expressivities, activations, strict=True)
            return sum(value for value, row in rows if row.percentile == tenth)
        return combine(terms, expressivities, self.interval, self.pairing, [row.fed_by for row in weights])


def column(kind: Kind, mean: bool, tenth: int) -> str:
    """Name of a tenth's column."""
    return f"{kind}{' with mean' * mean} {tenth}"


def tenths() -> list[Proxy]:
    """Everything that the ablations and the curves need of a network, from one forward and one backward pass."""
    forms = dict.fromkeys((kind, mean) for kind, mean, _ in FORMS.values())
    parts: list[Proxy] = [
        Tenth(column(kind, mean, tenth), interval=(tenth, tenth), kind=kind, mean=mean)
        for kind, mean in forms
        for tenth in range(BINS)
    ]
    curves = [TenthDeviation(f"deviation {tenth}", tenth) for tenth in range(BINS)]
    return [*parts, *curves, *resolve_proxies("depth,params")]


def layered(data: Path, out: Path, measuring: Measuring) -> list[Scores]:
    """Tenths of every task's networks, from the store or measured now."""
    ready = prepared(data, measuring)
    store = out / "scores.db"
    return [measure(TASKS[key], ready[key], tenths(), store, measuring) for key in measuring.tasks]


def summed(frame: pd.DataFrame, kind: Kind, mean: bool, interval: Interval = ALL) -> pd.Series:
    """A score that counts an interval of the layers."""
    first, last = interval
    return frame[[column(kind, mean, tenth) for tenth in range(first, last + 1)]].sum(axis=1, skipna=False)


def curves_of(scores: Scores, curve: Curve = "deviation") -> GradientCurves:
    """Curves along the depth of a task's networks, of those that could be scored.

    ``"deviation"``: mean deviation of the gradients of a layer, as ``lswag profile`` shows. ``"trainability"``: mean of
    the layers' :math:`\\Lambda_l`, the logarithm of a sum of inverse deviations, which is large where these are small.
    The paper averages one that is "introduced in Eq. (1)", where both are; its symbol is lost in the text at hand.
    """
    frame = scores.frame[scores.frame["depth"].notna() & scores.frame[column("product", False, 0)].notna()]
    depths = frame["depth"].to_numpy(dtype=int)
    if curve == "deviation":
        values = frame[[f"deviation {tenth}" for tenth in range(BINS)]].to_numpy()
    else:
        layers = [np.bincount([percentile(layer, depth) for layer in range(depth)], minlength=BINS) for depth in depths]
        sums = frame[[column("trainability", False, tenth) for tenth in range(BINS)]].to_numpy()
        values = np.divide(sums, layers, out=np.full(sums.shape, np.nan), where=np.array(layers) > 0)
    return GradientCurves(values, depths, list(frame.index))


def drawn(curves: Mapping[str, GradientCurves], curve: Curve) -> Figure:
    """A panel for each group of networks, its interval shaded."""
    figure = plots.gradient_curves(curves)
    for axis in figure.axes:
        axis.set_ylabel("deviation of gradients" if curve == "deviation" else "mean of Λ")
    return figure


def spike_of(curve: GradientCurves) -> str:
    """Its interval in words, tenths counted from 1 as the paper does."""
    return "none" if curve.interval is None else f"tenths {curve.interval[0] + 1} to {curve.interval[1] + 1}"


def ablation(scores: Scores, interval: Interval) -> pd.Series:
    """Tab. 3 for a task: Spearman of each form, layers chosen by the interval."""
    found = {
        name: scores.rho(summed(scores.frame, kind, mean, interval if chosen else ALL))
        for name, (kind, mean, chosen) in FORMS.items()
    }
    return pd.Series(found, name=scores.task.key)


def by_tenth(scores: Scores) -> pd.Series:
    """Tab. 5 for a task: Spearman of L-SWAG over each tenth of the layers alone, counted from 1, and over all."""
    found = {
        str(tenth + 1): scores.rho(summed(scores.frame, "product", False, (tenth, tenth))) for tenth in range(BINS)
    }
    return pd.Series({**found, "all": scores.rho(summed(scores.frame, "product", False))}, name=scores.task.key)


def alike(curve: np.ndarray, correlations: np.ndarray) -> float:
    """Spearman of a curve along the depth with the correlations of the tenths; the paper finds "a clear match"."""
    both = np.isfinite(curve) & np.isfinite(correlations)
    return spearman(curve[both], correlations[both]) if both.sum() >= 5 else float("nan")
