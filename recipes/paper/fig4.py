"""Fig. 4: proxies on average over tasks: ``python -m recipes.paper.fig4 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipes.common import finish
from recipes.paper.common import command, panels, report, side_by_side
from recipes.paper.fig3 import table
from recipes.paper.tasks import Measuring, Source, scores_of, told


def run(data: Path, out: Path, measuring: Measuring, scores: list[Source]) -> None:
    """Fig. 4: mean and spread of each proxy's Spearman over the tasks; the paper's figures are not in its text.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        scores: proxies measured here, or those of the published tables, or one after the other.
    """
    for source in scores:
        measured = scores_of(source, data, out, measuring)
        found = table(measured)
        ours = found.agg(["mean", "std", "min", "count"], axis=1).sort_values("mean", ascending=False)
        figure, (axis,) = panels(1, 1, 5.0, 0.25 * len(ours) + 1)
        axis.errorbar(ours["mean"], np.arange(len(ours)), xerr=ours["std"], fmt="o", capsize=2)
        axis.set_yticks(np.arange(len(ours)), ours.index, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel(f"Spearman with accuracy, mean and deviation over {found.shape[1]} tasks")
        title = f"Fig. 4, proxies {'measured here' if source == 'measured' else 'as published'}"
        report(out, f"fig4_{source}", title, side_by_side(ours.T, ours.T.iloc[:0]), figure, told(measured))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
