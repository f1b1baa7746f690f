"""Fig. 8: rank by score against rank by accuracy: ``python -m recipes.paper.fig8 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lswag_hooks.report.plots import ranks_against_ranks
from recipes.common import finish
from recipes.paper.common import command, published, report, side_by_side
from recipes.paper.tasks import Measuring, scores_of, told

SHOWN = ("params", "zico", "swap", "lswag", "lswag_robust")


def run(data: Path, out: Path, measuring: Measuring, task: str = "macro-norm") -> None:
    """Fig. 8: parameters, ZiCo, SWAP and L-SWAG on TransNAS-Bench-101 Macro Normal.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        task: another one.
    """
    scores = scores_of("measured", data, out, measuring, [task])
    (one,) = scores
    columns = {name: one.turned[name].tolist() for name in SHOWN if name in one.frame and one.frame[name].notna().any()}
    picture = ranks_against_ranks(columns, one.accuracy.tolist())
    pd.DataFrame(columns, index=one.frame.index).assign(accuracy=one.accuracy).to_csv(out / "fig8_scores.csv")
    ours = one.correlations()[list(columns)].to_frame()
    paper = published("tab3").loc[["ZiCo", "L-SWAG"]].set_axis(["zico", "lswag"])
    paper = paper[[name for name in paper if name == task]]
    report(out, "fig8", f"Fig. 8, {task}", side_by_side(ours, paper), picture, told(scores))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
