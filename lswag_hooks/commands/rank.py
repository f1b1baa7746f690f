"""``lswag rank``: score several models and put them in order."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import add_common, add_place, by, check_paths, load_batch, numbers, show_ranking
from lswag_hooks.ranking import images_of, rank


def add_rank(parser: ArgumentParser) -> None:
    """Add the options of ``lswag rank``."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="what to rank")
    add_common(parser, "3,224,224")
    parser.add_argument(
        "--seeds", type=numbers, default=1, metavar="N", help="how many draws of the weights, or which: 0,5,7"
    )
    add_place(parser)


def run_rank(options: Namespace) -> int:
    """Score several models and show their order."""
    check_paths(options)
    batch, shared = load_batch(options, None)
    ranking = rank(
        options.models,
        batch,
        options.proxies,
        options.seeds,
        num_classes=options.num_classes,
        store=options.store,
        engine=options.engine,
        workers=options.workers,
        address=options.address,
        **shared,
    )
    seeds_used = ", ".join(map(str, ranking.seeds))
    heading = f"{len(batch)} samples of {batch.name}, {by(images_of(batch))}, seed {seeds_used}"
    return show_ranking(options, ranking, heading)
