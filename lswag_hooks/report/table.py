"""Tables for a terminal, readable at 80 columns and in a pipe."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from lswag_hooks.profile import LayerProfile
from lswag_hooks.standings import Ranking
from lswag_hooks.wording import quantity


def console() -> Console:
    """Write to stdout, as it is: names may hold brackets, and numbers need no colours."""
    return Console(markup=False, highlight=False, emoji=False)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Table:
    """Lay out texts; columns in ``right`` hold numbers and are never broken, the others are where they must be.

    Example:
        >>> console().print(table(["name", "score"], [["a", "1"], ["b", "20"]], right={1}))
        name  score
        a         1
        b        20
    """
    natural = sum(max(map(len, column)) + 2 for column in zip(headers, *rows, strict=True)) - 2
    made = Table(box=None, pad_edge=False, padding=(0, 2 if natural <= console().width else 1, 0, 0))
    for index, title in enumerate(headers):
        longest = max(map(len, [title, *(row[index] for row in rows)]))
        made.add_column(
            title,
            justify="right" if index in right else "left",
            no_wrap=index in right,
            overflow="fold",
            min_width=longest if index in right else min(longest, 10),
        )
    for row in rows:
        made.add_row(*row)
    return made


def ranking_table(ranking: Ranking) -> Table:
    """Show the candidates that have a score, best first."""
    headers, cells = ranking.cells()
    return table(headers, cells, right=set(range(len(headers))) - {1})


def profile_table(profile: LayerProfile) -> Table:
    """Show weight layers, then activation layers, each in call order."""
    headers, rows = profile_cells(profile)
    return table(headers, rows, right=set(range(2, len(headers))))


def profile_cells(profile: LayerProfile) -> tuple[list[str], list[list[str]]]:
    """Headers and texts of the table of layers."""
    headers = ["layer", "kind", "tenth", "size", "trainability", "deviation", "patterns"]
    rows = [
        [
            weight.name,
            weight.kind,
            str(weight.percentile),
            quantity(weight.size),
            _number(weight.trainability),
            _number(weight.mean_deviation),
            "",
        ]
        for weight in profile.weights
    ]
    rows += [
        [
            unit.name or "-",
            unit.function,
            str(unit.percentile),
            quantity(unit.units),
            "",
            "",
            _number(unit.expressivity),
        ]
        for unit in profile.activations
    ]
    return headers, rows


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Lay out texts as a table in Markdown.

    Example:
        >>> print(markdown(["name", "score"], [["a|b", "1"]]))
        | name | score |
        | --- | --- |
        | a\|b | 1 |
    """
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return quantity(math.nan if value is None else value)
