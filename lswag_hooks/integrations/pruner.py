"""The gate as a pruner of an Optuna study: a study that has one asks it wherever an objective asks ``should_prune``."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner

from lswag_hooks.integrations.gate import QUANTILE, WARMUP, attribute, check_gate, earlier_scores, limit_of


class ScorePruner(BasePruner):
    """Prunes trials whose score at initialisation is low; of those that are trained, another pruner may decide.

    The objective stores the score, with :meth:`OptunaGate.keep` or as ``user_attrs["score lswag"]``, and asks
    ``trial.should_prune()`` before it trains. What is low is told by :func:`check_score`. Once a trial has reported a
    first value of its training, its score is no longer looked at.

    Args:
        key: whose score it is.
        quantile: share of candidates to turn away.
        warmup: how many trials are scored before any is turned away.
        higher_is_better: whether a low or a high score is bad.
        then: pruner of those in training; None: they are trained to the end.

    Raises:
        InputError: an argument makes no sense.

    Example:
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> def objective(trial):
        ...     width = trial.suggest_int("width", 1, 100)
        ...     trial.set_user_attr("score width", width)
        ...     if trial.should_prune():
        ...         raise optuna.TrialPruned
        ...     return width
        >>> study = optuna.create_study(pruner=ScorePruner("width", warmup=2))
        >>> for width in (10, 20, 14, 16):
        ...     study.enqueue_trial({"width": width})
        >>> study.optimize(objective, n_trials=4)
        >>> [trial.state.name for trial in study.trials]
        ['COMPLETE', 'COMPLETE', 'PRUNED', 'COMPLETE']
    """

    def __init__(
        self,
        key: str = "lswag",
        quantile: float = QUANTILE,
        warmup: int = WARMUP,
        higher_is_better: bool = True,
        then: BasePruner | None = None,
    ) -> None:
        check_gate(quantile, warmup)
        self.key = key
        self.quantile = quantile
        self.warmup = warmup
        self.higher_is_better = higher_is_better
        self.then = then

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial ends here, as Optuna asks."""
        if trial.intermediate_values:
            return self.then is not None and bool(self.then.prune(study, trial))
        value = trial.user_attrs.get(attribute(self.key))
        earlier = earlier_scores(study, trial.number, self.key)
        limit = limit_of(earlier, self.quantile, self.warmup, self.higher_is_better)
        if value is None or limit is None:
            return False
        return bool(value < limit if self.higher_is_better else value > limit)
