"""Tab. 3: what each part of L-SWAG does: ``python -m recipes.paper.tab3 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import bars, command, published, report, side_by_side
from recipes.paper.layers import ALL, Curve, ablation, curves_of, layered, spike_of
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring, curve: list[Curve]) -> None:
    """Tab. 3: L-SWAG without the mean, over chosen layers, with expressivity, and all combinations.

    The layers are those of the spike in a curve along the depth (Sec. 3.1), over the same networks.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        curve: deviation of the gradients or trainability, or one after the other.
    """
    scores = layered(data, out, measuring)
    for one in curve:
        curves = {part.task.key: curves_of(part, one) for part in scores}
        ours = pd.DataFrame({part.task.key: ablation(part, curves[part.task.key].interval or ALL) for part in scores})
        both = side_by_side(ours, published("tab3"))
        notes = [f"{key}: layers of {spike_of(found)}" for key, found in curves.items()]
        title = f"Tab. 3, parts of L-SWAG, layers of the spike in {one}"
        report(out, f"tab3_{one}", title, both, bars(both), [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
