"""The neural tangent kernel of a few samples: for TE-NAS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.devices import double
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.common import predict
from lswag_hooks.passes.draws import Init, generator, redraw


@dataclass(frozen=True)
class TangentKernel(Pass):
    r"""One forward pass of the first samples, and one backward pass for each of them: :math:`\Theta = J J^\top`.

    Args:
        samples: how many; the rest of the batch is not used.
        init: draw the weights anew; None: as they are.
        seed: of the draws.
    """

    need: ClassVar[str] = "ntk"
    samples: int = 16
    init: Init | None = None
    seed: int = 0

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> Tensor:
        """The kernel, float64, shape (samples, samples)."""
        model, part = session.model, batch[: self.samples]
        if self.init:
            redraw(model, self.init, generator((session.seed or 0) + self.seed))
        wanted = [one for name, one in model.named_parameters() if "weight" in name and one.requires_grad]
        outputs = predict(model, part.inputs)
        if not wanted or outputs.dim() < 2 or len(outputs) != len(part):
            raise Undefined("the kernel needs outputs of shape (samples, classes) and parameters called weight")
        sums = outputs.flatten(1).sum(1)
        rows: list[list[Tensor | None]] = [[] for _ in wanted]
        for index, one in enumerate(sums):
            found = torch.autograd.grad(one, wanted, retain_graph=index + 1 < len(sums), allow_unused=True)
            for row, gradient in zip(rows, found, strict=True):
                row.append(gradient)
        kernel = torch.zeros(len(part), len(part), dtype=torch.float64, device="cpu")
        for row in rows:
            reached = [gradient for gradient in row if gradient is not None]
            if len(reached) == len(row):
                jacobian = double(torch.stack([gradient.flatten() for gradient in reached]))
                kernel += (jacobian @ jacobian.T).cpu()
        return kernel
