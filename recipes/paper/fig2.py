"""Fig. 2: which layers count, by correlation and by gradients: ``python -m recipes.paper.fig2 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lswag_hooks.report.plots import gradient_curves
from recipes.common import finish
from recipes.paper.common import command, heatmap, published, report, side_by_side
from recipes.paper.layers import alike, by_tenth, curves_of, layered
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring) -> None:
    """Fig. 2: (a) gain of one tenth of the layers over all of them, (b) deviations of gradients along the depth.

    The figures of (a) are those of Tab. 5, as differences to its last row.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
    """
    scores = layered(data, out, measuring)
    found, paper = pd.DataFrame({one.task.key: by_tenth(one) for one in scores}), published("tab5")
    gains, theirs = (table.drop(index="all") - table.loc["all"] for table in (found, paper))
    curves = {one.task.key: curves_of(one) for one in scores}
    picture = heatmap(("(a) ours", gains), ("(a) the paper's", theirs[[name for name in theirs if name in gains]]))
    notes = []
    for key, curve in curves.items():
        match = alike(curve.mean, np.asarray(found[key].drop("all"), dtype=float))
        spike = "none" if curve.interval is None else f"tenths {curve.interval[0] + 1} to {curve.interval[1] + 1}"
        notes.append(f"{key}: spike {spike}; Spearman of the curve with the tenths' correlations {match:.2f}")
    gradient_curves(curves).savefig(out / "fig2b.png", dpi=150)
    both = side_by_side(gains, theirs)
    report(out, "fig2a", "Fig. 2 (a), gain of a tenth over all layers", both, picture, [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
