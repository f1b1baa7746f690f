"""The autograd graph of a forward pass, read once: which products do the weights enter?

Hooks on modules miss functional calls, fused projections and standardised weights; the graph has them all. A node of a
convolution or a matrix product is followed along its operands: one that leads to parameters alone is a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

DATA, PARAMETER = 1, 2

CONVOLUTIONS = {"ConvolutionBackward0", "ConvolutionOverrideableBackward0", "CudnnConvolutionBackward0"}
MATRIX_PRODUCTS = {
    "AddmmBackward0": (1, 2),
    "MmBackward0": (0, 1),
    "LinearBackward0": (0, 1),
    "BmmBackward0": (0, 1),
    "BaddbmmBackward0": (1, 2),
}
BROADCASTS = {"AddBackward0", "SubBackward0", "MulBackward0"}  # where a table computed from weights joins the data
LOOKUPS = {"EmbeddingBackward0", "EmbeddingDenseBackward0"}
_SAME = {"ToCopyBackward0", "AliasBackward0", "CloneBackward0", "ContiguousBackward0"}
_TRANSPOSE = {"TBackward0"}

Node = Any  # torch.autograd.graph.Node


def shape_of(edge: tuple[Node | None, int]) -> tuple[int, ...] | None:
    """Shape of the tensor behind an edge of the graph, None for a constant."""
    node, index = edge
    if node is None:
        return None
    return tuple(int(n) for n in node._input_metadata[index].shape)


@dataclass
class WeightCall:
    """One product that a weight enters.

    Attributes:
        node: the graph's node.
        kind: ``conv``, ``matmul``, ``lookup``, or ``broadcast``: the weight is behind a tensor that every sample shares.
        weight: index of the weight among the node's operands, ``data`` that of the other one.
        parameters: names of the parameters that the weight is computed from.
        form: ``plain`` or ``transposed`` if the weight is a parameter itself, ``derived`` if it is computed.
        order: position in the forward pass.
    """

    node: Node
    kind: str
    weight: int
    data: int
    parameters: tuple[str, ...]
    form: str
    order: int
    data_flags: int = 0
    layout: Any = None
    reason: str = ""

    @property
    def mirrored(self) -> bool:
        """Whether the weight stands on the left, ``weight @ x``, so that rows of the data are columns."""
        return self.kind == "matmul" and self.weight < self.data and self.node.name() != "LinearBackward0"

    def data_shape(self) -> tuple[int, ...] | None:
        """Shape of the data before it was flattened into a matrix, None where only the operand itself knows."""
        edge = self.node.next_functions[self.data]
        shape = shape_of(edge)
        if shape is None or self.kind != "matmul" or len(shape) != 2 or self.data > self.weight:
            return shape
        if edge[0].name() in ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"):
            before = shape_of(edge[0].next_functions[0])
            if before and len(before) > 2 and before[-1] == shape[1]:
                return before
        return shape


@dataclass
class Graph:
    """Nodes of one forward pass in topological order (inputs first), and what they descend from."""

    nodes: list[Node]
    flags: dict[Node, int]
    parameters: dict[Node, str]  # AccumulateGrad nodes of parameters
    calls: list[WeightCall] = field(default_factory=list)
    consumers: dict[str, set[str]] = field(default_factory=dict)  # parameter -> names of the operations it enters

    def descends(self, edge: tuple[Node | None, int]) -> int:
        return 0 if edge[0] is None else self.flags[edge[0]]


def read_graph(outputs: Iterable[Tensor], parameters: Mapping[int, str], marked: bool = True) -> Graph:
    """Walk the graph behind some tensors.

    Args:
        outputs: the loss, or the outputs.
        parameters: id of a parameter -> its name.
        marked: the inputs require a gradient, so that what does not lead to them is known not to depend on them.
    """
    roots = [output.grad_fn for output in outputs if output.grad_fn is not None]
    order: list[Node] = []
    flags: dict[Node, int] = {}
    leaves: dict[Node, str] = {}
    stack: list[tuple[Node, bool]] = [(root, False) for root in roots]
    seen: set[Node] = set()
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            flag = 0
            for child, _ in node.next_functions:
                if child is not None:
                    flag |= flags[child]
            variable = getattr(node, "variable", None)
            if variable is not None:
                name = parameters.get(id(variable))
                if name is None:
                    flag |= DATA
                else:
                    leaves[node] = name
                    flag |= PARAMETER
            elif node.name() in LOOKUPS:
                flag |= DATA  # which rows are looked up depends on the sample
            elif not marked and _constant_operand(node):
                flag |= DATA  # nothing else tells data from constants here; a layout must still be proved
            flags[node] = flag
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child, _ in node.next_functions if child is not None and child not in seen)
    graph = Graph(order, flags, leaves)
    _find_calls(graph)
    return graph


def _constant_operand(node: Node) -> bool:
    name = node.name()
    if name in CONVOLUTIONS:
        return node.next_functions[0][0] is None
    if name in MATRIX_PRODUCTS:
        return any(node.next_functions[i][0] is None for i in MATRIX_PRODUCTS[name])
    return False


def _find_calls(graph: Graph) -> None:
    for node in graph.nodes:
        name = node.name()
        for child, _ in node.next_functions:
            if child is not None and child in graph.parameters:
                graph.consumers.setdefault(graph.parameters[child], set()).add(name)
        if name in CONVOLUTIONS:
            candidates = ((1, 0),)
            kind = "conv"
        elif name in MATRIX_PRODUCTS:
            left, right = MATRIX_PRODUCTS[name]
            candidates = ((right, left), (left, right))  # type: ignore[assignment]
            kind = "matmul"
        elif name in LOOKUPS:
            candidates = ((0, 0),)
            kind = "lookup"
        else:
            continue
        for weight, data in candidates:
            edge = node.next_functions[weight]
            if graph.descends(edge) == PARAMETER:
                names, form = _trace(graph, edge)
                graph.calls.append(
                    WeightCall(
                        node,
                        kind,
                        weight,
                        data,
                        names,
                        form,
                        node._sequence_nr(),
                        data_flags=graph.descends(node.next_functions[data]) if kind != "lookup" else DATA,
                    )
                )
                break
    graph.calls = _through_shared(graph)
    graph.calls.sort(key=lambda call: call.order)


def _through_shared(graph: Graph) -> list[WeightCall]:
    """Replace products that no sample enters by the places where their results join the data.

    A position network turns a table of coordinates into a bias that is added for every sample. Its weights have
    per-sample gradients all the same: those of the bias, pulled back through the network.
    """
    shared = [call for call in graph.calls if not graph.flags[call.node] & DATA]
    if not shared:
        return graph.calls
    names = {name for call in shared for name in call.parameters}
    calls = [call for call in graph.calls if graph.flags[call.node] & DATA]
    known = {(call.node, call.weight) for call in calls}
    for node in graph.nodes:
        if not graph.flags[node] & DATA:
            continue
        for index, edge in enumerate(node.next_functions):
            if edge[0] is None or graph.flags[edge[0]] != PARAMETER or (node, index) in known:
                continue
            behind, _ = _trace(graph, edge)
            found = tuple(name for name in behind if name in names)
            if not found:
                continue
            call = WeightCall(node, "broadcast", index, 1 - index, found, "derived", node._sequence_nr(), DATA)
            if node.name() not in BROADCASTS:
                call.reason = f"every sample shares it and it enters {node.name()}, for which there is no rule"
            calls.append(call)
    return calls


def _trace(graph: Graph, edge: tuple[Node, int]) -> tuple[tuple[str, ...], str]:
    """Parameters behind a weight, and whether it is one of them."""
    node, turned = edge[0], False
    while node not in graph.parameters:
        name = node.name()
        if name not in _SAME | _TRANSPOSE:
            break
        turned ^= name in _TRANSPOSE
        node = node.next_functions[0][0]
    if node in graph.parameters:
        return (graph.parameters[node],), "transposed" if turned else "plain"
    names, stack, seen = [], [edge[0]], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in graph.parameters:
            names.append(graph.parameters[node])
        stack.extend(child for child, _ in node.next_functions if child is not None)
    return tuple(sorted(names)), "derived"


def is_table(name: str, owner: nn.Module) -> bool:
    """Whether a parameter that enters a product is a table (positions, tokens), not a layer's weight."""
    leaf = name.rpartition(".")[2]
    if leaf in ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight") or leaf.startswith(
        "original"
    ):
        return False
    return any(
        word in leaf for word in ("pos", "rel", "table", "token", "query", "embed", "bias", "scale", "temperature")
    )
