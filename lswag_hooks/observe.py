"""The fewest passes over a network that serve all the proxies asked for, and their scores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.coverage import Coverage
from lswag_hooks.description import weight_rows
from lswag_hooks.errors import InputError
from lswag_hooks.experiment import with_inputs
from lswag_hooks.functional.arrays import LayerArrays, LayerWhole
from lswag_hooks.hooks.calls import OverBudget
from lswag_hooks.hooks.forward import Watcher
from lswag_hooks.hooks.inventory import Parameters, WeightLayer
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.session import ProbeSession, joins_samples
from lswag_hooks.hooks.weights import GradientCapture, LayerGradients
from lswag_hooks.mainpass import MainPass, Settings
from lswag_hooks.memory import budget
from lswag_hooks.objective import Objective, check_loss
from lswag_hooks.passes import Pass, readers_of, run_passes
from lswag_hooks.profile import LayerProfile
from lswag_hooks.proxies import Observation, Proxy
from lswag_hooks.proxies.base import CODES, GRADIENTS
from lswag_hooks.reduction import LayerReduction, all_sum
from lswag_hooks.stats import moments_of
from lswag_hooks.wording import quantity

__all__ = ["Settings", "observe"]

MOST_A_VALUE = 4096  # bytes that a backbone keeps for a value of its input; those that were tried keep 600 to 1,700


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
            main = _fitting(session, parameters, batch, objective, proxies, settings)
            seen, coverage = main.seen, main.coverage
        else:
            seen, coverage = Observation(LayerProfile([], []), len(batch), 0), Coverage()
        for count in sorted({proxy.minibatches for proxy in proxies} - {0}):
            drawn = [proxy for proxy in proxies if proxy.minibatches == count]
            _minibatch_passes(model, batch, objective, drawn, count, seen, settings.sync)
        if "macs" in needs:
            from lswag_hooks.macs import count_macs  # torch's formulas take a quarter of a second to import

            session.set_mode("eval")
            seen.macs = count_macs(model, batch, objective)
    seen.weights = [parameters.by_name[name] for name in parameters.of_layers()]
    seen.memory["copies"] = sum(tensor.numel() * tensor.element_size() for tensor in session.tensors)
    if settings.sync:
        seen.samples = int(all_sum(torch.tensor(len(batch), device=batch.device)))
    seen.parameters = sum(parameter.numel() for parameter in parameters.by_name.values())
    coverage.other_parameters = seen.parameters - coverage.weights_total
    coverage.frozen = sorted(frozen & set(parameters.of_layers()))
    refused = "cannot be merged over processes: score without sync" if settings.sync else ""
    if seen.memory.get("parts", 1) > 1:
        refused = "needs the whole batch at once, which max_memory does not hold: use a smaller batch"
    _own_passes(session, batch, objective, proxies, seen, settings, refused)
    if batch.device.type == "cuda":
        seen.memory["peak"] = torch.cuda.max_memory_allocated(batch.device)
    return seen, coverage


def _own_passes(
    session: ProbeSession,
    batch: Batch,
    objective: Objective,
    proxies: Sequence[Proxy],
    seen: Observation,
    settings: Settings,
    refused: str,
) -> None:
    """Every proxy's score, after the passes of its own; what these showed goes when no other proxy needs it.

    Most of it is as large as the weights are.
    """
    passed = seen.passed

    def run(passes: Sequence[Pass]) -> None:
        # of what the main pass left; processes, which may have different memories free, must agree
        most = None if settings.sync else budget(batch.device, settings.max_memory)
        run_passes(session, batch, objective, passes, refused, passed, most)

    run(readers_of(wanted for proxy in proxies for wanted in proxy.passes))  # which share a forward pass
    # proxies with equal passes one after the other
    waiting = sorted(proxies, key=lambda proxy: [repr(one) for one in proxy.passes if one not in passed.found])
    while waiting:
        proxy = waiting.pop(0)
        run(proxy.passes)
        seen.totals[proxy.key] = proxy.total(seen)
        wanted = {one for other in waiting for one in other.passes}
        for one in passed.found.keys() - wanted:
            del passed.found[one]


def _fitting(
    session: ProbeSession,
    parameters: Parameters,
    batch: Batch,
    objective: Objective,
    proxies: Sequence[Proxy],
    settings: Settings,
) -> MainPass:
    """Observe the whole batch, or as many samples at a time as fit."""
    size = len(batch)
    one = _expected(session.model, batch, objective, settings.budget)
    while True:
        main = MainPass(session, parameters, batch, objective, proxies, settings)
        try:
            if settings.budget is not None and one is not None and one * size > settings.budget:
                raise OverBudget(one * size)  # known before any work
            main.run(size)
            return main
        except OverBudget as error:  # the cause of what is raised below: another time there may be more memory
            modules = session.model.named_modules()
            coupled = [name for name, module in modules if joins_samples(module)]
            wanted = (
                f"a forward pass of {size} samples holds more than {quantity(error.seen)}B of the "
                f"{quantity(settings.budget or 0)}B of max_memory (by default 60 % of what is free)"
            )
            joins: str = getattr(objective, "joins", "")
            mend: str = getattr(objective, "mend", "use a smaller batch")
            if joins:
                raise InputError(f"{wanted}, and {joins}: {mend}, or raise max_memory.") from error
            if coupled:
                raise InputError(
                    f"{wanted}, and BatchNorm ({coupled[0]}) joins its samples: {mend}, raise max_memory, or score "
                    "with mode='eval' (running statistics)."
                ) from error
            if size == 1:
                raise InputError(f"{wanted}: raise max_memory or score smaller inputs.") from error
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
