"""Moments of per-sample gradients against float64 loops."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lswag_hooks.stats import GradientMoments, Moments, merge_moments, moments_of

exact = settings(max_examples=50, deadline=None, derandomize=True)


def plain(values):
    """Mean and sum of squared deviations, weight by weight, with exactly rounded sums."""
    values = np.asarray(values, dtype=np.float64)
    flat = values.reshape(len(values), -1)
    mean = np.array([math.fsum(column) / len(column) for column in flat.T])
    m2 = np.array([math.fsum((column - m) ** 2) for column, m in zip(flat.T, mean, strict=True)])
    return mean.reshape(values.shape[1:]), m2.reshape(values.shape[1:])


def check(moments, values, tolerance=1e-4):
    values = np.asarray(values, dtype=np.float64)
    assert moments.samples == len(values)
    pairs = [(moments.mean_abs, moments.m2_abs, np.abs(values))]
    if moments.mean is not None:
        pairs.append((moments.mean, moments.m2, values))
    for mean, m2, data in pairs:
        wanted_mean, wanted_m2 = plain(data)
        assert mean.shape == m2.shape == data.shape[1:]
        # a mean near zero is known as well as the deviation allows
        room = tolerance * np.abs(wanted_mean) + 1e-5 * np.sqrt(wanted_m2 / len(data))
        assert (np.abs(mean.double().numpy() - wanted_mean) <= room).all()
        np.testing.assert_allclose(m2.double().numpy(), wanted_m2, rtol=tolerance, atol=0)


def drawn(ratio, samples=64, weights=500, seed=0):
    """Gradients with a mean ``ratio`` times their deviation, in single precision; the oracle sees the rounded ones."""
    rng = np.random.RandomState(seed)
    sign = rng.choice([-1.0, 1.0], weights)
    return (rng.standard_normal((samples, weights)) + ratio * sign).astype(np.float32)


@pytest.mark.parametrize("ratio", [0, 1, 1e2, 1e4, 1e5])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 64, 257])
def test_accuracy_of_one_piece(ratio, signed, partial, samples):
    values = drawn(ratio, samples)
    check(moments_of(torch.from_numpy(values), signed, partial=partial), values)


@pytest.mark.parametrize("ratio", [1, 1e5])
@pytest.mark.parametrize("overwrite", [False, True])
def test_accuracy_where_samples_are_not_the_outer_dimension_in_memory(ratio, overwrite):
    values = drawn(ratio)
    turned = torch.from_numpy(np.ascontiguousarray(values.T)).T
    apart = torch.from_numpy(np.repeat(values, 3, axis=1))[:, ::3]
    for gradients in (turned, apart):
        check(moments_of(gradients, True, overwrite=overwrite), values)


@pytest.mark.parametrize("ratio", [0, 1, 1e2, 1e4, 1e5])
@pytest.mark.parametrize("cuts", [[32], [1], [1, 2, 3], list(range(1, 64)), [7, 13, 50]])
def test_accuracy_of_merged_pieces(ratio, cuts):
    values = drawn(ratio)
    pieces = torch.from_numpy(values).tensor_split(cuts)
    total = moments_of(pieces[0], True, partial=True)
    for piece in pieces[1:]:
        total = merge_moments(total, moments_of(piece, True, partial=True))
    check(total, values)


@pytest.mark.parametrize("ratio", [1, 1e5])
@pytest.mark.parametrize("cuts", [[32], [1, 2, 3], list(range(4, 64, 4))])
def test_accuracy_of_the_metric(ratio, cuts):
    values = drawn(ratio)
    metric = GradientMoments(signed=True)
    for piece in torch.from_numpy(values).tensor_split(cuts):
        metric.update(piece)
    check(metric.compute(), values)


def test_values_far_apart_in_one_layer():
    rng = np.random.RandomState(1)
    values = (rng.standard_normal((40, 300)) * 10.0 ** rng.uniform(-18, 12, 300)).astype(np.float32)
    check(moments_of(torch.from_numpy(values), True), values)


def test_outlying_first_sample():
    # differences are taken from one of the samples: an outlier there is the worst case
    values = drawn(0)
    values[0] = 1e4
    check(moments_of(torch.from_numpy(values), True), values)
    values[0] = -3e4
    check(moments_of(torch.from_numpy(values), True), values)


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -1 / 3, 1e-30, 7e20])
@pytest.mark.parametrize("samples", [1, 2, 3, 7, 64, 100])
@pytest.mark.parametrize("partial", [False, True])
def test_equal_gradients_have_a_variance_of_exactly_zero(value, samples, partial):
    moments = moments_of(torch.full((samples, 5), value), True, partial=partial)
    assert torch.equal(moments.m2_abs, torch.zeros_like(moments.m2_abs))
    assert torch.equal(moments.m2, torch.zeros_like(moments.m2))
    assert moments.mean.float().tolist() == torch.full((5,), value).tolist()


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3])
def test_equal_gradients_stay_exact_when_merged(value):
    pieces = torch.full((10, 4), value).tensor_split([1, 3, 8])
    total = moments_of(pieces[0], True, partial=True)
    for piece in pieces[1:]:
        total = merge_moments(total, moments_of(piece, True, partial=True))
    assert not total.m2_abs.any() and not total.m2.any()


def test_opposite_gradients_have_no_absolute_variance():
    values = torch.tensor([[0.3], [-0.3], [0.3]])
    moments = moments_of(values, True)
    assert float(moments.m2_abs) == 0.0 and float(moments.m2) > 0.0


@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("samples", [2, 5, 64, 1000])
def test_signed_moments_where_one_sign_is_nearly_alone(ratio, samples):
    # they come from the absolute ones, by a difference of means that is nothing where all samples have one sign
    values = np.abs(drawn(3, samples)) + 1
    values[0] *= -ratio
    check(moments_of(torch.from_numpy(values), True), values)
    check(moments_of(torch.from_numpy(-values), True), -values)


def test_a_variance_that_is_small_is_not_zero():
    values = torch.full((64, 1), 1.0)
    values[5] = torch.nextafter(values[5], torch.tensor(2.0))
    assert float(moments_of(values).m2_abs) > 0
    total = merge_moments(moments_of(values[:3], partial=True), moments_of(values[3:], partial=True))
    assert float(total.m2_abs) > 0


def test_the_input_is_kept_unless_given_away():
    values = torch.randn(6, 4)
    kept = values.clone()
    for signed in (False, True):
        moments_of(values, signed)
        assert torch.equal(values, kept)
    same = moments_of(values.clone(), True, overwrite=True)
    assert torch.equal(same.m2, moments_of(values, True).m2)


finite = st.floats(-1e3, 1e3, width=32)


@exact
@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=2, max_size=24), st.data())
def test_merging_any_pieces_in_any_order(rows, data):
    values = torch.tensor(rows, dtype=torch.float64)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=5)))
    pieces = [moments_of(piece, True, partial=True) for piece in values.tensor_split(cuts)]
    order = data.draw(st.permutations(range(len(pieces))))
    total = pieces[order[0]]
    for index in order[1:]:
        total = merge_moments(total, pieces[index])
    wanted = {name: plain(x) for name, x in (("signed", values.numpy()), ("abs", values.abs().numpy()))}
    scale = float(values.abs().max()) ** 2 + 1e-300
    assert total.samples == len(rows)
    np.testing.assert_allclose(total.mean.numpy(), wanted["signed"][0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(total.m2.numpy(), wanted["signed"][1], rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(total.mean_abs.numpy(), wanted["abs"][0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(total.m2_abs.numpy(), wanted["abs"][1], rtol=1e-9, atol=1e-12 * scale)


@exact
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_merging_is_associative(a, b, c, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (moments_of(torch.randn(n, 4, generator=generator), partial=True) for n in (a, b, c))
    left, right = merge_moments(merge_moments(x, y), z), merge_moments(x, merge_moments(y, z))
    torch.testing.assert_close(left.m2_abs, right.m2_abs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(left.mean_abs, right.mean_abs, rtol=1e-10, atol=1e-12)
    assert left.samples == right.samples == a + b + c


def test_unsigned_pieces_stay_unsigned():
    a, b = moments_of(torch.randn(3, 2)), moments_of(torch.randn(4, 2), True)
    assert merge_moments(a, b).m2 is None
    with pytest.raises(ValueError, match="signed=True"):
        _ = a.variance


def test_variances_are_of_the_population():
    moments = moments_of(torch.tensor([[1.0], [-3.0]]), True)
    assert (float(moments.variance_abs), float(moments.variance)) == (1.0, 4.0)


def test_rearranging():
    moments = moments_of(torch.randn(5, 6), True)
    turned = moments.rearrange(lambda array: array.view(2, 3))
    assert isinstance(turned, Moments) and turned.samples == 5
    assert all(array.shape == (2, 3) for array in turned[1:])


# ---------------------------------------------------------------- the metric


def synced(metrics):
    """What torchmetrics does to states of the kind "cat" on all processes: they are joined in the order of ranks."""
    first = copy.deepcopy(metrics[0])
    for name in first._defaults:
        states = [getattr(metric, name) for metric in metrics if len(getattr(metric, name))]
        joined = [torch.cat(state) if isinstance(state, list) else state for state in states]
        setattr(first, name, torch.cat(joined) if joined else [])
    first._computed = None
    return first


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_processes_together_give_what_one_gives(signed, order):
    values = torch.from_numpy(drawn(1e3, 30, 20))
    metrics = []
    for piece in values.tensor_split([5, 17]):
        metric = GradientMoments(signed=signed)
        for half in piece.tensor_split(2):
            metric.update(half)
        metrics.append(metric)
    total = synced([metrics[i] for i in order]).compute()
    check(total, values.numpy())
    assert (total.m2 is not None) == signed


def test_metric_is_merged_reset_and_used_again():
    values = drawn(10, 12, 6)
    metric = GradientMoments()
    metric.update(torch.from_numpy(values[:5]))
    metric.compute()
    metric.merge(moments_of(torch.from_numpy(values[5:]), partial=True))
    check(metric.compute(), values)
    metric.reset()
    metric.update(torch.from_numpy(values[:4]))
    check(metric.compute(), values[:4])


def test_merging_states_of_torchmetrics():
    values = drawn(10, 12, 6)
    a, b = GradientMoments(signed=True), GradientMoments(signed=True)
    a.update(torch.from_numpy(values[:5]))
    b.update(torch.from_numpy(values[5:]))
    a.merge_state(b)
    check(a.compute(), values)


def test_forward_gives_the_moments_of_the_batch_and_keeps_the_total():
    values = drawn(10, 12, 6)
    metric = GradientMoments()
    check(metric(torch.from_numpy(values[:5])), values[:5])
    check(metric(torch.from_numpy(values[5:])), values[5:])
    check(metric.compute(), values)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_metric_survives_a_state_dict():
    values = drawn(10, 12, 6)
    metric = GradientMoments()
    metric.persistent(True)
    metric.update(torch.from_numpy(values))
    state = metric.state_dict()
    other = GradientMoments()
    other.persistent(True)
    other.load_state_dict(state)
    check(other.compute(), values)
