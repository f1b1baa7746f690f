"""Where candidates are scored: in this process, in worker processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from lswag_hooks.engines.local import Failure, run
from lswag_hooks.errors import InputError, near_matches

__all__ = ["ENGINES", "Failure", "check_engine", "run", "runner"]

ENGINES = {"local": "lswag_hooks.engines.local", "ray": "lswag_hooks.engines.ray"}


def check_engine(engine: str, workers: int, address: str | None = None) -> None:
    """Refuse an engine that there is not, and options that are not its own.

    Raises:
        InputError: says what there is.
    """
    if engine not in ENGINES:
        raise InputError(f"engine={engine!r}:{near_matches(str(engine), ENGINES)} there are {', '.join(ENGINES)}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers={workers}: give one or more.")
    if address is not None and engine != "ray":
        raise InputError(f"address={address!r} is of a Ray cluster: use it with engine='ray'.")


def runner(engine: str) -> Callable[..., Any]:
    """The ``run`` of an engine; what it needs is imported only now."""
    found: Callable[..., Any] = importlib.import_module(ENGINES[engine]).run
    return found
