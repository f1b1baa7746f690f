"""Size as a proxy: the baselines that every other proxy must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lswag_hooks.proxies.base import Missing, Observation, Proxy


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

    def total(self, seen: Observation) -> float | Missing:
        return Missing("the model does not run on a single sample") if seen.macs is None else seen.macs


PROXIES = (Params, FLOPs)
