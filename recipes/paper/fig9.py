"""Fig. 9: curves of gradients along the depth of each space: ``python -m recipes.paper.fig9 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import command, report, side_by_side
from recipes.paper.layers import Curve, curves_of, drawn, layered, spike_of
from recipes.paper.tasks import Measuring, told

SAID = {  # in words, App. D.1; of the paper's seven panels
    "nb201": "three peaks, at 3, 7 and 10",
    "nb301": "periodic",
    "micro": "one peak towards the end, or ascending",
    "macro": "one peak towards the end, or ascending",
}


def run(data: Path, out: Path, measuring: Measuring, curve: list[Curve]) -> None:
    """Fig. 9: a curve along the depth, its mean over networks, and the spike that gives the interval.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        curve: deviation of the gradients or trainability, or one after the other.
    """
    scores = layered(data, out, measuring)
    for name in curve:
        curves = {one.task.key: curves_of(one, name) for one in scores}
        notes = []
        for one in scores:
            said = SAID.get(one.task.group, "not said")
            notes.append(f"{one.task.key}: spike {spike_of(curves[one.task.key])}; the paper: {said}")
        shares = {key: found.mean / found.mean.max() for key, found in curves.items()}
        ours = pd.DataFrame(shares, index=range(1, 11))
        title = f"Fig. 9, {name}, as a share of the highest tenth's"
        both = side_by_side(ours, ours.iloc[:0])
        report(out, f"fig9_{name}", title, both, drawn(curves, name), [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
