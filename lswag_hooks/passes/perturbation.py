"""Two passes of noise that lie close together: for Zen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lswag_hooks.batch import Batch
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, forward
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.common import WEIGHTED, real_inputs, watched
from lswag_hooks.passes.draws import Init, generator, normal_like, redraw


@dataclass(frozen=True)
class PerturbationSeen:
    """Mean over samples of the summed absolute difference of features, and the mean variance of each BatchNorm."""

    difference: float
    variances: list[float]


@dataclass(frozen=True)
class Perturbation(Pass):
    """Features of noise u and of u + gamma v.

    Args:
        init: draw the weights anew, ``"normal"`` as published; None: as they are.
        scale: ``"running"``: the running variance, which two passes move by a fifth; ``"batch"``: that of u.
        bare: do without feature maps and BatchNorm: the last sequence of tokens will do.
        samples: number of noise images, at most those of the batch; None: as many.
        gamma: size of the step.
        repeats: of all draws.
        seed: of the draws.
    """

    need: ClassVar[str] = "perturbation"
    holds: ClassVar[int] = 0
    init: Init | None = "normal"
    scale: Literal["running", "batch"] = "running"
    bare: bool = False
    samples: int | None = None
    gamma: float = 0.01
    repeats: int = 1
    seed: int = 0

    @property
    def reads_batch(self) -> bool:
        """Their shape alone."""
        return False

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> list[PerturbationSeen]:
        """One entry a repeat."""
        model = session.model
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if not norms and not self.bare:
            raise Undefined("no BatchNorm, whose scale Zen restores: Zen(bare=True) does without")
        session.set_mode("score")
        source = generator((session.seed or 0) + self.seed)
        seen = []
        for _ in range(self.repeats):
            if self.init:
                redraw(model, self.init, source)
            first = real_inputs(batch[: self.samples].inputs, lambda tensor: normal_like(tensor, source))
            second = real_inputs(first, lambda tensor: tensor + self.gamma * normal_like(tensor, source))
            with torch.no_grad():
                features, variances = self._features(model, first)
                moved, _ = self._features(model, second)
            if self.scale == "running":
                if any(norm.running_var is None for norm in norms):
                    raise Undefined("a BatchNorm keeps no running variance: use Zen(scale='batch')")
                variances = [float(norm.running_var.mean()) for norm in norms if norm.running_var is not None]
            difference = (features - moved).abs().flatten(1).sum(1).mean()
            seen.append(PerturbationSeen(float(difference), variances))
        return seen

    def _features(self, model: nn.Module, inputs: Any) -> tuple[Tensor, list[float]]:
        """The last feature map before pooling, and the variance of what enters each BatchNorm."""
        found: dict[str, Tensor] = {}
        variances: list[float] = []

        def see(path: str, module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(module, _BatchNorm) and self.scale == "batch":
                variances.append(float(given.transpose(0, 1).flatten(1).var(1).mean()))
            if not isinstance(output, Tensor) or "Pool" in type(module).__name__:
                return
            if output.dim() == 4 and output.shape[1:3].numel() and max(output.shape[2:]) > 1:
                found["map"] = output
                found.pop("mixed", None)
            elif output.dim() == 3:
                found["tokens"] = output
                if isinstance(module, WEIGHTED):
                    found["mixed"] = output  # a map of patches, and not of what the network computes

        with watched(model, see):
            forward(model, inputs)
        if "map" in found and "mixed" not in found:
            return found["map"], variances
        if self.bare and "tokens" in found:
            return found["tokens"], variances
        raise Undefined(
            "no feature map before the pooling: Zen is defined on those (Zen(bare=True) takes the last tokens)"
        )
