"""``lswag trust``: what a ranking of some candidates is worth."""

from __future__ import annotations

import math

from jsonargparse import ArgumentParser, Namespace

from lswag_hooks.commands.common import SIZE, add_data, add_output, check_paths, piped, sized_batch, write
from lswag_hooks.ranking import rank
from lswag_hooks.report.table import console, table
from lswag_hooks.trust import SIZES, trust


def add_trust(parser: ArgumentParser) -> None:
    """Add the options of ``lswag trust``."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the candidates")
    add_data(parser, "3,224,224")
    parser.add_argument("--num-classes", "--num_classes", type=int, metavar="N", help="by default those of the data")
    add_output(parser)
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")


def run_trust(options: Namespace) -> int:
    """Say which benchmark the candidates resemble, and what to expect."""
    check_paths(options)
    ranking = rank(options.models, sized_batch(options, SIZE), list(SIZES), num_classes=options.num_classes)
    found = trust(ranking)
    frame = found.to_pandas()
    write(options, found.to_dict(), frame)
    if not piped(options):
        rows = [
            [one.proxy, f"{one.expected:.2f}", f"{one.low:.2f} to {one.high:.2f}", _signed(one.given_size)]
            for one in frame.itertuples()
        ]
        show = console().print
        show(table(["proxy", "Spearman", f"with {found.candidates} candidates", "given size"], rows, right={1, 3}))
        for remark in found.remarks():
            show(remark)
    return 130 if ranking.interrupted else 0


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"
