"""Where people work already: Optuna, scikit-learn's way of selecting, models that compute their own loss.

What is here imports none of these libraries before it is used.
"""

from typing import TYPE_CHECKING, Any

from lswag_hooks.integrations.gate import OptunaGate, check_score
from lswag_hooks.integrations.own_loss import OwnLoss
from lswag_hooks.integrations.selection import SelectKBest

if TYPE_CHECKING:
    from lswag_hooks.integrations.pruner import ScorePruner

__all__ = ["OptunaGate", "OwnLoss", "ScorePruner", "SelectKBest", "check_score"]


def __getattr__(name: str) -> Any:
    if name == "ScorePruner":  # a subclass of Optuna's, which takes its time to import
        from lswag_hooks.integrations.pruner import ScorePruner

        return ScorePruner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
