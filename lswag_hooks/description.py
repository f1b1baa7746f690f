"""From what a forward pass showed to rows of the profile and coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lswag_hooks.coverage import Coverage
from lswag_hooks.functional.lswag import nearest, percentile
from lswag_hooks.hooks.forward import Forward
from lswag_hooks.hooks.inventory import Parameters, WeightLayer
from lswag_hooks.profile import ActivationRow, LayerProfile, WeightRow
from lswag_hooks.proxies import LSWAG, Observation, Proxy


def describe(
    result: Forward, parameters: Parameters, units: Mapping[int, int], seen: Observation, coverage: Coverage
) -> None:
    """Rows of the profile and coverage, as far as the forward pass shows them."""
    inventory, placed = result.inventory, sorted(units)
    order = {position: index for index, position in enumerate(placed)}
    fed_by = {name: order[position] for name, position in result.fed_by.items() if position in order}
    calls = [result.activations[position] for position in placed]
    seen.profile = LayerProfile(
        weight_rows(inventory.layers, parameters, fed_by),
        [
            ActivationRow(call.name, call.function, units[position], percentile(index, len(placed)))
            for index, (position, call) in enumerate(zip(placed, calls, strict=True))
        ],
    )
    coverage.weights = sum(row.size for row in seen.profile.weights)
    coverage.uncovered = dict(inventory.uncovered)
    coverage.weights_total = coverage.weights + sum(parameters.by_name[name].numel() for name in inventory.uncovered)
    coverage.tables = inventory.tables
    coverage.activations.update(call.function for call in calls)
    coverage.unplaced = dict(result.unplaced)
    coverage.shared_activations = [call.name for call in result.shared.values()]
    coverage.gates.update(call.function for call in result.others)
    coverage.reused = {layer.name: len(layer.calls) for layer in inventory.layers if len(layer.calls) > 1}
    coverage.derived = [layer.name for layer in inventory.layers if layer.derived]
    coverage.opaque = result.opaque


def weight_rows(layers: Sequence[WeightLayer], parameters: Parameters, fed_by: Mapping[str, int]) -> list[WeightRow]:
    """Rows of the profile for weight layers in call order."""
    return [
        WeightRow(
            layer.name,
            layer.kind,
            layer.shape,
            parameters.by_name[layer.parameter].numel(),
            percentile(layer.index, len(layers)),
            len(layer.calls),
            fed_by=fed_by.get(layer.parameter),
        )
        for layer in layers
    ]


def wanted_activations(proxies: Sequence[Proxy], n: int, profile: LayerProfile) -> list[int]:
    """Activation layers whose patterns some proxy will read."""
    m = len(profile.activations)
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
                wanted |= {j for i in inside if (j := profile.weights[i].fed_by) is not None}
    return sorted(wanted)
