"""Tab. 1: Spearman of ensembles with accuracy, on 19 tasks: ``python -m recipes.paper.tab1 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recipes.common import finish
from recipes.paper.common import bars, command, published, report, side_by_side
from recipes.paper.ensembles import aggregated, fitted, held_out
from recipes.paper.tasks import Measuring, Source, scores_of, told


def run(data: Path, out: Path, measuring: Measuring, scores: list[Source]) -> None:
    """Tab. 1: TE-NAS, T-CET, AZ-NAS and LIBRA, and LIBRA on networks that it was not fitted to.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        scores: LIBRA chooses from proxies measured here, or from those of the published tables, or one after the other.
    """
    paper = published("tab1").T
    for source in scores:
        found, notes = {}, []
        measured = scores_of(source, data, out, measuring)
        for one in measured:
            whole, chosen = fitted(one)
            found[one.task.key] = {**aggregated(one), **whole, **held_out(one)}
            notes += [f"{one.task.key}: {name} is {', '.join(members)}" for name, members in chosen.items()]
        both = side_by_side(pd.DataFrame(found), paper.T)
        title = f"Tab. 1, proxies {'measured here' if source == 'measured' else 'as published'}"
        report(out, f"tab1_{source}", title, both, bars(both), [*notes, *told(measured)])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
