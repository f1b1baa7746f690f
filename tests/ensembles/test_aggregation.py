import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lswag_hooks.ensembles import merge_ranks
from lswag_hooks.errors import InputError

GOLDEN = json.loads((Path(__file__).parent / "golden_table.json").read_text(encoding="utf-8"))
TABLE = pd.DataFrame(GOLDEN["table"])


def naive_rank(values, i):
    """1 + how many are smaller + half of how many others are equal."""
    return 1 + sum(v < values[i] for v in values) + (sum(v == values[i] for v in values) - 1) / 2


def test_golden_sums_of_az_nas_and_te_nas():
    az = merge_ranks(TABLE[["p1", "p2", "p3", "p4"]])
    assert az.to_numpy() == pytest.approx(GOLDEN["az_nas_log_rank_p1_p2_p3_p4"], abs=1e-12)
    assert az.idxmax() == GOLDEN["az_argmax"]
    te = merge_ranks(TABLE[["p1", "p4"]], "rank")
    assert te.tolist() == GOLDEN["te_nas_rank_sum_p1_p4"]
    assert te.idxmax() == GOLDEN["te_argmax"]


def test_rules_against_their_formulas_with_ties_directions_and_weights():
    rng = np.random.default_rng(3)
    scores = pd.DataFrame({"a": rng.integers(0, 6, 40), "b": rng.normal(size=40)}, dtype=float)
    up, weights = {"b": False}, {"a": 0.5}
    signed = {"a": scores["a"].tolist(), "b": (-scores["b"]).tolist()}
    expected = {
        "log": [sum(w * math.log(naive_rank(signed[k], i) / 40) for k, w in (("a", 0.5), ("b", 1))) for i in range(40)],
        "rank": [0.5 * naive_rank(signed["a"], i) + naive_rank(signed["b"], i) for i in range(40)],
        "zscore": [
            sum(w * (signed[k][i] - np.mean(signed[k])) / np.std(signed[k]) for k, w in (("a", 0.5), ("b", 1)))
            for i in range(40)
        ],
    }
    for rule, values in expected.items():
        assert merge_ranks(scores, rule, up, weights).to_numpy() == pytest.approx(values)


@pytest.mark.parametrize("rule", ["log", "rank", "zscore"])
def test_a_row_that_lacks_a_value_gets_none_and_does_not_count(rule):
    scores = pd.DataFrame({"a": [1.0, np.nan, 3.0, 2.0, np.inf], "b": [5.0, 1.0, 4.0, 9.0, 2.0]}, index=list("vwxyz"))
    merged = merge_ranks(scores, rule)
    assert merged.isna().tolist() == [False, True, False, False, True]
    alone = merge_ranks(scores.loc[["v", "x", "y"]], rule)
    assert merged.dropna().to_dict() == pytest.approx(alone.to_dict())


@pytest.mark.parametrize("rule", ["log", "rank", "zscore"])
def test_a_constant_column_changes_no_order(rule):
    scores = pd.DataFrame({"a": np.random.default_rng(0).normal(size=30)})
    merged = merge_ranks(scores.assign(constant=0.1), rule)
    assert (merged.rank() == scores["a"].rank()).all()
    # 0.1 thirty times has a deviation of rounding alone, by which nothing may be divided
    assert merge_ranks(pd.DataFrame({"c": [0.1] * 30}), rule).nunique() == 1


def test_no_complete_row_and_one_row():
    assert merge_ranks({"a": [np.nan, 1.0], "b": [1.0, np.nan]}).isna().all()
    assert merge_ranks({"a": [3.0]}).tolist() == [0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": [1, 2]}, "logs"), "Did you mean 'log'"),
        (({},), "no column"),
        (({"a": ["x", "y"]},), "'a' holds something that is no number"),
        (({"a": [1], "b": [1, 2]},), "no table"),
        (({"a": [1, 2]}, "log", {"b": False}), "higher_is_better names 'b'"),
        (({"zico": [1, 2]}, "log", None, {"zic": 2.0}), "weights names 'zic'.*Did you mean 'zico'"),
        (({"a": [1, 2]}, "log", None, {"a": -1.0}), "at least 0"),
        ((pd.DataFrame([[1, 2]], columns=["a", "a"]),), "two columns are called 'a'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        merge_ranks(*arguments)
