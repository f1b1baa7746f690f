"""Where people work already: Optuna, scikit-learn's way of selecting, models that compute their own loss.

What is here imports none of these libraries before it is used.
"""

from lswag_hooks.integrations.gate import OptunaGate, check_score
from lswag_hooks.integrations.own_loss import OwnLoss
from lswag_hooks.integrations.selection import SelectKBest

__all__ = ["OptunaGate", "OwnLoss", "SelectKBest", "check_score"]
