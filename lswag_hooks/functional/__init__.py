"""Tensors in, number out: one file a score. Nothing here sees an ``nn.Module``."""

from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.functional.az_nas import entropy, progressivity
from lswag_hooks.functional.fisher import fisher
from lswag_hooks.functional.gradients import grad_norm, l2_norm, plain, snip
from lswag_hooks.functional.gradsign import gradsign
from lswag_hooks.functional.grasp import grasp
from lswag_hooks.functional.gsnr import gsnr
from lswag_hooks.functional.jacobian import correlation, epe_nas, jacov
from lswag_hooks.functional.lswag import combine, inverse_deviations, logarithm, percentile, trainability
from lswag_hooks.functional.nas_graph import average_degree
from lswag_hooks.functional.nwot import nwot
from lswag_hooks.functional.swap import regularised
from lswag_hooks.functional.synflow import synflow
from lswag_hooks.functional.t_cet import log_ratio, saliency_sums
from lswag_hooks.functional.te_nas import condition_number, linear_regions
from lswag_hooks.functional.tf_tas import dss, nuclear
from lswag_hooks.functional.zen import zen
from lswag_hooks.functional.zico import zico, zico_sum

__all__ = [
    "LayerArrays",
    "LayerWhole",
    "average_degree",
    "combine",
    "condition_number",
    "correlation",
    "dss",
    "entropy",
    "epe_nas",
    "fisher",
    "grad_norm",
    "gradsign",
    "grasp",
    "gsnr",
    "inverse_deviations",
    "jacov",
    "l2_norm",
    "linear_regions",
    "log_ratio",
    "logarithm",
    "nuclear",
    "nwot",
    "percentile",
    "plain",
    "progressivity",
    "regularised",
    "saliency_sums",
    "snip",
    "synflow",
    "trainability",
    "zen",
    "zico",
    "zico_sum",
]
