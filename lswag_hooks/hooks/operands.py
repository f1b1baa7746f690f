"""What a product was computed from, read off its node in the autograd graph, which holds it anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from lswag_hooks.hooks.graph import WeightCall
from lswag_hooks.hooks.rules.conv import ConvOptions


@dataclass
class Operands:
    """Data, output gradient and, for convolutions, weight and geometry of a product."""

    data: Tensor
    gradient: Tensor
    weight: Tensor | None = None
    options: ConvOptions | None = None
    padding: int = -1  # of a lookup: the row that gets no gradient


def wide(tensor: Tensor) -> Tensor:
    """At least single precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def read_operands(call: WeightCall, gradient: Tensor) -> Operands:
    """What a product was computed from, given the gradient of its result."""
    node, gradient = call.node, wide(gradient.detach())
    if call.kind == "lookup":
        return Operands(node._saved_indices, gradient, padding=_signed(node._saved_padding_idx))
    if call.kind == "broadcast":
        if node.name() == "MulBackward0":
            other = node._saved_other if call.weight == 0 else node._saved_self
            gradient = gradient * wide(other.detach())
        elif call.weight == 1:
            alpha = float(node._saved_alpha)
            gradient = gradient * (-alpha if node.name() == "SubBackward0" else alpha)
        return Operands(gradient, gradient)
    if call.kind == "conv":
        stride, padding, dilation = (
            tuple(int(n) for n in getattr(node, f"_saved_{key}")) for key in ("stride", "padding", "dilation")
        )
        options = ConvOptions(stride, padding, dilation, int(node._saved_groups), bool(node._saved_transposed))
        return Operands(wide(node._saved_input.detach()), gradient, node._saved_weight.detach(), options)
    name = node.name()
    saved = {
        "AddmmBackward0": {1: "mat1", 2: "mat2"},
        "MmBackward0": {0: "self", 1: "mat2"},
        "LinearBackward0": {0: "input", 1: "weight"},
        "BmmBackward0": {0: "self", 1: "mat2"},
        "BaddbmmBackward0": {1: "batch1", 2: "batch2"},
    }[name]
    data = wide(getattr(node, f"_saved_{saved[call.data]}").detach())
    if data.dim() == 3 and name in ("BmmBackward0", "BaddbmmBackward0"):  # a batched product of one
        data, gradient = data[0], gradient[0]
    if name == "LinearBackward0":
        data, gradient = data.flatten(0, -2), gradient.flatten(0, -2)
    elif call.mirrored:
        data, gradient = data.T, gradient.T
    return Operands(data, gradient)


def _signed(value: int) -> int:
    """A number that torch shows without its sign."""
    return value - 2**64 if value >= 2**63 else value


def read_data(call: WeightCall) -> Tensor:
    """The data operand of a product with its rows first."""
    node = call.node
    if call.kind == "conv":
        saved: Tensor = node._saved_input
        return saved.detach()
    shape = tuple(int(n) for n in node._input_metadata[0].shape)
    return read_operands(call, torch.empty(shape, device="cpu").expand(shape)).data


def pull_back(node: Any, index: int, parameter: nn.Parameter) -> Callable[[Tensor], Tensor]:
    """Maps gradients of a derived weight, output ``index`` of a node, to gradients of one of its parameters."""
    edge, metadata = GradientEdge(node, index), node._input_metadata[index]
    shape, dtype = tuple(int(n) for n in metadata.shape), metadata.dtype

    def pull(gradients: Tensor) -> Tensor:
        gradients = gradients.reshape(len(gradients), *shape).to(dtype)
        with torch.enable_grad():
            try:
                found = torch.autograd.grad(
                    [edge], [parameter], [gradients], is_grads_batched=True, retain_graph=True, allow_unused=True
                )[0]
            except RuntimeError:  # an operation without a batching rule
                each = [
                    torch.autograd.grad([edge], [parameter], [g], retain_graph=True, allow_unused=True)[0]
                    for g in gradients
                ]
                found = None if each[0] is None else torch.stack(each)
        return gradients.new_zeros(len(gradients), *parameter.shape) if found is None else wide(found)

    return pull
