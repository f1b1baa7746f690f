"""The rows of DARTS in Tab. 2 of the paper, and those measured: ``python -m recipes.darts.table FILE ...``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.darts import GENOTYPES
from recipes.common import finish

DAY = 86_400
NAMES = {"lswag": "L-SWAG"}


class Row(NamedTuple):
    """One line: a method, and what it found."""

    method: str
    approach: str
    params: str
    days: str
    error: str
    source: str


def paper(method: str, approach: str, params: str, days: str, error: str) -> Row:
    """A line of the paper."""
    return Row(method, approach, params, days, error, "paper")


PAPER = {  # Casarin et al., CVPR 2025, Tab. 2; it writes SWAG for its own
    "CIFAR10": [
        paper("PC-DARTS", "gradient", "3.6", "0.1", "2.57"),
        paper("AmoebaNet-A", "evolution", "3.2", "3150", "3.34"),
        paper("ENAS", "RL", "4.6", "0.5", "2.89"),
        paper("SynFlow", "TF", "5.08", "0.11", "7.85"),
        paper("AZ-NAS", "TF", "4.1", "0.4", "2.55"),
        paper("L-SWAG", "TF", "3.6", "0.01", "2.47"),
        paper("LIBRA", "TF", "3.1", "0.08", "2.45"),
    ],
    "ImageNet": [
        paper("PC-DARTS", "gradient", "5.3", "3.8", "24.2"),
        paper("AmoebaNet-C", "evolution", "6.4", "3150", "24.3"),
        paper("NASNet-A", "RL", "5.3", "2000", "26.0"),
        paper("SynFlow", "TF", "6.3", "0.5", "30.1"),
        paper("AZ-NAS", "TF", "6.2", "0.7", "23.6"),
        paper("L-SWAG", "TF", "5.8", "0.11", "23.4"),
        paper("LIBRA", "TF", "5.7", "0.3", "23.1"),
    ],
}


def measured(result: dict[str, Any], searches: Sequence[dict[str, Any]]) -> Row:
    """The line of a result, with the search that found its genotype, where there is one."""
    found = next((one for one in searches if one["genotype"] == result["genotype"]), None)
    published = next((name for name, genotype in GENOTYPES.items() if genotype == result["genotype"]), "-")
    source = f"measured, {result['epochs']} epochs, {result['channels']} channels, {result['layers']} cells"
    source += ", MADE-UP IMAGES" if result["fake"] else ""
    if found is None:
        method, approach, days = published, "-", "-"
    else:
        method = NAMES.get(found["method"], found["method"])
        approach = found["approach"]
        least = "≥ " if found["reused"] else ""  # what was scored before an interruption is not in it
        days = f"{least}{found['seconds'] / DAY:.2g}" + ("" if found["device"] == "cuda" else f" ({found['device']})")
    return Row(method, approach, f"{result['params'] / 1e6:.2f}", days, f"{result['error']:.2f}", source)


def filled(files: Sequence[str]) -> str:
    """The table as Markdown, a block for each data set.

    Args:
        files: ``result.json`` of evaluate, ``search.json`` of search, in any order.

    Raises:
        InputError: a file is none of these.
    """
    read = [_read(file) for file in files]
    searches = [one for one in read if one["kind"] == "search"]
    results = [one for one in read if one["kind"] == "result"]
    others = dict.fromkeys(one["data"] for one in results if one["data"] not in PAPER)
    headers = ("Method", "Approach", "Params (M)", "Search (GPU days)", "Test error (%)", "Source")
    lines = []
    for data in [*PAPER, *others]:
        rows = PAPER.get(data, []) + [measured(one, searches) for one in results if one["data"] == data]
        note = "" if data in PAPER else " (no figure of the paper is comparable)"
        lines += [f"DARTS, {data}{note}", "", _line(headers), _line(["---"] * len(headers)), *map(_line, rows), ""]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Print the table, and write it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.darts.table", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="result.json of evaluate, search.json of search")
    parser.add_argument("--out", help="write the Markdown here, too")
    options = parser.parse_args(args)
    text = filled(options.files)
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _read(file: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
        if found["kind"] in ("search", "result"):
            return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}): give result.json of evaluate or search.json.") from None
    raise InputError(f"{file} is neither result.json of evaluate nor search.json of search.")


if __name__ == "__main__":
    finish(main)
