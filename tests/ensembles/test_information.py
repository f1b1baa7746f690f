import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lswag_hooks.ensembles.information import (
    bin_count,
    conditional_entropy,
    crowded,
    discretise,
    entropy,
    information_gain,
    marks,
)
from lswag_hooks.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "golden_table.json").read_text(encoding="utf-8"))
TABLE = {name: np.array(values) for name, values in GOLDEN["table"].items()}


@pytest.mark.parametrize("rule", ["sturges", "nbsz"])
def test_golden_bins_entropies_and_gains(rule):
    expected = GOLDEN["bins"][rule]
    labels = {name: discretise(values, rule) for name, values in TABLE.items()}
    y = labels["acc"]
    assert bin_count(60, rule) == expected["n_bins"]
    assert (y + 1).tolist() == expected["bins_acc"]
    assert (labels["p2"] + 1).tolist() == expected["bins_p2"]
    assert entropy(y) == pytest.approx(expected["H_acc"], abs=1e-12)
    assert len(expected["H_acc_given"]) == 6 and len(expected["H_acc_given_pair"]) == 30
    for name, value in expected["H_acc_given"].items():
        assert conditional_entropy(y, labels[name]) == pytest.approx(value, abs=1e-12)
    for names, value in expected["H_acc_given_pair"].items():
        assert conditional_entropy(y, *(labels[name] for name in names.split(","))) == pytest.approx(value, abs=1e-12)
    for names, value in expected["IG_second_given_first"].items():
        first, second = names.split("->")
        assert information_gain(y, labels[second], labels[first]) == pytest.approx(value, abs=1e-12)


def test_golden_numbers_of_bins():
    assert {n: bin_count(int(n), "nbsz") for n in GOLDEN["n_bins_examples_published"]} == (
        GOLDEN["n_bins_examples_published"]
    )


def test_entropy_is_the_textbook_sum():
    rng = np.random.default_rng(1)
    x, y, z = rng.integers(0, 4, (3, 500))
    counts = Counter(zip(x, y, z, strict=True))
    expected = -sum(n / 500 * math.log2(n / 500) for n in counts.values())
    assert entropy(x, y, z) == pytest.approx(expected)
    # H(x|y) as the mean over y of the entropy of x where y is so
    inner = [(y == v).mean() * entropy(x[y == v]) for v in range(4)]
    assert conditional_entropy(x, y) == pytest.approx(sum(inner))


def test_a_copy_gains_nothing_and_a_constant_neither():
    y, z = np.random.default_rng(2).integers(0, 5, (2, 200))
    assert information_gain(y, z, z) == 0
    assert information_gain(y, np.zeros(200, dtype=int), z) == 0
    assert information_gain(y, y, z) == pytest.approx(conditional_entropy(y, z))


def test_bins_of_equal_width_and_of_equal_number():
    values = np.array([0.0, 0.1, 0.2, 0.3, 10.0, 10.0, 10.0, 1000.0])
    assert discretise(values).tolist() == [0, 0, 0, 0, 0, 0, 0, 3]
    by_rank = discretise(values, "quantile")
    assert by_rank.tolist() == sorted(by_rank) and len(set(by_rank)) == 4
    assert len(set(by_rank[4:7])) == 1  # equal values share a bin
    spread = np.bincount(discretise(np.random.default_rng(0).lognormal(sigma=4, size=1000), "quantile"))
    assert spread.max() - spread.min() <= 1
    assert discretise(np.full(9, 3.0)).tolist() == [0] * 9


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, 2.0, 3.0, -1e8], {-1e8}),  # once is enough for the known mark
        ([1.0, 2.0, 3.0, math.inf, -math.inf, math.nan], {math.inf, -math.inf}),
        ([1.0, 2.0, 3.0, 4.0, -999.0, -999.0], {-999.0}),
        ([1.0, 2.0, 3.0, 4.0, 1e9, 1e9], {1e9}),
        ([1.0, 2.0, 3.0, 4.0, 1e9], set()),  # once, it may be real
        ([1.0, 2.0, 3.0, 4.0, 14.0, 14.0], set()),  # far, but not far enough
        ([1.0, 1.0, 1.0, 500.0, 500.0, 501.0], set()),  # half of them: a group, not a mark
        ([0.0, 0.0, 0.0], set()),
        ([math.nan], set()),
        ([], set()),
    ],
)
def test_marks_for_no_value(values, found):
    assert marks(np.array(values)) == found


def test_one_extreme_value_hides_all_information_and_is_detected():
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    x = y + 0.1 * rng.normal(size=300)
    assert not crowded(x)
    x[7] = 1e6
    assert crowded(x) and crowded(x, "nbsz") and not crowded(x, "quantile")
    labels = discretise(y)
    constant = np.zeros(300, dtype=int)
    assert information_gain(labels, discretise(x), constant) < 0.1
    assert information_gain(labels, discretise(x, "quantile"), constant) > 1
    mostly_zero = np.zeros(300)
    mostly_zero[:9] = 1
    assert not crowded(mostly_zero)  # bins are not what makes it say little


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bin_count(10, "sturgess"), "Did you mean 'sturges'"),
        (lambda: bin_count(0), "there must be values"),
        (lambda: discretise(np.array([1.0, np.nan])), "have no bin"),
        (entropy, "nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
