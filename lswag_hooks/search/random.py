"""Random search: the baseline of every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from lswag_hooks.search.problem import Problem, check_budget

if TYPE_CHECKING:
    from lswag_hooks.search.loop import Seen


class Proposal(NamedTuple):
    """An architecture to be scored, and how it came about: ``random``, ``mutation`` or ``crossover``."""

    architecture: str
    origin: str


@dataclass(frozen=True)
class RandomSearch:
    """Candidates drawn at random, each once: what every other search must beat.

    Its first ones are those with which :class:`Evolution` of the same seed and population begins.

    Args:
        population: how many are drawn at a time, which changes nothing but what is known when.
    """

    name: ClassVar[str] = "random"
    population: int = 50

    def __post_init__(self) -> None:
        check_budget(population=self.population)

    def propose(self, problem: Problem, seen: Seen, rng: np.random.Generator) -> list[Proposal]:
        """The next candidates; fewer, or none, where no further ones were found."""
        return drawn(problem, self.population, set(seen.architectures), rng)


def drawn(problem: Problem, number: int, known: set[str], rng: np.random.Generator) -> list[Proposal]:
    """New random candidates; ``known`` grows by them."""
    found: list[Proposal] = []
    while len(found) < number and (architecture := problem.draw(rng, known)) is not None:
        known.add(architecture)
        found.append(Proposal(architecture, "random"))
    return found
