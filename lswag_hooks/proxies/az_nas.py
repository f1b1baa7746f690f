"""The four parts of AZ-NAS, which rank networks only together: :func:`lswag_hooks.ensembles.merge_ranks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks import functional
from lswag_hooks.functional import az_nas
from lswag_hooks.passes import Features, FeaturesSeen, Pass
from lswag_hooks.proxies.base import Missing, OwnPass
from lswag_hooks.proxies.counts import FLOPs
from lswag_hooks.proxies.kernels import check_init

REFERENCE = "Lee and Ham, CVPR 2024"


@dataclass(frozen=True)
class _Part(OwnPass):
    """What the parts that look at features share: one forward pass, and one backward pass in segments.

    The published score of a network is the sum over the four parts of ln(rank / number of networks): it belongs to a
    set of networks, and is computed from their scores.

    Args:
        features: modules whose outputs are the features (with ``:input``, whose inputs); None (default): outputs of the
            blocks of a convolutional network; in a transformer the residual stream after each attention and each MLP.
        init: None (default): weights as they are, as in the published code for transformers; ``"kaiming"``: drawn anew,
            N(0, 2 / fan in), as in that for convolutional networks.
        seed: of the draws.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    reference: ClassVar[str] = REFERENCE
    families: ClassVar[str] = "convolutional networks made of blocks, and transformers"
    features: tuple[str, ...] | None = None
    init: Literal["kaiming"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_init(self.name, self.init)

    @property
    def passes(self) -> tuple[Pass, ...]:
        names = None if self.features is None else tuple(self.features)
        return (Features(names, "kaiming_in" if self.init else None, self.seed),)


@dataclass(frozen=True)
class AZExpressivity(_Part):
    """Sum over blocks of the entropy of their features' principal components."""

    name: ClassVar[str] = "az_expressivity"
    summary: ClassVar[str] = "AZ-NAS: entropy of features, summed over blocks"
    traps: ClassVar[tuple[str, ...]] = (
        "one part of AZ-NAS, made to be merged with the other three: lswag_hooks.ensembles.merge_ranks",
    )

    def value(self, found: FeaturesSeen) -> float | Missing:
        return sum(map(functional.entropy, found.spectra))


@dataclass(frozen=True)
class AZProgressivity(_Part):
    """Smallest growth of the entropy from block to block; of convolutional networks."""

    name: ClassVar[str] = "az_progressivity"
    summary: ClassVar[str] = "AZ-NAS: smallest growth of entropy between blocks"
    families: ClassVar[str] = "convolutional networks made of blocks"
    traps: ClassVar[tuple[str, ...]] = (
        "falls with accuracy on TransNAS-Bench-101",
        "one part of AZ-NAS, made to be merged with the other three",
    )

    def value(self, found: FeaturesSeen) -> float | Missing:
        if found.tokens:
            return Missing("not defined for transformers, whose blocks all have the same width")
        return functional.progressivity(list(map(functional.entropy, found.spectra)))


@dataclass(frozen=True)
class AZTrainability(_Part):
    """How near to 1 the blocks' largest gains of gradients are, for random signs behind each block."""

    name: ClassVar[str] = "az_trainability"
    summary: ClassVar[str] = "AZ-NAS: gain of gradients through blocks"
    traps: ClassVar[tuple[str, ...]] = (
        "one draw of random signs: two seeds differ",
        "one part of AZ-NAS, made to be merged with the other three",
    )

    def value(self, found: FeaturesSeen) -> float | Missing:
        if not found.gains:
            return Missing("no feature passes gradients back to the one before it")
        return az_nas.trainability(found.gains)


@dataclass(frozen=True)
class AZComplexity(FLOPs):
    """Multiply-accumulates of one sample, the same as flops."""

    name: ClassVar[str] = "az_complexity"
    reference: ClassVar[str] = REFERENCE
    summary: ClassVar[str] = "AZ-NAS: multiply-accumulates of one sample"


PROXIES = (AZExpressivity, AZProgressivity, AZTrainability, AZComplexity)
