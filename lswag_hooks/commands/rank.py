"""``lswag rank``: score several models and put them in order."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import add_common, add_place, by, check_paths, load_batch, numbers, write
from lswag_hooks.ranking import images_of, rank
from lswag_hooks.report.table import console, ranking_table


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
    write(options, ranking.to_dict(), ranking)
    if options.json != "-":
        show = console().print
        seeds_used = ", ".join(map(str, ranking.seeds))
        show(f"{len(batch)} samples of {batch.name}, {by(images_of(batch))}, seed {seeds_used}")
        if ranking.top():
            show(ranking_table(ranking))
        for remark in ranking.remarks():
            show(remark)
    if ranking.interrupted:
        return 130
    return 0 if ranking.top() else 1
