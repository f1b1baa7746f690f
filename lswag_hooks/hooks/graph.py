"""The autograd graph of a forward pass, read once: which products do the weights enter?

Hooks on modules miss functional calls, fused projections and standardised weights; the graph has them all. A node of a
convolution or a matrix product is followed along its operands: one that leads to parameters alone is a weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lswag_hooks.errors import UnsupportedError

DATA, PARAMETER = 1, 2

CONVOLUTIONS = {
    "ConvolutionBackward0",
    "ConvolutionBackward1",  # of a traced module
    "ConvolutionOverrideableBackward0",
    "CudnnConvolutionBackward0",
}
MATRIX_PRODUCTS = {
    "AddmmBackward0": (1, 2),
    "MmBackward0": (0, 1),
    "LinearBackward0": (0, 1),
    "BmmBackward0": (0, 1),
    "BaddbmmBackward0": (1, 2),
}
BROADCASTS = {"AddBackward0", "SubBackward0", "MulBackward0"}  # where a table computed from weights joins the data
LOOKUPS = {"EmbeddingBackward0", "EmbeddingDenseBackward0"}
CHOICES = {"IndexBackward0", "IndexSelectBackward0", "GatherBackward0", "TakeBackward0", "TakeAlongDimBackward0"}
CHECKPOINTED = (
    "activation checkpointing is on, and a checkpointed segment can be read only once: switch it off while scoring "
    "(timm: model.set_grad_checkpointing(False); transformers: model.gradient_checkpointing_disable())."
)
_SAME = {"ToCopyBackward0", "AliasBackward0", "CloneBackward0", "ContiguousBackward0"}
_TRANSPOSE = {"TBackward0"}
VIEWS = {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"}

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
        kind: ``conv``, ``matmul``, ``lookup``; ``broadcast``: the weight is behind a tensor that all samples share.
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
        if edge[0].name() in VIEWS:
            before = shape_of(edge[0].next_functions[0])
            if before and len(before) > 2 and before[-1] == shape[1]:
                return before
        return shape


@dataclass
class Graph:
    """Nodes of one forward pass in topological order (inputs first), and what they descend from.

    Attributes:
        nodes: all nodes.
        parameters: nodes that accumulate the gradient of a parameter, with its name.
        sources: nodes that data enter which need no gradient.
        flags: whether a node descends from data, from parameters, or both.
        products: products that a weight enters.
        calls: those that data enter too, with the places where what is computed from weights alone joins the data.
        exits: parameter -> operands, with their index, at which what is computed from it alone meets data.
        multiplied: parameters that enter some product.
        depends: whether the result (the last node) depends on data, as far as is known.
    """

    nodes: list[Node]
    parameters: dict[Node, str]
    sources: set[Node]
    flags: dict[Node, int] = field(default_factory=dict)
    products: list[WeightCall] = field(default_factory=list)
    calls: list[WeightCall] = field(default_factory=list)
    exits: dict[str, list[tuple[Node, int]]] = field(default_factory=dict)
    multiplied: list[str] = field(default_factory=list)
    depends: bool = True

    def __post_init__(self) -> None:
        self.read()

    def descends(self, edge: tuple[Node | None, int]) -> int:
        """What an operand descends from; nothing for a constant."""
        return 0 if edge[0] is None else self.flags[edge[0]]

    def read(self) -> None:
        """Find what every node descends from, and with it the products of weights and data."""
        for node in self.nodes:
            flag = DATA if node in self.sources else 0
            for child, _ in node.next_functions:
                if child is not None:
                    flag |= self.flags[child]
            if node in self.parameters:
                flag |= PARAMETER
            self.flags[node] = flag
        self.exits = {}
        for node in self.nodes:
            if self.flags[node] & DATA:
                for index, edge in enumerate(node.next_functions):
                    if edge[0] is not None and self.flags[edge[0]] == PARAMETER:
                        for name in _behind(self, edge[0]):
                            self.exits.setdefault(name, []).append((node, index))
        self.products = [call for node in self.nodes if (call := _product(self, node)) is not None]
        self.multiplied = [name for call in self.products if call.kind != "lookup" for name in call.parameters]
        self.calls = sorted(_through_shared(self, self.products), key=lambda call: call.order)

    def reaches_data(self) -> bool:
        """Whether the result, the last node, descends from data as far as is known now."""
        return not self.nodes or bool(self.flags[self.nodes[-1]] & DATA)

    def undecided(self) -> list[WeightCall]:
        """Products of a weight and something that is neither data nor computed: a constant, or data without a graph."""
        return [call for call in self._no_data() if call.node.next_functions[call.data][0] is None]

    def shared(self) -> list[WeightCall]:
        """Products of a weight and something that is computed from parameters alone."""
        return [call for call in self._no_data() if call.node.next_functions[call.data][0] is not None]

    def _no_data(self) -> list[WeightCall]:
        return [call for call in self.products if call.kind != "lookup" and not self.flags[call.node] & DATA]


def read_graph(outputs: Iterable[Tensor], parameters: Mapping[int, str], marked: bool = True) -> Graph:
    """Walk the graph behind some tensors.

    Args:
        outputs: the loss, or the outputs.
        parameters: id of a parameter -> its name.
        marked: the inputs require a gradient, so that what does not lead to them is known not to depend on them.

    Raises:
        UnsupportedError: a segment is checkpointed in a way that hides it.
    """
    order: list[Node] = []
    leaves: dict[Node, str] = {}
    sources: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(output.grad_fn, False) for output in outputs if output.grad_fn is not None]
    seen: set[Node] = set()
    while stack:
        node, done = stack.pop()
        if not done and node in seen:
            continue
        if not done:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child, _ in node.next_functions if child is not None and child not in seen)
            continue
        order.append(node)
        name, variable = node.name(), getattr(node, "variable", None)
        if name == "CheckpointFunctionBackward":
            raise UnsupportedError(CHECKPOINTED)
        if variable is not None and id(variable) in parameters:
            leaves[node] = parameters[id(variable)]
        elif variable is not None or name in LOOKUPS or (not marked and name in CHOICES):
            sources.add(node)  # the inputs themselves, or what they choose
    return Graph(order, leaves, sources)


def _product(graph: Graph, node: Node) -> WeightCall | None:
    """The product of a weight that a node is, if it is one."""
    name = node.name()
    candidates: tuple[tuple[int, int], ...]
    if name in CONVOLUTIONS:
        candidates, kind = ((1, 0),), "conv"
    elif name in MATRIX_PRODUCTS:
        left, right = MATRIX_PRODUCTS[name]
        candidates, kind = ((right, left), (left, right)), "matmul"
    elif name in LOOKUPS:
        candidates, kind = ((0, 0),), "lookup"
    else:
        return None
    for weight, data in candidates:
        edge = node.next_functions[weight]
        if graph.descends(edge) == PARAMETER:
            names, form = trace(graph, edge)
            flags = DATA if kind == "lookup" else graph.descends(node.next_functions[data])
            call = WeightCall(node, kind, weight, data, names, form, node._sequence_nr(), flags)
            if node._input_metadata[0].dtype.is_complex:
                call.reason = "a product of complex numbers, for which there is no rule"
            if node._input_metadata[0].is_nested_tensor:
                call.reason = "a product of a nested tensor, for which there is no rule"
            return call
    return None


def _through_shared(graph: Graph, products: list[WeightCall]) -> list[WeightCall]:
    """Replace products that no sample enters by the places where their results join the data.

    A position network turns a table of coordinates into a bias that is added for every sample. Its weights have
    per-sample gradients all the same: those of the bias, pulled back through the network.
    """
    calls = [call for call in products if graph.flags[call.node] & DATA]
    names = {name for call in products if not graph.flags[call.node] & DATA for name in call.parameters}
    known = {(call.node, call.weight) for call in calls}
    joined: dict[tuple[Node, int], list[str]] = {}
    for name in sorted(names):
        for place in graph.exits.get(name, ()):
            if place not in known:
                joined.setdefault(place, []).append(name)
    for (node, index), found in joined.items():
        call = WeightCall(node, "broadcast", index, 1 - index, tuple(found), "derived", node._sequence_nr(), DATA)
        if node.name() not in BROADCASTS or node._input_metadata[0].dtype.is_complex:
            call.reason = f"every sample shares it and it enters {node.name()}, for which there is no rule"
        calls.append(call)
    return calls


def _behind(graph: Graph, node: Node) -> list[str]:
    """Names of the parameters that a node descends from."""
    names, stack, seen = [], [node], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in graph.parameters:
            names.append(graph.parameters[node])
        stack.extend(child for child, _ in node.next_functions if child is not None)
    return sorted(names)


def trace(graph: Graph, edge: tuple[Node, int]) -> tuple[tuple[str, ...], str]:
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
    return tuple(_behind(graph, edge[0])), "derived"


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
