"""Size as a proxy: the baselines that every other proxy must beat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lswag_hooks.proxies.base import NO_LAYER, Missing, Observation, Proxy


@dataclass(frozen=True)
class Params(Proxy):
    """Number of parameters, shared ones counted once."""

    name: ClassVar[str] = "params"
    summary: ClassVar[str] = "number of parameters"

    def total(self, seen: Observation) -> float | Missing:
        return float(seen.parameters)


@dataclass(frozen=True)
class FLOPs(Proxy):
    """Multiply-accumulates of one sample: convolutions, linear layers and attention products."""

    name: ClassVar[str] = "flops"
    needs: ClassVar[frozenset[str]] = frozenset({"macs"})
    summary: ClassVar[str] = "multiply-accumulates of one sample"
    traps: ClassVar[tuple[str, ...]] = ("convolutions and products alone: norms, activations and pooling do not count",)

    def total(self, seen: Observation) -> float | Missing:
        return Missing("the model does not run on a single sample") if seen.macs is None else seen.macs


@dataclass(frozen=True)
class Depth(Proxy):
    """Number of weight layers: convolutions and linear layers, shared ones counted once."""

    name: ClassVar[str] = "depth"
    summary: ClassVar[str] = "number of weight layers"

    def total(self, seen: Observation) -> float | Missing:
        return float(len(seen.layer_sizes)) if seen.layer_sizes else Missing(NO_LAYER)


@dataclass(frozen=True)
class LogSize(Proxy):
    r"""Sum over layers of the logarithm of their number of weights, :math:`\sum_l \ln n_l`.

    It needs neither data nor gradients, and explains most of what sums of logarithms over layers (L-SWAG's
    trainability, ZiCo) rank by: look at it before you believe them.
    """

    name: ClassVar[str] = "log_size"
    summary: ClassVar[str] = "sum over layers of the logarithm of their size"

    def total(self, seen: Observation) -> float | Missing:
        return sum(map(math.log, seen.layer_sizes)) if seen.layer_sizes else Missing(NO_LAYER)


PROXIES = (Params, FLOPs, Depth, LogSize)
