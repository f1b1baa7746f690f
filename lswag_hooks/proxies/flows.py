"""Proxies of the flow of ones through absolute weights: SynFlow, DSS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks import functional
from lswag_hooks.errors import InputError
from lswag_hooks.passes import Flow, FlowSeen, Pass
from lswag_hooks.proxies.base import Missing, OwnPass


@dataclass(frozen=True)
class SynFlow(OwnPass):
    """SynFlow: logarithm of what flows through the weights when all are positive; needs no data.

    One forward and one backward pass of a single sample, in double precision; where that overflows, the flow is scaled.
    LayerNorm stays, and undoes the growth of the flow with depth: values of transformers and of convolutional networks
    do not compare.

    Args:
        norms: ``"removed"`` (default): BatchNorm is the identity, as in zero-cost-nas and NASLib; ``"kept"``: it
            normalises the image of ones (``synflow_bn``).
        log: the logarithm, as NASLib stores it (default); False: the sum itself, which may overflow.
    """

    name: ClassVar[str] = "synflow"
    needs: ClassVar[frozenset[str]] = frozenset({"synflow"})
    reference: ClassVar[str] = "Tanaka et al., NeurIPS 2020"
    summary: ClassVar[str] = "flow through positive weights, logarithm"
    families: ClassVar[str] = "any network"
    traps: ClassVar[tuple[str, ...]] = (
        "LayerNorm undoes the growth of the flow: values of transformers and of convolutional networks do not compare",
        "no value where a Tanh ends the network, as in autoencoders: the flow of ones saturates it",
    )
    norms: Literal["removed", "kept"] = "removed"
    log: bool = True

    def __post_init__(self) -> None:
        if self.norms not in ("removed", "kept"):
            raise InputError(f"synflow: norms={self.norms!r} is unknown: use 'removed' or 'kept'.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Flow(self.norms),)

    def value(self, found: FlowSeen) -> float | Missing:
        total = math.fsum(functional.synflow(layer.weight, layer.gradient) for layer in found.layers)
        if total <= 0:
            return Missing("nothing flows from the input to the output, or a final Tanh saturates")
        logarithm = math.log(total) + found.log_scale
        return logarithm if self.log else math.exp(logarithm) if found.log_scale else total


@dataclass(frozen=True)
class DSS(OwnPass):
    """DSS of TF-TAS: nuclear norms of attention's projections, SynFlow of the other linear layers; needs no data.

    Projections of attention are linear layers as wide as they are deep, and those of query, key and value in one.
    Convolutions, the one of patches too, do not count, nor is the head counted twice as in the published code when it
    has 1000 classes. Shares SynFlow's pass, so that it costs two decompositions a projection.
    """

    name: ClassVar[str] = "tf_tas"
    needs: ClassVar[frozenset[str]] = frozenset({"synflow"})
    reference: ClassVar[str] = "Zhou et al., CVPR 2022"
    summary: ClassVar[str] = "synaptic diversity and saliency of transformers"
    families: ClassVar[str] = "transformers"
    traps: ClassVar[tuple[str, ...]] = (
        "every square linear layer counts as a projection of attention, an MLP of ratio one, too",
    )

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Flow(),)

    def value(self, found: FlowSeen) -> float | Missing:
        linear = [layer for layer in found.layers if layer.linear and layer.weight.dim() == 2]
        attention = [
            layer.weight.shape[0] == layer.weight.shape[1] or any(part in layer.name for part in ("qkv", "in_proj"))
            for layer in linear
        ]
        if not any(attention):
            return Missing("no projection of attention: it is defined on transformers")
        total = math.fsum(
            functional.dss(layer.weight, layer.gradient, flag) for layer, flag in zip(linear, attention, strict=True)
        )
        return total * math.exp(found.log_scale)


PROXIES = (SynFlow, DSS)
