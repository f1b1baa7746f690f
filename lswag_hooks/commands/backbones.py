"""``lswag backbones``: rank networks as backbones of a detector."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import add_common, check_paths, load_batch, numbers, write
from lswag_hooks.detection.coco import SCALE
from lswag_hooks.ranking import rank
from lswag_hooks.report.table import console, ranking_table


def add_backbones(parser: ArgumentParser) -> None:
    """Add the options of ``lswag backbones``."""
    parser.add_argument("models", nargs="+", metavar="BACKBONE", help="what to rank")
    add_common(parser, "3,800,1333, and pictures keep their aspect ratio")
    parser.set_defaults(data="shapes", samples=8)
    parser.add_argument(
        "--seeds", type=numbers, default=1, metavar="N", help="how many draws of the weights, or which: 0,5,7"
    )


def run_backbones(options: Namespace) -> int:
    """Rank several backbones and show their order."""
    check_paths(options)
    batch, shared = load_batch(options, (3, min(SCALE), max(SCALE)))
    ranking = rank(options.models, batch, options.proxies, options.seeds, role="backbone", **shared)
    write(options, ranking.to_dict(), ranking)
    if options.json != "-":
        show = console().print
        show(f"{len(batch)} pictures of {batch.name}, seed {', '.join(map(str, ranking.seeds))}, with a pyramid")
        if ranking.top():
            show(ranking_table(ranking))
        for remark in ranking.remarks():
            show(remark)
    if ranking.interrupted:
        return 130
    return 0 if ranking.top() else 1
