"""Fig. 10: curves of gradients, networks of like depth apart: ``python -m recipes.paper.fig10 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import command, report, side_by_side
from recipes.paper.layers import Curve, curves_of, drawn, layered
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring, curve: list[Curve], groups: int = 3) -> None:
    """Fig. 10: as Fig. 9 for TransNAS-Bench-101 Micro Autoencoder, by groups of networks of like depth.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured; the first of its tasks counts.
        curve: deviation of the gradients or trainability, or one after the other.
        groups: how many.
    """
    scores = layered(data, out, measuring)[:1]
    for name in curve:
        whole = curves_of(scores[0], name)
        curves = {"all": whole, **whole.by_depth(groups)}
        ours = pd.DataFrame({key: found.mean / found.mean.max() for key, found in curves.items()}, index=range(1, 11))
        match = ours.corr(method="spearman")["all"].drop("all")
        notes = [f"{group}: Spearman with the curve of all networks {value:.2f}" for group, value in match.items()]
        title = f"Fig. 10, {scores[0].task.key}, {name}, as a share of the highest tenth's"
        both = side_by_side(ours, ours.iloc[:0])
        report(out, f"fig10_{name}", title, both, drawn(curves, name), [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
