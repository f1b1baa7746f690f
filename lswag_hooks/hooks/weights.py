"""Per-sample gradients of every weight layer of a network, handed over layer by layer during one backward pass.

No gradient of a weight is asked from autograd: only the gradients of layer outputs are computed, and no further back
than the first layer that counts. At each product the layer's operands are read from the graph, which holds them anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from lswag_hooks.errors import UnsupportedError
from lswag_hooks.hooks.calls import clean_name
from lswag_hooks.hooks.graph import CHECKPOINTED, Graph, WeightCall, is_table, shape_of
from lswag_hooks.hooks.rules import (
    BroadcastGradient,
    DerivedGradient,
    EmbeddingGradient,
    GradientSource,
    LinearGradient,
    SumGradient,
    conv_source,
)
from lswag_hooks.hooks.rules.conv import ConvOptions
from lswag_hooks.hooks.samples import BLOCKS, Layout, by_sample, to_blocks


@dataclass
class WeightLayer:
    """One weight of the network and the products it enters.

    Attributes:
        name: path of the layer (of the parameter where that is no module's ``weight``).
        parameter: the parameter's own name.
        calls: products it enters, in order of execution.
    """

    name: str
    parameter: str
    shape: tuple[int, ...]
    calls: list[WeightCall]
    derived: bool = False
    index: int = -1

    @property
    def kind(self) -> str:
        """``conv``, ``matmul``, or ``broadcast`` for one that every sample shares."""
        return self.calls[0].kind


@dataclass
class Inventory:
    """All weights of a network after one forward pass: those that count, in call order, and the others with reasons."""

    layers: list[WeightLayer]
    uncovered: dict[str, str] = field(default_factory=dict)  # weights of layers, by parameter name
    tables: list[str] = field(default_factory=list)


class Parameters:
    """Names and owners of a model's parameters, shared ones under their first name."""

    def __init__(self, model: nn.Module) -> None:
        self.by_name: dict[str, nn.Parameter] = {}
        self.names: dict[int, str] = {}
        self.owners: dict[str, nn.Module] = {}
        self.attention: set[str] = set()
        for path, module in model.named_modules():
            path = clean_name(path)
            if isinstance(module, nn.MultiheadAttention):
                self.attention.add(path)
            for leaf, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in self.names:
                    name = f"{path}.{leaf}" if path else leaf
                    self.by_name[name], self.names[id(parameter)], self.owners[name] = parameter, name, module

    def in_attention(self, name: str) -> bool:
        """Whether a parameter belongs to an nn.MultiheadAttention or its output projection."""
        owner = name.rpartition(".")[0]
        return owner in self.attention or owner.rpartition(".")[0] in self.attention

    def of_layers(self) -> list[str]:
        """Weights that ought to enter a convolution or a matrix product, by their names: no pass is needed."""
        found = []
        for name, parameter in self.by_name.items():
            leaf = name.rpartition(".")[2]
            looked_up = isinstance(self.owners[name], (nn.Embedding, nn.EmbeddingBag))
            matrix = leaf in ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            matrix |= isinstance(self.owners[name], nn.RNNBase)
            if matrix and parameter.dim() >= 2 and not looked_up:
                found.append(name)
        return found


def layer_name(parameter: str) -> str:
    """``blocks.0.fc1.weight`` -> ``blocks.0.fc1``; parametrised weights are named after their module."""
    name = parameter.split(".parametrizations.")[0]
    return name.rpartition(".")[0] if name.rpartition(".")[2] == "weight" and "." in name else name


def take_inventory(graph: Graph, parameters: Parameters) -> Inventory:
    """Group the products of a graph by weight and say of each weight whether its per-sample gradient can be had."""
    grouped: dict[str, list[WeightCall]] = {}
    matrix = ("conv", "matmul", "broadcast")
    for call in graph.calls:
        for name in call.parameters:
            grouped.setdefault(name, []).append(call)
    inventory = Inventory([])
    for name, calls in grouped.items():
        parameter = parameters.by_name[name]
        products = [call for call in calls if call.kind in matrix]
        if not products:
            continue
        if is_table(name, parameters.owners[name]):
            inventory.tables.append(name)
            continue
        scaled = all(
            call.form == "derived" and call.kind != "broadcast" and len(call.parameters) > 1 for call in products
        )
        if scaled and sum(n > 1 for n in parameter.shape) < 2:
            continue  # the gain of a normalised weight
        reasons = {call.reason for call in calls if call.reason}
        known = {(call.node, call.weight) for call in calls}
        also = {node.name() for node, index in graph.exits.get(name, ()) if (node, index) not in known}
        if also:
            reasons.add(f"it also enters {', '.join(sorted(also))}, for which there is no rule")
        if reasons:
            inventory.uncovered[name] = "; ".join(sorted(reasons))
            continue
        derived = any(call.form == "derived" for call in products)
        inventory.layers.append(WeightLayer(layer_name(name), name, tuple(parameter.shape), calls, derived))
    inventory.layers.sort(key=lambda layer: next(call.order for call in layer.calls if call.kind in matrix))
    for index, layer in enumerate(inventory.layers):
        layer.index = index
    seen = set(grouped) | set(inventory.uncovered)
    for name in dict.fromkeys([*parameters.of_layers(), *graph.multiplied]):
        if name not in seen and parameters.by_name[name].dim() >= 2:
            entered = {node.name() for node, _ in graph.exits.get(name, ())}
            inventory.uncovered[name] = (
                f"enters {', '.join(sorted(entered))}, for which there is no rule"
                if entered
                else "the loss does not reach it"
            )
    return inventory


@dataclass
class LayerGradients:
    """What a backward pass leaves at one layer.

    Attributes:
        source: per-sample gradients of the weight, formed on demand; None if the loss does not reach it.
        weight: the weight itself.
        bias: the layer's bias, if it has one.
        outputs: gradients of the layer's output summed over positions, (samples, channels): the per-sample gradient of
            the bias; None where a layer is called more than once or its weight is computed.
    """

    source: GradientSource | None
    weight: Tensor
    bias: Tensor | None = None
    outputs: Callable[[], Tensor] | None = None


Consumer = Callable[[WeightLayer, LayerGradients], None]


class GradientCapture:
    """One backward pass that hands each layer's gradient source to a consumer as soon as it is complete.

    Args:
        graph: of the forward pass.
        parameters: of the model.
        samples: batch size.
    """

    def __init__(self, graph: Graph, parameters: Parameters, samples: int) -> None:
        self.graph, self.parameters, self.samples = graph, parameters, samples

    def run(
        self,
        loss: Tensor,
        layers: Sequence[WeightLayer],
        consume: Consumer,
        scale: float = 1.0,
        retain_graph: bool = False,
    ) -> None:
        """Backpropagate ``scale * loss`` to the given layers and no further."""
        if not layers:
            return
        wanted: dict[Any, WeightCall] = {call.node: call for layer in layers for call in layer.calls}
        waiting: dict[Any, list[WeightLayer]] = {}
        for layer in layers:
            for call in layer.calls:
                waiting.setdefault(call.node, []).append(layer)
        frontier = self._frontier(set(wanted))
        pending = {layer.parameter: len({call.node for call in layer.calls}) for layer in layers}
        operands: dict[Any, _Operands | None] = {}

        def arrive(call: WeightCall, gradient: Tensor | None) -> None:
            operands[call.node] = None if gradient is None else _read(call, gradient)
            for layer in waiting[call.node]:
                pending[layer.parameter] -= 1
                if not pending[layer.parameter]:
                    parts = {c.node: (c, operands[c.node]) for c in layer.calls}
                    consume(layer, self._gradients(layer, list(parts.values())))
            if not any(pending[layer.parameter] for layer in waiting[call.node]):
                for layer in waiting[call.node]:
                    for other in layer.calls:
                        if not any(pending[name.parameter] for name in waiting[other.node]):
                            operands.pop(other.node, None)

        def hook(call: WeightCall) -> Callable[[tuple[Tensor | None, ...]], None]:
            def before(gradients: tuple[Tensor | None, ...]) -> None:
                with torch.no_grad():
                    arrive(call, gradients[0])

            return before

        handles = [node.register_prehook(hook(call)) for node, call in wanted.items() if node not in frontier]
        ends = list(frontier)
        try:
            gradients = torch.autograd.grad(
                loss,
                [GradientEdge(node, 0) for node in ends],
                grad_outputs=torch.full_like(loss, scale),
                retain_graph=retain_graph or any(layer.derived for layer in layers),
                allow_unused=True,
            )
            with torch.no_grad():
                for node, gradient in zip(ends, gradients, strict=True):
                    arrive(wanted[node], gradient)
                for layer in layers:  # on no path from the loss
                    if pending[layer.parameter]:
                        for call in layer.calls:
                            if call.node not in operands:
                                operands[call.node] = None
                        pending[layer.parameter] = 0
                        parts = {c.node: (c, operands.get(c.node)) for c in layer.calls}
                        consume(layer, self._gradients(layer, list(parts.values())))
        except torch.utils.checkpoint.CheckpointError as error:
            raise UnsupportedError(CHECKPOINTED) from error
        finally:
            for handle in handles:
                handle.remove()

    def _frontier(self, wanted: set[Any]) -> dict[Any, None]:
        """Wanted nodes behind which no other wanted node lies: backpropagation stops in front of them."""
        below: dict[Any, bool] = {}
        for node in self.graph.nodes:
            below[node] = any(
                child is not None and (below[child] or child in wanted) for child, _ in node.next_functions
            )
        return {node: None for node in wanted if not below[node]}

    def _gradients(self, layer: WeightLayer, parts: Sequence[tuple[WeightCall, _Operands | None]]) -> LayerGradients:
        parameter = self.parameters.by_name[layer.parameter]
        bias = self.parameters.by_name.get(layer.parameter.removesuffix("weight") + "bias")
        found = LayerGradients(None, parameter.detach(), None if bias is None else bias.detach())
        sources = [
            self._call_source(call, operands, layer.parameter, parameter)
            for call, operands in parts
            if operands is not None
        ]
        if sources:
            found.source = sources[0] if len(sources) == 1 else SumGradient(sources, tuple(parameter.shape))
        if len(parts) == 1 and parts[0][1] is not None:
            call, operands = parts[0][0], parts[0][1]
            found.outputs = lambda: self._summed(call, operands.gradient)
        return found

    def _summed(self, call: WeightCall, gradient: Tensor) -> Tensor:
        layout = call.layout or BLOCKS
        if call.kind == "conv":
            rows = to_blocks(gradient.flatten(2).sum(2), layout, self.samples)
            return rows.reshape(self.samples, -1, rows.shape[1]).sum(1)
        return by_sample(gradient, layout, self.samples).sum(1)

    def _call_source(self, call: WeightCall, operands: _Operands, name: str, parameter: nn.Parameter) -> GradientSource:
        layout: Layout = call.layout or BLOCKS
        data, gradient, samples = operands.data, operands.gradient, self.samples
        if call.kind == "lookup":
            return EmbeddingGradient(
                data.reshape(samples, -1),
                gradient.reshape(samples, -1, gradient.shape[-1]),
                tuple(parameter.shape),
                _signed(call.node._saved_padding_idx),
            )
        source: GradientSource
        if call.kind == "conv":
            assert operands.weight is not None and operands.options is not None
            weight = operands.weight.to(gradient.dtype)
            data, gradient = (to_blocks(t, layout, samples) for t in (data, gradient))
            source = conv_source(data, gradient, weight, operands.options, samples)
        elif call.kind == "broadcast":
            shape = shape_of(call.node.next_functions[call.weight])
            assert shape is not None
            source = BroadcastGradient(to_blocks(gradient, layout, samples), shape, samples)
        else:
            data, gradient = (by_sample(t, layout, samples) for t in (data, gradient))
            # rows of the gradient are those of y = weight @ x, which F.linear's weight has too, seen from the right
            outputs_first = call.mirrored if call.form == "derived" else (call.form == "transposed") != call.mirrored
            if call.node.name() == "LinearBackward0":
                outputs_first = call.form != "transposed"
            first, second = (gradient, data) if outputs_first else (data, gradient)
            shape = tuple(parameter.shape)
            if call.form == "derived":
                shape = (first.shape[2], second.shape[2])
            source = LinearGradient(first, second, shape)
        if call.form != "derived":
            return source
        node, index = call.node.next_functions[call.weight]
        pull = _pull_back(node, index, parameter)
        return DerivedGradient(source, pull, tuple(parameter.shape))


@dataclass
class _Operands:
    """What a product was computed from, in at least single precision."""

    data: Tensor
    gradient: Tensor
    weight: Tensor | None = None
    options: ConvOptions | None = None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _read(call: WeightCall, gradient: Tensor) -> _Operands:
    node, gradient = call.node, _wide(gradient.detach())
    if call.kind == "lookup":
        return _Operands(node._saved_indices, gradient)
    if call.kind == "broadcast":
        if node.name() == "MulBackward0":
            other = node._saved_other if call.weight == 0 else node._saved_self
            gradient = gradient * _wide(other.detach())
        elif call.weight == 1:
            alpha = float(node._saved_alpha)
            gradient = gradient * (-alpha if node.name() == "SubBackward0" else alpha)
        return _Operands(gradient, gradient)
    if call.kind == "conv":
        stride, padding, dilation = (
            tuple(int(n) for n in getattr(node, f"_saved_{key}")) for key in ("stride", "padding", "dilation")
        )
        options = ConvOptions(stride, padding, dilation, int(node._saved_groups), bool(node._saved_transposed))
        return _Operands(_wide(node._saved_input.detach()), gradient, node._saved_weight.detach(), options)
    name = node.name()
    saved = {
        "AddmmBackward0": {1: "mat1", 2: "mat2"},
        "MmBackward0": {0: "self", 1: "mat2"},
        "LinearBackward0": {0: "input", 1: "weight"},
        "BmmBackward0": {0: "self", 1: "mat2"},
        "BaddbmmBackward0": {1: "batch1", 2: "batch2"},
    }[name]
    data = _wide(getattr(node, f"_saved_{saved[call.data]}").detach())
    if data.dim() == 3 and name in ("BmmBackward0", "BaddbmmBackward0"):  # a batched product of one
        data, gradient = data[0], gradient[0]
    if name == "LinearBackward0":
        data, gradient = data.flatten(0, -2), gradient.flatten(0, -2)
    elif call.mirrored:
        data, gradient = data.T, gradient.T
    return _Operands(data, gradient)


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
    return _read(call, torch.empty(shape, device="cpu").expand(shape)).data


def _pull_back(node: Any, index: int, parameter: nn.Parameter) -> Callable[[Tensor], Tensor]:
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
        return gradients.new_zeros(len(gradients), *parameter.shape) if found is None else _wide(found)

    return pull
