"""Tensors in, number out: one file a score. Nothing here sees an ``nn.Module``."""

from lswag_hooks.functional.arrays import LayerArrays
from lswag_hooks.functional.fisher import fisher
from lswag_hooks.functional.gradients import grad_norm, l2_norm, plain, snip
from lswag_hooks.functional.lswag import combine, largest_share, percentile, trainability
from lswag_hooks.functional.nwot import nwot
from lswag_hooks.functional.swap import regularised
from lswag_hooks.functional.zico import zico

__all__ = [
    "LayerArrays",
    "combine",
    "fisher",
    "grad_norm",
    "l2_norm",
    "largest_share",
    "nwot",
    "percentile",
    "plain",
    "regularised",
    "snip",
    "trainability",
    "zico",
]
