import numpy as np
import pytest
from scipy import stats

from lswag_hooks.correlation import correlations, estimate, kendall, partial_spearman, pearson, spearman
from lswag_hooks.errors import InputError

RNG = np.random.default_rng(7)


def ties(size=200):
    return RNG.integers(0, 12, size).astype(float)


def test_the_three_statistics_are_scipys():
    x, y = ties(), ties() + RNG.normal(size=200)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)


def test_one_covariate_gives_the_textbook_formula():
    x, y, z = ties(), RNG.normal(size=200), ties()
    y += z
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, z) == pytest.approx(expected)


def test_several_covariates_give_the_inverse_of_the_correlation_matrix():
    columns = [RNG.normal(size=300) for _ in range(5)]
    columns[1] = columns[1] + columns[0] + columns[3]
    precision = np.linalg.inv(np.corrcoef([stats.rankdata(column) for column in columns]))
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert partial_spearman(*columns) == pytest.approx(expected)


def test_a_score_that_is_size_has_no_part_of_its_own():
    size = RNG.normal(size=50)
    assert np.isnan(partial_spearman(np.exp(size), RNG.normal(size=50), size))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman of a bivariate normal of correlation .6
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=120)
        y = 0.6 * x + 0.8 * rng.normal(size=120)
        found = estimate(spearman, x, y, resamples=200, seed=seed)
        assert found.low <= found.value <= found.high
        hits += found.low <= truth <= found.high
    assert hits >= 50  # 57 expected; fewer than 50 has a chance of some 1e-3


def test_the_interval_is_reproducible_and_independent_of_the_global_state():
    x, y = ties(), ties()
    first = estimate(spearman, x, y, resamples=50)
    np.random.seed(3)
    assert estimate(spearman, x, y, resamples=50) == first
    assert estimate(spearman, x, y, resamples=50, seed=1) != first


def test_what_is_not_finite_is_left_out_pair_by_pair():
    x, y = np.arange(20.0), np.arange(20.0)
    x[3], y[5] = np.nan, np.inf
    found = estimate(spearman, x, y, resamples=20)
    assert (found.value, found.pairs) == (pytest.approx(1), 18)


@pytest.mark.parametrize("x", [np.ones(30), np.full(30, np.nan), np.arange(4.0)])
def test_constant_missing_and_too_few_values_have_no_correlation(x):
    found = estimate(spearman, x, np.arange(float(len(x))), resamples=20)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert str(found) == "-"


def test_a_table_turns_the_sign_of_what_is_better_when_lower_and_takes_size_off():
    size = RNG.normal(size=150)
    accuracy = size + 0.5 * RNG.normal(size=150)
    noise = RNG.normal(size=150)
    table = correlations(
        {"size": size, "cond": -accuracy, "noise": noise}, accuracy, ["size"], {"cond": False}, resamples=20
    )
    assert table["cond"]["spearman"].value == pytest.approx(1)
    assert table["cond"]["partial"].value == pytest.approx(1)
    assert table["size"]["partial"].value == pytest.approx(table["size"]["spearman"].value)  # not given itself
    assert abs(table["noise"]["partial"].value) < 0.3


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="2 values, the accuracies are 3"):
        correlations({"a": [1, 2]}, [1, 2, 3])
    with pytest.raises(InputError, match="are no scores here"):
        correlations({"a": [1, 2, 3]}, [1, 2, 3], given=["params"])
