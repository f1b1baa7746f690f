"""Optuna: its samplers as an algorithm, by ask and tell, and a search as a study."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lswag_hooks.errors import InputError
from lswag_hooks.search.problem import Problem, check_budget
from lswag_hooks.search.random import Proposal, drawn

if TYPE_CHECKING:
    import optuna

    from lswag_hooks.search.loop import Seen

ASKED = 20  # trials for each candidate, on average, before the rest of a generation is drawn at random


@dataclass
class OptunaSearch:
    """Candidates that an Optuna sampler suggests: it is asked for a generation, then told what its candidates scored.

    What it suggests beyond the limits, twice, or what cannot work is told as failed and asked for again. A merged
    score is told as it is among the candidates seen at that moment, and not corrected later.

    Args:
        sampler: seeded, if results are to be the same again; None: ``NSGAIISampler`` with several objectives, else
            ``TPESampler``, both seeded by the search.
        population: how many are asked for at a time.

    Raises:
        InputError: Optuna is not installed.
    """

    name: ClassVar[str] = "optuna"
    sampler: optuna.samplers.BaseSampler | None = None
    population: int = 50
    _study: Any = field(default=None, init=False, repr=False)
    _asked: list[Any] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        check_budget(population=self.population)
        _optuna()

    def propose(self, problem: Problem, seen: Seen, rng: np.random.Generator) -> list[Proposal]:
        """Tell what the last candidates scored, and ask for the next."""
        optuna = _optuna()
        if not len(seen):
            self._study, self._asked = self._begin(seen, int(rng.integers(2**31))), []
        self._tell(seen)
        known = set(seen.architectures)
        found: list[Proposal] = []
        for _ in range(ASKED * self.population):
            if len(found) == self.population:
                break
            trial = self._study.ask()
            with contextlib.suppress(optuna.TrialPruned):
                architecture = problem.space.as_optuna(trial)
                if architecture not in known and problem.keeps(architecture):
                    known.add(architecture)
                    found.append(Proposal(architecture, "suggestion"))
                    self._asked.append((architecture, trial))
                    continue
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return found + drawn(problem, self.population - len(found), known, rng)

    def _begin(self, seen: Seen, seed: int) -> optuna.Study:
        optuna = _optuna()
        names = seen.objective.names
        sampler = self.sampler
        if sampler is None and len(names) > 1:
            sampler = optuna.samplers.NSGAIISampler(population_size=self.population, seed=seed)
        elif sampler is None:
            sampler = optuna.samplers.TPESampler(seed=seed)
        return new_study(names, sampler)

    def _tell(self, seen: Seen) -> None:
        rows = {name: row for row, name in enumerate(seen.architectures)}
        values = seen.values()
        for architecture, trial in self._asked:
            row = values[rows[architecture]] if architecture in rows else np.array([np.nan])
            if np.isfinite(row).all():
                self._study.tell(trial, [float(row[0]), *(-float(cost) for cost in row[1:])])
            else:
                self._study.tell(trial, state=_optuna().trial.TrialState.FAIL)
        self._asked = []


def study_of(seen: Seen, values: np.ndarray) -> optuna.Study:
    """All candidates as trials: their choices as parameters, their objectives as values."""
    optuna = _optuna()
    study = new_study(seen.objective.names)
    for row, architecture in enumerate(seen.architectures):
        params, distributions = _choices(seen, architecture)
        finished = bool(np.isfinite(values[row]).all())
        state = optuna.trial.TrialState.COMPLETE if finished else optuna.trial.TrialState.FAIL
        attributes = {
            "architecture": architecture,
            "origin": seen.origins[row],
            "generation": seen.generations[row],
            **{f"score {key}": value for key, value in seen.measured[row].scores.items()},
        }
        told = [float(values[row, 0]), *(-float(cost) for cost in values[row, 1:])] if finished else None
        study.add_trial(
            optuna.create_trial(
                state=state, values=told, params=params, distributions=distributions, user_attrs=attributes
            )
        )
    return study


def new_study(names: Sequence[str], sampler: Any = None) -> optuna.Study:
    """An empty study in memory, the score to be maximised and the others to be minimised."""
    directions = ["maximize", *("minimize" for _ in names[1:])]
    with _quietly():
        study: optuna.Study = _optuna().create_study(sampler=sampler, directions=directions)
        study.set_metric_names(list(names))
    return study


def _choices(seen: Seen, architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    optuna = _optuna()
    genes = seen.problem.space.genes(architecture)
    offered: dict[str, Any] = {}

    def choose(name: str, options: Sequence[Any]) -> Any:
        offered[name] = options
        return genes[name]

    seen.problem.space.compose(choose)
    # a published architecture may have choices that its space never draws
    distributions = {
        name: optuna.distributions.CategoricalDistribution(
            tuple(options) if genes[name] in options else (*options, genes[name])
        )
        for name, options in offered.items()
    }
    return {name: genes[name] for name in offered}, distributions


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("this needs Optuna: pip install optuna.") from None
    return optuna


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's word on stderr for a study that is an instrument here, and its warnings of new functions."""
    import warnings

    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
