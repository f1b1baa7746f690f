"""Every rule for per-sample gradients against a loop over single samples in float64."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lswag_hooks.hooks.forward import Watcher
from lswag_hooks.hooks.rules import (
    DerivedGradient,
    EmbeddingGradient,
    LinearGradient,
    SumGradient,
    blocks,
    conv_source,
)
from lswag_hooks.hooks.rules.conv import WIDE, ConvOptions, GroupedConvGradient, ShiftedConvGradient
from lswag_hooks.hooks.rules.source import UNCUT
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.hooks.weights import GradientCapture

exact = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
tiles = st.sampled_from([1, 64, 777, 4096, 1 << 20])


def assembled(source, tile_bytes):
    """All per-sample gradients in the weight's own shape, and a check that the tiles cover each element once."""
    matrix = torch.full((source.samples, source.rows, source.columns), math.nan, dtype=torch.float64)
    for rows, groups in blocks(source, tile_bytes):
        for samples in groups:
            assert matrix[samples, rows].isnan().all(), "a tile was given twice"
            if source.row_group:
                assert rows.start // source.row_group == (rows.stop - 1) // source.row_group, "a tile straddles a group"
            tile = source.block(samples, rows)
            assert tile.shape == (samples.stop - samples.start, rows.stop - rows.start, source.columns)
            matrix[samples, rows] = tile
    assert not matrix.isnan().any(), "a tile is missing"
    return source.restore(matrix)


def close(found, wanted):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-11 * max(1.0, float(wanted.abs().max()))


def arrangement_matches(source, weight):
    """The weight is put into the source's order of elements, and back."""
    arranged = source.arrange(weight)
    assert arranged.shape == (source.rows, source.columns)
    assert torch.equal(source.restore(arranged), weight)
    stacked = torch.stack([arranged, 2 * arranged])
    assert torch.equal(source.restore(stacked), torch.stack([weight, 2 * weight]))


@st.composite
def convolutions(draw, wide=False, transposed=None):
    dims = draw(st.integers(1, 3))
    groups = 1 if wide else draw(st.sampled_from([1, 1, 2, 3]))
    ins = WIDE if wide else groups * draw(st.integers(1, 3))
    outs = groups * draw(st.integers(1, 3))
    each = lambda values: tuple(draw(values) for _ in range(dims))  # noqa: E731
    kernel = each(st.integers(1, 4 if dims < 3 else 3))
    stride, dilation = each(st.integers(1, 3)), each(st.integers(1, 2))
    padding = each(st.integers(0, 2))
    turned = draw(st.booleans()) if transposed is None else transposed
    output_padding = (0,) * dims
    if turned:
        output_padding = tuple(draw(st.integers(0, s - 1)) for s in stride)
        size = each(st.integers(1, 5))
        out = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, s, p, d, k, o in zip(size, stride, padding, dilation, kernel, output_padding, strict=True)
        ]
        if min(out) < 1:
            padding = (0,) * dims
    else:
        least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
        size = tuple(n + draw(st.integers(0, 4)) for n in least)
    samples, per = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "dims": dims,
        "groups": groups,
        "ins": ins,
        "outs": outs,
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "transposed": turned,
        "output_padding": output_padding,
        "size": size,
        "samples": samples,
        "per": per,
        "seed": draw(st.integers(0, 999)),
    }


def run_convolution(case, tile_bytes):
    """The source for one convolution call, and the gradients of single samples by autograd."""
    generator = torch.Generator().manual_seed(case["seed"])
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    dims, groups = case["dims"], case["groups"]
    ins, outs = (case["ins"], case["outs"] // groups) if case["transposed"] else (case["outs"], case["ins"] // groups)
    weight = draw(ins, outs, *case["kernel"]).requires_grad_(True)
    x = draw(case["samples"] * case["per"], case["ins"], *case["size"])
    options = {key: case[key] for key in ("stride", "padding", "dilation", "groups")}
    if case["transposed"]:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        options["output_padding"] = case["output_padding"]
    else:
        function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    y = function(x, weight, **options)
    d = draw(*y.shape)
    wanted = torch.stack(
        [
            torch.autograd.grad(function(xi, weight, **options), weight, di)[0]
            for xi, di in zip(x.split(case["per"]), d.split(case["per"]), strict=True)
        ]
    )
    geometry = ConvOptions(case["stride"], case["padding"], case["dilation"], groups, case["transposed"])
    source = conv_source(x, d, weight.detach(), geometry, case["samples"])
    close(assembled(source, tile_bytes), wanted)
    arrangement_matches(source, weight.detach())
    assert source.samples == case["samples"]
    return source, x, d, weight.detach(), geometry, wanted


@exact
@given(convolutions(), tiles)
def test_convolutions_of_any_kind(case, tile_bytes):
    run_convolution(case, tile_bytes)


@exact
@given(convolutions(transposed=True), tiles)
def test_transposed_convolutions(case, tile_bytes):
    source, *_ = run_convolution(case, tile_bytes)
    assert isinstance(source, GroupedConvGradient)


def test_transposed_convolution_with_more_output_padding_than_stride():
    # torch allows it up to the dilation
    case = {
        "dims": 2, "groups": 2, "ins": 4, "outs": 6, "kernel": (3, 2), "stride": (1, 2), "dilation": (3, 3),
        "padding": (1, 0), "transposed": True, "output_padding": (2, 2), "size": (4, 3), "samples": 3, "per": 1,
        "seed": 3,
    }  # fmt: skip
    run_convolution(case, 1 << 20)


@exact
@given(convolutions(wide=True, transposed=False), tiles)
def test_wide_convolutions(case, tile_bytes):
    source, *_ = run_convolution(case, tile_bytes)
    if case["per"] == 1 and math.prod(case["kernel"]) > 1:
        assert isinstance(source, ShiftedConvGradient)


@exact
@given(convolutions(transposed=False), tiles)
def test_all_routes_of_a_convolution_agree(case, tile_bytes):
    case = {**case, "groups": 1, "per": 1}
    _, x, d, weight, geometry, wanted = run_convolution(case, tile_bytes)
    close(assembled(GroupedConvGradient(x, d, weight, geometry, case["samples"]), tile_bytes), wanted)
    for room in (0, 1 << 30):  # an input too large to be laid out for a row of the kernel, and one that is not
        with mock.patch("lswag_hooks.hooks.rules.conv.LAID_OUT", room):
            source = ShiftedConvGradient(x, d, weight, geometry)
        assert source.width == (case["kernel"][-1] if room else 1)
        close(assembled(source, tile_bytes), wanted)
        arrangement_matches(source, weight)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_pointwise_convolution_is_a_matrix_product(stride, padding):
    case = {
        "dims": 2, "groups": 1, "ins": 3, "outs": 4, "kernel": (1, 1), "stride": (stride,) * 2, "dilation": (1, 1),
        "padding": (padding,) * 2, "transposed": False, "output_padding": (0, 0), "size": (7, 5), "samples": 3,
        "per": 2, "seed": 1,
    }  # fmt: skip
    source, *_ = run_convolution(case, 256)
    assert isinstance(source, LinearGradient) == (padding == 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradient_of_the_whole_batch_as_one_sample(transposed, groups):
    case = {
        "dims": 2, "groups": groups, "ins": 4, "outs": 6, "kernel": (3, 2), "stride": (2, 1), "dilation": (1, 1),
        "padding": (1, 1), "transposed": transposed, "output_padding": (1, 0) if transposed else (0, 0), "size": (6, 5),
        "samples": 1, "per": 5, "seed": 2,
    }  # fmt: skip
    run_convolution(case, 1 << 20)


# ---------------------------------------------------------------- matrix products


@exact
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), tiles, st.integers(0, 999))
def test_linear_layers(samples, positions, rows, columns, tile_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(samples, positions, rows, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, positions, columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64).requires_grad_(True)
    wanted = torch.stack([torch.autograd.grad(xi @ weight.T, weight, di)[0] for xi, di in zip(x, d, strict=True)])
    source = LinearGradient(d, x, (rows, columns))
    close(assembled(source, tile_bytes), wanted)
    arrangement_matches(source, weight.detach())


def test_linear_layer_from_strided_operands():
    # interleaved rows come as transposed views
    d = torch.randn(4, 3, 6, dtype=torch.float64).transpose(0, 1)
    x = torch.randn(4, 3, 5, dtype=torch.float64).transpose(0, 1)
    close(assembled(LinearGradient(d, x, (6, 5)), 64), torch.einsum("nto,nti->noi", d, x))


# ---------------------------------------------------------------- sums, look-ups, derived weights


@exact
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 8), st.integers(1, 4), tiles, st.integers(0, 999))
def test_embedding(samples, positions, words, width, tile_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, words, (samples, positions), generator=generator)
    d = torch.randn(samples, positions, width, generator=generator, dtype=torch.float64)
    table = torch.randn(words, width, generator=generator, dtype=torch.float64).requires_grad_(True)
    wanted = torch.stack(
        [torch.autograd.grad(F.embedding(one, table), table, di)[0] for one, di in zip(indices, d, strict=True)]
    )
    source = EmbeddingGradient(indices, d, (words, width))
    close(assembled(source, tile_bytes), wanted)
    arrangement_matches(source, table.detach())


@exact
@given(st.integers(1, 4), st.integers(2, 4), st.integers(1, 40), st.integers(1, 6), tiles, st.integers(0, 999))
def test_sum_of_calls(samples, calls, rows, columns, tile_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    pairs = [(draw(samples, 1 + call, rows), draw(samples, 1 + call, columns)) for call in range(calls)]
    sources = [LinearGradient(d, x, (rows, columns)) for d, x in pairs]
    wanted = sum(torch.einsum("nto,nti->noi", d, x) for d, x in pairs)
    source = SumGradient(sources, (rows, columns))
    close(assembled(source, tile_bytes), wanted)
    arrangement_matches(source, draw(rows, columns))


def test_sum_of_sources_in_different_orders():
    # a shifted convolution keeps its weight offset by offset, a grouped one as it is
    torch.manual_seed(0)
    x, d = torch.randn(3, WIDE, 6, 6).double(), torch.randn(3, 5, 4, 4).double()
    weight = torch.randn(5, WIDE, 3, 3).double()
    options = ConvOptions((1, 1), (0, 0), (1, 1))
    shifted = ShiftedConvGradient(x, d, weight, options)
    grouped = GroupedConvGradient(x, d, weight, options, 3)
    source = SumGradient([shifted, grouped], tuple(weight.shape))
    close(assembled(source, 4096), 2 * assembled(grouped, 1 << 20))
    arrangement_matches(source, weight)


def test_table_that_is_also_a_layer():
    torch.manual_seed(0)
    table = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    words, d = torch.randint(0, 7, (3, 5)), torch.randn(3, 5, 4).double()
    x, e = torch.randn(3, 2, 4).double(), torch.randn(3, 2, 7).double()
    source = SumGradient([EmbeddingGradient(words, d, (7, 4)), LinearGradient(e, x, (7, 4))], (7, 4))
    wanted = []
    for i in range(3):
        total = (F.embedding(words[i], table) * d[i]).sum() + (F.linear(x[i], table) * e[i]).sum()
        wanted.append(torch.autograd.grad(total, table)[0])
    close(assembled(source, 32), torch.stack(wanted))


DERIVED = {
    "standardised": lambda w: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True),
    "normalised": lambda w: w / w.norm(),
    "slice": lambda w: w[1:4],
    "joined": lambda w: torch.cat([w, 2 * w]),
    "transposed-and-scaled": lambda w: 3 * w.t(),
}


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("tile_bytes", [1, 512, 1 << 20])
def test_derived_weights(name, tile_bytes):
    torch.manual_seed(0)
    parameter = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    effective = DERIVED[name](parameter)
    rows, columns = effective.shape
    x, d = torch.randn(4, 3, columns).double(), torch.randn(4, 3, rows).double()
    wanted = torch.stack(
        [
            torch.autograd.grad((F.linear(xi, DERIVED[name](parameter)) * di).sum(), parameter)[0]
            for xi, di in zip(x, d, strict=True)
        ]
    )

    def pull_back(gradients):
        return torch.stack([torch.autograd.grad(effective, parameter, g, retain_graph=True)[0] for g in gradients])

    source = DerivedGradient(LinearGradient(d, x, (rows, columns)), pull_back, (5, 6))
    close(assembled(source, tile_bytes), wanted)
    arrangement_matches(source, parameter.detach())


# ---------------------------------------------------------------- tiles


class Shape:
    """A source of which only the shape matters: rows that cannot be split, one product, or three."""

    device_bytes = 4

    def __init__(self, samples, rows, columns, kind):
        self.samples, self.columns = samples, columns
        self.rows = rows * (3 if kind == 2 else 1)
        self.row_group = 0 if kind == 0 else rows


@exact
@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, 50), st.sampled_from([0, 1, 2]), st.integers(1, 1 << 16))
def test_tiles_cover_everything_once_and_keep_their_size(samples, rows, columns, kind, tile_bytes):
    source = Shape(samples, rows, columns, kind)
    most = 2 * tile_bytes * (UNCUT if kind == 1 else 1)
    seen = torch.zeros(samples, source.rows, dtype=torch.int32)
    for part, groups in blocks(source, tile_bytes):
        for group in groups:
            count = part.stop - part.start
            least = group.stop - group.start == 1 and (kind == 0 or count <= 32)
            assert least or (group.stop - group.start) * count * columns * source.device_bytes <= most
            seen[group, part] += 1
    assert (seen == 1).all()


def test_a_single_product_is_cut_into_larger_tiles():
    def rows(kind):
        return {part.stop - part.start for part, _ in blocks(Shape(8, 256, 16, kind), 1 << 15)}

    assert rows(kind=2) == {64}
    assert rows(kind=1) == {64 * UNCUT}


# ---------------------------------------------------------------- another library


def captured(net, x, y):
    found = {}
    with ProbeSession(net, "eval"):
        watcher = Watcher(net, len(x))
        forward = watcher.run(x, lambda marked: F.cross_entropy(net(marked), y))

        def consume(layer, gradients):
            found[layer.parameter] = assembled(gradients.source, 2048)

        capture = GradientCapture(forward.graph, watcher.parameters, len(x))
        capture.run(forward.loss, forward.inventory.layers, consume, float(len(x)))
    return found


@pytest.mark.filterwarnings("ignore")
def test_same_as_opacus():
    opacus = pytest.importorskip("opacus")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 64, 1), nn.ReLU(), nn.Conv2d(64, 6, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(24, 5),
    ).double()  # fmt: skip
    x, y = torch.randn(7, 3, 8, 8, dtype=torch.float64), torch.arange(7) % 5
    found = captured(net, x, y)
    wrapped = opacus.GradSampleModule(net, loss_reduction="mean")
    F.cross_entropy(wrapped(x), y).backward()
    wanted = {name.removeprefix("_module."): p.grad_sample for name, p in wrapped.named_parameters()}
    assert set(found) == {"0.weight", "3.weight", "5.weight", "7.weight", "10.weight"}
    for name, gradient in found.items():
        close(gradient, wanted[name])
