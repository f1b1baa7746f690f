"""A score for candidates of many families: size, and what L-SWAG adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lswag_hooks.proxies.base import Missing, Observation
from lswag_hooks.proxies.lswag import LSWAG


@dataclass(frozen=True)
class Backbone(LSWAG):
    r"""Parameters times L-SWAG; of this package, not of the paper.

    .. math:: P \sum_l \Lambda_l \Psi_l

    with P the number of parameters. Across families parameters order backbones better than any other proxy, and of all
    proxies L-SWAG adds the most to them: the product was ahead of both on timm's ImageNet-1k results
    (``benchmarks/backbones.py``). It has no number that was fitted. Score networks awake (``init="wake"``): many of
    timm's have exactly zero gradients as they are built.

    Takes the options of :class:`~lswag_hooks.LSWAG`.
    """

    name: ClassVar[str] = "backbone"
    reference: ClassVar[str] = "this package; L-SWAG after Casarin et al., CVPR 2025"
    summary: ClassVar[str] = "parameters times L-SWAG: for candidates of many families"
    traps: ClassVar[tuple[str, ...]] = (
        "between networks of one size it is L-SWAG: it was made for candidates of many families",
        "needs init='wake' where gains or heads start at zero, as many of timm's do",
    )

    def total(self, seen: Observation) -> float | Missing:
        found = super().total(seen)
        if isinstance(found, Missing):
            return found
        if found <= 0:  # times the parameters, the larger of two such networks would be the worse one
            return Missing(f"L-SWAG is {found:.3g}: it takes inverse deviations that sum to more than one a layer")
        return seen.parameters * found


PROXIES = (Backbone,)
