"""Gradients of several mini-batches: for xi-GSNR."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, check_loss
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.common import gradients, layer_weights


@dataclass(frozen=True)
class MiniBatches(Pass):
    """The batch in equal parts, with a forward and a backward pass each.

    Args:
        count: number of parts.
        accumulate: take the sum of the gradients up to each part in place of its own.
    """

    need: ClassVar[str] = "draws"
    count: int = 8
    accumulate: bool = False

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> list[tuple[Tensor, ...]]:
        """Gradients of every layer's weight, one a part."""
        if len(batch) < self.count:
            raise Undefined(f"{self.count} mini-batches of a batch of {len(batch)} samples: give a larger batch")
        _, weights = layer_weights(session.model)
        sums: list[Tensor] | None = None
        draws: list[list[Tensor]] = []
        cuts = [len(batch) * number // self.count for number in range(self.count + 1)]
        for first, last in itertools.pairwise(cuts):
            loss = check_loss(objective(session.model, batch[first:last]))
            if objective.reduction == "sum":
                loss = loss / (last - first)
            found = gradients(loss, weights)
            if self.accumulate:
                found = found if sums is None else [total + one for total, one in zip(sums, found, strict=True)]
                sums = found
            draws.append(found)
        return list(zip(*draws, strict=True))
