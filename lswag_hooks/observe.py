"""The fewest passes over a network that serve all the proxies asked for, and what they show."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.coverage import Coverage
from lswag_hooks.errors import InputError
from lswag_hooks.functional.arrays import LayerArrays
from lswag_hooks.functional.lswag import largest_share, nearest, percentile, trainability
from lswag_hooks.hooks.activations import NONNEGATIVE, ActivationCall
from lswag_hooks.hooks.forward import Forward, Watcher
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.rules.source import TILE_BYTES
from lswag_hooks.hooks.session import Mode, ProbeSession
from lswag_hooks.hooks.weights import GradientCapture, LayerGradients, WeightLayer
from lswag_hooks.objective import Objective, check_loss, forward
from lswag_hooks.profile import ActivationRow, LayerProfile, WeightRow
from lswag_hooks.proxies import LSWAG, Observation, Proxy
from lswag_hooks.stats import Moments, agreement, count_distinct, merge_moments, moments_of, pack


@dataclass
class Settings:
    """How to observe."""

    mode: Mode = "score"
    seed: int | None = None
    tile_bytes: int = TILE_BYTES


@dataclass
class _Codes:
    """What is kept of the activations while the forward pass goes on."""

    packed: dict[int, Tensor] = field(default_factory=dict)
    units: dict[int, int] = field(default_factory=dict)
    agreement: Tensor | None = None


def observe(
    model: nn.Module, batch: Batch, objective: Objective, proxies: Sequence[Proxy], settings: Settings
) -> tuple[Observation, Coverage]:
    """Run the passes that the proxies need and reduce them, layer by layer, to what the proxies are computed from."""
    needs = {need for proxy in proxies for need in proxy.needs}
    watcher = Watcher(model, len(batch))
    coverage = Coverage()
    seen = Observation(
        LayerProfile([], []),
        samples=len(batch),
        parameters=sum(parameter.numel() for parameter in watcher.parameters.by_name.values()),
        terms={proxy.key: [] for proxy in proxies},
    )
    with torch.no_grad():
        seen.weight_norms = [
            float(torch.linalg.vector_norm(watcher.parameters.by_name[name])) for name in watcher.parameters.of_layers()
        ]
    frozen = {name for name, parameter in watcher.parameters.by_name.items() if not parameter.requires_grad}
    with ProbeSession(model, settings.mode, settings.seed) as session:
        if needs & {"moments", "gradient", "patterns", "union", "agreement"}:
            _main_pass(session, watcher, batch, objective, proxies, settings, seen, coverage)
        for count in sorted({proxy.minibatches for proxy in proxies} - {0}):
            _minibatch_passes(watcher, batch, objective, [p for p in proxies if p.minibatches == count], count, seen)
        if "macs" in needs:
            session.set_mode("eval")
            seen.macs = count_macs(model, batch)
    coverage.frozen = [name for name in frozen if name in {row.name for row in seen.profile.weights}]
    return seen, coverage


def _main_pass(
    session: ProbeSession,
    watcher: Watcher,
    batch: Batch,
    objective: Objective,
    proxies: Sequence[Proxy],
    settings: Settings,
    seen: Observation,
    coverage: Coverage,
) -> None:
    needs = {need for proxy in proxies if not proxy.minibatches for need in proxy.needs}
    coding = {need for proxy in proxies for need in proxy.needs} & {"patterns", "union", "agreement"}
    codes = _Codes()

    def consume(position: int, call: ActivationCall, outputs: Tensor) -> None:
        codes.units[position] = outputs.shape[1]
        if coding & {"patterns", "union"}:
            codes.packed[position] = pack(outputs, nonnegative=call.function in NONNEGATIVE)
        if "agreement" in coding:
            kernel = agreement(outputs)
            codes.agreement = kernel if codes.agreement is None else codes.agreement + kernel

    def experiment() -> Any:
        three = batch_of_three(batch)
        session.set_mode("eval")
        try:
            return Watcher(watcher.model, 3).outputs(three.inputs, lambda inputs: objective(watcher.model, with_inputs(three, inputs)))
        finally:
            session.set_mode(settings.mode)

    result = watcher.run(
        batch.inputs,
        lambda inputs: check_loss(objective(watcher.model, with_inputs(batch, inputs))),
        consume if coding else None,
        experiment,
    )
    _describe(result, watcher, codes, settings, seen, coverage)
    gradient_proxies = [proxy for proxy in proxies if not proxy.minibatches and proxy.needs & {"moments", "gradient"}]
    if gradient_proxies:
        _backward(watcher, batch, objective, result, gradient_proxies, needs, settings, seen, coverage)
    wanted = _wanted_activations(proxies, seen) if "patterns" in coding else []
    for position in wanted:
        row = seen.profile.activations[position]
        if position in codes.packed:
            row.expressivity = float(count_distinct(codes.packed[position]))
    if codes.packed and "union" in coding:
        seen.union = count_distinct(torch.cat([codes.packed[key] for key in sorted(codes.packed)], 1))
    seen.agreement = codes.agreement


def with_inputs(batch: Batch, inputs: Any) -> Batch:
    """The batch with marked copies of its inputs, which were checked already."""
    made = copy.copy(batch)
    object.__setattr__(made, "inputs", inputs)
    return made


def batch_of_three(batch: Batch) -> Batch:
    """Samples (a, a, b) of a batch, for the experiment that finds out which rows belong to which sample."""
    first, second = batch[:1], batch[1:2]
    made = copy.copy(batch)
    for name in ("inputs", "targets"):
        pieces = [getattr(piece, name) for piece in (first, first, second)]
        object.__setattr__(made, name, parts.joined(pieces, [1, 1, 1], name))
    return made


def _describe(
    result: Forward, watcher: Watcher, codes: _Codes, settings: Settings, seen: Observation, coverage: Coverage
) -> None:
    """Rows of the profile and coverage, as far as the forward pass shows them."""
    inventory, placed = result.inventory, [i for i in range(len(result.activations)) if i in codes.units]
    order = {position: index for index, position in enumerate(placed)}
    codes.packed = {order[key]: value for key, value in codes.packed.items()}
    seen.profile = LayerProfile(
        [
            WeightRow(
                layer.name,
                layer.kind,
                layer.shape,
                watcher.parameters.by_name[layer.parameter].numel(),
                percentile(layer.index, len(inventory.layers)),
                len(layer.calls),
                fed_by=order.get(result.fed_by.get(layer.parameter, -1)),
            )
            for layer in inventory.layers
        ],
        [
            ActivationRow(
                result.activations[position].name,
                result.activations[position].function,
                codes.units[position],
                percentile(index, len(placed)),
            )
            for index, position in enumerate(placed)
        ],
    )
    by_name = watcher.parameters.by_name
    coverage.weights = sum(row.size for row in seen.profile.weights)
    coverage.uncovered = dict(inventory.uncovered)
    coverage.weights_total = coverage.weights + sum(by_name[name].numel() for name in inventory.uncovered)
    coverage.tables = inventory.tables
    coverage.other_parameters = seen.parameters - coverage.weights_total
    coverage.activations.update(result.activations[position].function for position in placed)
    coverage.unplaced = dict(result.unplaced)
    coverage.gates.update(call.function for call in result.others)
    coverage.reused = {layer.name: len(layer.calls) for layer in inventory.layers if len(layer.calls) > 1}
    coverage.derived = [layer.name for layer in inventory.layers if layer.derived]
    coverage.opaque = result.opaque
    if settings.mode != "eval":
        coverage.coupled = sum(isinstance(module, _BatchNorm) and module.training for module in watcher.model.modules())


def _wanted_activations(proxies: Sequence[Proxy], seen: Observation) -> list[int]:
    """Activation layers whose patterns some proxy will read."""
    n, m = len(seen.profile.weights), len(seen.profile.activations)
    wanted: set[int] = set()
    for proxy in proxies:
        if "patterns" not in proxy.needs:
            continue
        wanted |= {j for j in range(m) if proxy.wants(percentile(j, m))}
        if isinstance(proxy, LSWAG) and n and m:
            inside = [i for i in range(n) if proxy.wants(percentile(i, n))]
            if proxy.pairing == "nearest":
                wanted |= {nearest(i, n, m) for i in inside}
            if proxy.pairing == "feeding":
                wanted |= {j for i in inside if (j := seen.profile.weights[i].fed_by) is not None}
    return sorted(wanted)


def _backward(
    watcher: Watcher,
    batch: Batch,
    objective: Objective,
    result: Forward,
    proxies: Sequence[Proxy],
    needs: set[str],
    settings: Settings,
    seen: Observation,
    coverage: Coverage,
) -> None:
    layers = result.inventory.layers
    wanted = [layer for layer, row in zip(layers, seen.profile.weights, strict=True) if any(p.wants(row.percentile) for p in proxies)]
    for proxy in proxies:
        seen.terms[proxy.key] = [0.0] * len(layers)
    if not wanted:
        return
    per_sample = "moments" in needs
    samples = len(batch) if per_sample else 1
    scale = float(len(batch)) if objective.reduction == "mean" and per_sample else 1.0
    if objective.reduction == "sum" and not per_sample:
        scale = 1.0 / len(batch)  # the gradient of the mean loss is what these proxies are defined on
    biases = any(isinstance(proxy, LSWAG) and proxy.biases for proxy in proxies)

    def consume(layer: WeightLayer, found: LayerGradients) -> None:
        row = seen.profile.weights[layer.index]
        if found.source is None:
            coverage.dead.append(layer.name)
            return
        arrays = collect(found, needs, settings.tile_bytes, biases)
        if arrays.moments is not None:
            describe_moments(row, arrays.moments, found.weight.numel(), coverage)
        for proxy in proxies:
            if proxy.wants(row.percentile):
                term = proxy.layer(arrays)
                if term is not None:
                    seen.terms[proxy.key][layer.index] = term
                    row.terms[proxy.key] = term

    capture = GradientCapture(result.graph, watcher.parameters, samples)
    capture.run(result.loss, wanted, consume, scale)
    if per_sample:
        zero = sum(row.zero or 0 for row in seen.profile.weights)
        counted = sum(seen.profile.weights[layer.index].size for layer in wanted)
        coverage.zero_gradient_share = zero / counted if counted else None
    coverage.dead = sorted(coverage.dead, key=[row.name for row in seen.profile.weights].index)


def collect(found: LayerGradients, needs: set[str], tile_bytes: int = TILE_BYTES, biases: bool = False) -> LayerArrays:
    """Fold a layer's per-sample gradients, tile by tile, into the arrays that its scores need."""
    source = found.source
    assert source is not None
    weight = source.arrange(found.weight)
    if "moments" not in needs:
        rows = torch.cat([source.block(slice(0, 1), rows)[0] for rows, _ in blocks(source, tile_bytes)])
        return LayerArrays(weight, gradient=rows)
    signed = bool(needs & {"signed", "gradient"})
    channels = _Channels(found, source.samples) if "channels" in needs else None
    pieces: list[Moments] = []
    for rows, sample_blocks in blocks(source, tile_bytes):
        merged: Moments | None = None
        for samples in sample_blocks:
            tile = source.block(samples, rows)
            if channels is not None:
                channels.add(tile, weight[rows], samples, rows)
            moments = moments_of(tile, signed, overwrite=True, partial=len(sample_blocks) > 1)
            merged = moments if merged is None else merge_moments(merged, moments)
        assert merged is not None
        pieces.append(merged)
    moments = pieces[0] if len(pieces) == 1 else _join(pieces)
    bias = None
    if biases and found.outputs is not None and found.bias is not None:
        bias = moments_of(found.outputs(), signed, overwrite=True)
    return LayerArrays(
        weight, moments, moments.mean if signed else None, channels.energy() if channels is not None else None, bias
    )


def _join(pieces: list[Moments]) -> Moments:
    def column(name: str) -> Tensor | None:
        values = [getattr(piece, name) for piece in pieces]
        return None if values[0] is None else torch.cat(values)

    return Moments(pieces[0].samples, *(column(name) for name in ("mean_abs", "m2_abs", "mean", "m2")))  # type: ignore[arg-type]


class _Channels:
    """Sum over positions of activation times gradient: the weight's part from tiles, the bias's from the outputs."""

    def __init__(self, found: LayerGradients, samples: int) -> None:
        self.found, self.samples = found, samples
        self.out = found.weight.shape[0]
        self.sums = found.weight.new_zeros(samples, self.out)

    def add(self, tile: Tensor, weight: Tensor, samples: slice, rows: slice) -> None:
        """Fold in a tile of shape (samples, rows, columns)."""
        part = torch.bmm(tile.transpose(0, 1), weight[:, :, None]).squeeze(2).T  # (samples, rows)
        if self.sums.dtype != part.dtype:
            self.sums = self.sums.to(part.dtype)
        first = rows.start % self.out
        self.sums[samples, first : first + part.shape[1]] += part

    def energy(self) -> Tensor:
        """Mean over samples of the square, for the gradient of the mean loss."""
        sums = self.sums
        if self.found.bias is not None and self.found.outputs is not None:
            sums = sums + self.found.outputs() * self.found.bias
        return (sums / self.samples).square().mean(0)


def describe_moments(row: WeightRow, moments: Moments, size: int, coverage: Coverage) -> None:
    """What the profile shows of a layer's gradients."""
    row.trainability = trainability(moments)
    row.mean_gradient = float(moments.mean_abs.sum(dtype=torch.float64)) / size
    row.mean_deviation = float(moments.variance_abs.sqrt().sum(dtype=torch.float64)) / size
    row.alive = int(torch.count_nonzero(moments.m2_abs))
    row.zero = size - int(torch.count_nonzero(moments.mean_abs))
    row.largest_share = largest_share(moments)
    if not row.alive:
        coverage.dead.append(row.name)
    if row.largest_share > 0.5 and row.alive > 1:
        coverage.largest_share[row.name] = row.largest_share


def _minibatch_passes(
    watcher: Watcher,
    batch: Batch,
    objective: Objective,
    proxies: Sequence[Proxy],
    count: int,
    seen: Observation,
) -> None:
    """One pass a mini-batch, whose mean gradient is one draw."""
    if len(batch) < count:
        raise InputError(f"{count} mini-batches of a batch of {len(batch)} samples: give a larger batch or fewer mini-batches.")
    collected: dict[str, Moments] = {}
    weights: dict[str, Tensor] = {}
    order: list[WeightLayer] = []
    for part in batch.split(-(-len(batch) // count)):
        inner = Watcher(watcher.model, len(part))
        result = inner.run(part.inputs, lambda inputs, part=part: check_loss(objective(watcher.model, with_inputs(part, inputs))))
        order = result.inventory.layers

        def consume(layer: WeightLayer, found: LayerGradients) -> None:
            if found.source is None:
                return
            arrays = collect(found, {"gradient"})
            assert arrays.gradient is not None
            moments = moments_of(arrays.gradient[None], signed=True, partial=True)
            key = layer.parameter
            collected[key] = merge_moments(collected[key], moments) if key in collected else moments
            weights[key] = arrays.weight

        scale = 1.0 if objective.reduction == "mean" else 1.0 / len(part)
        GradientCapture(result.graph, inner.parameters, 1).run(result.loss, order, consume, scale)
    if not seen.profile.weights:
        seen.profile.weights = [
            WeightRow(layer.name, layer.kind, layer.shape, weights[layer.parameter].numel(), percentile(layer.index, len(order)), len(layer.calls))
            for layer in order
        ]
    for proxy in proxies:
        seen.terms[proxy.key] = [0.0] * len(order)
        for layer in order:
            row = seen.profile.weights[layer.index]
            if layer.parameter in collected and proxy.wants(row.percentile):
                arrays = LayerArrays(weights[layer.parameter], collected[layer.parameter])
                term = proxy.layer(arrays)
                if term is not None:
                    seen.terms[proxy.key][layer.index] = row.terms[proxy.key] = term


def count_macs(model: nn.Module, batch: Batch) -> float | None:
    """Multiply-accumulates of one sample: convolutions, linear layers, attention products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    one = batch[:1]
    counter = FlopCounterMode(display=False)
    try:
        # fused attention on a CPU is not counted; the plain formula is
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            forward(model, one.inputs)
    except Exception:  # any model may refuse a batch of one
        return None
    return counter.get_total_flops() / 2


