"""Samples one at a time, each with a pass of its own: for GradSign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lswag_hooks.batch import Batch
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, check_loss
from lswag_hooks.passes.base import Pass
from lswag_hooks.passes.common import gradients, layer_weights


@dataclass(frozen=True)
class Singles(Pass):
    """One forward and one backward pass a sample, alone: BatchNorm sees the statistics of that sample."""

    need: ClassVar[str] = "singles"
    joint: ClassVar[bool] = False

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> list[torch.Tensor]:
        """Sum over samples of the sign of the gradient, of every layer's weight."""
        _, weights = layer_weights(session.model)
        signs = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
        for index in range(len(batch)):
            loss = check_loss(objective(session.model, batch[index : index + 1]))
            for total, one in zip(signs, gradients(loss, weights), strict=True):
                total += one.sign()
        return signs
