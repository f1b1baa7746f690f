"""The flow of ones through absolute weights, without BatchNorm: for SynFlow, DSS and T-CET."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.hooks.calls import clean_name
from lswag_hooks.hooks.inventory import Parameters, layer_name
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, find_logits
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.common import gradients, real_inputs

SHRINK = (1e-150, 1e-170)  # of the input and the biases, where the flow overflows double precision


@dataclass(frozen=True)
class FlowLayer:
    """One layer of the flow.

    Attributes:
        name: of the layer.
        weight: absolute weights.
        gradient: of the sum of outputs with respect to them.
        linear: whether it belongs to a linear layer or attention.
    """

    name: str
    weight: Tensor
    gradient: Tensor
    linear: bool


@dataclass(frozen=True)
class FlowSeen:
    """Layers in the order of registration, and the logarithm of what all their gradients are to be multiplied by."""

    layers: list[FlowLayer]
    log_scale: float = 0.0


@dataclass(frozen=True)
class Flow(Pass):
    """One image of ones, all parameters replaced by their absolute values, in double precision.

    Args:
        norms: ``"removed"``: BatchNorm is the identity; ``"kept"``: it normalises the single image.
    """

    need: ClassVar[str] = "synflow"
    norms: Literal["removed", "kept"] = "removed"

    @property
    def reads_batch(self) -> bool:
        """Their shape alone."""
        return False

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> FlowSeen:
        """Layers with what flows through them."""
        model = session.model
        session.set_mode("eval" if self.norms == "removed" else "score")
        ones = real_inputs(batch[:1].inputs, torch.ones_like)
        handles = []
        if self.norms == "removed":
            for module in model.modules():
                if isinstance(module, _BatchNorm) or "FrozenBatchNorm" in type(module).__name__:
                    handles.append(module.register_forward_hook(lambda module, args, output: args[0]))
        try:
            try:
                layers = _flow(model, ones, torch.float64, 1.0)
            except (RuntimeError, TypeError):  # the model casts by itself, or keeps tensors elsewhere than in its state
                layers = _flow(model, ones, next(model.parameters()).dtype, 1.0)
            return FlowSeen(layers) if _finite(layers) else _shrunk(model, ones)
        finally:
            for handle in handles:
                handle.remove()


def _flow(model: nn.Module, ones: Any, dtype: torch.dtype, shrink: float) -> list[FlowLayer]:
    """The flow with the input, the biases and the sum of outputs multiplied by ``shrink``."""
    parameters = Parameters(model)
    wanted = set(parameters.of_layers())
    device = next(model.parameters()).device
    if device.type == "mps" and dtype == torch.float64:
        device = torch.device("cpu")  # which has double precision; it is one sample only
    state: dict[str, Tensor] = {}
    owned: list[tuple[str, Tensor]] = []
    for name, parameter in model.named_parameters():
        known = parameters.names.get(id(parameter), clean_name(name))
        value = parameter.detach()
        if value.is_floating_point():
            value = value.to(device, dtype).abs()
            value = value * shrink if name.endswith("bias") and shrink != 1.0 else value
        if known in wanted and value.is_floating_point():
            value.requires_grad_(True)
            owned.append((known, value))
        state[name] = value
    if not owned:
        raise Undefined("no weight of a convolution or of a matrix product")
    for name, buffer in model.named_buffers():
        state[name] = buffer.to(device, dtype) if buffer.is_floating_point() else buffer.to(device, copy=True)
    ones = parts.mapped(ones, lambda tensor: tensor.to(device))
    inputs = real_inputs(ones, lambda tensor: tensor.to(dtype) * shrink)
    args, kwargs = (
        ((), inputs) if isinstance(inputs, dict) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    )
    total = find_logits(functional_call(model, state, args, kwargs)).sum() * shrink
    weights = [value for _, value in owned]
    return [
        FlowLayer(layer_name(name), value.detach(), gradient, not _convolves(parameters.owners[name]))
        for (name, value), gradient in zip(owned, gradients(total, weights), strict=True)
    ]


def _convolves(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _finite(layers: list[FlowLayer]) -> bool:
    return all(math.isfinite(float((layer.weight * layer.gradient).sum())) for layer in layers)


def _shrunk(model: nn.Module, ones: Any) -> FlowSeen:
    """The flow of a network so deep that it overflows: exact where the network is homogeneous, else undefined."""
    seen = []
    for shrink in SHRINK:
        layers = _flow(model, ones, torch.float64, shrink)
        total = sum(float((layer.weight * layer.gradient).sum()) for layer in layers)
        if not math.isfinite(total) or total <= 0:
            raise Undefined("the flow of ones overflows double precision")
        seen.append((FlowSeen(layers, -2 * math.log(shrink)), math.log(total) - 2 * math.log(shrink)))
    if not math.isclose(seen[0][1], seen[1][1], rel_tol=1e-9):
        raise Undefined("the flow of ones overflows double precision, and the network is not homogeneous")
    return seen[0][0]
