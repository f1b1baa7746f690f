"""Fig. 7: Spearman of every proxy on whole search spaces: ``python -m recipes.paper.fig7 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipes.common import finish
from recipes.paper import fig3
from recipes.paper.common import command
from recipes.paper.tasks import Measuring, Source


def run(data: Path, out: Path, measuring: Measuring, scores: list[Source]) -> None:
    """Fig. 7: as Fig. 3, over all architectures that a table has.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        scores: proxies measured here, or those of the published tables, or one after the other.
    """
    fig3.draw(data, out, measuring, scores, "fig7", None)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
