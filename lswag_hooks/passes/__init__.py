"""Passes beside the main one: one file each, a function of a session and a batch, with data as its result."""

from lswag_hooks.passes.base import Pass, Passed, Reading, Undefined, look, readers_of, run_passes
from lswag_hooks.passes.features import Features, FeaturesSeen
from lswag_hooks.passes.flow import Flow, FlowLayer, FlowSeen
from lswag_hooks.passes.graph import ChannelEdges, ChannelGraph
from lswag_hooks.passes.hessian import Hessian
from lswag_hooks.passes.jacobian import Jacobian, JacobianSeen
from lswag_hooks.passes.minibatches import MiniBatches
from lswag_hooks.passes.ntk import TangentKernel
from lswag_hooks.passes.outputs import LayerOutputs
from lswag_hooks.passes.perturbation import Perturbation, PerturbationSeen
from lswag_hooks.passes.regions import Regions
from lswag_hooks.passes.singles import Singles

__all__ = [
    "ChannelEdges",
    "ChannelGraph",
    "Features",
    "FeaturesSeen",
    "Flow",
    "FlowLayer",
    "FlowSeen",
    "Hessian",
    "Jacobian",
    "JacobianSeen",
    "LayerOutputs",
    "MiniBatches",
    "Pass",
    "Passed",
    "Perturbation",
    "PerturbationSeen",
    "Reading",
    "Regions",
    "Singles",
    "TangentKernel",
    "Undefined",
    "look",
    "readers_of",
    "run_passes",
]
