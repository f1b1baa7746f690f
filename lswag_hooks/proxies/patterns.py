"""Proxies of activation patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lswag_hooks import functional
from lswag_hooks.errors import InputError
from lswag_hooks.proxies.base import Missing, Observation, Proxy

NO_ACTIVATION = (
    "no activation that is known: register yours with lswag_hooks.register_activation (gates such as sigmoid and tanh, "
    "and activations whose rows are not samples, as inside fused experts, do not count)"
)


CODED = "networks whose activations have codes (ReLU, GELU, SiLU, ...)"


@dataclass(frozen=True)
class Swap(Proxy):
    """SWAP: number of distinct sample-wise activation patterns of the whole network.

    The network is taken as it is built (the published code averages over 32 draws of N(0, 1) weights), and GELU and
    other activations count as ReLU does: code = output > 0.
    """

    name: ClassVar[str] = "swap"
    needs: ClassVar[frozenset[str]] = frozenset({"union"})
    reference: ClassVar[str] = "Peng et al., ICLR 2024"
    summary: ClassVar[str] = "distinct activation patterns of the network"
    families: ClassVar[str] = CODED
    traps: ClassVar[tuple[str, ...]] = (
        "at most 2^samples patterns: small batches have all networks at that bound",
        "once every unit has a pattern of its own it counts units",
    )

    def total(self, seen: Observation) -> float | Missing:
        return Missing(NO_ACTIVATION) if seen.union is None else float(seen.union)


@dataclass(frozen=True)
class RegSwap(Proxy):
    """SWAP, regularised towards a number of parameters.

    Args:
        mu: preferred size in thousands of parameters.
        sigma: width, in thousands squared. Neither has a default: the paper gives none, they belong to a search space.
    """

    name: ClassVar[str] = "reg_swap"
    needs: ClassVar[frozenset[str]] = frozenset({"union"})
    reference: ClassVar[str] = "Peng et al., ICLR 2024"
    summary: ClassVar[str] = "SWAP, with a preferred size"
    families: ClassVar[str] = CODED
    traps: ClassVar[tuple[str, ...]] = ("mu and sigma decide most of the order, and have no default",)
    mu: float | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and self.sigma <= 0:
            raise InputError(f"reg_swap: sigma={self.sigma} must be positive.")

    def total(self, seen: Observation) -> float | Missing:
        if self.mu is None or self.sigma is None:
            return Missing("reg_swap needs mu and sigma, which belong to a search space: RegSwap(mu=..., sigma=...)")
        if seen.union is None:
            return Missing(NO_ACTIVATION)
        return functional.regularised(float(seen.union), seen.parameters, self.mu, self.sigma)


@dataclass(frozen=True)
class NWOT(Proxy):
    """NASWOT: log-determinant of the agreement of codes between samples."""

    name: ClassVar[str] = "nwot"
    needs: ClassVar[frozenset[str]] = frozenset({"agreement"})
    reference: ClassVar[str] = "Mellor et al., ICML 2021"
    summary: ClassVar[str] = "log-determinant of the codes' agreement"
    families: ClassVar[str] = CODED
    traps: ClassVar[tuple[str, ...]] = (
        "two samples of equal codes make the kernel singular: no value",
        "grows with the number of units: batches and image sizes must be the same for all networks",
    )

    def total(self, seen: Observation) -> float | Missing:
        if seen.agreement is None:
            return Missing(NO_ACTIVATION)
        value = functional.nwot(seen.agreement)
        if math.isinf(value):
            return Missing("two samples have the same codes everywhere, so that the kernel is singular")
        return value


PROXIES = (Swap, RegSwap, NWOT)
