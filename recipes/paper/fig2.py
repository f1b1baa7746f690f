"""Fig. 2: which layers count, by correlation and by gradients: ``python -m recipes.paper.fig2 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recipes.common import finish
from recipes.paper.common import command, heatmap, published, report, side_by_side
from recipes.paper.layers import Curve, alike, by_tenth, curves_of, drawn, layered, spike_of
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring, curve: list[Curve]) -> None:
    """Fig. 2: (a) gain of one tenth of the layers over all of them, (b) curves along the depth.

    The figures of (a) are those of Tab. 5, as differences to its last row.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        curve: of (b): deviation of the gradients, trainability.
    """
    scores = layered(data, out, measuring)
    found, paper = pd.DataFrame({one.task.key: by_tenth(one) for one in scores}), published("tab5")
    gains, theirs = (table.drop(index="all") - table.loc["all"] for table in (found, paper))
    notes = []
    for name in curve:
        curves = {one.task.key: curves_of(one, name) for one in scores}
        drawn(curves, name).savefig(out / f"fig2b_{name}.png", dpi=150)
        for key, part in curves.items():
            match = alike(part.mean, np.asarray(found[key].drop("all"), dtype=float))
            notes.append(f"{key}: spike of {name} {spike_of(part)}; Spearman with the tenths' correlations {match:.2f}")
    picture = heatmap(("(a) ours", gains), ("(a) the paper's", theirs[[name for name in theirs if name in gains]]))
    both = side_by_side(gains, theirs)
    report(out, "fig2a", "Fig. 2 (a), gain of a tenth over all layers", both, picture, [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
