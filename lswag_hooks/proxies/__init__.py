"""The registry of zero-cost proxies: what each needs, which way is better, where it is from."""

from lswag_hooks.proxies import counts, gradients, lswag, patterns
from lswag_hooks.proxies.base import Missing, Observation, Proxy
from lswag_hooks.proxies.counts import Depth, FLOPs, LogSize, Params
from lswag_hooks.proxies.gradients import Fisher, GradNorm, L2Norm, Plain, Snip, ZiCo
from lswag_hooks.proxies.lswag import LSWAG, LSWAGRobust
from lswag_hooks.proxies.patterns import NWOT, RegSwap, Swap
from lswag_hooks.proxies.registry import list_proxies, proxy_class, register_proxy, resolve_proxies

for _module in (lswag, gradients, patterns, counts):  # the order of `lswag proxies`
    for _class in _module.PROXIES:
        register_proxy(_class)

__all__ = [
    "LSWAG",
    "NWOT",
    "Depth",
    "FLOPs",
    "Fisher",
    "GradNorm",
    "L2Norm",
    "LSWAGRobust",
    "LogSize",
    "Missing",
    "Observation",
    "Params",
    "Plain",
    "Proxy",
    "RegSwap",
    "Snip",
    "Swap",
    "ZiCo",
    "list_proxies",
    "proxy_class",
    "register_proxy",
    "resolve_proxies",
]
