"""Tab. 5: L-SWAG over one tenth of the layers alone: ``python -m recipes.paper.tab5 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import command, heatmap, published, report, side_by_side
from recipes.paper.layers import by_tenth, layered
from recipes.paper.tasks import Measuring, told


def run(data: Path, out: Path, measuring: Measuring) -> None:
    """Tab. 5: Spearman of L-SWAG with accuracy, tenth of the depth by tenth, and over all layers.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
    """
    scores = layered(data, out, measuring)
    ours, paper = pd.DataFrame({one.task.key: by_tenth(one) for one in scores}), published("tab5")
    picture = heatmap(("ours", ours), ("the paper's", paper[[name for name in paper if name in ours]]))
    report(out, "tab5", "Tab. 5, L-SWAG by tenth of the layers", side_by_side(ours, paper), picture, told(scores))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
