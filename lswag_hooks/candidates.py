"""What is to be ranked, each with a name of its own, and the seeds to draw it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from lswag_hooks.errors import InputError
from lswag_hooks.models import Spec, describe
from lswag_hooks.rng import check_seed

Candidates: TypeAlias = Mapping[str, Spec | None] | Iterable[Spec] | Spec


@dataclass(frozen=True)
class Candidate:
    """One of them.

    Attributes:
        name: what it is called, each name once.
        spec: what to build.
        key: the dictionary's key, or the position in the list.
    """

    name: str
    spec: Spec
    key: Any


def listed_candidates(candidates: Candidates) -> list[Candidate]:
    """Name candidates, each name once.

    Args:
        candidates: a dictionary (None: the name is the spec), a list of specs, or a single spec.

    Raises:
        InputError: there is none, or they are something else.

    Example:
        >>> [candidate.name for candidate in listed_candidates([nn.Identity, "timm/resnet18", nn.Identity])]
        ['Identity', 'timm/resnet18', 'Identity (2)']
    """
    if isinstance(candidates, Mapping):
        found = [Candidate(str(key), key if spec is None else spec, key) for key, spec in candidates.items()]
    else:
        one = isinstance(candidates, (str, nn.Module)) or callable(candidates)
        try:
            specs: list[Any] = [candidates] if one else list(candidates)  # type: ignore[arg-type]
        except TypeError:
            raise InputError(
                f"candidates are a {type(candidates).__name__}: give a dictionary of names, or a list of specs."
            ) from None
        found = [Candidate(describe(spec), spec, position) for position, spec in enumerate(specs)]
    if not found:
        raise InputError("there are no candidates: give at least one.")
    names: set[str] = set()
    for position, candidate in enumerate(found):
        name, number = candidate.name, 1
        while name in names:
            number += 1
            name = f"{candidate.name} ({number})"
        names.add(name)
        found[position] = Candidate(name, candidate.spec, candidate.key)
    return found


def drawn_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Read seeds given as a number of draws or as a list.

    Raises:
        InputError: there is none, one is given twice, or one is no whole number from 0 to 2**32 - 1.

    Example:
        >>> drawn_seeds(3), drawn_seeds([5, 1])
        ([0, 1, 2], [5, 1])
    """
    number = isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0
    if not number and not isinstance(seeds, (list, tuple, range)):
        raise InputError(f"seeds={seeds!r}: give how many draws of the weights (1 or more), or a list of seeds.")
    drawn = [check_seed(seed) for seed in (range(seeds) if isinstance(seeds, int) else seeds)]
    if not drawn or len(set(drawn)) < len(drawn):
        raise InputError(f"seeds={seeds!r}: give one seed or more, each once.")
    return drawn
