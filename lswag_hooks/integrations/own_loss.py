"""Models that compute their own loss, as those of transformers do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.objective import Reduction, forward


@dataclass(frozen=True)
class OwnLoss:
    """The loss that a model returns with its outputs, ``model(**inputs, labels=targets).loss``.

    For ``loss=`` of :func:`~lswag_hooks.score` and :func:`~lswag_hooks.rank`. The batch's inputs are a dictionary of
    the model's arguments; its targets, where there are any, are passed as ``labels``.

    Args:
        labels: name of the argument that takes the targets.
        reduction: how the model's loss joins the samples, ``"mean"`` or ``"sum"``.

    Raises:
        InputError: the inputs are no dictionary, or the model returns no loss.

    Example:
        >>> import torch
        >>> from lswag_hooks import score
        >>> class Regression(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        ...
        ...     def forward(self, x, labels=None):
        ...         return {"loss": (self.net(x).squeeze(1) - labels).square().mean()}
        >>> batch = Batch({"x": torch.randn(8, 4)}, torch.randn(8))
        >>> score(Regression(), batch, loss=OwnLoss())["lswag"] > 0
        True
    """

    labels: str = "labels"
    reduction: Reduction = "mean"
    is_objective = True

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        if not isinstance(batch.inputs, dict):
            raise InputError(
                f"the batch's inputs are a {type(batch.inputs).__name__}: a model with a loss of its own takes a "
                "dictionary of its arguments, Batch({'input_ids': ..., ...}, labels)."
            )
        given = {} if batch.targets is None else {self.labels: batch.targets}
        outputs: Any = forward(model, {**batch.inputs, **given})
        loss = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
        if not isinstance(loss, Tensor):
            raise InputError(
                f"{type(model).__name__} returned no 'loss': give the batch targets, or pass loss=, a function of "
                "(outputs, targets)."
            )
        return loss
