"""A gate in an Optuna objective: a trial whose network scores low among its predecessors is pruned untrained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lswag_hooks.batch import Batch, as_batch
from lswag_hooks.errors import InputError
from lswag_hooks.models import Spec, build
from lswag_hooks.proxies import Proxy, resolve_proxies
from lswag_hooks.results import ScoreResult
from lswag_hooks.scoring import score

if TYPE_CHECKING:
    import optuna

QUANTILE = 0.5
WARMUP = 10


def check_score(
    trial: optuna.Trial,
    value: float,
    key: str = "lswag",
    quantile: float = QUANTILE,
    warmup: int = WARMUP,
    higher_is_better: bool = True,
) -> None:
    """Store a score in a trial, and prune the trial if the score is low among those of earlier trials.

    Low is worse than the ``quantile`` of the scores of all trials of the study with a smaller number that have one,
    pruned ones included. They are in the study, as ``user_attrs["score lswag"]``, and nowhere else: a study that is
    loaded again goes on where it was, and several workers on one storage share what they know. (A worker does not wait
    for trials that another one has begun and not scored yet: what is pruned then depends on who comes first.)

    Args:
        trial: as Optuna hands it to an objective.
        value: the score, from anywhere.
        key: what it is a score of.
        quantile: which share of candidates to turn away, from 0 (none but those worse than all before) to 1.
        warmup: how many earlier scores there must be before any trial is pruned.
        higher_is_better: whether a low or a high score is bad.

    Raises:
        optuna.TrialPruned: the score is low.
        InputError: an argument makes no sense.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     width = trial.suggest_int("width", 1, 100)
        ...     check_score(trial, value=width, key="width", warmup=2)
        ...     return width
        >>> study = optuna.create_study()
        >>> for width in (10, 20, 14, 16):
        ...     study.enqueue_trial({"width": width})
        >>> study.optimize(objective, n_trials=4)
        >>> [trial.state.name for trial in study.trials]
        ['COMPLETE', 'COMPLETE', 'PRUNED', 'COMPLETE']
    """
    import optuna

    check_gate(quantile, warmup)
    keep_score(trial, value, key)
    earlier = earlier_scores(trial.study, trial.number, key)
    limit = limit_of(earlier, quantile, warmup, higher_is_better)
    if limit is not None and (value < limit if higher_is_better else value > limit):
        raise optuna.TrialPruned(
            f"{key} is {value:.6g}; the {quantile:.0%} worst of {len(earlier)} earlier trials are beyond {limit:.6g}."
        )


def keep_score(trial: optuna.Trial, value: float, key: str) -> None:
    """Store a score in a trial."""
    if isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"the score of trial {trial.number} is {value!r}: give a finite number.")
    trial.set_user_attr(attribute(key), float(value))


def attribute(key: str) -> str:
    """Under which name a score stands among a trial's attributes."""
    return f"score {key}"


def earlier_scores(study: optuna.Study, number: int, key: str) -> list[float]:
    """Scores of the trials before the one of a number."""
    name, trials = attribute(key), study.get_trials(deepcopy=False)
    return [one.user_attrs[name] for one in trials if one.number < number and name in one.user_attrs]


def limit_of(earlier: list[float], quantile: float, warmup: int, higher_is_better: bool) -> float | None:
    """Beyond which score a trial is turned away; None while too few earlier ones are known."""
    if len(earlier) < max(warmup, 1):
        return None
    return float(np.quantile(earlier, quantile if higher_is_better else 1 - quantile))


@dataclass(frozen=True)
class OptunaGate:
    """Scores the network of a trial before it is trained, and prunes the trial if the score is low.

    Call it in the objective, between building a network and training it. The network comes out as it went in. What is
    low is told by :func:`check_score`.

    A gate saves the training of those that it turns away, and loses what it turns away by mistake. Choose a proxy that
    is known to be good in the space at hand, and compare it with ``"params"``, which costs nothing.

    Args:
        batch: what to score on: a :class:`~lswag_hooks.Batch`, or a pair (inputs, targets).
        proxy: name of a proxy, or one with options.
        quantile: share of candidates to turn away.
        warmup: how many trials are scored before any is turned away.
        options: other arguments of :func:`~lswag_hooks.score`: ``loss``, ``seed``, ``init``, ...

    Raises:
        InputError: an argument makes no sense. In a trial: the network cannot be scored; with
            ``study.optimize(..., catch=InputError)`` such a trial fails and the study goes on.

    Example:
        >>> import optuna
        >>> from torch import nn
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> gate = OptunaGate(Batch.builtin("digits", size=(1, 8, 8), samples=16), quantile=0.5, warmup=2)
        >>> def objective(trial):
        ...     width = trial.suggest_int("width", 1, 64)
        ...     layers = nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)
        ...     gate(trial, lambda: nn.Sequential(*layers))
        ...     return 0.9  # train it here
        >>> study = optuna.create_study(direction="maximize")
        >>> for width in (32, 64, 2):
        ...     study.enqueue_trial({"width": width})
        >>> study.optimize(objective, n_trials=3)
        >>> [trial.state.name for trial in study.trials]
        ['COMPLETE', 'COMPLETE', 'PRUNED']
    """

    batch: Batch | tuple[Tensor, Tensor]
    proxy: str | Proxy = "lswag"
    quantile: float = QUANTILE
    warmup: int = WARMUP
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_gate(self.quantile, self.warmup)
        self._proxy()
        object.__setattr__(self, "batch", as_batch(self.batch))

    def __call__(self, trial: optuna.Trial, model: Spec) -> ScoreResult:
        """Score a network and let the trial go on, or prune it.

        Args:
            trial: as Optuna hands it to an objective.
            model: a module, or what :func:`~lswag_hooks.build` makes one of, with the seed of ``options``.

        Raises:
            optuna.TrialPruned: its score is low.
        """
        proxy, result = self._scored(model)
        check_score(trial, result[proxy.key], proxy.key, self.quantile, self.warmup, proxy.higher_is_better)
        return result

    def keep(self, trial: optuna.Trial, model: Spec) -> ScoreResult:
        """Score a network and store the score in the trial, for a :class:`ScorePruner` to decide about."""
        proxy, result = self._scored(model)
        keep_score(trial, result[proxy.key], proxy.key)
        return result

    def _scored(self, model: Spec) -> tuple[Proxy, ScoreResult]:
        assert isinstance(self.batch, Batch)
        proxy = self._proxy()
        seed = self.options.get("seed") or 0
        network = build(model, num_classes=self.batch.num_classes, seed=seed, device=self.batch.device)
        return proxy, score(network, self.batch, proxy, **self.options)

    def _proxy(self) -> Proxy:
        found = resolve_proxies(self.proxy)
        if len(found) != 1:
            raise InputError(f"proxy={self.proxy!r}: a gate has one proxy; give one name.")
        return found[0]


def check_gate(quantile: float, warmup: int) -> None:
    """Refuse what makes no sense."""
    if isinstance(quantile, bool) or not 0 <= quantile < 1:
        raise InputError(f"quantile={quantile!r}: give the share of candidates to turn away, 0 or more and below 1.")
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise InputError(f"warmup={warmup!r}: give a number of trials, 0 or more.")
