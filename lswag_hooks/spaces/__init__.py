"""Search spaces: from an architecture's name to a network, and from choices to an architecture."""

from __future__ import annotations

import importlib

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.spaces.base import Space
from lswag_hooks.spaces.counting import Cost, count

__all__ = ["Cost", "Space", "count", "get_space", "list_spaces"]

_SPACES = {  # name -> module and class; a space is imported only where it is asked for
    "nasbench101": "nasbench101:NASBench101",
    "nasbench201": "nasbench201:NASBench201",
    "darts": "darts:DARTS",
    "transnasbench_micro": "transnasbench:TransNASBenchMicro",
    "transnasbench_macro": "transnasbench:TransNASBenchMacro",
    "autoformer_tiny": "autoformer:AutoFormerTiny",
    "autoformer_small": "autoformer:AutoFormerSmall",
    "autoformer_base": "autoformer:AutoFormerBase",
    "burgerformer": "burgerformer:BurgerFormer",
}


def list_spaces() -> list[str]:
    """Names of all search spaces.

    Example:
        >>> "nasbench201" in list_spaces()
        True
    """
    return list(_SPACES)


def get_space(name: str) -> Space:
    """A search space by its name; ``-`` and ``_`` are the same.

    Raises:
        InputError: there is none of that name.

    Example:
        >>> space = get_space("nasbench201")
        >>> net = space.build(space.sample(rng=0), num_classes=10)
    """
    known = name.lower().replace("-", "_")
    if known not in _SPACES:
        near, names = near_matches(name, _SPACES), ", ".join(_SPACES)
        raise InputError(f"no search space is called {name!r}.{near} There are: {names}.")
    module, _, cls = _SPACES[known].partition(":")
    space: Space = getattr(importlib.import_module(f"lswag_hooks.spaces.{module}"), cls)()
    return space
