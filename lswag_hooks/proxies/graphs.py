"""Proxies of the network as a graph: NASGraph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks import functional
from lswag_hooks.errors import InputError
from lswag_hooks.passes import ChannelEdges, ChannelGraph, Pass
from lswag_hooks.proxies.base import Missing, OwnPass


@dataclass(frozen=True)
class NASGraph(OwnPass):
    """NASGraph: how many channels each channel is joined to, on average.

    A channel of a convolution is joined to those channels before it to which, behind a ReLU, it answers. Which
    convolution feeds which is read from the network's own graph: through norms, activations, pooling, sums and
    concatenations; linear layers do not count. The published code has a graph written by hand for each search space,
    with pooling, skip and zero operations as layers of their own and small networks in place of the real ones: its
    figures of NAS-Bench-201 are others. Each convolution runs on as many maps as it has input channels, which is
    little on small images and a great deal on wide networks.

    Args:
        init: ``"normal"`` (default): convolutions drawn anew from N(0, 1), as published; None: as they are.
        norms: True (default): the BatchNorm right behind a convolution belongs to it; False: it is left out.
        seed: of the draws.
    """

    name: ClassVar[str] = "nas_graph"
    needs: ClassVar[frozenset[str]] = frozenset({"graph"})
    reference: ClassVar[str] = "Huang et al., AutoML 2024 workshop"
    summary: ClassVar[str] = "average degree of the graph of channels"
    families: ClassVar[str] = "networks with convolutions, on images"
    traps: ClassVar[tuple[str, ...]] = (
        "weights are drawn anew: it says nothing of your initialisation",
        "each convolution runs on as many maps as it has input channels: slow on wide networks",
        "its values of NAS-Bench-201 are not the published ones, which are of graphs written by hand",
    )
    init: Literal["normal"] | None = "normal"
    norms: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.init not in (None, "normal"):
            raise InputError(f"nas_graph: init={self.init!r} is unknown: use 'normal', or None (as they are).")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (ChannelGraph(self.init, self.norms, self.seed),)

    def value(self, found: list[ChannelEdges]) -> float | Missing:
        degree = functional.average_degree((one.parent, one.child, one.edges) for one in found)
        return Missing("no channel answers to another") if math.isnan(degree) else degree


PROXIES = (NASGraph,)
