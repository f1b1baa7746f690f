"""The fewest passes over a network that serve all the proxies asked for, and what they show."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.coverage import Coverage
from lswag_hooks.description import describe, wanted_activations, weight_rows
from lswag_hooks.errors import InputError
from lswag_hooks.experiment import experiment, with_inputs
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.hooks.activations import NONNEGATIVE, ActivationCall
from lswag_hooks.hooks.calls import OverBudget
from lswag_hooks.hooks.forward import Forward, Watcher
from lswag_hooks.hooks.inventory import Parameters, WeightLayer
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.rules.source import TILE_BYTES
from lswag_hooks.hooks.session import Mode, ProbeSession
from lswag_hooks.hooks.weights import GradientCapture, LayerGradients
from lswag_hooks.objective import Objective, SupervisedObjective, check_loss, forward
from lswag_hooks.passes import Undefined, look, readers_of, run_passes
from lswag_hooks.profile import LayerProfile
from lswag_hooks.proxies import LSWAG, Observation, Proxy
from lswag_hooks.reduction import LayerReduction, LayerStore, all_sum
from lswag_hooks.stats import agreement, count_distinct, moments_of, pack

if TYPE_CHECKING:
    from lswag_hooks.stats import ActivationPatterns

CODES = {"patterns", "union", "agreement"}
GRADIENTS = {"moments", "signed", "gradient", "channels"}
MOST_A_VALUE = 4096  # bytes that a backbone keeps for a value of its input; those that were tried keep 600 to 1,700


@dataclass(frozen=True)
class Settings:
    """How to observe.

    Attributes:
        mode: of the modules.
        seed: of the session.
        tile_bytes: size of a tile of per-sample gradients.
        budget: bytes of outputs that one forward pass may hold; None: no bound.
        sync: merge statistics over all processes.
    """

    mode: Mode = "score"
    seed: int | None = None
    tile_bytes: int = TILE_BYTES
    budget: int | None = None
    sync: bool = False


def observe(
    model: nn.Module, batch: Batch, objective: Objective, proxies: Sequence[Proxy], settings: Settings
) -> tuple[Observation, Coverage]:
    """Run the passes that the proxies need and reduce them, layer by layer, to what the proxies are computed from."""
    parameters = Parameters(model)
    frozen = {name for name, parameter in parameters.by_name.items() if not parameter.requires_grad}
    needs = {need for proxy in proxies for need in (proxy.needs - GRADIENTS if proxy.minibatches else proxy.needs)}
    for count in {proxy.minibatches for proxy in proxies} - {0}:
        if len(batch) < count:
            raise InputError(
                f"{count} mini-batches of a batch of {len(batch)} samples: give a larger batch or fewer mini-batches."
            )
    if batch.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(batch.device)
    with ProbeSession(model, settings.mode, settings.seed) as session:
        if needs & (CODES | GRADIENTS):
            observer = _fitting(session, parameters, batch, objective, proxies, settings)
            seen, coverage = observer.seen, observer.coverage
        else:
            seen, coverage = Observation(LayerProfile([], []), len(batch), 0), Coverage()
        for count in sorted({proxy.minibatches for proxy in proxies} - {0}):
            drawn = [proxy for proxy in proxies if proxy.minibatches == count]
            _minibatch_passes(model, batch, objective, drawn, count, seen, settings.sync)
        if "macs" in needs:
            session.set_mode("eval")
            seen.macs = count_macs(model, batch, objective)
    own = [wanted for proxy in proxies for wanted in proxy.passes]
    refused = "cannot be merged over processes: score without sync" if settings.sync else ""
    if seen.memory.get("parts", 1) > 1:
        refused = "needs the whole batch at once, which max_memory does not hold: use a smaller batch"
    seen.passed = run_passes(model, batch, objective, own, settings.mode, settings.seed, refused, seen.passed.found)
    with torch.no_grad():
        seen.weight_norms = [
            float(torch.linalg.vector_norm(parameters.by_name[name])) for name in parameters.of_layers()
        ]
    seen.layer_sizes = [parameters.by_name[name].numel() for name in parameters.of_layers()]
    tensors = [*model.parameters(), *model.buffers()]
    seen.memory["copies"] = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if batch.device.type == "cuda":
        seen.memory["peak"] = torch.cuda.max_memory_allocated(batch.device)
    if settings.sync:
        seen.samples = int(all_sum(torch.tensor(len(batch), device=batch.device)))
    seen.parameters = sum(parameter.numel() for parameter in parameters.by_name.values())
    coverage.other_parameters = seen.parameters - coverage.weights_total
    coverage.frozen = sorted(frozen & set(parameters.of_layers()))
    return seen, coverage


def _fitting(
    session: ProbeSession,
    parameters: Parameters,
    batch: Batch,
    objective: Objective,
    proxies: Sequence[Proxy],
    settings: Settings,
) -> _Observer:
    """Observe the whole batch, or as many samples at a time as fit."""
    size = len(batch)
    one = _expected(session.model, batch, objective, settings.budget)
    while True:
        observer = _Observer(session, parameters, batch, objective, proxies, settings)
        try:
            if settings.budget is not None and one is not None and one * size > settings.budget:
                raise OverBudget(one * size)  # known before any work
            observer.run(size)
            return observer
        except OverBudget as error:
            modules = session.model.named_modules()
            coupled = [name for name, module in modules if isinstance(module, _BatchNorm) and module.training]
            wanted = (
                f"a forward pass of {size} samples holds more than {error.seen / 1e6:,.0f} MB of the "
                f"{(settings.budget or 0) / 1e6:,.0f} MB of max_memory (by default 60 % of what is free)"
            )
            joins: str = getattr(objective, "joins", "")
            mend: str = getattr(objective, "mend", "use a smaller batch")
            if joins:
                raise InputError(f"{wanted}, and {joins}: {mend}, or raise max_memory.") from None
            if coupled:
                raise InputError(
                    f"{wanted}, and BatchNorm ({coupled[0]}) joins its samples: {mend}, raise max_memory, or score "
                    "with mode='eval' (running statistics)."
                ) from None
            if size == 1:
                raise InputError(f"{wanted}: raise max_memory or score smaller inputs.") from None
            size = -(-size // 2)
            size = size if size < 8 else -(-size // 8) * 8  # whole bytes of codes


def _expected(model: nn.Module, batch: Batch, objective: Objective, budget: int | None) -> int | None:
    """Bytes that a forward pass of one sample holds at the least, where an objective can tell, and it may matter."""
    tell = getattr(objective, "held_bytes", None)
    if tell is None or budget is None:
        return None
    pixels = sum(tensor.numel() for _, tensor in parts.tensors(batch.inputs, "inputs"))
    found: int | None = tell(model, batch) if pixels * MOST_A_VALUE > budget else None
    return found


class _Observer:
    """One main pass, over the whole batch or part by part."""

    def __init__(
        self,
        session: ProbeSession,
        parameters: Parameters,
        batch: Batch,
        objective: Objective,
        proxies: Sequence[Proxy],
        settings: Settings,
    ) -> None:
        self.session, self.model, self.parameters = session, session.model, parameters
        self.batch, self.objective = batch, objective
        self.proxies, self.settings = proxies, settings
        needs = {need for proxy in proxies if not proxy.minibatches for need in proxy.needs} & GRADIENTS
        if any(isinstance(proxy, LSWAG) and proxy.biases for proxy in proxies):
            needs.add("biases")
        self.needs = needs
        self.coding = {need for proxy in proxies for need in proxy.needs} & CODES
        self.gradient_proxies = [p for p in proxies if not p.minibatches and p.needs & GRADIENTS]
        self.seen = Observation(LayerProfile([], []), len(batch), 0, {proxy.key: [] for proxy in proxies})
        self.coverage = Coverage()
        self.patterns: dict[int, ActivationPatterns] = {}
        self.packed: dict[int, Tensor] = {}
        self.units: dict[int, int] = {}
        self.stores: dict[int, LayerStore] = {}
        # with another objective the forward pass may be of something else, and a loss may change outputs in place
        plain = type(objective) is SupervisedObjective and objective.loss is None
        self.readers = readers_of(wanted for proxy in proxies for wanted in proxy.passes) if plain else []

    def run(self, size: int) -> None:
        """All passes, ``size`` samples at a time."""
        whole = size == len(self.batch) and not self.settings.sync
        self.seen.memory.update(parts=-(-len(self.batch) // size), tile=self.settings.tile_bytes)
        layers: list[WeightLayer] = []
        for number, part in enumerate(self.batch.split(size)):
            layers = self._pass(part, first=number == 0, whole=whole)
        if not whole:
            for layer in layers:
                if layer.index in self.stores:
                    self._finish(layer, self.stores[layer.index])
        self.seen.memory["statistics"] = sum(store.nbytes for store in self.stores.values())
        self._count_codes(whole)
        self.seen.memory["codes"] = sum(packed.numel() for packed in self.packed.values())
        if "moments" in self.needs:
            counted = [row for row in self.seen.profile.weights if row.zero is not None]
            size = sum(row.size for row in counted)
            self.coverage.zero_gradient_share = sum(row.zero or 0 for row in counted) / size if size else None

    def _pass(self, part: Batch, first: bool, whole: bool) -> list[WeightLayer]:
        watcher = Watcher(self.model, len(part), self.settings.budget, self.parameters)

        def consume(position: int, call: ActivationCall, outputs: Tensor) -> None:
            self.units[position] = outputs.shape[1]
            if self.coding & {"patterns", "union"} or not whole:
                packed = pack(outputs, nonnegative=call.function in NONNEGATIVE)
                if whole:
                    self.packed[position] = packed
                else:
                    from lswag_hooks.stats import ActivationPatterns

                    metric = self.patterns.setdefault(position, ActivationPatterns(sync_on_compute=self.settings.sync))
                    metric.extend(packed, len(outputs))
            if "agreement" in self.coding and whole:
                kernel = agreement(outputs)
                self.seen.agreement = kernel if self.seen.agreement is None else self.seen.agreement + kernel

        reads: list[Callable[[], Any]] = []

        def loss(inputs: Any) -> Tensor:
            bound = with_inputs(part, inputs)
            if whole and isinstance(self.objective, SupervisedObjective) and self.readers:
                with contextlib.suppress(Undefined):  # raised before the forward pass
                    outputs, reads[:] = look(self.session, part, self.readers, inputs)
                    return check_loss(self.objective.of(outputs, bound))
            return check_loss(self.objective(self.model, bound))

        result = watcher.run(
            part.inputs,
            loss,
            consume if self.coding else None,
            experiment(self.session, self.model, part, self.objective, self.settings.mode),
        )
        if not result.depends:
            raise InputError(
                "the model's output does not depend on its input: the loss reaches nothing that was computed from the "
                "batch. Check what forward does with its input."
            )
        for position in result.shared:  # one whose first dimension happened to be the batch size
            for kept in (self.units, self.packed, self.patterns):
                kept.pop(position, None)
        if first:
            describe(result, watcher.parameters, self.units, self.settings.mode, self.seen, self.coverage)
        if self.gradient_proxies:
            self._backward(watcher, part, result, whole, retain=bool(reads))
        for reader, read in zip(self.readers, reads, strict=False):
            with contextlib.suppress(Exception):  # what fails is tried again, alone
                self.seen.passed.found[reader] = read()
        return result.inventory.layers

    def _backward(self, watcher: Watcher, part: Batch, result: Forward, whole: bool, retain: bool) -> None:
        layers, rows = result.inventory.layers, self.seen.profile.weights
        wanted = [
            layer for layer in layers if any(p.wants(rows[layer.index].percentile) for p in self.gradient_proxies)
        ]
        for proxy in self.gradient_proxies:
            self.seen.terms[proxy.key] = self.seen.terms[proxy.key] or [0.0] * len(layers)
        if not wanted:
            return
        per_sample = "moments" in self.needs or not whole
        needs = self.needs if whole else self.needs | {"moments"}
        # the proxies are defined on per-sample losses, and on the gradient of the mean loss where they share one
        scale = float(len(part)) if per_sample else 1.0
        if self.objective.reduction == "sum":
            scale /= len(part)

        def consume(layer: WeightLayer, found: LayerGradients) -> None:
            if found.source is None:
                self.coverage.dead.append(layer.name)
            elif whole:
                reduction = self._reduction(layer)
                self._record(layer, reduction, reduction.read(found, needs, self.settings.tile_bytes))
            else:
                store = self.stores.setdefault(layer.index, LayerStore(self.settings.sync))
                store.read(found, needs, self.settings.tile_bytes)

        samples = len(part) if per_sample else 1
        GradientCapture(result.graph, watcher.parameters, samples).run(result.loss, wanted, consume, scale, retain)

    def _reduction(self, layer: WeightLayer) -> LayerReduction:
        tenth = self.seen.profile.weights[layer.index].percentile
        return LayerReduction([proxy for proxy in self.gradient_proxies if proxy.wants(tenth)])

    def _finish(self, layer: WeightLayer, store: LayerStore) -> None:
        reduction = self._reduction(layer)
        self._record(layer, reduction, store.reduce(reduction))

    def _record(self, layer: WeightLayer, reduction: LayerReduction, whole: LayerWhole) -> None:
        row = self.seen.profile.weights[layer.index]
        if "moments" in self.needs:
            reduction.describe(row, self.coverage)
        for proxy, term in zip(reduction.proxies, reduction.terms(whole), strict=True):
            self.seen.terms[proxy.key][layer.index] = row.terms[proxy.key] = term

    def _count_codes(self, whole: bool) -> None:
        profile = self.seen.profile
        if not whole and self.coding:
            for position, metric in sorted(self.patterns.items()):
                with metric.sync_context(should_sync=self.settings.sync, should_unsync=False):
                    self.packed[position] = metric.joined()
                    if "agreement" in self.coding:
                        kernel = agreement(metric.codes())
                        self.seen.agreement = kernel if self.seen.agreement is None else self.seen.agreement + kernel
        placed = sorted(self.units)
        if "patterns" in self.coding:
            for index in wanted_activations(self.proxies, len(profile.weights), profile):
                profile.activations[index].expressivity = float(count_distinct(self.packed[placed[index]]))
        if self.packed and "union" in self.coding:
            self.seen.union = count_distinct(torch.cat([self.packed[position] for position in placed], 1))


def _minibatch_passes(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    proxies: Sequence[Proxy],
    count: int,
    seen: Observation,
    sync: bool = False,
) -> None:
    """One pass a mini-batch, whose mean gradient is one draw; those of other processes are draws too."""
    from lswag_hooks.stats import GradientMoments

    collected: dict[str, GradientMoments] = {}
    order: list[WeightLayer] = []
    cuts = [len(batch) * number // count for number in range(count + 1)]
    for part in (batch[first:last] for first, last in itertools.pairwise(cuts)):
        watcher = Watcher(model, len(part))

        def loss(inputs: Any, part: Batch = part) -> Tensor:
            return check_loss(objective(model, with_inputs(part, inputs)))

        result = watcher.run(part.inputs, loss)
        order = result.inventory.layers

        def consume(layer: WeightLayer, found: LayerGradients) -> None:
            source = found.source
            if source is None:
                return
            gradient = torch.cat([source.block(slice(0, 1), rows) for rows, _ in blocks(source)], 1)
            draws = collected.setdefault(layer.parameter, GradientMoments(signed=True, sync_on_compute=sync))
            draws.merge(moments_of(gradient, signed=True, partial=True))

        scale = 1.0 if objective.reduction == "mean" else 1.0 / len(part)
        GradientCapture(result.graph, watcher.parameters, 1).run(result.loss, order, consume, scale)
    if not seen.profile.weights:
        seen.profile.weights = weight_rows(order, watcher.parameters, {})
    for proxy in proxies:
        seen.terms[proxy.key] = [0.0] * len(order)
    for layer in order:
        row = seen.profile.weights[layer.index]
        mine = [proxy for proxy in proxies if layer.parameter in collected and proxy.wants(row.percentile)]
        reduction = LayerReduction(mine)
        if mine:
            reduction.add(LayerArrays(moments=collected[layer.parameter].compute()))
        for proxy, term in zip(mine, reduction.terms(LayerWhole(row.size)), strict=True):
            seen.terms[proxy.key][layer.index] = row.terms[proxy.key] = term


def count_macs(model: nn.Module, batch: Batch, objective: Objective | None = None) -> float | None:
    """Multiply-accumulates of one sample: convolutions, linear layers, attention products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    one = batch[:1]
    counter = FlopCounterMode(display=False)
    try:
        # attention that is one operation is not counted, the plain formula is; without gradients nn.MultiheadAttention
        # and MPS would take the former in any case, and the counter fails where a parameter is handed to a module (PiT)
        with torch.enable_grad(), forgetting(), sdpa_kernel(SDPBackend.MATH), counter:
            # a detector of mmdet is not called with its inputs alone
            predict = getattr(objective, "predict", None)
            forward(model, one.inputs) if predict is None else predict(model, one)
    except Exception:  # any model may refuse a batch of one
        return None
    return counter.get_total_flops() / 2


def forgetting() -> saved_tensors_hooks:
    """While open, a forward pass keeps nothing for a backward pass, which must not be asked for."""
    return saved_tensors_hooks(lambda tensor: None, lambda kept: kept)
