"""Proxies of kernels between samples: TE-NAS's condition number and linear regions, T-CET."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from lswag_hooks import functional
from lswag_hooks.errors import InputError
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.functional.t_cet import expressivity
from lswag_hooks.passes import Flow, LayerOutputs, Pass, Regions, TangentKernel
from lswag_hooks.proxies.base import NO_LAYER, Missing, Observation, OwnPass, Proxy


@dataclass(frozen=True)
class TENASKappa(OwnPass):
    """Condition number of the neural tangent kernel; lower is better.

    One forward pass of the first samples of the batch and one backward pass each, over all parameters called weight,
    those of norms too, in double precision once the gradients are there. All its gradients are held at once.

    Args:
        samples: how many; published: 16 to 72.
        init: None (default): weights as they are; ``"kaiming"``: drawn anew, N(0, 2 / fan out), as published, where it
            is the mean of three draws.
        seed: of the draws.
    """

    name: ClassVar[str] = "te_nas_kappa"
    needs: ClassVar[frozenset[str]] = frozenset({"ntk"})
    higher_is_better: ClassVar[bool] = False
    reference: ClassVar[str] = "Chen et al., ICLR 2021"
    summary: ClassVar[str] = "condition number of the neural tangent kernel"
    traps: ClassVar[tuple[str, ...]] = (
        "its smallest eigenvalue decides it: equal samples make it singular, and there is no value",
        "holds the gradients of all its samples at once",
    )
    samples: int = 16
    init: Literal["kaiming"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_init(self.name, self.init)
        if self.samples < 2:
            raise InputError(f"te_nas_kappa: samples={self.samples}: a condition number needs at least two.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (TangentKernel(self.samples, "kaiming_out" if self.init else None, self.seed),)

    def value(self, found: Tensor) -> float | Missing:
        kappa = functional.condition_number(found)
        return kappa if math.isfinite(kappa) else Missing("the kernel is singular or not finite")


@dataclass(frozen=True)
class TENASRegions(OwnPass):
    """Number of linear regions that many small images fall into.

    One forward pass. GELU and others count as ReLU does: code = output > 0. Images of the usual size all lie in regions
    of their own, so that the count says nothing: published are 1000 images of 3 x 3 pixels and one channel, three
    times, in networks built thin.

    Args:
        inputs: ``"small"`` (default): grey noise of 3 x 3 pixels, for models of any size; ``"batch"``: the batch.
        samples: number of small images.
        init: None (default): weights as they are; ``"kaiming"``: drawn anew, N(0, 2 / fan in), as published.
        seed: of the draws.
    """

    name: ClassVar[str] = "te_nas_regions"
    needs: ClassVar[frozenset[str]] = frozenset({"regions"})
    reference: ClassVar[str] = "Chen et al., ICLR 2021"
    summary: ClassVar[str] = "linear regions that small images fall into"
    families: ClassVar[str] = "image networks that run on 3 x 3 pixels"
    traps: ClassVar[tuple[str, ...]] = (
        "at usual image sizes every sample has a region of its own, and the count is that of the samples",
    )
    inputs: Literal["small", "batch"] = "small"
    samples: int = 1000
    init: Literal["kaiming"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_init(self.name, self.init)
        if self.inputs not in ("small", "batch"):
            raise InputError(f"te_nas_regions: inputs={self.inputs!r} is unknown: use 'small' or 'batch'.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        small = self.inputs == "small"
        return (Regions(3 if small else 0, self.samples, "kaiming_in" if self.init else None, self.seed),)

    def value(self, found: Tensor) -> float | Missing:
        return float(functional.linear_regions(found))


@dataclass(frozen=True)
class TCET(Proxy):
    r"""T-CET: compressibility of each layer's saliency times how differently its outputs code the samples.

    .. math:: \sum_l \ln\frac{\sum S_l}{\mathrm{std}\, S_l} \cdot \ln |\det K_l|

    K from the layer's outputs > 0 in evaluation mode; layers whose K is singular, such as a head of few classes, add 0.
    A forward pass beside the main one.

    Args:
        saliency: ``"snip"`` (default): of the main pass; ``"synflow"``: of the flow of ones, whose pass synflow shares.
            Both are published.
    """

    name: ClassVar[str] = "t_cet"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient", "outputs"})
    reference: ClassVar[str] = "Xiang et al., AutoML 2023"
    summary: ClassVar[str] = "saliency's compressibility times expressivity, layer by layer"
    traps: ClassVar[tuple[str, ...]] = (
        "layers whose codes do not tell all samples apart, small heads among them, add nothing",
    )
    saliency: Literal["snip", "synflow"] = "snip"

    def __post_init__(self) -> None:
        if self.saliency not in ("snip", "synflow"):
            raise InputError(f"t_cet: saliency={self.saliency!r} is unknown: use 'snip' or 'synflow'.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (LayerOutputs(), Flow()) if self.saliency == "synflow" else (LayerOutputs(),)

    def part(self, arrays: LayerArrays) -> Any:
        assert arrays.weight is not None and arrays.gradient is not None
        return functional.saliency_sums((arrays.weight * arrays.gradient).abs_())

    def finish(self, total: Any, layer: LayerWhole) -> float:
        return functional.log_ratio(total, layer.size)

    def total(self, seen: Observation) -> float | Missing:
        for wanted in self.passes:
            if wanted in seen.passed.reasons:
                return Missing(seen.passed.reasons[wanted], wanted in seen.passed.broken)
        if self.saliency == "synflow":
            terms = {
                layer.name: functional.log_ratio(
                    functional.saliency_sums((layer.weight * layer.gradient).abs()), layer.weight.numel()
                )
                for layer in seen.passed.found[Flow()].layers
            }
        else:
            names = [row.name for row in seen.profile.weights]
            terms = dict(zip(names, seen.terms[self.key], strict=True))
        kernels = seen.passed.found[LayerOutputs()]
        pairs = [(terms[name], kernel) for name, kernel in kernels.items() if name in terms]
        if not pairs:
            return Missing(NO_LAYER)
        factors = [expressivity(kernel) for _, kernel in pairs]
        if not any(factors):
            return Missing("no layer's outputs tell all samples apart: use fewer or more different samples")
        return math.fsum(term * factor for (term, _), factor in zip(pairs, factors, strict=True))


def check_init(name: str, init: str | None) -> None:
    """Refuse an initialisation that is not known."""
    if init not in (None, "kaiming"):
        raise InputError(f"{name}: init={init!r} is unknown: use 'kaiming', or None for the weights as they are.")


PROXIES = (TENASKappa, TENASRegions, TCET)
