"""The weights of a network: their names, the products that each enters, and those that cannot be had, with reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import nn

from lswag_hooks.hooks.calls import clean_name
from lswag_hooks.hooks.graph import Graph, WeightCall, is_table

#: products that have no rule, and operations that autograd does not know by number: custom functions and operators
_UNRULED = re.compile(r"mm|mv|matmul|linear|conv|bilinear|rnn|lstm|gru|[^0-9]$", re.IGNORECASE)


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
        if parameter.is_complex():
            reasons.add("a weight of complex numbers, for which there is no rule")
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
    for name, places in graph.exits.items():  # fused experts, functions of one's own: weights by what they enter
        entered = {node.name() for node, _ in places if _UNRULED.search(node.name())}
        owner = parameters.owners[name]
        listed = name in seen or name in inventory.uncovered or is_table(name, owner) or isinstance(owner, nn.Embedding)
        if entered and not listed and sum(n > 1 for n in parameters.by_name[name].shape) >= 2:
            inventory.uncovered[name] = f"enters {', '.join(sorted(entered))}, for which there is no rule"
    return inventory
