"""Fig. 3: Spearman of every proxy on every task: ``python -m recipes.paper.fig3 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lswag_hooks.agreement import BASELINES
from recipes.common import finish
from recipes.paper.common import command, heatmap, published, report, side_by_side
from recipes.paper.tasks import Measuring, Scores, Source, scores_of, told


def run(data: Path, out: Path, measuring: Measuring, scores: list[Source]) -> None:
    """Fig. 3: Spearman of every proxy with accuracy.

    Of the paper's figures only the rows of ZiCo and L-SWAG are known, from its Tab. 3.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        scores: proxies measured here, or those of the published tables, or one after the other.
    """
    draw(data, out, measuring, scores, "fig3")


def draw(data: Path, out: Path, measuring: Measuring, scores: list[Source], name: str, most: int | None = 1000) -> None:
    """Write and print the figure."""
    paper = published("tab3").loc[["ZiCo", "L-SWAG"]].set_axis(["zico", "lswag"])
    for source in scores:
        measured = scores_of(source, data, out, measuring, most=most)
        ours = table(measured)
        title = f"{name.replace('fig', 'Fig. ')}, proxies {'measured here' if source == 'measured' else 'as published'}"
        both = side_by_side(ours, paper)
        report(out, f"{name}_{source}", title, both, heatmap((title, ours)), told(measured))


def table(measured: Sequence[Scores]) -> pd.DataFrame:
    """One row a proxy, one column a task; the best on average first, the sizes last."""
    found = pd.DataFrame({one.task.key: one.correlations() for one in measured}).dropna(how="all")
    order = found.mean(axis=1).sort_values(ascending=False).index
    sizes = [name for name in order if name in BASELINES]
    return found.loc[[*(name for name in order if name not in sizes), *sizes]]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
