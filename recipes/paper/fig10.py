"""Fig. 10: deviations of gradients, networks of like depth apart: ``python -m recipes.paper.fig10 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lswag_hooks.report.plots import gradient_curves
from recipes.common import finish
from recipes.paper.common import command, report, side_by_side
from recipes.paper.layers import curves_of, layered
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring, groups: int = 3) -> None:
    """Fig. 10: as Fig. 9 for TransNAS-Bench-101 Micro Autoencoder, by groups of networks of like depth.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured; the first of its tasks counts.
        groups: how many.
    """
    scores = layered(data, out, measuring)[:1]
    whole = curves_of(scores[0])
    curves = {"all": whole, **whole.by_depth(groups)}
    ours = pd.DataFrame({key: curve.mean / curve.mean.max() for key, curve in curves.items()}, index=range(1, 11))
    match = ours.corr(method="spearman")["all"].drop("all")
    notes = [f"{name}: Spearman with the curve of all networks {value:.2f}" for name, value in match.items()]
    title = f"Fig. 10, {scores[0].task.key}: deviation of gradients, as a share of the highest tenth's"
    both = side_by_side(ours, ours.iloc[:0])
    report(out, "fig10", title, both, gradient_curves(curves), [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
