"""Codes of many samples, which tell the linear regions that they lie in: for TE-NAS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.hooks.activations import ActivationCall, ActivationCapture
from lswag_hooks.hooks.calls import CallStack
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, forward
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.draws import Init, generator, redraw
from lswag_hooks.stats import pack


@dataclass(frozen=True)
class Regions(Pass):
    """One forward pass, of the batch or of many small images of noise.

    Args:
        size: side of the images; 0: the batch itself.
        samples: number of images.
        init: draw the weights anew; None: as they are.
        seed: of the draws.
    """

    need: ClassVar[str] = "regions"
    holds: ClassVar[int] = 0
    size: int = 3
    samples: int = 1000
    init: Init | None = None
    seed: int = 0

    @property
    def reads_batch(self) -> bool:
        """Only if the images are those of the batch."""
        return not self.size

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> Tensor:
        """Codes of every sample, eight to a byte; uint8, shape (samples, bytes)."""
        model, inputs, samples = session.model, batch.inputs, len(batch)
        source = generator((session.seed or 0) + self.seed)
        if self.init:
            redraw(model, self.init, source)
        if self.size:
            if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point():
                raise Undefined("linear regions are counted on small images of noise, and the inputs are no images")
            samples = self.samples
            grey = torch.randn(samples, 1, self.size, self.size, generator=source, device="cpu").to(inputs)
            inputs = grey.expand(-1, inputs.shape[1], -1, -1)  # one channel, as published, shown to all
        codes: list[Tensor] = []

        def consume(call: ActivationCall, output: Tensor) -> None:
            if output.dim() > 1 and len(output) == samples:
                codes.append(pack(output.detach().reshape(samples, -1).T))

        with torch.no_grad(), CallStack(model) as stack, ActivationCapture(stack, consume):
            try:
                forward(model, inputs)
            except (AssertionError, RuntimeError, ValueError) as error:
                if not self.size or "memory" in str(error):
                    raise
                # it takes those of the batch: a pooling or a patch wants more than so small an image has
                first = (str(error).splitlines() or [""])[0]
                raise Undefined(f"the network does not take images of {self.size} px: {first}") from error
        if not codes:
            raise Undefined("no activation that is known: register yours with lswag_hooks.register_activation")
        return torch.cat(codes).T.cpu()
