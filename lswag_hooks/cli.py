"""The command line, ``lswag``."""

from __future__ import annotations

import os
import re
import sys
from argparse import Action
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from lswag_hooks.commands.backbones import add_backbones, run_backbones
from lswag_hooks.commands.common import add_output
from lswag_hooks.commands.correlate import add_correlate, run_correlate
from lswag_hooks.commands.libra import add_libra, run_libra
from lswag_hooks.commands.lists import run_proxies, run_spaces
from lswag_hooks.commands.profile import add_profile, run_profile
from lswag_hooks.commands.rank import add_rank, run_rank
from lswag_hooks.commands.report import add_report, run_report
from lswag_hooks.commands.score import add_score, run_score
from lswag_hooks.commands.search import add_search, run_search
from lswag_hooks.commands.trust import add_trust, run_trust
from lswag_hooks.errors import InputError, LSWAGError

EPILOGUE = (
    "A MODEL is timm/NAME, torchvision/NAME, SPACE/ARCHITECTURE (see `lswag spaces`), or the path of a function that "
    "returns one: module:function; for score also the path of a config of MMDetection, FILE.py."
)
BACKBONES = (
    "A BACKBONE is timm/NAME, burgerformer/ARCHITECTURE, the path of a config of MMDetection, or the path of a "
    "function that returns a network with feature maps: module:function."
)


class Command(NamedTuple):
    """A command of the command line: what it is for, its options, and what it does."""

    summary: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    epilogue: str | None = None


COMMANDS = {
    "score": Command("score one model", add_score, run_score, EPILOGUE),
    "rank": Command("score several models and put them in order", add_rank, run_rank, EPILOGUE),
    "backbones": Command("rank backbones of a detector", add_backbones, run_backbones, BACKBONES),
    "correlate": Command("compare proxies with known accuracies of a benchmark", add_correlate, run_correlate),
    "profile": Command("show where along the depth of a space's networks gradients spike", add_profile, run_profile),
    "libra": Command("choose proxies by known accuracies and merge them", add_libra, run_libra),
    "search": Command("search a space for the best architectures", add_search, run_search),
    "trust": Command("say what a ranking of some models is worth", add_trust, run_trust, EPILOGUE),
    "report": Command("make a page of HTML of a store", add_report, run_report),
    "proxies": Command("list the proxies", add_output, run_proxies),
    "spaces": Command("list the search spaces", add_output, run_spaces),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows ``lswag``; by default what the shell gave.

    Returns:
        The exit status: 0; 1 if no model could be ranked; 2 for bad input, told in one line on stderr; 130 after
        Ctrl-C.

    Example:
        >>> main(["spaces", "--csv", os.devnull, "--json", os.devnull])  # doctest: +ELLIPSIS
        name ...
        0
    """
    try:
        options = _parser().parse_args(None if arguments is None else list(arguments))
        return COMMANDS[options.subcommand].run(options[options.subcommand])
    except (LSWAGError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `lswag proxies | head`: whoever read has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print("lswag:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lswag: interrupted", file=sys.stderr)
        return 130


class _Help(DefaultHelpFormatter):
    def _get_type_str(self, action: Action) -> str | None:
        # the name of a function that reads an option, not its address
        return str(getattr(action.type, "__name__", "")) or super()._get_type_str(action)


class _Parser(ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str, *_: Any) -> NoReturn:
        message = re.sub(r"\b(score|rank|backbones|trust)\.models?\b", "MODEL", message)
        raise InputError(f"{message} (see {self.prog.replace('[options] ', '')} --help)")


def _parser() -> ArgumentParser:
    from lswag_hooks import __version__

    what = "Score and rank networks at initialisation."
    parser = _Parser(prog="lswag", description=what, epilog=EPILOGUE, version=__version__)
    commands = parser.add_subcommands(metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = command.summary
        one = _Parser(description=f"{summary[0].upper()}{summary[1:]}.", epilog=command.epilogue)
        commands.add_subcommand(name, one, help=summary)
        command.add(one)  # after it: a command may have commands of its own
    return parser
