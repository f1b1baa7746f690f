import numpy as np
import pandas as pd
import pytest

from lswag_hooks.ensembles import Libra, baselines
from lswag_hooks.ensembles.evidence import gather
from lswag_hooks.ensembles.tables import Given
from lswag_hooks.errors import InputError

RNG = np.random.default_rng(0)
ACCURACY = pd.Series(RNG.normal(size=400))
SPREADS = {"params": 0.8, "nwot": 0.7, "flops": 0.76, "snip": 0.72, "zico": 0.78, "plain": 5.0}  # lower is better
SCORES = pd.DataFrame({name: ACCURACY + spread * RNG.normal(size=400) for name, spread in SPREADS.items()})
EVIDENCE = gather(Given(SCORES, ACCURACY, {}))
ORDER = sorted(SPREADS, key=lambda name: -EVIDENCE.correlations[name])
FREE = [name for name in ORDER if name in ("params", "nwot", "flops")]
BASED = [name for name in ORDER if name not in FREE]
NEAR = EVIDENCE.within(0.1)


def test_the_best_of_each_kind():
    assert baselines.best_gradient_free(EVIDENCE) == tuple(FREE[:2])
    assert baselines.best_gradient_based(EVIDENCE) == tuple(BASED[:2])
    assert baselines.best_of_each(EVIDENCE) == (FREE[0], BASED[0])
    assert baselines.best_gradient_free(EVIDENCE, free={"plain"}) == ("plain",)
    with pytest.raises(InputError, match="is of that kind"):
        baselines.best_gradient_free(EVIDENCE, free=())


def test_by_information_gain_and_bias():
    first = ORDER[0]
    assert len(NEAR) >= 3 and "plain" not in NEAR
    by_gain = sorted(NEAR, key=lambda name: EVIDENCE.gain(name, first))
    assert baselines.least_gain(EVIDENCE) == (first, by_gain[0]) == Libra().fit(SCORES, ACCURACY).selected[:2]
    assert baselines.most_gain(EVIDENCE) == (first, by_gain[-1])
    rest = sorted(by_gain[1:], key=lambda name: abs(EVIDENCE.biases[name]))
    assert baselines.least_bias(EVIDENCE) == (first, by_gain[0], rest[0])
    assert baselines.all_within(EVIDENCE) == (first, *NEAR)
    assert baselines.everything(EVIDENCE) == tuple(SCORES)


def test_with_nothing_within_the_tolerance_the_best_is_alone():
    for way in (baselines.least_gain, baselines.most_gain, baselines.least_bias, baselines.all_within):
        assert way(EVIDENCE, tolerance=0.0) == (ORDER[0],)
    unsized = gather(Given(SCORES, ACCURACY, {}), size=None)
    assert baselines.least_bias(unsized) == baselines.least_gain(unsized)


def test_draws_are_uniform_and_repeatable():
    pairs = [baselines.random_pair(EVIDENCE, seed) for seed in range(300)]
    assert pairs[:50] == [baselines.random_pair(EVIDENCE, seed) for seed in range(50)]
    assert all(len({*pair}) == 2 for pair in pairs)
    counts = pd.Series([name for pair in pairs for name in pair]).value_counts()
    assert len(counts) == 6 and counts.min() > 60  # 100 expected, deviation 8
    seconds = [baselines.best_plus_random(EVIDENCE, seed) for seed in range(100)]
    assert {pair[0] for pair in seconds} == {ORDER[0]} and {pair[1] for pair in seconds} == {*ORDER[1:]}
    thirds = [baselines.random_third(EVIDENCE, seed=seed) for seed in range(100)]
    pair = baselines.least_gain(EVIDENCE)
    assert {third[:2] for third in thirds} == {pair} and {third[2] for third in thirds} == {*SPREADS} - {*pair}


def test_one_proxy_is_enough_for_each():
    alone = gather(Given(SCORES[["params"]], ACCURACY, {}))
    for name, way in baselines.BASELINES.items():
        if name != "2 gradient-based":
            assert way(alone) == ("params",), name


def test_the_table_of_ways_is_complete():
    assert len(baselines.BASELINES) == 9
    assert all({*way(EVIDENCE)} <= {*SPREADS} for way in baselines.BASELINES.values())
