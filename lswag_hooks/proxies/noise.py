"""Proxies of how features answer to noise: Zen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from lswag_hooks import functional
from lswag_hooks.errors import InputError
from lswag_hooks.passes import Pass, Perturbation, PerturbationSeen
from lswag_hooks.proxies.base import Missing, OwnPass


@dataclass(frozen=True)
class Zen(OwnPass):
    """Zen: how far the last feature map moves when noise does, times the scales that BatchNorm took away.

    Two forward passes of noise; the samples themselves do not enter. Any activation will do.

    Args:
        init: ``"normal"`` (default): convolutions and linear layers drawn anew from N(0, 1), as published; None: as
            they are.
        scale: ``"running"`` (default): root of the running variance, as published, which after two passes is still four
            fifths what it was before; ``"batch"``: of the batch's own variance, as the paper defines it.
        bare: score networks without BatchNorm too, by the difference alone, and without a feature map before the
            pooling by the last sequence of tokens. Off by default, as Zen is not defined there.
        repeats: number of draws of weights and noise, averaged: 1 in published searches, 32 from its command line.
        samples: number of noise images, at most those of the batch: 32 by default, as in NASLib; None: as many as the
            batch has. The score is a mean over them.
        gamma: size of the step.
        seed: of the draws, added to that of ``score``.
    """

    name: ClassVar[str] = "zen"
    needs: ClassVar[frozenset[str]] = frozenset({"perturbation"})
    reference: ClassVar[str] = "Lin et al., ICCV 2021"
    summary: ClassVar[str] = "sensitivity of the last feature map to noise"
    families: ClassVar[str] = "convolutional networks with BatchNorm; others with bare=True"
    traps: ClassVar[tuple[str, ...]] = (
        "weights are drawn anew: it says nothing of your initialisation",
        "the running variance, which the published code reads, is mostly the one that it started from: scale='batch'",
    )
    init: Literal["normal"] | None = "normal"
    scale: Literal["running", "batch"] = "running"
    bare: bool = False
    repeats: int = 1
    samples: int | None = 32
    gamma: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.init not in (None, "normal") or self.scale not in ("running", "batch"):
            raise InputError(
                f"zen: init={self.init!r}, scale={self.scale!r}: use 'normal' or None, and 'running' or 'batch'."
            )
        if self.repeats < 1 or not self.gamma > 0 or (self.samples is not None and self.samples < 2):
            raise InputError(
                f"zen: repeats={self.repeats}, gamma={self.gamma}, samples={self.samples}: give at least 1, more "
                "than 0, and at least 2."
            )

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Perturbation(self.init, self.scale, self.bare, self.samples, self.gamma, self.repeats, self.seed),)

    def value(self, found: list[PerturbationSeen]) -> float | Missing:
        scores = [functional.zen(one.difference, one.variances) for one in found]
        if not all(map(math.isfinite, scores)):
            return Missing("the features do not move, or a BatchNorm sees no variance")
        return math.fsum(scores) / len(scores)


PROXIES = (Zen,)
