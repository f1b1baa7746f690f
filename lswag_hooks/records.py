"""What a store keeps: a finished score, and the key that says what it is a score of."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lswag_hooks.errors import InputError


def score_version() -> str:
    """The part of this package's version that scores depend on: scores of another one are not reused.

    Example:
        >>> score_version()
        '0.1'
    """
    from lswag_hooks import __version__

    return ".".join(__version__.split(".")[:2])


def canonical(settings: Mapping[str, Any]) -> str:
    """Settings as JSON text that is the same for equal settings, whatever their order.

    Raises:
        InputError: a value is no plain data, so that its text would not be the same in another process.

    Example:
        >>> canonical({"b": (1, 2), "a": None})
        '{"a":null,"b":[1,2]}'
    """

    def refuse(value: Any) -> Any:
        raise InputError(f"{value!r} in {dict(settings)!r} cannot be part of a key: give numbers, texts or lists.")

    return json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=refuse)


@dataclass(frozen=True)
class Key:
    """What a score is a score of.

    Attributes:
        candidate: the architecture, or the candidate's name.
        proxy: the proxy with its settings, from :func:`canonical`.
        seed: of the weights.
        batch: the batch's fingerprint.
        space: name of the search space; empty for candidates of none.
        conditions: whatever else the value depends on, from :func:`canonical`: mode, init, loss or task, image size,
            number of classes.
        version: from :func:`score_version`.
    """

    candidate: str
    proxy: str
    seed: int
    batch: str
    space: str = ""
    conditions: str = "{}"
    version: str = field(default_factory=score_version)


@dataclass(frozen=True)
class Record:
    """A finished score.

    Attributes:
        key: what it is a score of.
        value: the score; NaN where it cannot be had.
        reason: why not.
        seconds: what it took.
        params: the candidate's number of parameters.
        flops: its multiply-accumulates.
        created: seconds since 1970.
    """

    key: Key
    value: float
    reason: str | None = None
    seconds: float | None = None
    params: int | None = None
    flops: int | None = None
    created: float = field(default_factory=time.time)


@dataclass(frozen=True)
class FailedAttempt:
    """Why something was not scored, the last time that it was tried.

    Attributes:
        key: what was asked for.
        reason: why there is no score.
        decided: whether that is this package's own word, which another attempt would not change. Whatever else was
            raised (want of memory, a missing package, a mistake in somebody's code) is tried again.
        created: seconds since 1970.
    """

    key: Key
    reason: str
    decided: bool = False
    created: float = field(default_factory=time.time)
