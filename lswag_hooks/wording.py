"""Numbers and lists in few characters, and what JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

LISTED = 4  # names in one note


def jsonable(value: Any) -> Any:
    """Plain dicts with text keys, lists, and None for NaN and infinities, which JSON does not have.

    Example:
        >>> jsonable({0: (1, float("nan"))})
        {'0': [1, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or type(value) in (bool, int, str) else str(value)


def quantity(value: float) -> str:
    """Write a number in a few characters.

    Example:
        >>> quantity(11181642.0), quantity(0.01234), quantity(float("nan"))
        ('11.2M', '0.0123', '-')
    """
    if not math.isfinite(value):
        return "-"
    value = float(f"{value:.3g}")  # rounded first: 999.6 is 1.00k
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if 1 <= abs(value) / 10**power < 1000:
            scaled = value / 10**power
            return f"{scaled:.{2 - math.floor(math.log10(abs(scaled)))}f}{unit}"
    return f"{value:.3g}"


def named(names: Iterable[str]) -> str:
    """List names, the first few of many.

    Example:
        >>> named("abcdef")
        'a, b, c, d and 2 more'
    """
    given = list(names)
    return ", ".join(given[:LISTED]) + (f" and {len(given) - LISTED} more" if len(given) > LISTED else "")
