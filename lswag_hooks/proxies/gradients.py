"""Proxies of gradients and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks import functional
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.proxies.base import Missing, Observation, Proxy
from lswag_hooks.proxies.lswag import check_granularity


@dataclass(frozen=True)
class ZiCo(Proxy):
    """ZiCo: inverse coefficient of variation of gradients.

    Args:
        granularity: ``"sample"`` (default): over per-sample gradients, which need no other pass; ``"batch"``: over
            ``batches`` mini-batches, each with its own pass, as published.
        batches: number of mini-batches for ``granularity="batch"``.
    """

    name: ClassVar[str] = "zico"
    needs: ClassVar[frozenset[str]] = frozenset({"moments", "signed"})
    reference: ClassVar[str] = "Li et al., ICLR 2023"
    summary: ClassVar[str] = "mean over deviation of gradients, in logarithms"
    traps: ClassVar[tuple[str, ...]] = (
        "grows with the number of layers and of their weights: compare it with log_size",
        "over two mini-batches, as published, a deviation is half a difference, and single precision loses digits",
    )
    granularity: Literal["sample", "batch"] = "sample"
    batches: int = 2

    def __post_init__(self) -> None:
        check_granularity(self.granularity, self.batches)

    @property
    def minibatches(self) -> int:
        return self.batches if self.granularity == "batch" else 0

    def part(self, arrays: LayerArrays) -> float:
        assert arrays.moments is not None
        return functional.zico_sum(arrays.moments)

    def finish(self, total: float, layer: LayerWhole) -> float:
        return functional.logarithm(total)


@dataclass(frozen=True)
class GradNorm(Proxy):
    """Sum over layers of the norm of the gradient of the mean loss."""

    name: ClassVar[str] = "grad_norm"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})
    reference: ClassVar[str] = "Abdelfattah et al., ICLR 2021"
    summary: ClassVar[str] = "sum of the layers' gradient norms"
    traps: ClassVar[tuple[str, ...]] = (
        "falls with accuracy on autoencoders, and on jigsaw of TransNAS-Bench-101 macro",
    )

    def part(self, arrays: LayerArrays) -> float:
        assert arrays.gradient is not None
        return functional.grad_norm(arrays.gradient) ** 2

    def finish(self, total: float, layer: LayerWhole) -> float:
        return math.sqrt(total)


@dataclass(frozen=True)
class Snip(Proxy):
    """SNIP: sum of the absolute values of weight times gradient."""

    name: ClassVar[str] = "snip"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})
    reference: ClassVar[str] = "Lee et al., ICLR 2019"
    summary: ClassVar[str] = "sum of |weight x gradient|"
    traps: ClassVar[tuple[str, ...]] = ("falls with accuracy on autoencoders, as grad_norm does",)

    def part(self, arrays: LayerArrays) -> float:
        assert arrays.weight is not None and arrays.gradient is not None
        return functional.snip(arrays.weight, arrays.gradient)


@dataclass(frozen=True)
class Plain(Proxy):
    """Plain: signed sum of weight times gradient; has no clear direction."""

    name: ClassVar[str] = "plain"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})
    reference: ClassVar[str] = "Abdelfattah et al., ICLR 2021"
    summary: ClassVar[str] = "sum of weight x gradient, signed"
    traps: ClassVar[tuple[str, ...]] = (
        "its sign has no meaning: its correlation with accuracy changes sign from one search space to the next",
    )

    def part(self, arrays: LayerArrays) -> float:
        assert arrays.weight is not None and arrays.gradient is not None
        return functional.plain(arrays.weight, arrays.gradient)


@dataclass(frozen=True)
class Fisher(Proxy):
    """Fisher: squared product of activation and gradient, channel by channel."""

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"moments", "channels"})
    reference: ClassVar[str] = "Theis et al., 2018; Turner et al., ICLR 2020"
    summary: ClassVar[str] = "squared activation x gradient of channels"
    traps: ClassVar[tuple[str, ...]] = (
        "of tokens it sums over positions, channel by channel; the published code sums over channels, token by token",
        "falls with accuracy on autoencoders",
    )

    def finish(self, total: float, layer: LayerWhole) -> float:
        return 0.0 if layer.channel_energy is None else functional.fisher(layer.channel_energy, layer.size)


@dataclass(frozen=True)
class L2Norm(Proxy):
    """Sum over layers of the norm of the weight; needs neither data nor a pass."""

    name: ClassVar[str] = "l2_norm"
    reference: ClassVar[str] = "Abdelfattah et al., ICLR 2021"
    summary: ClassVar[str] = "sum of the layers' weight norms"
    traps: ClassVar[tuple[str, ...]] = (
        "at PyTorch's default initialisation it depends on widths alone, and ranks networks of equal depth by luck",
    )

    def total(self, seen: Observation) -> float | Missing:
        return sum(seen.weight_norms)


PROXIES = (ZiCo, GradNorm, Snip, Plain, Fisher, L2Norm)
