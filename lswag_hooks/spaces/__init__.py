"""Search spaces: from an architecture's name to a network. None is in this version yet."""

from typing import Any

_REGISTRY: dict[str, Any] = {}  # name -> space; each space fills in its own line, in its own file


def list_spaces() -> list[str]:
    """Names of all search spaces; none in this version.

    Example:
        >>> list_spaces()
        []
    """
    return list(_REGISTRY)
