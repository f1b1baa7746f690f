"""A score for candidates of many families: size, and what L-SWAG adds to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lswag_hooks.proxies.base import Missing, Observation
from lswag_hooks.proxies.lswag import LSWAG


@dataclass(frozen=True)
class Backbone(LSWAG):
    r"""Parameters times L-SWAG, in logarithms; of this package, not of the paper.

    .. math:: \ln P + \ln \sum_l \Lambda_l \Psi_l

    with P the number of parameters. Over families of networks parameters order backbones better than any proxy does,
    and L-SWAG says something that they do not say: on timm's ImageNet-1k results each beats the other's order where it
    fails, and the product is ahead of both. It has no number that was fitted. Networks are to be scored awake
    (``init="wake"``), since many of timm's have exactly zero gradients as they are built.

    Takes the options of :class:`~lswag_hooks.LSWAG`.
    """

    name: ClassVar[str] = "backbone"
    reference: ClassVar[str] = "this package; L-SWAG after Casarin et al., CVPR 2025"
    summary: ClassVar[str] = "parameters times L-SWAG, in logarithms: for candidates of many families"

    def total(self, seen: Observation) -> float | Missing:
        found = super().total(seen)
        if isinstance(found, Missing):
            return found
        if found <= 0:
            return Missing(
                f"L-SWAG is {found:.3g}, which has no logarithm: layers' summed inverse deviations below one"
            )
        return math.log(seen.parameters) + math.log(found)


PROXIES = (Backbone,)
