"""Tab. 4: ways to choose two or three proxies: ``python -m recipes.paper.tab4 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import bars, command, published, report, side_by_side
from recipes.paper.ensembles import choices
from recipes.paper.tasks import Measuring, Source, scores_of, told

GROUPS = {"nb201": "NB201", "nb301": "NB301", "micro": "Micro", "macro": "Macro"}


def run(data: Path, out: Path, measuring: Measuring, scores: list[Source]) -> None:
    """Tab. 4: gradient-free, gradient-based, random, by information gain, by bias; means over the tasks of a space.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        scores: to choose from proxies measured here, or from those of the published tables, or one after the other.
    """
    for source in scores:
        measured = [one for one in scores_of(source, data, out, measuring) if one.task.group in GROUPS]
        found = pd.DataFrame({one.task.key: choices(one) for one in measured})
        found.to_csv(out / f"tab4_{source}_tasks.csv", index_label="method")
        groups = [GROUPS[one.task.group] for one in measured]
        ours = found.T.groupby(groups).mean().T
        both = side_by_side(ours, published("tab4"))
        title = f"Tab. 4, proxies {'measured here' if source == 'measured' else 'as published'}"
        report(out, f"tab4_{source}", title, both, bars(both), told(measured))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
