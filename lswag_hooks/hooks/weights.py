"""Per-sample gradients of every weight layer of a network, handed over layer by layer during one backward pass.

No gradient of a weight is asked from autograd: only the gradients of layer outputs are computed, and no further back
than the first layer that counts. At each product the layer's operands are read from the graph, which holds them anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from lswag_hooks.devices import no_autocast
from lswag_hooks.errors import UnsupportedError
from lswag_hooks.hooks.graph import CHECKPOINTED, VIEWS, Graph, WeightCall, shape_of, trace
from lswag_hooks.hooks.inventory import Parameters, WeightLayer
from lswag_hooks.hooks.operands import Operands, pull_back, read_operands, wide
from lswag_hooks.hooks.rules import (
    BroadcastGradient,
    DerivedGradient,
    EmbeddingGradient,
    GradientSource,
    LinearGradient,
    SumGradient,
    conv_source,
)
from lswag_hooks.hooks.samples import BLOCKS, Layout, by_sample, to_blocks


@dataclass
class LayerGradients:
    """What a backward pass leaves at one layer.

    Attributes:
        source: per-sample gradients of the weight, formed on demand; None if the loss does not reach it.
        weight: the weight itself, in single precision at least.
        bias: the layer's bias, if it has one and adds it to the product as it is.
        outputs: gradients of the layer's output summed over positions, (samples, channels): the per-sample gradient of
            the bias; None where a layer is called more than once or its weight is computed.
        inputs_first: groups of channels where the weight's first dimension is that of its inputs, as in transposed
            convolutions; else 0.
        dead: no gradient of the layer's outputs differs from zero, and so none of the weight: nothing is to be formed.
    """

    source: GradientSource | None
    weight: Tensor
    bias: Tensor | None = None
    outputs: Callable[[], Tensor] | None = None
    inputs_first: int = 0
    dead: bool = False


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
        operands: dict[Any, Operands | None] = {}

        def arrive(call: WeightCall, gradient: Tensor | None) -> None:
            operands[call.node] = None if gradient is None else read_operands(call, gradient)
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
            with no_autocast(loss.device):  # what the loss was computed in is in the graph; statistics are not
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

    def _gradients(self, layer: WeightLayer, parts: Sequence[tuple[WeightCall, Operands | None]]) -> LayerGradients:
        parameter = self.parameters.by_name[layer.parameter]
        bias = self.parameters.by_name.get(layer.parameter.removesuffix("weight") + "bias")
        found = LayerGradients(None, wide(parameter.detach()))
        sources = [
            self._call_source(call, operands, layer.parameter, parameter)
            for call, operands in parts
            if operands is not None
        ]
        if sources:
            found.dead = all(
                operands is None or (call.form != "derived" and _is_zero(operands.gradient)) for call, operands in parts
            )
            found.source = sources[0] if len(sources) == 1 else SumGradient(sources, tuple(parameter.shape))
        first, seen = parts[0] if parts else (None, None)
        if first is not None and seen is not None and first.form != "derived":
            if first.kind == "conv" and seen.options is not None and seen.options.transposed:
                found.inputs_first = seen.options.groups
            elif first.kind == "matmul" and not _outputs_first(first):
                found.inputs_first = 1
        if len(parts) == 1 and parts[0][1] is not None:
            call, operands = parts[0][0], parts[0][1]
            if bias is not None and (call.kind == "broadcast" or self.parameters.names[id(bias)] in call.parameters):
                # the product is not the layer's own: its bias is behind what enters it, as the weight is
                behind = self._call_source(call, operands, layer.parameter, bias)
                found.bias = wide(bias.detach())
                found.outputs = lambda: behind.block(slice(0, self.samples), slice(0, behind.rows)).flatten(1)
            else:
                if bias is not None and self._adds(call, self.parameters.names[id(bias)]):
                    found.bias = wide(bias.detach())
                found.outputs = lambda: self._summed(call, operands.gradient)
        return found

    def _adds(self, call: WeightCall, bias: str) -> bool:
        """Whether a product's bias is added to it as it is and used nowhere else: its gradient is then the result's."""
        places = self.graph.exits.get(bias, [])
        if len(places) != 1:
            return False
        node, index = places[0]
        if trace(self.graph, node.next_functions[index]) != ((bias,), "plain"):
            return False
        if node is call.node:
            return True
        if node.name() != "AddBackward0" or (index == 1 and node._saved_alpha != 1):
            return False
        before = node.next_functions[1 - index][0]
        while before is not None and before is not call.node and before.name() in VIEWS:
            before = before.next_functions[0][0]
        return before is call.node

    def _summed(self, call: WeightCall, gradient: Tensor) -> Tensor:
        layout = call.layout or BLOCKS
        if call.kind == "conv":
            rows = to_blocks(gradient.flatten(2).sum(2), layout, self.samples)
            return rows.reshape(self.samples, -1, rows.shape[1]).sum(1)
        return by_sample(gradient, layout, self.samples).sum(1)

    def _call_source(self, call: WeightCall, operands: Operands, name: str, parameter: nn.Parameter) -> GradientSource:
        layout: Layout = call.layout or BLOCKS
        data, gradient, samples = operands.data, operands.gradient, self.samples
        if call.kind == "lookup":
            return EmbeddingGradient(
                data.reshape(samples, -1),
                gradient.reshape(samples, -1, gradient.shape[-1]),
                tuple(parameter.shape),
                operands.padding,
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
            first, second = (gradient, data) if _outputs_first(call) else (data, gradient)
            shape = tuple(parameter.shape)
            if call.form == "derived":
                shape = (first.shape[2], second.shape[2])
            source = LinearGradient(first, second, shape)
        if call.form != "derived":
            return source
        node, index = call.node.next_functions[call.weight]
        pull = pull_back(node, index, parameter)
        return DerivedGradient(source, pull, tuple(parameter.shape))


def _is_zero(gradient: Tensor) -> bool:
    """Whether all is exactly zero, as behind zero gains; of most gradients the first row says that it is not."""
    return not bool(gradient[:1].any()) and not bool(gradient.any())


def _outputs_first(call: WeightCall) -> bool:
    """Whether the rows of a weight are its outputs: those of y = weight @ x, which F.linear's weight has too."""
    if call.node.name() == "LinearBackward0":
        return call.form != "transposed"
    return call.mirrored if call.form == "derived" else (call.form == "transposed") != call.mirrored
