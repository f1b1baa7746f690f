"""L-SWAG as a proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks.errors import InputError
from lswag_hooks.functional import lswag as functional
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.functional.lswag import Interval
from lswag_hooks.proxies.base import NO_LAYER, Missing, Observation, Proxy


@dataclass(frozen=True)
class LSWAG(Proxy):
    """L-SWAG: trainability times expressivity, summed over an interval of layers.

    Args:
        interval: first and last percentile of layers that count; None: all.
        pairing: how weight layers meet activation layers, see :func:`lswag_hooks.functional.lswag.combine`.
        granularity: ``"sample"``: deviations over samples; ``"batch"``: over ``batches`` mini-batches, as in ZiCo.
        batches: number of mini-batches for ``granularity="batch"``, in each process where several are merged.
        biases: count biases of layers too, those of layers called once. Not with attention: a key's bias has a gradient
            of zero but for rounding, whose inverse deviation swamps the rest.
    """

    name: ClassVar[str] = "lswag"
    needs: ClassVar[frozenset[str]] = frozenset({"moments", "patterns"})
    reference: ClassVar[str] = "Casarin et al., CVPR 2025, arXiv 2505.07300"
    summary: ClassVar[str] = "trainability times expressivity, layer by layer"
    interval: Interval | None = None
    pairing: str = "nearest"
    granularity: Literal["sample", "batch"] = "sample"
    batches: int = 2
    biases: bool = False

    def __post_init__(self) -> None:
        functional.check_interval(self.interval)
        if self.pairing not in functional.PAIRINGS:
            functional.combine([], [], None, self.pairing)
        check_granularity(self.granularity, self.batches)

    @property
    def minibatches(self) -> int:
        return self.batches if self.granularity == "batch" else 0

    def wants(self, percentile: int) -> bool:
        first, last = functional.check_interval(self.interval)
        return first <= percentile <= last

    def part(self, arrays: LayerArrays) -> float:
        return arrays.inverse[0]

    def finish(self, total: float, layer: LayerWhole) -> float:
        if self.biases and layer.bias is not None:
            total += functional.inverse_deviations(layer.bias)[0]
        return functional.logarithm(total)

    def total(self, seen: Observation) -> float | Missing:
        weights, activations = seen.profile.weights, seen.profile.activations
        if not activations:
            return Missing(
                "no activation that is known: register yours with lswag_hooks.register_activation (gates such as "
                "sigmoid and tanh do not count by themselves)"
            )
        if not weights:
            return Missing(NO_LAYER)
        if not any(self.wants(row.percentile) for row in weights):
            tenths = ", ".join(str(tenth) for tenth in sorted({row.percentile for row in weights}))
            return Missing(f"interval {self.interval} holds no weight layer: those of this network are in {tenths}")
        return functional.combine(
            seen.terms[self.key],
            [row.expressivity or 0.0 for row in activations],
            self.interval,
            self.pairing,
            [row.fed_by for row in weights],
        )


def check_granularity(granularity: str, batches: int) -> None:
    """Refuse what is neither sample nor batch, or too few mini-batches for a deviation."""
    if granularity not in ("sample", "batch"):
        raise InputError(f"granularity={granularity!r} is unknown: use 'sample' or 'batch'.")
    if batches < 2:
        raise InputError(f"batches={batches}: a deviation over mini-batches needs at least two.")


PROXIES = (LSWAG,)
