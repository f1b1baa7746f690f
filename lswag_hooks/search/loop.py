"""Generation after generation: propose, score, look again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lswag_hooks.errors import InputError
from lswag_hooks.measuring import Measured
from lswag_hooks.search.evaluation import Interrupted
from lswag_hooks.search.problem import Objective, Problem
from lswag_hooks.search.random import Proposal


@dataclass
class Seen:
    """All candidates so far, in the order in which they were proposed.

    Attributes:
        problem: what is searched.
        objective: what makes one better.
        architectures: the candidates.
        origins: how each came about.
        generations: in which, from 0.
        measured: what each scored.
        notes: what to know about the search.
        interrupted: whether Ctrl-C ended it.
        seconds: from the first proposal to the last score.
    """

    problem: Problem
    objective: Objective
    architectures: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.architectures)

    def values(self) -> np.ndarray:
        """All objectives of all candidates, higher is better, shape (candidates, objectives)."""
        return self.objective.values(self.measured, map(self.problem.cost, self.costly()))

    def costly(self) -> Sequence[str]:
        """The candidates whose costs are an objective: all or none."""
        return self.architectures if len(self.objective.names) > 1 else ()

    def add(self, proposals: Sequence[Proposal], measured: Sequence[Measured], generation: int) -> None:
        """Take the next candidates in."""
        for proposal, one in zip(proposals, measured, strict=True):
            self.architectures.append(proposal.architecture)
            self.origins.append(proposal.origin)
            self.generations.append(generation)
            self.measured.append(one)


class Algorithm(Protocol):
    """What proposes the next candidates from all that were seen."""

    @property
    def name(self) -> str:
        """What it is called."""

    def propose(self, problem: Problem, seen: Seen, rng: np.random.Generator) -> list[Proposal]:
        """The next candidates, each new and within the limits; none where there are none."""


def run_generations(
    problem: Problem,
    objective: Objective,
    algorithm: Algorithm,
    evaluate: Callable[[Sequence[str]], Sequence[Measured]],
    evaluations: int,
    seed: int = 0,
) -> Seen:
    """Search until so many candidates are scored.

    A generation is proposed before any of it is scored, from a random state of its own: what is found depends on the
    seed and the scores alone, not on how many workers there are, who was first, or whether it was broken off between.

    Args:
        problem: what is searched.
        objective: what makes a candidate better.
        algorithm: what proposes candidates.
        evaluate: scores architectures, in their order.
        evaluations: how many candidates.
        seed: of the proposals.

    Raises:
        InputError: nothing of the first generation could be scored; the rest could not be, either.
    """
    seen = Seen(problem, objective)
    start, generation = time.perf_counter(), 0
    while len(seen) < evaluations:
        rng = np.random.default_rng([seed, generation])
        proposals = algorithm.propose(problem, seen, rng)[: evaluations - len(seen)]
        if not proposals:
            seen.notes.append(
                f"ended after {len(seen)} of {evaluations} evaluations: no further architecture was found"
                + (f" with {problem.limits.told()}" if problem.limits.told() else "")
            )
            break
        try:
            measured = evaluate([proposal.architecture for proposal in proposals])
        except Interrupted as stop:
            finished = [proposal for proposal in proposals if proposal.architecture in stop.measured]
            seen.add(finished, [stop.measured[one.architecture] for one in finished], generation)
            seen.interrupted = True
            break
        seen.add(proposals, measured, generation)
        lost = not np.isfinite(objective.fitness(measured)).any() and not any(one.ruled_out for one in measured)
        if generation == 0 and lost:
            reasons = Counter(reason for one in measured for reason in one.reasons.values())
            said = "; ".join(reason for reason, _ in reasons.most_common(3)) or "not every proxy has a value"
            raise InputError(f"none of the first {len(seen)} architectures could be scored: {said}")
        generation += 1
    seen.seconds = time.perf_counter() - start
    return seen
