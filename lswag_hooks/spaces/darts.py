"""The DARTS space, with the strings of NAS-Bench-301."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lswag_hooks.spaces.base import Choose, Genes, Space, option_index
from lswag_hooks.spaces.counting import Cost, piece_cost
from lswag_hooks.spaces.darts_genotypes import (
    CELLS,
    GENOTYPES,
    Genotype,
    by_node,
    from_compact,
    from_genotype,
    parse,
    to_compact,
)
from lswag_hooks.spaces.darts_network import (
    NODES,
    OPERATIONS,
    DARTSNetwork,
    Edge,
    Stem,
    cell_plans,
    edge_stride,
    operation,
)

__all__ = ["DARTS", "GENOTYPES", "Genotype", "from_compact", "from_genotype", "network", "network_cost", "to_compact"]

EDGES_BEFORE = {2: 0, 3: 2, 4: 5, 5: 9}  # a cell's possible edges in order of their node: where each node's begin
EDGES = 14


def network(
    architecture: str,
    channels: int = 36,
    layers: int = 20,
    num_classes: int = 10,
    auxiliary: bool = True,
    drop_path: float = 0.0,
    affine: bool = True,
    pool_norm: bool = False,
    stem: Stem = "cifar",
    in_channels: int = 3,
) -> DARTSNetwork:
    """The network in which a genotype is evaluated; the defaults are those for CIFAR-10.

    For ImageNet the published networks have ``channels=48, layers=14, num_classes=1000, stem="imagenet"``. In training
    mode a network with an auxiliary head returns (logits, auxiliary logits), in evaluation mode logits. The chance of
    drop path is the network's attribute ``drop_path_rate``.

    Args:
        architecture: a genotype's string; ``GENOTYPES`` has some that were published.
        channels: of the first cells' nodes, even.
        layers: number of cells, of which two are reduction cells.
        num_classes: number of outputs.
        auxiliary: whether there is an auxiliary head, on images of 32×32 (ImageNet: 193×193) or larger.
        drop_path: first value of ``drop_path_rate``.
        affine: whether BatchNorm inside operations has weights.
        pool_norm: whether a pooling is followed by a BatchNorm without weights.
        stem: ``"cifar"`` or ``"imagenet"``.
        in_channels: channels of the images.

    Raises:
        InputError: no genotype, or an argument that makes no sense.

    Example:
        >>> import torch
        >>> net = network(GENOTYPES["DARTS_V2"], channels=4, layers=3)
        >>> logits, auxiliary = net(torch.zeros(2, 3, 32, 32))
        >>> net.eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    genotype = parse(architecture)
    return DARTSNetwork(
        genotype.normal,
        genotype.reduce,
        channels,
        layers,
        num_classes,
        auxiliary,
        drop_path,
        affine,
        pool_norm,
        stem,
        in_channels,
    )


def network_cost(
    architecture: str,
    image_shape: tuple[int, ...],
    channels: int = 36,
    layers: int = 20,
    num_classes: int = 10,
    affine: bool = True,
    pool_norm: bool = False,
    stem: Stem = "cifar",
) -> Cost:
    """Cost of a :func:`network` without its auxiliary head: that of one of skip connections, with the edges exchanged.

    Example:
        >>> network_cost(GENOTYPES["DARTS_V2"], (3, 32, 32)).params
        3349342
    """
    genotype = parse(architecture)
    in_channels, *sides = image_shape
    skips = tuple(("skip_connect", source) for _ in NODES for source in (0, 1))
    arguments = (skips, skips, channels, layers, num_classes, False, 0.0, affine, pool_norm, stem, in_channels)
    total = piece_cost(DARTSNetwork, arguments, image_shape)

    def edges_cost(edges: tuple[Edge, ...], sign: int) -> Cost:
        cost = Cost(0, 0, 0)
        for name, source in edges:
            stride = edge_stride(source, plan.reduction)
            entering = (plan.channels, *(halved if plan.reduction and stride == 1 else sides))
            cost += piece_cost(operation, (name, plan.channels, stride, affine, pool_norm), entering)
        return cost * sign

    sides = [math.ceil(side / (1 if stem == "cifar" else 8)) for side in sides]
    for plan in cell_plans(channels, layers, stem):
        halved = [math.ceil(side / 2) for side in sides]
        total += edges_cost(genotype.reduce if plan.reduction else genotype.normal, 1) + edges_cost(skips, -1)
        sides = halved if plan.reduction else sides
    return total


class DARTS(Space):
    """The DARTS space: a normal and a reduction cell of four nodes, each node two operations on earlier nodes.

    An architecture is a string of NAS-Bench-301, ``normal op~i op~i ... reduce op~i op~i ...``: eight operations with
    their sources for each cell type, two for each of the nodes 2 to 5. The order of a node's two edges makes no
    difference, and choices write the lower source first.

    For the task ``cifar10`` :meth:`build` gives the proxy network of NAS-Bench-Suite-Zero (32 channels, 8 cells,
    BatchNorm without weights in operations and after poolings), for ``imagenet`` the evaluation network (48 channels,
    14 cells); :func:`network` builds all others. Images of any size will do.

    Example:
        >>> space = DARTS()
        >>> space.cost(GENOTYPES["DARTS_V2"])
        Cost(params=909866, flops=165918208, macs=159765504)
    """

    name: ClassVar[str] = "darts"
    summary: ClassVar[str] = "a normal and a reduction cell, seven operations, two inputs a node (NAS-Bench-301)"
    reference: ClassVar[str] = (
        "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019; "
        "Zela et al., Surrogate NAS Benchmarks (NAS-Bench-301), ICLR 2022"
    )
    tasks: ClassVar[dict[str, int]] = {"cifar10": 10, "imagenet": 1000}
    image_shapes: ClassVar[dict[str, tuple[int, ...]]] = {"cifar10": (3, 32, 32), "imagenet": (3, 224, 224)}
    networks: ClassVar[dict[str, dict[str, Any]]] = {
        "cifar10": {"channels": 32, "layers": 8, "affine": False, "pool_norm": True, "stem": "cifar"},
        "imagenet": {"channels": 48, "layers": 14, "affine": True, "pool_norm": False, "stem": "imagenet"},
    }

    def compose(self, choose: Choose) -> str:
        """Choose the two sources of each node of each cell (as one), and an operation for each."""
        cells = []
        for cell in CELLS:
            edges: list[Edge] = []
            for node in NODES:
                pairs = _source_pairs(node)
                pair = choose(f"{cell} {node} sources", pairs) if len(pairs) > 1 else pairs[0]
                for place, source in zip(("first", "second"), pair.split(","), strict=True):
                    edges.append((choose(f"{cell} {node} {place}", OPERATIONS), int(source)))
            cells.append(tuple(edges))
        return str(Genotype(*cells))

    def genes(self, architecture: str) -> Genes:
        """The choices that compose an architecture, with each node's lower source first."""
        genotype = self.parse(architecture)
        genes: Genes = {}
        for cell in CELLS:
            for node, edges in by_node(getattr(genotype, cell)):
                (first, low), (second, high) = sorted(edges, key=lambda edge: edge[1])
                if node > NODES[0]:  # node 2 has only the two inputs to choose from
                    genes[f"{cell} {node} sources"] = f"{low},{high}"
                genes[f"{cell} {node} first"], genes[f"{cell} {node} second"] = first, second
        return genes

    def parse(self, architecture: str) -> Genotype:
        """Read a string of NAS-Bench-301."""
        return parse(architecture)

    def make(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> nn.Module:
        """The task's network, without an auxiliary head."""
        options = self.networks[task]
        return network(architecture, num_classes=num_classes, auxiliary=False, in_channels=image_shape[-3], **options)

    def counted(self, architecture: str, num_classes: int, task: str, image_shape: tuple[int, ...]) -> Cost:
        """Parameters, flops as published and multiply-accumulates, without building weights."""
        return network_cost(architecture, image_shape, num_classes=num_classes, **self.networks[task])

    def encode(self, architecture: str) -> np.ndarray:
        """Two cell types × 14 possible edges × 7 operations, one where an edge has that operation: 196 entries."""
        genotype = self.parse(architecture)
        code = np.zeros((len(CELLS), EDGES, len(OPERATIONS)))
        for index, cell in enumerate(CELLS):
            for node, edges in by_node(getattr(genotype, cell)):
                for name, source in edges:
                    code[index, EDGES_BEFORE[node] + source, option_index(OPERATIONS, name)] = 1
        return code.ravel()

    @property
    def size(self) -> int:
        """Number of architectures, the order of a node's two edges apart: (1·3·6·10 · 7^8)^2, about 1.1e18."""
        cell: int = math.prod(len(_source_pairs(node)) * len(OPERATIONS) ** 2 for node in NODES)
        return cell * cell


def _source_pairs(node: int) -> list[str]:
    return [f"{low},{high}" for low, high in itertools.combinations(range(node), 2)]
