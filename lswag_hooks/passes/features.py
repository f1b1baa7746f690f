"""Features between the blocks of a network, and how blocks pass gradients back: for AZ-NAS."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.devices import double
from lswag_hooks.hooks.activations import ActivationCall, ActivationCapture
from lswag_hooks.hooks.calls import CallStack
from lswag_hooks.hooks.graph import Node
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.passes.base import Read, Reading, Undefined
from lswag_hooks.passes.common import CONVOLUTIONS, WEIGHTED, watched
from lswag_hooks.passes.draws import Init, generator, redraw, signs_like

INPUT = ":input"


@dataclass(frozen=True)
class FeaturesSeen:
    """What the features show.

    Attributes:
        spectra: eigenvalues of each feature's covariance over positions, in call order.
        gains: largest singular value of the gradients between neighbours.
        tokens: the features are sequences of tokens.
    """

    spectra: list[Tensor]
    gains: list[float]
    tokens: bool


@dataclass(frozen=True)
class Features(Reading):
    """One forward pass, and one backward pass in segments.

    Args:
        names: modules whose outputs are the features (with ``:input``, whose first inputs); None: outputs of blocks of
            a convolutional network (of activations where it has no blocks), inputs of the LayerNorms of a transformer
            but the first (the residual stream).
        init: draw the weights anew; None: as they are.
        seed: of the draws.
    """

    need: ClassVar[str] = "features"
    names: tuple[str, ...] | None = None
    init: Init | None = None
    seed: int = 0

    @property
    def shares(self) -> bool:
        """Not where the weights are drawn anew."""
        return self.init is None

    def watch(self, session: ProbeSession, batch: Batch, inputs: Any, stack: contextlib.ExitStack) -> Read:
        """Spectra and gains, in call order."""
        model, samples = session.model, len(batch)
        source = generator((session.seed or 0) + self.seed)
        if self.init:
            redraw(model, self.init, source)
        modules = list(model.modules())
        linears = sum(isinstance(module, nn.Linear) for module in modules)
        tokens = not self.names and linears > 2 * sum(isinstance(module, CONVOLUTIONS) for module in modules)
        names = self.names or (() if tokens else tuple(stages(model)))
        found: list[Tensor] = []

        def see(path: str, module: nn.Module, given: Any, output: Any) -> None:
            if names:
                value = output if path in names else given if path + INPUT in names else None
            else:
                shape = getattr(module, "normalized_shape", ())
                norm = "LayerNorm" in type(module).__name__ and isinstance(given, Tensor)
                value = given if norm and tuple(given.shape[-1:]) == tuple(shape) else None
            if isinstance(value, Tensor) and value.dim() >= 3 and len(value) == samples:
                found.append(value)

        activations: list[Tensor] = []

        def consume(call: ActivationCall, output: Tensor) -> None:
            if output.dim() == 4 and len(output) == samples:
                activations.append(output)

        stack.enter_context(watched(model, see))
        stack.enter_context(ActivationCapture(stack.enter_context(CallStack(model)), consume))
        given = [tensor for _, tensor in parts.tensors(inputs, "inputs")]

        def read(outputs: Any) -> FeaturesSeen:
            chosen = found
            if tokens and not names:
                chosen = found[1:]  # what enters the first norm is the embedding
            if len(chosen) < 2 and not self.names and not tokens:
                chosen = activations
            if len(chosen) < 2:
                raise Undefined("fewer than two features: name the modules whose outputs they are, features=(...)")
            sequences = chosen[0].dim() == 3 if self.names else tokens
            gains = [
                _gain(before, after, source, sequences)
                for before, after in itertools.pairwise(chosen)
                if before is not after and _learned(before, given)
            ]
            spectra = [_spectrum(one.detach(), sequences) for one in chosen]
            return FeaturesSeen(spectra, [gain for gain in gains if gain is not None], sequences)

        return read


def _learned(feature: Tensor, inputs: list[Tensor]) -> bool:
    """Whether a feature depends on anything but the inputs, so that it has a gradient without theirs."""
    seen: set[Node] = {None, *(tensor.grad_fn for tensor in inputs)}
    stack: list[Node] = [feature.grad_fn]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of a leaf
        if variable is not None and not any(variable is one for one in inputs):
            return True
        stack.extend(edge[0] for edge in node.next_functions)
    return False


def stages(model: nn.Module) -> Iterator[str]:
    """Paths of the outermost blocks: modules of several layers, in containers or at the top.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        >>> list(stages(nn.Sequential(block, block, nn.Flatten())))
        ['0']
    """
    root, prefix = model, ""
    while True:
        names = list(dict.fromkeys(_blocks(root, prefix)))
        if len(names) != 1 or not list(root.children()):
            return iter(names)
        inner = model.get_submodule(names[0])
        if not any(list(child.children()) for child in inner.children()):
            return iter(names)
        root, prefix = inner, names[0] + "."  # a wrapper around the network


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        path = prefix + name
        layers = list(child.children())
        if not layers:
            continue
        if isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            plain = all(not list(layer.children()) for layer in layers)
            if plain and isinstance(child, nn.Sequential):
                if any(isinstance(layer, WEIGHTED) for layer in layers):
                    yield path
            else:
                yield from _blocks(child, path + ".")
        else:
            yield path


def _rows(feature: Tensor, tokens: bool) -> Tensor:
    """Positions of all samples by channels."""
    return feature.flatten(0, -2) if tokens else feature.transpose(0, 1).flatten(1).T


def _spectrum(feature: Tensor, tokens: bool) -> Tensor:
    rows = double(_rows(feature, tokens))
    rows = rows - rows.mean(0)
    spectrum: Tensor = torch.linalg.eigvalsh((rows.T @ rows).cpu() / len(rows))
    return spectrum


def _gain(before: Tensor, after: Tensor, source: torch.Generator, tokens: bool) -> float | None:
    """Largest singular value of the mean product of random signs behind a block and their gradients before it."""
    signs = signs_like(after, source)
    back: Tensor | None = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)[0]
    if back is None:
        return None
    if back.dim() == 4 == after.dim() and not tokens and back.shape[2:] != after.shape[2:]:
        strides = [b // a for b, a in zip(back.shape[2:], after.shape[2:], strict=True)]
        if strides[0] != strides[1] or strides[0] < 1:
            return None
        stride = strides[0]
        back = F.pixel_unshuffle(back[:, :, : after.shape[2] * stride, : after.shape[3] * stride], stride)
    ins, outs = _rows(back, tokens), _rows(signs, tokens)
    if len(ins) != len(outs):
        return None  # positions were merged in a way that has no stride
    product = double(ins).T @ double(outs) / len(outs)
    return float(torch.linalg.matrix_norm(product.cpu(), 2))
