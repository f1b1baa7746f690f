"""Variants of a batch: marked inputs, picked samples, and the experiment that tells which rows are whose."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.hooks.forward import Watcher
from lswag_hooks.hooks.graph import Graph
from lswag_hooks.hooks.placing import Probe
from lswag_hooks.hooks.session import Mode, ProbeSession
from lswag_hooks.objective import Objective


def experiment(session: ProbeSession, model: nn.Module, batch: Batch, objective: Objective, mode: Mode) -> Probe:
    """The pass (a, a, b) in evaluation mode that settles which rows belong to which sample, for when it is needed."""

    def run() -> tuple[Graph, dict[str, Tensor]]:
        asked, three = objective, pick(batch, (0, 0, _another(batch)))
        if hasattr(objective, "for_layout"):  # three of a detector's pictures are a lot of memory
            asked, three = objective.for_layout(three)
        session.set_mode("eval")
        try:
            return Watcher(model, 3).outputs(three.inputs, lambda inputs: asked(model, with_inputs(three, inputs)))
        finally:
            session.set_mode(mode)

    return run


def with_inputs(batch: Batch, inputs: Any) -> Batch:
    """The batch with marked copies of its inputs, which were checked already."""
    made = copy.copy(batch[:])
    object.__setattr__(made, "inputs", inputs)
    return made


def pick(batch: Batch, samples: Sequence[int]) -> Batch:
    """Some samples of a batch, which may repeat."""
    made = copy.copy(batch[:1])
    for name in ("inputs", "targets"):
        pieces = [getattr(batch[index : index + 1], name) for index in samples]
        object.__setattr__(made, name, parts.joined(pieces, [1] * len(pieces), name))
    return made


def _another(batch: Batch) -> int:
    """The first sample whose inputs are not those of sample 0."""
    tensors = [tensor for _, tensor in parts.tensors(batch.inputs, "inputs")]
    per_sample = [tensor for tensor in tensors if tensor.dim() and len(tensor) == len(batch)]
    for index in range(1, len(batch)):
        if any(not torch.equal(tensor[index], tensor[0]) for tensor in per_sample):
            return index
    return 1
