"""Pictures of layers, of rankings, and of how scores and accuracies agree (matplotlib, from the extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from lswag_hooks.correlation import Estimate
from lswag_hooks.errors import InputError
from lswag_hooks.functional.lswag import Interval
from lswag_hooks.intervals import GradientCurves
from lswag_hooks.profile import ActivationRow, LayerProfile, WeightRow
from lswag_hooks.standings import Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 5  # of a ranking: more names would lie on one another
POINT = {"s": 9, "alpha": 0.5, "linewidths": 0}


def scores_against_accuracy(scores: Mapping[str, Sequence[float]], accuracy: Sequence[float]) -> Figure:
    """One panel a proxy: its value against the accuracy.

    Args:
        scores: columns by name, one value a network; NaN is left out.
        accuracy: one value a network.
    """
    return _panels(scores, accuracy, lambda values: values, "score", "accuracy")


def ranks_against_ranks(scores: Mapping[str, Sequence[float]], accuracy: Sequence[float]) -> Figure:
    """One panel a proxy: rank by score against rank by accuracy, as in Fig. 8 of the paper; 1 is the best."""
    return _panels(scores, accuracy, lambda values: rankdata(-values), "rank by score", "rank by accuracy")


def correlation_by_percentile(estimates: Mapping[int, Estimate], whole: Estimate | None = None) -> Figure:
    """Spearman correlation of a score that counts one tenth of the layers alone, as in Fig. 2 of the paper.

    Args:
        estimates: by percentile, 0 to 9.
        whole: of the score over all layers, drawn as a line.
    """
    figure, axes = _figure(1, 1)
    known = {tenth: e for tenth, e in estimates.items() if math.isfinite(e.value)}
    values = [e.value for e in known.values()]
    reach = [[e.value - e.low for e in known.values()], [e.high - e.value for e in known.values()]]
    axes[0].errorbar(list(known), values, yerr=np.maximum(reach, 0), fmt="o-", capsize=3, label="one tenth alone")
    if whole is not None and math.isfinite(whole.value):
        axes[0].axhline(whole.value, linestyle="--", color="grey", label="all layers")
    axes[0].set(xlabel="tenth of the layers, 0 is next to the input", ylabel="Spearman with accuracy", xticks=range(10))
    axes[0].legend()
    return figure


def gradient_curves(groups: Mapping[str, GradientCurves]) -> Figure:
    """Mean deviation of the gradients along the depth and its spread over networks, as in Fig. 9 and 10 of the paper.

    Args:
        groups: curves by a name, such as those of networks of like depth; one panel each, the interval shaded.
    """
    columns = min(3, len(groups))
    figure, panels = _figure(-(-len(groups) // columns), columns)
    for axes, (name, curves) in zip(panels, groups.items(), strict=False):
        mean, std = curves.mean, curves.std
        axes.plot(range(len(mean)), mean, "o-")
        axes.fill_between(range(len(mean)), np.maximum(mean - std, 0), mean + std, alpha=0.2)
        if curves.interval is not None:
            axes.axvspan(curves.interval[0] - 0.5, curves.interval[1] + 0.5, color="gold", alpha=0.3)
        axes.set(title=name, xlabel="tenth of the layers", ylabel="deviation of gradients", xticks=range(len(mean)))
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    return figure


def layers(profile: LayerProfile, interval: Interval | None = None) -> Figure:
    """Trainability and deviation of the weight layers, expressivity of the activation layers, each in order of depth.

    Args:
        profile: of a score.
        interval: first and last tenth of the depth that counted: shaded.
    """
    figure, panels = _figure(1, 3)
    shown: list[tuple[Any, str, Sequence[WeightRow | ActivationRow], list[float | None]]] = [
        (panels[0], "trainability", profile.weights, [row.trainability for row in profile.weights]),
        (panels[1], "deviation of gradients", profile.weights, [row.mean_deviation for row in profile.weights]),
        (panels[2], "expressivity", profile.activations, [row.expressivity for row in profile.activations]),
    ]
    for axes, title, rows, measured in shown:
        axes.bar(range(len(rows)), [math.nan if value is None else value for value in measured])
        if interval is not None:
            inside = [place for place, row in enumerate(rows) if interval[0] <= row.percentile <= interval[1]]
            if inside:
                axes.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color="gold", alpha=0.3)
        kind = "activation" if rows is profile.activations else "weight"
        axes.set(title=title, xlabel=f"{kind} layer, in order of the depth")
    return figure


def standings(ranking: Ranking) -> Figure:
    """Score by rank, and score against size, with the spread over seeds where there are several; of the first proxy.

    The best few have their names beside them.
    """
    figure, panels = _figure(1, 2)
    key, rows = ranking.first, [row for row in ranking.rows if row.rank is not None]
    values = [row.scores[key] for row in rows]
    spreads = [row.spreads.get(key, math.nan) for row in rows]
    for axes, across, title in (
        (panels[0], [float(row.rank or 0) for row in rows], "rank"),
        (panels[1], [float(row.params) for row in rows], "parameters"),
    ):
        axes.errorbar(across, values, yerr=spreads, fmt="o", markersize=3, capsize=2)
        axes.set(xlabel=title, ylabel=key)
    known = [row.params for row in rows if row.params > 0]
    if known and max(known) > 10 * min(known):
        panels[1].set_xscale("log")
    for row, value in zip(rows[:NAMED], values, strict=False):
        panels[0].annotate(row.name, (float(row.rank or 0), value), (4, 2), textcoords="offset points", fontsize=6)
    return figure


def _panels(
    scores: Mapping[str, Sequence[float]], accuracy: Sequence[float], change: Any, across: str, up: str
) -> Figure:
    columns = min(4, len(scores))
    figure, panels = _figure(-(-len(scores) // columns), columns)
    truth = np.asarray(accuracy, dtype=float)
    for axes, (name, values) in zip(panels, scores.items(), strict=False):
        both = np.isfinite(np.asarray(values, dtype=float)) & np.isfinite(truth)
        axes.scatter(change(np.asarray(values, dtype=float)[both]), change(truth[both]), **POINT)
        axes.set(title=name, xlabel=across, ylabel=up)
    for axes in panels[len(scores) :]:
        axes.set_axis_off()
    return figure


def _figure(rows: int, columns: int) -> tuple[Figure, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'lswag-hooks[plots]'.") from None
    # a figure of its own, not pyplot's: no window, no global state, no backend to choose
    figure = Figure(figsize=(3.2 * columns, 2.9 * rows), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
