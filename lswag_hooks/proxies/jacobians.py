"""Proxies of the input Jacobian: JacobCov, EPE-NAS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lswag_hooks import functional
from lswag_hooks.passes import Jacobian, JacobianSeen, Pass
from lswag_hooks.proxies.base import Missing, OwnPass

CONSTANT = "the input gradient of some sample is constant, so that it has no correlation with the others"


@dataclass(frozen=True)
class Jacov(OwnPass):
    """JacobCov: how little the samples' input gradients correlate; labels do not enter.

    One forward and one backward pass to the inputs, shared with epe_nas. Two equal samples in the batch cost 1e5 and
    drown the rest: the batch must be the same for all networks. NASLib stores -1e8 where there is no value.
    """

    name: ClassVar[str] = "jacov"
    needs: ClassVar[frozenset[str]] = frozenset({"jacobian"})
    reference: ClassVar[str] = "Mellor et al., 2020, arXiv 2006.04647v1"
    summary: ClassVar[str] = "correlation of input gradients"
    families: ClassVar[str] = "networks whose inputs are real numbers"
    traps: ClassVar[tuple[str, ...]] = ("two equal samples cost 1e5 and drown the rest: one batch for all networks",)

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Jacobian(),)

    def value(self, found: JacobianSeen) -> float | Missing:
        score = functional.jacov(found.rows)
        return Missing(CONSTANT) if math.isnan(score) else score


@dataclass(frozen=True)
class EPENAS(OwnPass):
    """EPE-NAS: correlation of input gradients within each class.

    Shares jacov's pass. The score depends on the classes that the batch happens to hold: use one batch for all
    networks. Labels that are probabilities count as their largest.
    """

    name: ClassVar[str] = "epe_nas"
    needs: ClassVar[frozenset[str]] = frozenset({"jacobian"})
    reference: ClassVar[str] = "Lopes et al., ICANN 2021"
    summary: ClassVar[str] = "correlation of input gradients within classes"
    families: ClassVar[str] = "classifiers, a class a sample, whose inputs are real numbers"
    traps: ClassVar[tuple[str, ...]] = (
        "depends on which classes the batch happens to hold: one batch for all networks",
    )

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (Jacobian(),)

    def value(self, found: JacobianSeen) -> float | Missing:
        labels = found.targets
        if isinstance(labels, Tensor) and labels.dim() == 2 and labels.is_floating_point():
            labels = labels.argmax(1)
        if not isinstance(labels, Tensor) or labels.shape != found.rows.shape[:1] or labels.is_floating_point():
            return Missing("the targets are not one class a sample")
        if int(labels.min()) < 0 or int(labels.max()) >= found.outputs:
            return Missing(
                f"targets run from {int(labels.min())} to {int(labels.max())}, the model has {found.outputs} outputs"
            )
        score = functional.epe_nas(found.rows, labels, found.outputs)
        return Missing(CONSTANT) if math.isnan(score) else score


PROXIES = (Jacov, EPENAS)
