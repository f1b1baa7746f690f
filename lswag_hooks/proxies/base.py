"""What a proxy is: a thin class that says what it needs and turns what was seen into a number."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.hooks.operands import wide
from lswag_hooks.passes import Pass, Passed
from lswag_hooks.profile import LayerProfile

NEEDS = {
    "moments": "moments of per-sample gradients",
    "signed": "moments of signed per-sample gradients",
    "gradient": "gradient of the mean loss",
    "channels": "activation times gradient, channel by channel",
    "patterns": "distinct activation patterns, layer by layer",
    "union": "distinct activation patterns of the whole network",
    "agreement": "agreement of codes between samples",
    "macs": "multiply-accumulates of one sample",
    # passes of their own, see lswag_hooks.passes
    "synflow": "flow of ones through absolute weights (a pass of one sample)",
    "jacobian": "gradient with respect to the inputs (a pass)",
    "hessian": "Hessian of the loss times its gradient (a pass, and one back through it)",
    "perturbation": "features of two nearby noises (two forward passes a repeat)",
    "features": "features and gradients between blocks (a pass)",
    "outputs": "agreement of codes of weight layers (a forward pass)",
    "regions": "linear regions of small images (a forward pass)",
    "draws": "gradients of several mini-batches (a pass)",
    "singles": "gradient of each sample alone (a pass a sample)",
    "ntk": "neural tangent kernel (a forward pass, and a backward pass a sample)",
    "graph": "responses of each layer to each of its inputs' channels (a pass a layer)",
}

CODES = {"patterns", "union", "agreement"}  # what the main pass collects, forward
GRADIENTS = {"moments", "signed", "gradient", "channels"}  # and backward
# F, B: forward and backward pass over the samples; f, b: of a single one; N: number of samples
COSTS = {
    **dict.fromkeys(GRADIENTS, "F + B"),
    **dict.fromkeys(CODES, "F"),
    "macs": "f",
    "synflow": "f + b",
    "jacobian": "F + B",
    "hessian": "F + 2 B",
    "perturbation": "2 F",
    "features": "F + B, in segments",
    "outputs": "F",
    "regions": "F",
    "draws": "F + B, in parts",
    "singles": "N (f + b)",
    "ntk": "F + N B",
    "graph": "F, each layer again",
}

NO_LAYER = "no weight layer: the loss reaches no convolution and no matrix product"


@dataclass(frozen=True)
class Missing:
    """A score that cannot be had, and why; ``broken``: something broke down, which it may not do another time."""

    reason: str
    broken: bool = False


@dataclass
class Observation:
    """Everything that the passes over a network showed, before it becomes scores.

    Attributes:
        profile: layers in call order.
        terms: each proxy's per-layer terms, by label.
        samples: batch size.
        parameters: number of parameters (shared ones once).
        weights: of every layer, without biases.
        union: distinct patterns of the whole network.
        agreement: (samples, samples) counts of agreeing units.
        macs: multiply-accumulates of one sample.
        passed: what passes of their own showed, until nobody needs it any more.
        totals: each proxy's score, by label.
        memory: bytes held beside an ordinary forward and backward pass, by purpose.
    """

    profile: LayerProfile
    samples: int
    parameters: int
    terms: dict[str, list[float]] = field(default_factory=dict)
    weights: list[Tensor] = field(default_factory=list)
    union: int | None = None
    agreement: Tensor | None = None
    macs: float | None = None
    passed: Passed = field(default_factory=Passed)
    totals: dict[str, float | Missing] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def weight_norms(self) -> list[float]:
        """L2 norm of every layer weight; formed when asked for, since it takes a look at all of them."""
        return [float(torch.linalg.vector_norm(wide(weight.detach()))) for weight in self.weights]

    @property
    def layer_sizes(self) -> list[int]:
        """Number of weights of every layer, without biases."""
        return [weight.numel() for weight in self.weights]


@dataclass(frozen=True)
class Proxy:
    """Base of all proxies.

    Class attributes: ``name``; ``needs`` (keys of :data:`NEEDS`); ``higher_is_better``; ``reference``; ``summary``;
    ``families``, the networks on which it is defined; ``traps``, what has misled others.

    Args:
        label: key of the result, the name by default; needed to ask for one proxy with two settings.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    higher_is_better: ClassVar[bool] = True
    reference: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    families: ClassVar[str] = "any network"
    traps: ClassVar[tuple[str, ...]] = ()
    label: str = ""

    @classmethod
    def cost(cls) -> str:
        """Passes that the proxy takes alone, with the options of its class; ``-``: none.

        F and B are a forward and a backward pass over its samples, f and b those of a single sample, N is the number of
        samples. Proxies that are asked for together share their passes.

        Example:
            >>> from lswag_hooks.proxies import GradNorm, NWOT
            >>> GradNorm.cost(), NWOT.cost()
            ('F + B', 'F')
        """
        main = max((COSTS[need] for need in cls.needs & (CODES | GRADIENTS)), key=len, default="")
        own = (COSTS[need] for need in sorted(cls.needs - CODES - GRADIENTS))
        return " + ".join(filter(None, (main, *own))) or "-"

    @property
    def key(self) -> str:
        """Key of the result."""
        return self.label or self.name

    @property
    def minibatches(self) -> int:
        """Number of separate mini-batches that are one draw each; 0 for one pass over the batch."""
        return 0

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Passes of its own beside the main one; equal ones are shared."""
        return ()

    def wants(self, percentile: int) -> bool:
        """Whether weight layers of a percentile count."""
        return True

    def part(self, arrays: LayerArrays) -> Any:
        """What some weights of a layer contribute, to be summed over the layer: a number, or a tensor of sums."""
        return 0.0

    def finish(self, total: Any, layer: LayerWhole) -> float:
        """The layer's term, from the sum over its weights."""
        return float(total)

    def total(self, seen: Observation) -> float | Missing:
        """The score of the network: the sum over its layers."""
        terms = seen.terms[self.key]
        return sum(terms) if terms else Missing(NO_LAYER)

    def settings(self) -> dict[str, Any]:
        """Options, for the record."""
        return {key: value for key, value in vars(self).items() if key != "label"}


@dataclass(frozen=True)
class OwnPass(Proxy, abc.ABC):
    """Base of proxies that are computed from passes of their own alone."""

    @abc.abstractmethod
    def value(self, *found: Any) -> float | Missing:
        """The score, from what each of the passes showed."""

    def total(self, seen: Observation) -> float | Missing:
        for wanted in self.passes:
            if wanted in seen.passed.reasons:
                return Missing(seen.passed.reasons[wanted], wanted in seen.passed.broken)
        try:
            return self.value(*(seen.passed.found[wanted] for wanted in self.passes))
        except (ArithmeticError, RuntimeError) as error:  # a decomposition that does not converge, a number too large
            return Missing(f"it cannot be computed from what the pass showed: {str(error).splitlines()[0]}")
