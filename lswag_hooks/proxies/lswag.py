"""L-SWAG as a proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks.errors import InputError
from lswag_hooks.functional import lswag as functional
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.functional.lswag import Interval
from lswag_hooks.proxies.base import NO_LAYER, Missing, Observation, Proxy
from lswag_hooks.proxies.patterns import CODED, NO_ACTIVATION


@dataclass(frozen=True)
class LSWAG(Proxy):
    """L-SWAG: trainability times expressivity, summed over an interval of layers.

    Args:
        interval: first and last percentile of layers that count; None: all.
        pairing: how weight layers meet activation layers, see :func:`lswag_hooks.functional.lswag.combine`.
        granularity: ``"sample"``: deviations over samples; ``"batch"``: over ``batches`` mini-batches, as in ZiCo.
        batches: number of mini-batches for ``granularity="batch"``, in each process where several are merged.
        biases: count biases of layers too, those that a layer, called once, adds as they are. Not with attention: a
            key's bias has a gradient of zero but for rounding, whose inverse deviation swamps the rest.
    """

    name: ClassVar[str] = "lswag"
    needs: ClassVar[frozenset[str]] = frozenset({"moments", "patterns"})
    reference: ClassVar[str] = "Casarin et al., CVPR 2025, arXiv 2505.07300"
    summary: ClassVar[str] = "trainability times expressivity, layer by layer"
    families: ClassVar[str] = CODED
    traps: ClassVar[tuple[str, ...]] = (
        "follows size: on most search spaces little of it is left given parameters, FLOPs, depth and log size",
        "layers that hardly receive a gradient count the most, as their deviations are tiny: see lswag_robust",
        "gains, layer scales and heads that start at zero switch layers off: score with init='wake'",
        "a nearly dead weight may make most of a layer's sum: the coverage lists such layers",
        "with many images no two of a transformer's units agree, and patterns count units: it then ranks as FLOPs do",
    )
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

    def trainabilities(self, seen: Observation) -> list[float]:
        """The layers' terms that meet their expressivities."""
        return seen.terms[self.key]

    def total(self, seen: Observation) -> float | Missing:
        weights, activations = seen.profile.weights, seen.profile.activations
        if not activations:
            return Missing(NO_ACTIVATION)
        if not weights:
            return Missing(NO_LAYER)
        if not any(self.wants(row.percentile) for row in weights):
            tenths = ", ".join(str(tenth) for tenth in sorted({row.percentile for row in weights}))
            return Missing(f"interval {self.interval} holds no weight layer: those of this network are in {tenths}")
        return functional.combine(
            self.trainabilities(seen),
            [row.expressivity or 0.0 for row in activations],
            self.interval,
            self.pairing,
            [row.fed_by for row in weights],
        )


@dataclass(frozen=True)
class LSWAGRobust(LSWAG):
    r"""L-SWAG in a form that layers without a gradient cannot dominate; of this package, not of the paper.

    .. math:: \sum_l g_l\, \Lambda_l \Psi_l, \qquad g_l = \frac{s_l}{s_l + \tau\, \tilde s}, \qquad
              s_l = \frac{\|w_l\|\,\|\sigma_l\|}{\sqrt{n_l}}

    :math:`s_l` is how much a random relative change of the layer's weights changes a sample's loss, whatever the scale
    of the weights, and :math:`\tilde s` the median over the network's own layers that count. In the published form a
    layer that training cannot reach has tiny deviations, and counts for more than any other by their inverse.

    Args:
        tau: where a layer counts half, as a share of the median sensitivity.
        mean: keep the mean in the numerator, as ZiCo does, :math:`\Lambda_l = \ln \sum_w \bar{|g_w|} / \sigma_w`,
            which does not change with the scale of the gradients.
    """

    name: ClassVar[str] = "lswag_robust"
    reference: ClassVar[str] = "this package; after Casarin et al., CVPR 2025"
    summary: ClassVar[str] = "L-SWAG with layers weighed by how far they change the loss"
    traps: ClassVar[tuple[str, ...]] = (
        "grows with depth and width, as lswag does",
        "a layer counts relative to the network's own median: values of an interval and of all layers do not compare",
    )
    tau: float = 0.1
    mean: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau >= 0:
            raise InputError(f"tau={self.tau}: give 0 or more.")
        if self.granularity == "batch":
            raise InputError("lswag_robust has no granularity='batch': its gate is over samples.")

    def part(self, arrays: LayerArrays) -> float:
        return arrays.relative if self.mean else arrays.inverse[0]

    def finish(self, total: float, layer: LayerWhole) -> float:
        if self.biases and layer.bias is not None:
            inverse, mean = functional.inverse_deviations, functional.mean_over_deviation
            total += mean(layer.bias) if self.mean else inverse(layer.bias)[0]
        return functional.logarithm(total)

    def trainabilities(self, seen: Observation) -> list[float]:
        # only of layers that count: what other proxies made the passes look at must not change the median
        rows = seen.profile.weights
        found = [(row.sensitivity or 0.0) if self.wants(row.percentile) else 0.0 for row in rows]
        gates = functional.gates(found, self.tau)
        return [gate * term for gate, term in zip(gates, seen.terms[self.key], strict=True)]


def check_granularity(granularity: str, batches: int) -> None:
    """Refuse what is neither sample nor batch, or too few mini-batches for a deviation."""
    if granularity not in ("sample", "batch"):
        raise InputError(f"granularity={granularity!r} is unknown: use 'sample' or 'batch'.")
    if batches < 2:
        raise InputError(f"batches={batches}: a deviation over mini-batches needs at least two.")


PROXIES = (LSWAG, LSWAGRobust)
