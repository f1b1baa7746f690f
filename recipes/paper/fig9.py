"""Fig. 9: deviations of gradients along the depth of each space: ``python -m recipes.paper.fig9 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lswag_hooks.report.plots import gradient_curves
from recipes.common import finish
from recipes.paper.common import command, report, side_by_side
from recipes.paper.layers import curves_of, layered
from recipes.paper.tasks import Measuring, told

SAID = {  # in words, App. D.1; of the paper's seven panels
    "nb201": "three peaks, at 3, 7 and 10",
    "nb301": "periodic",
    "micro": "one peak towards the end, or ascending",
    "macro": "one peak towards the end, or ascending",
}


def run(data: Path, out: Path, measuring: Measuring) -> None:
    """Fig. 9: mean over networks of the deviation of gradients, tenth by tenth, and the spike that gives the interval.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
    """
    scores = layered(data, out, measuring)
    curves = {one.task.key: curves_of(one) for one in scores}
    ours = pd.DataFrame({key: curve.mean / curve.mean.max() for key, curve in curves.items()}, index=range(1, 11))
    notes = []
    for one in scores:
        spike = curves[one.task.key].interval
        found = "none" if spike is None else f"tenths {spike[0] + 1} to {spike[1] + 1}"
        notes.append(f"{one.task.key}: spike {found}; the paper: {SAID.get(one.task.group, 'not said')}")
    both = side_by_side(ours, ours.iloc[:0])
    title = "Fig. 9, mean deviation of gradients, as a share of the highest tenth's"
    report(out, "fig9", title, both, gradient_curves(curves), [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
