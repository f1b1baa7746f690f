"""``lswag backbones``: rank networks as backbones of a detector."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import add_common, check_paths, load_batch, numbers, show_ranking, size_of
from lswag_hooks.detection.coco import SCALE
from lswag_hooks.ranking import rank


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
    seeds_used = ", ".join(map(str, ranking.seeds))
    heading = f"{len(batch)} pictures of {batch.name}, {size_of(batch)}, seed {seeds_used}, with a pyramid"
    return show_ranking(options, ranking, heading)
