"""Each function of the functional room against a plain loop."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lswag_hooks import InputError, functional
from lswag_hooks.functional.lswag import PAIRINGS, check_interval, gates, logarithm, nearest
from lswag_hooks.stats import agreement, moments_of

exact = settings(max_examples=50, deadline=None, derandomize=True)


def gradients(samples=9, rows=4, columns=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, rows, columns, generator=generator, dtype=torch.float64)
    values[:, 0, 0] = 0.25  # variance of exactly zero
    values[:, 1, 1] = 0.0
    return values


def deviation(values):
    """Population deviation, exactly rounded sums."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [2, 3, 16, 65])
def test_trainability(samples, seed):
    values = gradients(samples, seed=seed)
    total, largest = 0.0, 0.0
    for r, c in itertools.product(range(4), range(5)):
        sigma = deviation([abs(float(v)) for v in values[:, r, c]])
        if sigma > 0:
            total, largest = total + 1 / sigma, max(largest, 1 / sigma)
    moments = moments_of(values)
    assert functional.trainability(moments) == pytest.approx(math.log(total), rel=1e-12)
    assert functional.inverse_deviations(moments) == pytest.approx((total, largest), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [2, 3, 16, 65])
def test_zico(samples, seed):
    values = gradients(samples, seed=seed)
    total = 0.0
    for r, c in itertools.product(range(4), range(5)):
        column = [float(v) for v in values[:, r, c]]
        sigma = deviation(column)
        if sigma > 0:
            total += math.fsum(map(abs, column)) / samples / sigma
    assert functional.zico(moments_of(values, signed=True)) == pytest.approx(math.log(total), rel=1e-12)


def test_zico_needs_signed_moments():
    with pytest.raises(ValueError, match="signed"):
        functional.zico(moments_of(gradients()))


def test_layers_without_any_deviation_contribute_nothing():
    same = moments_of(torch.full((4, 3, 3), 0.1), signed=True)
    assert functional.trainability(same) == 0.0
    assert functional.zico(same) == 0.0
    assert functional.inverse_deviations(same) == (0.0, 0.0)
    assert logarithm(0.0) == 0.0


def test_a_single_sample_has_no_deviation():
    assert functional.trainability(moments_of(torch.randn(1, 3, 3))) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_one_gradient(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    gradient = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    pairs = [(float(w), float(g)) for w, g in zip(weight.flatten(), gradient.flatten(), strict=True)]
    kept = weight.clone(), gradient.clone()
    assert functional.plain(weight, gradient) == pytest.approx(math.fsum(w * g for w, g in pairs), rel=1e-12)
    assert functional.snip(weight, gradient) == pytest.approx(math.fsum(abs(w * g) for w, g in pairs), rel=1e-12)
    assert functional.grad_norm(gradient) == pytest.approx(math.sqrt(math.fsum(g * g for _, g in pairs)), rel=1e-12)
    assert functional.l2_norm(weight) == pytest.approx(math.sqrt(math.fsum(w * w for w, _ in pairs)), rel=1e-12)
    assert torch.equal(weight, kept[0]) and torch.equal(gradient, kept[1]), "the arguments are not scratch memory"


@pytest.mark.parametrize("weights", [12, 120])
def test_fisher(weights):
    rng = np.random.RandomState(0)
    a, g = rng.standard_normal((5, 3, 7)), rng.standard_normal((5, 3, 7))  # samples, channels, positions
    total, energy = 0.0, []
    for channel in range(3):
        squares = [sum(a[n, channel, p] * g[n, channel, p] for p in range(7)) ** 2 for n in range(5)]
        energy.append(sum(squares) / 5)
        total += 0.5 * energy[-1] * (weights // 3)
    assert functional.fisher(torch.tensor(energy), weights) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("samples", [2, 5, 12])
def test_nwot(samples):
    codes = np.random.RandomState(samples).rand(samples, 200) > 0.5
    kernel = np.zeros((samples, samples))
    for i, j in itertools.product(range(samples), repeat=2):
        kernel[i, j] = sum(a == b for a, b in zip(codes[i], codes[j], strict=True))
    wanted = math.log(abs(np.linalg.det(kernel / 200))) + samples * math.log(200)
    assert functional.nwot(agreement(torch.from_numpy(codes))) == pytest.approx(wanted, rel=1e-9)


def test_nwot_of_two_equal_samples():
    codes = torch.randn(3, 50)
    codes[2] = codes[0]
    assert functional.nwot(agreement(codes)) < -30 or math.isinf(functional.nwot(agreement(codes)))


@pytest.mark.parametrize(("parameters", "mu", "sigma"), [(8000, 8.0, 10.0), (7053, 8.0, 10.0), (1_000, 40.0, 700.0)])
def test_regularised(parameters, mu, sigma):
    wanted = 321 * math.e ** (-((parameters / 1e3 - mu) ** 2) / sigma)
    assert functional.regularised(321.0, parameters, mu, sigma) == pytest.approx(wanted, rel=1e-12)


# ---------------------------------------------------------------- L-SWAG


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9, 10, 11, 19, 20, 57, 100, 101])
def test_percentiles_are_tenths_of_the_depth(count):
    found = [functional.percentile(i, count) for i in range(count)]
    assert found == [math.floor(10 * i / count + 1e-12) for i in range(count)]
    assert found[0] == 0 and found[-1] <= 9 and found == sorted(found)
    if count % 10 == 0:
        assert [found.count(p) for p in range(10)] == [count // 10] * 10


def by_loop(lambdas, psis, interval, pairing, feeding):
    first, last = (0, 9) if interval is None else interval
    n, m = len(lambdas), len(psis)
    total = 0.0
    if pairing == "total":
        left = sum(value for i, value in enumerate(lambdas) if first <= (10 * i) // n <= last)
        right = sum(value for j, value in enumerate(psis) if first <= (10 * j) // m <= last)
        return left * right
    for i in range(n):
        tenth = (10 * i) // n
        if not first <= tenth <= last:
            continue
        if pairing == "nearest":
            total += lambdas[i] * psis[(i * m) // n]
        elif pairing == "percentile":
            for j in range(m):
                if (10 * j) // m == tenth:
                    total += lambdas[i] * psis[j]
        elif feeding[i] is not None:
            total += lambdas[i] * psis[feeding[i]]
    return total


intervals = st.one_of(st.none(), st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda p: (min(p), max(p))))


@exact
@given(st.integers(1, 40), st.integers(1, 40), intervals, st.sampled_from(PAIRINGS), st.integers(0, 99))
def test_combining(n, m, interval, pairing, seed):
    rng = random.Random(seed)
    lambdas = [rng.uniform(-2, 12) for _ in range(n)]
    psis = [float(rng.randint(0, 500)) for _ in range(m)]
    feeding = [rng.choice([None, *range(m)]) for _ in range(n)]
    found = functional.combine(lambdas, psis, interval, pairing, feeding)
    assert found == pytest.approx(by_loop(lambdas, psis, interval, pairing, feeding), rel=1e-9, abs=1e-9)


@exact
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(["nearest", "percentile", "feeding"]), st.integers(1, 9))
def test_intervals_add_up(n, m, pairing, cut):
    lambdas = [1.0 + i for i in range(n)]
    psis, feeding = [2.0 * j + 1 for j in range(m)], [i % m for i in range(n)]
    parts = [functional.combine(lambdas, psis, part, pairing, feeding) for part in ((0, cut - 1), (cut, 9))]
    assert sum(parts) == pytest.approx(functional.combine(lambdas, psis, None, pairing, feeding))


def test_nearest_activation():
    assert [nearest(i, 8, 6) for i in range(8)] == [0, 0, 1, 2, 3, 3, 4, 5]
    assert [nearest(i, 2, 6) for i in range(2)] == [0, 3]


def test_nothing_to_combine():
    for pairing in PAIRINGS:
        assert functional.combine([], [1.0], None, pairing, []) == 0.0
        assert functional.combine([1.0], [], None, pairing, [None]) == 0.0


def test_feeding_must_be_known():
    with pytest.raises(InputError, match="feeds"):
        functional.combine([1.0], [1.0], None, "feeding")


@pytest.mark.parametrize("pairing", ["Nearest", "", "closest"])
def test_unknown_pairing(pairing):
    with pytest.raises(InputError, match="nearest"):
        functional.combine([1.0], [1.0], None, pairing)


@pytest.mark.parametrize(
    "interval", [(-1, 3), (3, 10), (5, 4), (1,), (1, 2, 3), "ab", 5, (0.5, "x"), (None, 3), (2.7, 3.9)]
)
def test_intervals_out_of_range(interval):
    with pytest.raises(InputError, match="interval"):
        check_interval(interval)


def test_intervals_in_range():
    assert check_interval(None) == (0, 9)
    assert check_interval((0, 0)) == (0, 0)
    assert check_interval([7, 9]) == (7, 9)
    assert check_interval((np.int64(2), np.int64(3))) == (2, 3)


def test_mean_over_deviation_by_a_plain_loop():
    values = gradients(16)
    total = 0.0
    for r, c in itertools.product(range(4), range(5)):
        column = [abs(float(v)) for v in values[:, r, c]]
        if sigma := deviation(column):
            total += math.fsum(column) / len(column) / sigma
    moments = moments_of(values)
    assert functional.lswag.mean_over_deviation(moments) == pytest.approx(total, rel=1e-12)


def test_gates_follow_the_median_and_not_the_scale():
    values = [0.0, 1e-9, 0.02, 0.2, 1.0, 3.0]
    found = gates(values, tau=0.1)
    reference = 0.1 * float(np.median(values[1:]))  # a layer without any gradient is no part of the median
    assert found == pytest.approx([0.0, *(v / (v + reference) for v in values[1:])])
    assert gates([1e6 * v for v in values], tau=0.1) == pytest.approx(found)
    assert gates(values, tau=0.0) == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert gates([0.0, 0.0], tau=0.1) == [0.0, 0.0] and gates([], tau=0.1) == []
