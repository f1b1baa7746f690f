"""Errors that say what to do, and near matches for mistyped names."""

import difflib
from collections.abc import Iterable


class LSWAGError(Exception):
    """Base class of every error that this package raises on purpose."""


class InputError(LSWAGError, ValueError):
    """An argument makes no sense: the message names the value and says what to do instead."""


class UnsupportedError(LSWAGError, NotImplementedError):
    """A sensible request that this package cannot serve: the message says why."""


def told(error: BaseException) -> str:
    r"""What an error says, in one line; for one that is not this package's own, with its type.

    Example:
        >>> told(InputError("seeds=0:\n give one")), told(OSError("disk full")), told(MemoryError())
        ('seeds=0: give one', 'OSError: disk full', 'MemoryError')
    """
    said = " ".join(str(error).split())[:300]
    if isinstance(error, LSWAGError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def decided(error: BaseException) -> bool:
    """Whether an error is this package's own word on what it was given, so that trying again would say the same.

    One that only puts another error into words (want of memory, a mistake in somebody's code) is not.

    Example:
        >>> decided(InputError("no layer")), decided(MemoryError())
        (True, False)
    """
    return isinstance(error, LSWAGError) and error.__cause__ is None


def near_matches(name: str, choices: Iterable[str]) -> str:
    """Suggest what a mistyped name may have meant.

    Args:
        name: The name that was not found.
        choices: The names that exist.

    Returns:
        A sentence to append to an error message, with up to three suggestions, best first; empty if nothing is near.

    Example:
        >>> near_matches("zicco", ["lswag", "zico", "swap"])
        " Did you mean 'zico'?"
        >>> near_matches("quite different", ["lswag", "zico"])
        ''
    """
    wanted = name.casefold()
    by_key = {choice.casefold(): choice for choice in choices}
    if wanted in by_key:
        near = [wanted]
    else:
        # a beginning is often all that a person remembers, and too short for the likeness that difflib asks for
        begun = [key for key in by_key if len(wanted) > 2 and key.startswith(wanted)]
        near = list(dict.fromkeys([*difflib.get_close_matches(wanted, by_key, n=3, cutoff=0.6), *begun]))[:3]
    found = [f"'{by_key[key]}'" for key in near]
    if not found:
        return ""
    listed = " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    return f" Did you mean {listed}?"
