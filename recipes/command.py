"""What a recipe's command line shares with the others, whatever trains it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lswag_hooks.errors import InputError, LSWAGError
from lswag_hooks.search import SearchResult


def check_out_file(out: str) -> None:
    """Refuse a file that could not be written after the work.

    Raises:
        InputError: there is no folder for it.
    """
    if not Path(out).expanduser().absolute().parent.is_dir():
        raise InputError(f"out={out}: there is no folder {Path(out).parent}; make it first.")


def keep_search(found: SearchResult, out: str) -> SearchResult:
    """Write the best architectures as YAML, which the other commands read, and say how it went."""
    found.to_yaml(Path(out).expanduser())
    for remark in found.remarks():
        print(remark)
    print(f"best: {found.best}")
    return found


def finish(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a command; what is wrong with its input is told without a traceback.

    Exits with the command's status, 2 for wrong input, 130 after Ctrl-C.
    """
    try:
        status = main(None)
    except LSWAGError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)
