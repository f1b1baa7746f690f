"""The main pass: one forward and one backward pass, over the whole batch or part by part, reduced as it goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.coverage import Coverage
from lswag_hooks.description import describe, wanted_activations
from lswag_hooks.errors import InputError
from lswag_hooks.experiment import experiment, with_inputs
from lswag_hooks.functional.arrays import LayerWhole
from lswag_hooks.hooks.activations import NONNEGATIVE, ActivationCall
from lswag_hooks.hooks.forward import Forward, Watcher
from lswag_hooks.hooks.inventory import Parameters, WeightLayer
from lswag_hooks.hooks.rules.source import TILE_BYTES
from lswag_hooks.hooks.session import Mode, ProbeSession, joins_samples
from lswag_hooks.hooks.weights import GradientCapture, LayerGradients
from lswag_hooks.objective import Objective, SupervisedObjective, check_loss
from lswag_hooks.passes import Undefined, look, readers_of
from lswag_hooks.profile import LayerProfile
from lswag_hooks.proxies import LSWAG, Observation, Proxy
from lswag_hooks.proxies.base import CODES, GRADIENTS
from lswag_hooks.reduction import LayerReduction, LayerStore
from lswag_hooks.stats import agreement, count_distinct, pack

if TYPE_CHECKING:
    from lswag_hooks.stats import ActivationPatterns


@dataclass(frozen=True)
class Settings:
    """How to observe.

    Attributes:
        mode: of the modules.
        seed: of the session.
        tile_bytes: about the size of a tile of per-sample gradients; one of a single matrix product is larger.
        budget: bytes of outputs that one forward pass may hold; None: no bound.
        max_memory: bytes that were asked for, which bound passes of their own; None: a share of what is free then.
        sync: merge statistics over all processes.
    """

    mode: Mode = "score"
    seed: int | None = None
    tile_bytes: int = TILE_BYTES
    budget: int | None = None
    max_memory: int | None = None
    sync: bool = False


class MainPass:
    """One main pass, over the whole batch or part by part.

    Attributes:
        seen: what it showed.
        coverage: what it covered.
    """

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
                kernel = agreement(outputs, nonnegative=call.function in NONNEGATIVE)
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
            ordered=not whole,  # counts and kernels do not ask in what order the units come
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
            describe(result, watcher.parameters, self.units, self.seen, self.coverage)
            self.coverage.coupled = sum(map(joins_samples, self.session.modules))
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
