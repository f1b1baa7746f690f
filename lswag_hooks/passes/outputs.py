"""How differently each weight layer's own outputs code the samples: for T-CET."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lswag_hooks.batch import Batch
from lswag_hooks.hooks.samples import units_of
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, forward
from lswag_hooks.passes.base import Pass
from lswag_hooks.passes.common import WEIGHTED, watched
from lswag_hooks.stats import agreement


@dataclass(frozen=True)
class LayerOutputs(Pass):
    """One forward pass in evaluation mode: the agreement of codes, output > 0, of each convolution and linear layer."""

    need: ClassVar[str] = "outputs"
    holds: ClassVar[int] = 0

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> dict[str, Tensor]:
        """Kernel of NASWOT of each layer, by the path of its module."""
        session.set_mode("eval")
        samples = len(batch)
        kernels: defaultdict[str, list[Tensor]] = defaultdict(list)

        def see(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() > 1 and len(output) == samples:
                kernels[path].append(agreement(units_of(output)))

        with torch.no_grad(), watched(session.model, see, WEIGHTED):
            forward(session.model, batch.inputs)
        return {path: torch.stack(found).sum(0) for path, found in kernels.items()}
