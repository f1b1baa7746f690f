"""Tensors in, number out: one file a score. Nothing here sees an ``nn.Module``."""

from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.functional.fisher import fisher
from lswag_hooks.functional.gradients import grad_norm, l2_norm, plain, snip
from lswag_hooks.functional.lswag import combine, inverse_deviations, logarithm, percentile, trainability
from lswag_hooks.functional.nwot import nwot
from lswag_hooks.functional.swap import regularised
from lswag_hooks.functional.zico import zico, zico_sum

__all__ = [
    "LayerArrays",
    "LayerWhole",
    "combine",
    "fisher",
    "grad_norm",
    "inverse_deviations",
    "l2_norm",
    "logarithm",
    "nwot",
    "percentile",
    "plain",
    "regularised",
    "snip",
    "trainability",
    "zico",
    "zico_sum",
]
