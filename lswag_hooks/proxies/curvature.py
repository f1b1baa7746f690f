"""Proxies of how gradients change: GraSP; and of how samples agree: GradSign, GSNR, xi-GSNR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lswag_hooks import functional
from lswag_hooks.devices import double
from lswag_hooks.errors import InputError
from lswag_hooks.functional.arrays import LayerArrays
from lswag_hooks.passes import Hessian, MiniBatches, Pass, Singles
from lswag_hooks.proxies.base import Missing, OwnPass, Proxy
from lswag_hooks.stats import moments_of


@dataclass(frozen=True)
class GraSP(OwnPass):
    """GraSP: how removing weights would change the gradient's norm.

    One forward pass, one backward pass and one through that. The sign is that of zero-cost-nas, where a higher score is
    better; the pruning paper keeps the lowest. Attention is computed by the plain formula, as the fused one has no
    second derivative.

    Args:
        samples: how many of the batch, its first ones: 16 by default, as the second derivative of 64 costs more than
            two forward and backward passes; None: all, as published (32 in NASLib).
    """

    name: ClassVar[str] = "grasp"
    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})
    reference: ClassVar[str] = "Wang et al., ICLR 2020; Abdelfattah et al., ICLR 2021"
    summary: ClassVar[str] = "weights times the Hessian's product with the gradient"
    families: ClassVar[str] = "networks whose operations have a second derivative"
    traps: ClassVar[tuple[str, ...]] = (
        "mostly luck: two draws of the weights hardly agree",
        "higher is better as in zero-cost-nas; the pruning paper keeps the lowest",
    )
    samples: int | None = 16

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise InputError(f"grasp: samples={self.samples}: give at least 1, or None for the whole batch.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Hessian(self.samples),)

    def value(self, found: list[tuple[Tensor, Tensor]]) -> float | Missing:
        return math.fsum(functional.grasp(weight, product) for weight, product in found)


@dataclass(frozen=True)
class GradSign(OwnPass):
    """GradSign: how far the signs of the samples' gradients agree.

    One pass a sample, alone, as published: with ``mode="score"`` or ``"train"`` BatchNorm normalises each sample by its
    own statistics, which cannot be had of a map of one pixel; ``mode="eval"`` always can.

    Args:
        reduction: ``"sum"`` (default): over weights, as in the paper; ``"mean"``: without the number of weights, as in
            the other published script and in AZ-NAS.
    """

    name: ClassVar[str] = "gradsign"
    needs: ClassVar[frozenset[str]] = frozenset({"singles"})
    reference: ClassVar[str] = "Zhang and Jia, ICLR 2022"
    summary: ClassVar[str] = "agreement of the signs of samples' gradients"
    traps: ClassVar[tuple[str, ...]] = (
        "BatchNorm normalises each sample by itself, which a map of one pixel does not allow: use mode='eval' there",
        "a sum over weights, which follows size: reduction='mean' takes their number out",
    )
    reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        if self.reduction not in ("sum", "mean"):
            raise InputError(f"gradsign: reduction={self.reduction!r} is unknown: use 'sum' or 'mean'.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Singles(),)

    def value(self, found: list[Tensor]) -> float | Missing:
        total = math.fsum(functional.gradsign(signs) for signs in found)
        return total / sum(signs.numel() for signs in found) if self.reduction == "mean" else total


@dataclass(frozen=True)
class GSNR(Proxy):
    """GSNR: signal-to-noise ratio of per-sample gradients, from the main pass.

    Weights of exactly zero variance are left out. :class:`XiGSNR` is the published proxy, over mini-batches.
    """

    name: ClassVar[str] = "gsnr"
    needs: ClassVar[frozenset[str]] = frozenset({"moments", "signed"})
    reference: ClassVar[str] = "Liu et al., ICLR 2020"
    summary: ClassVar[str] = "squared mean over variance of gradients"
    traps: ClassVar[tuple[str, ...]] = ("weights of small variance make most of it",)

    def part(self, arrays: LayerArrays) -> float:
        assert arrays.moments is not None
        return functional.gsnr(arrays.moments)


@dataclass(frozen=True)
class XiGSNR(OwnPass):
    """xi-GSNR: signal-to-noise ratio of the gradients of mini-batches.

    The batch is divided into equal parts, so that all passes together cost as much as one over the batch.

    Args:
        batches: number of mini-batches, 8 as published.
        xi: added to each variance, 1e-8 as published. Where variances are that small the value depends on the scale of
            the loss.
        accumulate: False (default): each mini-batch's own gradient, as the paper defines it; True: the sum of those up
            to it, as the released loop, which never zeroes gradients, computes.
    """

    name: ClassVar[str] = "xi_gsnr"
    needs: ClassVar[frozenset[str]] = frozenset({"draws"})
    reference: ClassVar[str] = "Sun et al., ICCV 2023"
    summary: ClassVar[str] = "squared mean over variance of mini-batches' gradients"
    traps: ClassVar[tuple[str, ...]] = (
        "where variances are below xi the value changes with the scale of the loss",
        "the released loop never zeroes gradients, which gives other values: accumulate=True",
    )
    batches: int = 8
    xi: float = 1e-8
    accumulate: bool = False

    def __post_init__(self) -> None:
        if self.batches < 2 or not self.xi > 0:
            raise InputError(f"xi_gsnr: batches={self.batches}, xi={self.xi}: give at least 2, and more than 0.")

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (MiniBatches(self.batches, self.accumulate),)

    def value(self, found: list[tuple[Tensor, ...]]) -> float | Missing:
        draws = (double(torch.stack(layer)) for layer in found)
        return math.fsum(functional.gsnr(moments_of(layer, signed=True, overwrite=True), self.xi) for layer in draws)


PROXIES = (GraSP, GradSign, GSNR, XiGSNR)
