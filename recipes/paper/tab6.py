"""Tab. 6: how far proxies follow the number of parameters: ``python -m recipes.paper.tab6 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import command, heatmap, published, report, side_by_side
from recipes.paper.ensembles import biases
from recipes.paper.tasks import Measuring, Source, scores_of, told


def run(data: Path, out: Path, measuring: Measuring, scores: list[Source]) -> None:
    """Tab. 6: Pearson of proxies and accuracy with the parameters, of values (as its figures) and of ranks (its text).

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        scores: proxies measured here, or those of the published tables, or one after the other.
    """
    paper = published("tab6")
    for source in scores:
        measured = scores_of(source, data, out, measuring)
        tables = {}
        for kind in ("values", "ranks"):
            ours = pd.DataFrame({one.task.key: biases(one, kind == "ranks") for one in measured})
            tables[kind] = ours.loc[[name for name in paper.index if name in ours.index]]
        shown = paper[[name for name in paper if name in tables["values"]]]
        picture = heatmap(("ours, of values", tables["values"]), ("ours, of ranks", tables["ranks"]), ("paper", shown))
        for kind, ours in tables.items():
            both = side_by_side(ours, paper)
            distance = (both["ours"] - both["paper"]).abs().mean()
            notes = [f"mean distance from the paper's figures: {distance:.2f}", *told(measured)]
            title = f"Tab. 6, biases of {kind}, proxies {'measured here' if source == 'measured' else 'as published'}"
            report(out, f"tab6_{source}_{kind}", title, both, picture, notes)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
