"""Evolution with the settings of AutoFormer, and NSGA-II where a score stands against costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lswag_hooks.errors import InputError
from lswag_hooks.search.pareto import best_first
from lswag_hooks.search.problem import Problem, check_budget
from lswag_hooks.search.random import Proposal, drawn

if TYPE_CHECKING:
    from lswag_hooks.search.loop import Seen


# Optuna's samplers know trials and parameters, but not how a space mutates and crosses its architectures, or that a
# candidate must keep limits before it is one; and a merged score changes for all candidates whenever one is added,
# which a trial's value cannot. So the published loop is written out here, and Optuna is given all trials afterwards
# (SearchResult.study) and does the asking where its samplers are what is wanted (OptunaSearch).
@dataclass(frozen=True)
class Evolution:
    """The evolution of AutoFormer (Chen et al., ICCV 2021), by default with its settings.

    It begins with random candidates. Each generation takes the best so far as parents, of whatever generation they
    are; mutates them, crosses them, and is filled up with random candidates. No architecture is scored twice.

    With several objectives parents are chosen by NSGA-II (Deb et al., 2002) among as many as the population: front by
    front, the least crowded first, by binary tournaments.

    Args:
        population: candidates of a generation.
        mutations: how many of them are mutations of a parent.
        crossovers: how many are crossed from two.
        parents: how many of the best so far these have as parents; with several objectives it is the population.
        tries: attempts for each mutation and crossover, on average, to be new and within the limits.
    """

    name: ClassVar[str] = "evolution"
    population: int = 50
    mutations: int = 25
    crossovers: int = 25
    parents: int = 10
    tries: int = 10

    def __post_init__(self) -> None:
        check_budget(population=self.population, parents=self.parents, tries=self.tries)
        if min(self.mutations, self.crossovers) < 0 or self.mutations + self.crossovers > self.population:
            raise InputError(
                f"mutations={self.mutations} and crossovers={self.crossovers}: give numbers that together are at most "
                f"the population, {self.population}."
            )

    def propose(self, problem: Problem, seen: Seen, rng: np.random.Generator) -> list[Proposal]:
        """The next generation; fewer, or none, where no further candidates were found."""
        known = set(seen.architectures)
        values = seen.values()
        several = values.shape[1] > 1
        parents = [seen.architectures[row] for row in best_first(values, self.population if several else self.parents)]
        proposals: list[Proposal] = []

        def pick() -> str:
            return parents[_tournament(len(parents), rng) if several else int(rng.integers(len(parents)))]

        def add(origin: str, number: int) -> None:
            attempts = {
                "mutation": lambda: problem.space.mutate(pick(), rng),
                "crossover": lambda: problem.space.crossover(pick(), pick(), rng),
            }
            found = problem.fitting(attempts[origin], number, self.tries * number, known)
            proposals.extend(Proposal(architecture, origin) for architecture in found)
            known.update(found)

        if parents:
            add("mutation", self.mutations)
            add("crossover", self.crossovers)
        return proposals + drawn(problem, self.population - len(proposals), known, rng)


def _tournament(number: int, rng: np.random.Generator) -> int:
    """The better of two, of candidates that stand best first."""
    first, second = (int(rng.integers(number)) for _ in range(2))
    return min(first, second)
