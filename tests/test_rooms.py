"""The rule of the rooms: hooks emit arrays, statistics gather them, formulas turn them into numbers."""

import ast
from pathlib import Path

import pytest

import lswag_hooks

PACKAGE = Path(lswag_hooks.__file__).parent
ABOVE = {
    "hooks": {"errors", "devices", "rng", "hooks"},
    "stats": {"devices", "stats"},
    "functional": {"errors", "devices", "stats", "functional"},
}


def imported(path):
    """Everything that a file imports, as a dotted path."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_looks_up_and_not_down(room):
    for path in (PACKAGE / room).rglob("*.py"):
        below = {
            name for name in imported(path) if name.startswith("lswag_hooks.") and name.split(".")[1] not in ABOVE[room]
        }
        assert not below, path


@pytest.mark.parametrize("room", ["stats", "functional"])
def test_statistics_and_formulas_know_no_module(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert not any(name == "torch.nn" or name.startswith("torch.nn.modules") for name in imported(path)), path
