"""One forward pass, watched: the loss, the graph's weight layers, and every activation handed over by sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lswag_hooks.hooks.activations import ActivationCall, ActivationCapture
from lswag_hooks.hooks.calls import CallStack
from lswag_hooks.hooks.graph import DATA, Graph, read_graph
from lswag_hooks.hooks.inventory import Inventory, Parameters, take_inventory
from lswag_hooks.hooks.placing import UNPLACED, Probe, settle
from lswag_hooks.hooks.samples import INDEPENDENT, Layout, codes_by_sample, region_layout, units_of

LossFunction = Callable[[Any], Tensor]  # of the inputs, marked; targets are bound by the caller
CodeConsumer = Callable[[int, ActivationCall, Tensor], None]
_POOLS = {"MultiScaleRoIAlign", "BaseRoIExtractor"}  # torchvision, mmdet


@dataclass
class Forward:
    """What one forward pass showed.

    Attributes:
        loss: the scalar loss with its graph.
        graph: the graph that was read.
        inventory: weight layers in call order, and uncovered weights with reasons.
        activations: activations in order; ``unplaced`` holds the reasons for those whose samples are unknown.
        others: gates and clamps.
        opaque: scripted modules, into which no hook reaches.
        shared: activations that no sample enters (of position networks), by position: they have no pattern.
        depends: whether the loss depends on the inputs at all.
        fed_by: parameter of a layer -> position of the activation that feeds it.
    """

    loss: Tensor
    graph: Graph
    inventory: Inventory
    activations: list[ActivationCall] = field(default_factory=list)
    unplaced: dict[str, str] = field(default_factory=dict)
    others: list[ActivationCall] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)
    fed_by: dict[str, int] = field(default_factory=dict)
    depends: bool = True
    shared: dict[int, ActivationCall] = field(default_factory=dict)


def mark(inputs: Any) -> tuple[Any, bool]:
    """Inputs whose floating-point tensors require a gradient, so that the graph shows what depends on them."""
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            return inputs.detach().requires_grad_(True).clone(), True  # a copy: the model may work in place
        return inputs, False
    if isinstance(inputs, Mapping):
        marked = {key: mark(value) for key, value in inputs.items()}
        return {key: value for key, (value, _) in marked.items()}, any(flag for _, flag in marked.values())
    if isinstance(inputs, (tuple, list)):
        pairs = [mark(value) for value in inputs]
        return type(inputs)(value for value, _ in pairs), any(flag for _, flag in pairs)
    return inputs, False


class Watcher:
    """Runs forward passes of a model inside a :class:`ProbeSession`.

    Args:
        model: the model.
        samples: batch size.
        budget: bytes of outputs at which a forward pass is broken off with ``OverBudget``.
        parameters: of the model, where they were listed before.
    """

    def __init__(
        self, model: nn.Module, samples: int, budget: int | None = None, parameters: Parameters | None = None
    ) -> None:
        self.model, self.samples, self.budget = model, samples, budget
        self.parameters = parameters or Parameters(model)

    def run(
        self,
        inputs: Any,
        loss: LossFunction,
        consume: CodeConsumer | None = None,
        probe: Probe | None = None,
        ordered: bool = True,
    ) -> Forward:
        """Forward pass with every weight product and activation placed by sample.

        Args:
            inputs: of the model.
            loss: of the (marked) inputs.
            consume: gets each activation's position, call and outputs (samples, units), as they happen; those whose
                rows must be proved first come last.
            probe: forward pass of the experiment (a, a, b); run at most once, only if something needs it.
            ordered: units come in the model's order, which another forward pass can be merged with; else as they lie.
        """
        calls: list[ActivationCall] = []
        unplaced: dict[str, str] = {}
        held: list[tuple[int, ActivationCall, Tensor]] = []
        regions: list[tuple[int, ...]] = []
        fed: dict[Any, int] = {}

        def activation(call: ActivationCall, output: Tensor) -> None:
            position = len(calls)
            calls.append(call)
            if output.grad_fn is not None:
                fed[output.grad_fn] = position
            if consume is None:
                return
            if output.is_nested:
                unplaced[call.name] = "a nested tensor"
                return
            shape = tuple(output.shape)
            if shape and shape[0] == self.samples and not (len(shape) == 3 and shape[1] == self.samples):
                rows = output.detach()
                consume(position, call, rows.reshape(self.samples, -1) if ordered else units_of(rows))
            else:
                held.append((position, call, output.detach() > 0))

        marked, known = mark(inputs)
        with (
            CallStack(self.model, self.budget) as stack,
            ActivationCapture(stack, activation) as capture,
            _regions(stack, regions),
        ):
            value = loss(marked)
        graph = read_graph([value], self.parameters.names, known)
        result = Forward(value, graph, Inventory([]), calls, unplaced, others=capture.others, opaque=stack.opaque)
        # by the graph, no sample enters them; the node of an activation in place on a view is not in the graph
        shared = {position for node, position in fed.items() if not graph.flags.get(node, DATA) & DATA}
        result.shared = {position: calls[position] for position in shared}
        held = [one for one in held if one[0] not in shared]
        pooled = {position: region_layout(len(code), regions) for position, _, code in held if code.dim()}
        wanting = any(pooled.get(position) is None for position, _, _ in held)
        place = settle(graph, self.parameters, self.samples, probe, regions, wanting)
        for position, kept, code in held:
            found = pooled.get(position) or place.get(kept.name, UNPLACED)
            if found == INDEPENDENT:
                result.shared[position] = kept
            elif isinstance(found, Layout) and consume is not None:
                consume(position, kept, codes_by_sample(code, found, self.samples))
            else:
                result.unplaced[kept.name] = str(found)
        result.inventory = take_inventory(graph, self.parameters)
        result.depends = graph.depends
        result.fed_by = _feeding(graph, fed, result.inventory)
        return result

    def outputs(self, inputs: Any, call: Callable[[Any], Tensor]) -> tuple[Graph, dict[str, Tensor]]:
        """Graph of a plain forward pass and the outputs of all its activations, for the experiment."""
        seen: dict[str, Tensor] = {}

        def activation(call: ActivationCall, output: Tensor) -> None:
            seen[call.name] = output.detach().clone()  # it may be overwritten in place

        marked, known = mark(inputs)
        with CallStack(self.model) as stack, ActivationCapture(stack, activation):
            value = call(marked)
        return read_graph([value], self.parameters.names, known), seen


def _feeding(graph: Graph, activations: dict[Any, int], inventory: Inventory) -> dict[str, int]:
    """For each layer the last activation on the way from the input to it."""
    latest: dict[Any, int] = {}
    for node in graph.nodes:
        before = [latest[child] for child, _ in node.next_functions if child is not None and child in latest]
        found = activations.get(node, max(before, default=-1))
        if found >= 0:
            latest[node] = found
    fed = {}
    for layer in inventory.layers:
        call = layer.calls[0]
        child = call.node.next_functions[call.data][0]
        if child is not None and child in latest:
            fed[layer.parameter] = latest[child]
    return fed


@contextlib.contextmanager
def _regions(stack: CallStack, found: list[tuple[int, ...]]) -> Iterator[None]:
    """Notes how many regions of interest of each image every pooling module takes."""

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        boxes = inputs[1] if len(inputs) > 1 else None
        if isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 5:  # (image, x1, y1, x2, y2)
            image = boxes[:, 0].long()
            if bool((image[1:] >= image[:-1]).all()):  # else they are no blocks, and are reported as not covered
                found.append(tuple(torch.bincount(image).tolist()))
        elif isinstance(boxes, (list, tuple)) and all(isinstance(box, Tensor) for box in boxes):
            found.append(tuple(len(box) for box in boxes))

    handles = [
        module.register_forward_pre_hook(before)
        for _, module in stack.modules
        if any(cls.__name__ in _POOLS for cls in type(module).__mro__)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
