"""The gradient of the outputs with respect to the inputs: for JacobCov and EPE-NAS."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import find_logits
from lswag_hooks.passes.base import Read, Reading, Undefined
from lswag_hooks.passes.common import WHOLE


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
class Jacobian(Reading):
    """One forward pass, and one backward pass to the inputs."""

    need: ClassVar[str] = "jacobian"

    def watch(self, session: ProbeSession, batch: Batch, inputs: Any, stack: contextlib.ExitStack) -> Read:
        """Nothing is watched but the inputs."""
        leaves = [tensor for _, tensor in parts.tensors(inputs, "inputs") if tensor.requires_grad]
        if not leaves:
            raise Undefined(WHOLE)

        def read(outputs: Any) -> JacobianSeen:
            logits, samples = find_logits(outputs), len(batch)
            found = torch.autograd.grad(logits.sum(), leaves, retain_graph=True, allow_unused=True)
            rows = [one.detach().reshape(samples, -1) for one in found if one is not None and len(one) == samples]
            if not rows:
                raise Undefined("the output does not depend on the inputs of each sample")
            return JacobianSeen(torch.cat(rows, 1), logits.shape[1] if logits.dim() > 1 else 1, batch.targets)

        return read
