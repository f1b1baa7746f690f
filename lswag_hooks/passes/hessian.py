"""The product of the Hessian of the loss with its own gradient: for GraSP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.experiment import with_inputs
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, check_loss
from lswag_hooks.passes.base import Pass
from lswag_hooks.passes.common import differentiable_attention, gradients, layer_weights


@dataclass(frozen=True)
class Hessian(Pass):
    r"""One forward pass, one backward pass, and one through that: :math:`H g` of the layers' weights.

    Args:
        samples: how many of the batch, its first ones; None: all.
    """

    need: ClassVar[str] = "hessian"
    holds: ClassVar[int] = 3  # 2.1 times on a ResNet, 2.6 times on a ViT
    samples: int | None = None

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weight and its part of the product."""
        _, weights = layer_weights(session.model)
        batch = batch[: self.samples]
        # channels last, the second derivatives mix both layouts, which took a third longer on a processor
        batch = with_inputs(batch, parts.mapped(batch.inputs, _in_order))
        with differentiable_attention():
            loss = check_loss(objective(session.model, batch))
            loss = loss / len(batch) if objective.reduction == "sum" else loss
            found = gradients(loss, weights, graph=True)
            # the published code takes the two gradients from two passes, which are the same but for dropout
            product = sum((one * one.detach()).sum() for one in found)
            assert isinstance(product, Tensor)
            second = gradients(product, weights)
        return [(weight.detach().clone(), one) for weight, one in zip(weights, second, strict=True)]


def _in_order(tensor: Tensor) -> Tensor:
    return tensor.contiguous() if tensor.layout is torch.strided else tensor
