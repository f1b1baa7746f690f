"""Tab. 3: what each part of L-SWAG does: ``python -m recipes.paper.tab3 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import bars, command, published, report, side_by_side
from recipes.paper.layers import ALL, ablation, curves_of, layered
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring) -> None:
    """Tab. 3: L-SWAG without the mean, over chosen layers, with expressivity, and all combinations.

    The layers are those of the spike in the gradients' deviations along the depth (Sec. 3.1), over the same networks.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
    """
    scores = layered(data, out, measuring)
    intervals = {one.task.key: curves_of(one).interval or ALL for one in scores}
    ours = pd.DataFrame({one.task.key: ablation(one, intervals[one.task.key]) for one in scores})
    both = side_by_side(ours, published("tab3"))
    notes = [f"{key}: layers of tenths {first + 1} to {last + 1}" for key, (first, last) in intervals.items()]
    report(out, "tab3", "Tab. 3, parts of L-SWAG", both, bars(both), [*notes, *told(scores)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
