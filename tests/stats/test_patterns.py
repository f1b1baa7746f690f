"""Activation patterns against torch.unique and matrix formulas."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lswag_hooks.stats import ActivationPatterns, agreement, count_distinct, pack, unpack

exact = settings(max_examples=50, deadline=None, derandomize=True)
COUNTS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 63, 64, 65, 66, 100, 127, 128, 129, 130, 192, 193, 257]


def distinct(code):
    """Number of distinct columns of a boolean (samples, units) array."""
    return len(torch.unique(code.to(torch.int8), dim=1).T) if code.shape[1] else 0


def bits_of(code):
    return torch.from_numpy(np.packbits(code.numpy(), axis=0, bitorder="little"))


def outputs_of(samples, units, kinds, seed=0):
    """Outputs whose patterns repeat: ``kinds`` different ones, with many zeros."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(samples, kinds, generator=generator).clamp_min(-0.5)
    base[base.abs() < 0.3] = 0.0
    return base[:, torch.randint(0, kinds, (units,), generator=generator)].contiguous()


@pytest.mark.parametrize("samples", COUNTS)
def test_packing_is_the_little_endian_bits(samples):
    outputs = outputs_of(samples, 50, 20)
    assert torch.equal(pack(outputs), bits_of(outputs > 0))
    assert torch.equal(pack(outputs > 0), bits_of(outputs > 0))
    assert torch.equal(pack(outputs.relu(), nonnegative=True), bits_of(outputs > 0))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.bool]
)
def test_packing_of_any_type(dtype):
    outputs = (4 * outputs_of(13, 40, 20)).to(dtype)
    assert torch.equal(pack(outputs), bits_of(outputs > 0))


def test_packing_of_special_values():
    tiny = torch.finfo(torch.float32).tiny
    outputs = torch.tensor([[0.0, -0.0, tiny, -tiny, tiny / 8, float("inf"), -float("inf"), 1e-30, -1e-30]])
    assert pack(outputs).tolist() == [[0, 0, 1, 0, 1, 1, 0, 1, 0]]


def test_packing_keeps_the_input():
    outputs = outputs_of(9, 30, 10)
    kept = outputs.clone()
    pack(outputs)
    agreement(outputs)
    assert torch.equal(outputs, kept)


def test_packing_of_strided_outputs():
    outputs = outputs_of(40, 12, 10).T
    assert torch.equal(pack(outputs), bits_of(outputs.contiguous() > 0))


def test_packing_of_more_units_than_a_chunk():
    outputs = torch.randn(64, 20_000)
    packed = pack(outputs)
    assert torch.equal(packed, bits_of(outputs > 0))
    assert count_distinct(packed) == 20_000


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("kinds", [1, 5, 400])
def test_count_is_exact_for_any_number_of_samples(samples, kinds):
    outputs = outputs_of(samples, 900, kinds, seed=samples)
    assert count_distinct(pack(outputs)) == distinct(outputs > 0)


@pytest.mark.parametrize("samples", [9, 17, 64, 65, 128, 129, 200])
@pytest.mark.parametrize("position", [0, -1])
def test_patterns_that_differ_in_one_sample_only(samples, position):
    code = torch.ones(samples, 6, dtype=torch.bool)
    code[position, :3] = False
    assert count_distinct(pack(code)) == 2


def test_every_sample_tells_patterns_apart():
    for samples in (8, 16, 64, 72, 128, 136, 192):
        code = torch.eye(samples, dtype=torch.bool)
        assert count_distinct(pack(code)) == samples
        assert count_distinct(pack(~code)) == samples


@pytest.mark.parametrize("samples", COUNTS)
@pytest.mark.parametrize("units", [1, 2, 3])
def test_layers_of_a_few_units(samples, units):
    outputs = outputs_of(samples, units, 3)
    assert count_distinct(pack(outputs)) == distinct(outputs > 0)


@pytest.mark.parametrize("samples", COUNTS)
def test_unpacking(samples):
    outputs = outputs_of(samples, 30, 20)
    assert torch.equal(unpack(pack(outputs), samples), outputs > 0)


def test_no_units():
    assert count_distinct(pack(torch.zeros(5, 0))) == 0


def test_all_zero_and_all_one():
    for samples in COUNTS:
        assert count_distinct(pack(torch.zeros(samples, 4))) == 1
        assert count_distinct(pack(torch.cat([torch.zeros(samples, 2), torch.ones(samples, 2)], 1))) == 2


@exact
@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 30), st.integers(0, 999))
def test_count_of_any_codes(samples, units, kinds, seed):
    outputs = outputs_of(samples, units, kinds, seed)
    assert count_distinct(pack(outputs)) == distinct(outputs > 0)


@exact
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 80), st.integers(0, 999), st.randoms())
def test_metric_over_further_samples(parts, units, seed, order):
    outputs = outputs_of(sum(parts), units, 30, seed)
    pieces = list(outputs.split(parts))
    order.shuffle(pieces)
    metric = ActivationPatterns()
    for piece in pieces:
        metric.update(piece)
    assert int(metric.compute()) == distinct(outputs > 0)


@pytest.mark.parametrize("parts", [[3, 5], [1, 1, 1], [64, 64], [7, 70, 9]])
def test_processes_together_count_what_one_counts(parts):
    outputs = outputs_of(sum(parts), 300, 60)
    metrics = []
    for piece in outputs.split(parts):
        metric = ActivationPatterns()
        metric.update(piece)
        metrics.append(metric)
    for ranks in (metrics, metrics[::-1]):
        joined = copy.deepcopy(ranks[0])
        for name in joined._defaults:  # as torchmetrics joins states of the kind "cat"
            setattr(joined, name, torch.cat([torch.cat(getattr(metric, name)) for metric in ranks]))
        joined._computed = None
        assert int(joined.compute()) == distinct(outputs > 0)


def test_metric_states_are_merged_and_reset():
    outputs = outputs_of(20, 80, 30)
    a, b = ActivationPatterns(), ActivationPatterns()
    a.update(outputs[:9])
    b.update(outputs[9:])
    a.merge_state(b)
    assert int(a.compute()) == distinct(outputs > 0)
    a.reset()
    a.update(outputs[:4])
    assert int(a.compute()) == distinct(outputs[:4] > 0)
    a.extend(pack(outputs[4:]), len(outputs) - 4)
    assert int(a.compute()) == distinct(outputs > 0)
    assert torch.equal(a.codes(), outputs > 0)


# ---------------------------------------------------------------- agreement


def kernel(code):
    b = code.double()
    return b @ b.T + (1 - b) @ (1 - b).T


@pytest.mark.parametrize("samples", [1, 2, 16, 65])
@pytest.mark.parametrize("units", [1, 30, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
def test_agreement_is_the_matrix_formula(samples, units, dtype):
    outputs = outputs_of(samples, units, 30).to(dtype)
    found = agreement(outputs)
    assert found.dtype == torch.float64
    assert torch.equal(found, kernel(outputs > 0))
    assert torch.equal(found.diagonal(), torch.full((samples,), float(units), dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_agreement_where_nothing_is_below_zero(dtype):
    outputs = outputs_of(7, 9000, 30).to(dtype).relu()
    assert torch.equal(agreement(outputs, nonnegative=True), kernel(outputs > 0))
    tiny = torch.tensor([[1e-60, 0.0], [0.0, 3.0]], dtype=torch.float64)
    assert torch.equal(agreement(tiny, nonnegative=True), kernel(tiny > 0))


@exact
@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 999))
def test_agreement_by_a_loop(samples, units, seed):
    outputs = outputs_of(samples, units, 10, seed)
    found = agreement(outputs)
    for i in range(samples):
        for j in range(samples):
            assert int(found[i, j]) == int(((outputs[i] > 0) == (outputs[j] > 0)).sum())


def test_agreement_of_special_values():
    tiny = torch.finfo(torch.float32).tiny / 8  # subnormal, yet positive
    outputs = torch.tensor([[tiny, 0.0, float("inf"), -1.0], [1.0, -0.0, 1e-30, -float("inf")]])
    assert agreement(outputs).tolist() == [[4.0, 4.0], [4.0, 4.0]]
    assert agreement(outputs.double() * 1e-200).tolist()[0][0] == 4.0


def test_agreement_in_double_precision_below_the_range_of_single():
    outputs = torch.tensor([[1e-60, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert torch.equal(agreement(outputs), kernel(outputs > 0))
