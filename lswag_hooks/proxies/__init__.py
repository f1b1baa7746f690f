"""The registry of zero-cost proxies: what each needs, which way is better, where it is from."""

from lswag_hooks.proxies import (
    az_nas,
    backbone,
    counts,
    curvature,
    flows,
    gradients,
    graphs,
    jacobians,
    kernels,
    lswag,
    noise,
    patterns,
)
from lswag_hooks.proxies.az_nas import AZComplexity, AZExpressivity, AZProgressivity, AZTrainability
from lswag_hooks.proxies.backbone import Backbone
from lswag_hooks.proxies.base import NEEDS, Missing, Observation, OwnPass, Proxy
from lswag_hooks.proxies.counts import Depth, FLOPs, LogSize, Params
from lswag_hooks.proxies.curvature import GSNR, GradSign, GraSP, XiGSNR
from lswag_hooks.proxies.flows import DSS, SynFlow
from lswag_hooks.proxies.gradients import Fisher, GradNorm, L2Norm, Plain, Snip, ZiCo
from lswag_hooks.proxies.graphs import NASGraph
from lswag_hooks.proxies.jacobians import EPENAS, Jacov
from lswag_hooks.proxies.kernels import TCET, TENASKappa, TENASRegions
from lswag_hooks.proxies.lswag import LSWAG, LSWAGRobust
from lswag_hooks.proxies.noise import Zen
from lswag_hooks.proxies.patterns import NWOT, RegSwap, Swap
from lswag_hooks.proxies.registry import list_proxies, proxy_class, register_proxy, resolve_proxies

_FAMILIES = (lswag, backbone, gradients, patterns, counts, flows, jacobians, curvature, noise, kernels, az_nas, graphs)
for _module in _FAMILIES:  # the order of `lswag proxies`
    for _class in _module.PROXIES:
        register_proxy(_class)

__all__ = [
    "DSS",
    "EPENAS",
    "GSNR",
    "LSWAG",
    "NEEDS",
    "NWOT",
    "TCET",
    "AZComplexity",
    "AZExpressivity",
    "AZProgressivity",
    "AZTrainability",
    "Backbone",
    "Depth",
    "FLOPs",
    "Fisher",
    "GraSP",
    "GradNorm",
    "GradSign",
    "Jacov",
    "L2Norm",
    "LSWAGRobust",
    "LogSize",
    "Missing",
    "NASGraph",
    "Observation",
    "OwnPass",
    "Params",
    "Plain",
    "Proxy",
    "RegSwap",
    "Snip",
    "Swap",
    "SynFlow",
    "TENASKappa",
    "TENASRegions",
    "XiGSNR",
    "Zen",
    "ZiCo",
    "list_proxies",
    "proxy_class",
    "register_proxy",
    "resolve_proxies",
]
