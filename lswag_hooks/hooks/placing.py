"""Which rows of every product belong to which sample; what shapes do not tell is settled by an experiment."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from lswag_hooks.errors import told
from lswag_hooks.hooks.graph import Graph, WeightCall
from lswag_hooks.hooks.inventory import Parameters
from lswag_hooks.hooks.operands import read_data
from lswag_hooks.hooks.samples import BLOCKS, INTERLEAVED, Layout, obvious_layout, probed_layout, region_layout

Probe = Callable[[], "tuple[Graph, dict[str, Tensor]]"]
UNPLACED = "its rows could not be assigned to samples"


class _Once:
    """The experiment, made when its graph is first looked at; None where there is none, or where the model refuses it.

    Attributes:
        outputs: of all activations, once it was made.
        failure: why it could not be made, to append to a reason.
    """

    def __init__(self, probe: Probe | None) -> None:
        self.probe = probe
        self.outputs: dict[str, Tensor] = {}
        self.failure = ""

    @functools.cached_property
    def graph(self) -> Graph | None:
        """Graph of its forward pass."""
        if self.probe is None:
            return None
        try:
            graph, self.outputs = self.probe()
        except Exception as error:  # a model may be made for one size of batch alone
            self.failure = f", for a pass of three samples failed: {told(error)}"
            return None
        return graph


def settle(
    graph: Graph,
    parameters: Parameters,
    samples: int,
    probe: Probe | None = None,
    regions: Sequence[tuple[int, ...]] = (),
    activations: bool = False,
) -> dict[str, Layout | str]:
    """Give every product of a graph its layout, or the reason why it has none.

    Args:
        graph: of a forward pass.
        parameters: of the model.
        samples: batch size.
        probe: the experiment (a, a, b), run only if a shape alone does not tell.
        regions: counts of regions of interest that pooling layers took.
        activations: an activation wants the experiment too.

    Returns:
        Layouts of activations by name, if the experiment was made.
    """
    found: dict[str, Layout | str] = {}
    undecided, shared = graph.undecided(), [call for call in graph.shared() if _rows(call) == samples]
    made = _Once(probe)
    if (undecided or shared) and (twin := made.graph) is not None:
        # constants, or data that came without a graph?
        theirs = {key: call for call, key in _numbered(twin.undecided())}
        pairs = [(call, theirs[key]) for call, key in _numbered(undecided) if key in theirs]
        _add_sources(graph, twin, [pair for pair in pairs if _varies(pair[1])])
        graph.depends = graph.reaches_data()
        # tables that all samples share, or queries that were repeated for every sample?
        theirs = {key: call for call, key in _numbered(twin.shared())}
        pairs = [(call, theirs[key]) for call, key in _numbered(shared) if key in theirs]
        _add_sources(graph, twin, [pair for pair in pairs if _rows(pair[1]) == 3 != samples])
    else:
        graph.depends = graph.reaches_data()
    unsettled, joined = _by_shape(graph, parameters, samples, regions)
    if (unsettled or activations) and (twin := made.graph) is not None:
        _by_experiment(graph, twin, unsettled)
        found = {name: _activation_layout(output) for name, output in made.outputs.items()}
    for call in unsettled:
        if call.layout is None:
            call.reason = call.reason or UNPLACED + made.failure
    _settle_joined(graph, joined, samples)
    return found


def _by_shape(
    graph: Graph, parameters: Parameters, samples: int, regions: Sequence[tuple[int, ...]]
) -> tuple[list[WeightCall], list[WeightCall]]:
    """Give each product its layout; returns those that only an experiment can settle, and sums that tables join."""
    unsettled, joined = [], []
    for call in graph.calls:
        if call.reason:
            continue
        if call.kind == "lookup":
            indices = call.node._saved_indices
            if call.node._saved_scale_grad_by_freq:
                call.reason = "a lookup that scales gradients by frequency, for which there is no rule"
            elif indices.dim() and indices.shape[0] == samples:
                call.layout = BLOCKS
            else:
                call.reason = "looked up without a sample axis"
            continue
        if call.kind == "broadcast":
            joined.append(call)
            continue
        edge = call.node.next_functions[call.data]
        batched = call.node.name() in ("BmmBackward0", "BaddbmmBackward0")
        if batched and int(call.node._input_metadata[0].shape[0]) != 1:
            call.reason = "a batched product of several weights, for which there is no rule"
            continue
        shape = call.data_shape()
        if shape is None:
            shape = tuple(read_data(call).shape)
        else:
            shape = shape[1:] if batched else shape
            shape = shape[::-1] if call.mirrored else shape
        features = 1 if call.kind == "matmul" else len(shape) - 1
        attention = all(parameters.in_attention(name) for name in call.parameters)
        layout = obvious_layout(shape, samples, features, attention)
        if layout is not None and (edge[0] is not None or shape[0] == samples):
            call.layout = layout
        elif (found := region_layout(shape[0], regions)) is not None:
            call.layout = found
        else:
            unsettled.append(call)
    return unsettled, joined


def _activation_layout(output: Tensor) -> Layout | str:
    if not output.dim():
        return "a single number"
    if output.dim() >= 3 and output.shape[1] == 3:  # (positions, samples, ...)?
        layout = probed_layout(output.flatten(0, 1))
        if layout == INTERLEAVED:
            return layout
    return probed_layout(output)


def _settle_joined(graph: Graph, joined: list[WeightCall], samples: int) -> None:
    """Layouts of sums that tables join: sample first, or as many rows as a product whose rows were proved."""
    proved = {
        int(call.node._input_metadata[0].shape[0])
        for call in graph.calls
        if call.layout == BLOCKS and call.kind in ("conv", "matmul")
    }
    for call in graph.calls:
        if call.layout == BLOCKS and call.kind == "matmul" and (shape := call.data_shape()):
            proved.add(shape[0])
    for call in joined:
        rows = int(call.node._input_metadata[0].shape[0])
        if rows == samples or (rows % samples == 0 and rows in proved):
            call.layout = BLOCKS
        else:
            call.reason = f"every sample shares it; {UNPLACED} where it joins the data"


def _by_experiment(graph: Graph, twin: Graph, unsettled: list[WeightCall]) -> None:
    """Settle what is left by the pass (a, a, b), whose calls are matched by weight and number."""
    twins = {key: call for call, key in _numbered(twin.calls)}
    for call, key in _numbered(graph.calls):
        if call not in unsettled:
            continue
        found = probed_layout(read_data(twins[key])) if key in twins else UNPLACED
        if isinstance(found, Layout):
            call.layout = found
        else:
            call.reason = found


def _rows(call: WeightCall) -> int:
    """Leading dimension of a product's data before it was flattened."""
    shape = call.data_shape()
    return shape[0] if shape else -1


def _add_sources(graph: Graph, twin: Graph, pairs: list[tuple[WeightCall, WeightCall]]) -> None:
    """Take products for places where data enters, in the graph and in that of the experiment."""
    if pairs:
        for one, calls in ((graph, [call for call, _ in pairs]), (twin, [call for _, call in pairs])):
            one.sources |= {call.node for call in calls}
            one.read()


def _varies(call: WeightCall) -> bool:
    return isinstance(probed_layout(read_data(call)), Layout)


def _numbered(calls: list[WeightCall]) -> list[tuple[WeightCall, tuple[tuple[str, ...], int]]]:
    counts: Counter[tuple[str, ...]] = Counter()
    numbered = []
    for call in calls:
        numbered.append((call, (call.parameters, counts[call.parameters])))
        counts[call.parameters] += 1
    return numbered
