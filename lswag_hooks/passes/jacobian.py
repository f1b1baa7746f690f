"""The gradient of the outputs with respect to the inputs: for JacobCov and EPE-NAS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.common import predict, real_inputs


@dataclass(frozen=True)
class JacobianSeen:
    """One row a sample, and what EPE-NAS groups the rows by.

    Attributes:
        rows: gradient of the sum of all outputs, shape (samples, input size).
        outputs: number of outputs of a sample.
        targets: of the batch, as they are.
    """

    rows: Tensor
    outputs: int
    targets: Any


@dataclass(frozen=True)
class Jacobian(Pass):
    """One forward pass, and one backward pass to the inputs."""

    need: ClassVar[str] = "jacobian"

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> JacobianSeen:
        """Rows and what they are grouped by."""
        leaves = real_inputs(batch.inputs, lambda tensor: tensor.detach().clone().requires_grad_())
        wanted = [tensor for _, tensor in parts.tensors(leaves, "inputs") if tensor.is_floating_point()]
        outputs = predict(session.model, parts.mapped(leaves, torch.clone))  # copies: a model may work in place
        found = torch.autograd.grad(outputs.sum(), wanted, allow_unused=True)
        samples = len(batch)
        rows = [one.detach().reshape(samples, -1) for one in found if one is not None and len(one) == samples]
        if not rows:
            raise Undefined("the output does not depend on the inputs of each sample")
        return JacobianSeen(torch.cat(rows, 1), outputs.shape[1] if outputs.dim() > 1 else 1, batch.targets)
