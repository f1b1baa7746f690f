"""Check captured gradients against autograd itself, weight by weight, on the model at hand."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lswag_hooks.batch import Batch
from lswag_hooks.devices import no_tf32
from lswag_hooks.experiment import experiment, pick, with_inputs
from lswag_hooks.hooks.forward import Watcher
from lswag_hooks.hooks.graph import Graph
from lswag_hooks.hooks.inventory import WeightLayer
from lswag_hooks.hooks.rules import GradientSource, blocks
from lswag_hooks.hooks.session import Mode, ProbeSession, joins_samples
from lswag_hooks.hooks.weights import GradientCapture, LayerGradients
from lswag_hooks.objective import Objective, check_loss
from lswag_hooks.rng import torch_states

TOLERANCE = 1e-3
ROUNDINGS = 8  # of one number, that a gradient in half precision may be off


@dataclass
class VerificationRow:
    """How far one layer's captured gradients are from autograd's, relative to the largest element.

    Attributes:
        layer: its name.
        sum_error: of the sum over samples against the gradient of the batch's loss.
        sample_error: of one sample's gradient against a backward pass of that sample alone; None where there is no such
            pass to compare: samples are coupled (batch statistics, a detector's losses), the forward pass draws random
            numbers, or the model takes no other size of batch.
        vacuous: the gradient is exactly zero, so that nothing was tested.
        tolerance: what counts as rounding, more in half precision.
    """

    layer: str
    sum_error: float
    sample_error: float | None
    vacuous: bool
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether the errors found are rounding."""
        return self.sum_error <= self.tolerance and (self.sample_error or 0.0) <= self.tolerance


def _relative(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    return difference / scale if scale else difference


def _sum(source: GradientSource, sample: int) -> tuple[Tensor, Tensor]:
    """Sum over samples, and one sample's gradient, in the weight's own shape."""
    total, single = [], []
    for rows, sample_blocks in blocks(source):
        tiles = [source.block(samples, rows) for samples in sample_blocks]
        total.append(torch.stack([tile.sum(0) for tile in tiles]).sum(0))
        at = next(i for i, samples in enumerate(sample_blocks) if samples.start <= sample < samples.stop)
        single.append(tiles[at][sample - sample_blocks[at].start])
    return source.restore(torch.cat(total)), source.restore(torch.cat(single))


def verify_gradients(
    model: nn.Module, batch: Batch, objective: Objective, mode: Mode = "eval", seed: int = 0, single: bool = True
) -> list[VerificationRow]:
    """Reconcile every layer with autograd.

    Per-sample gradients summed over samples must equal the parameter's own gradient, and one sample's gradient that of
    a backward pass of that sample alone, which is the only test of the order of rows.

    Args:
        model: any module.
        batch: a small one will do.
        objective: forward pass and loss.
        mode: evaluation by default, in which samples are independent.
        seed: of the forward passes and of the choice of the sample.
        single: do the second check too.
    """
    found: dict[str, tuple[Tensor, Tensor] | None] = {}
    sample = random.Random(seed).randrange(len(batch))
    watcher = Watcher(model, len(batch))
    with ProbeSession(model, mode, seed) as session, no_tf32(batch.device):
        before = torch_states()
        result = watcher.run(
            batch.inputs,
            lambda inputs: check_loss(objective(model, with_inputs(batch, inputs))),
            None,
            experiment(session, model, batch, objective, mode),
        )
        drawn = not all(map(torch.equal, before, torch_states()))
        layers = result.inventory.layers
        if not layers:
            return []
        parameters = [watcher.parameters.by_name[layer.parameter] for layer in layers]
        whole: tuple[Tensor | None, ...] = torch.autograd.grad(
            result.loss, parameters, retain_graph=True, allow_unused=True
        )

        def consume(layer: WeightLayer, gradients: LayerGradients) -> None:
            found[layer.parameter] = None if gradients.source is None else _sum(gradients.source, sample)

        scale = len(batch) if objective.reduction == "mean" else 1
        GradientCapture(result.graph, watcher.parameters, len(batch)).run(result.loss, layers, consume, float(scale))
        alone: tuple[Tensor | None, ...] = (None,) * len(layers)
        joined = bool(getattr(objective, "joins", "")) or any(map(joins_samples, session.modules))
        if single and mode == "eval" and not drawn and not joined:
            # twice the same sample: some models, and some of torch's own kernels, are wrong with a batch of one
            twice = 2.0 if objective.reduction == "sum" else 1.0
            with contextlib.suppress(Exception):  # a model may be made for one size of batch alone
                loss = objective(model, pick(batch, (sample, sample)))
                alone = torch.autograd.grad(loss / twice, parameters, allow_unused=True)
        tolerance = max([TOLERANCE, *(ROUNDINGS * torch.finfo(dtype).eps for dtype in _types(result.graph))])
    rows = []
    for layer, expected, one in zip(layers, whole, alone, strict=True):
        pair = found.get(layer.parameter)
        if expected is None or pair is None:
            agree = (expected is None) == (pair is None)
            rows.append(VerificationRow(layer.name, 0.0 if agree else 1.0, None, True))
            continue
        error = _relative(pair[0] / scale, expected)
        sample_error = None if one is None else _relative(pair[1], one)
        rows.append(VerificationRow(layer.name, error, sample_error, not bool(expected.any()), tolerance))
    return rows


def _types(graph: Graph) -> set[torch.dtype]:
    """Floating-point types of what the convolutions and matrix products of a graph give."""
    found = {call.node._input_metadata[0].dtype for call in graph.calls}
    return {dtype for dtype in found if dtype.is_floating_point}
