import importlib
import math
from dataclasses import replace

import numpy as np
import pytest

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.measuring import Measured, measure
from lswag_hooks.search import Pruning, search
from lswag_hooks.search.problem import objective
from lswag_hooks.search.pruning import SupernetWork, prune, rank_sums
from lswag_hooks.spaces.darts import DARTS
from lswag_hooks.spaces.darts_supernet import EDGES, FULL, OPERATIONS, Supernet, places, read, without, written
from lswag_hooks.store import canonical

evaluation = importlib.import_module("lswag_hooks.search.evaluation")


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(3, 8, 8), samples=4)


def worth(seed):
    """What each operation of each edge is worth, all different."""
    return np.random.default_rng(seed).permutation(2 * 14 * 7).reshape(2, 14, 7) + 1.0


def scorer(worths, asked=None):
    """A supernet's score is the sum over what is alive; one result for each table of worths, by proxy."""

    def evaluate(names):
        found = []
        for name in names:
            alive = [(cell, edge, index) for cell, edge, live in places(read(name)) for index in live]
            found.append(Measured({key: sum(table[place] for place in alive) for key, table in worths.items()}))
        if asked is not None:
            asked.append(len(names))
        return [found]

    return evaluate


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_with_a_score_that_is_a_sum_the_most_worthy_stay(number):
    table, asked = worth(0), []
    found, history = prune(Pruning(operations=number), objective("swap"), scorer({"swap": table}, asked))
    genotype = DARTS().parse(found)
    for cell, edges in enumerate((genotype.normal, genotype.reduce)):
        for node in range(2, 6):
            own = [(edge, source) for edge, (source, end) in enumerate(EDGES) if end == node]
            strongest = sorted(own, key=lambda place: -table[cell, place[0]].max())[:2]
            expected = {(OPERATIONS[table[cell, edge].argmax()], source) for edge, source in strongest}
            assert set(edges[2 * (node - 2) : 2 * (node - 1)]) == expected
    rounds = [step for step in history if step["phase"] == "operations"]
    assert len(rounds) == math.ceil(6 / number) and len(history) - len(rounds) == 6
    # every live operation of every edge is left out once in a round, beside the whole supernet; none is scored twice
    live = [max(1, 7 - number * done) for done in range(len(rounds))]
    assert asked == [1 + 28 * alive for alive in live] + [4, 4, 5, 3, 4, 5]
    assert sum(len(step["pruned"]) for step in history) == 2 * 14 * 6 + 2 * (1 + 2 + 3)


def test_ranks_of_several_proxies_are_added_and_equals_share_them():
    def measured(swap, zico):
        return Measured({"swap": swap, "zico": zico})

    draws = [[measured(10.0, -4.0), measured(9.0, -5.0), measured(9.0, -4.0), measured(11.0, -8.0)]]
    # losses of swap .1 .1 -.1: ranks 1 1 0; of zico .25 0 1: ranks 1 0 2
    assert rank_sums(draws, objective("swap,zico")).tolist() == [2, 1, 2]
    assert rank_sums([*draws, *draws], objective("swap,zico")).tolist() == [2, 1, 2]
    other = [[measured(10.0, 1.0), measured(1.0, 1.0), measured(10.0, 1.0), measured(10.0, 1.0)]]
    assert rank_sums([*draws, *other], objective("swap")).tolist() == [2, 1, 0]


def test_a_proxy_that_is_better_when_lower_is_turned_round():
    lower = next(name for name in lh.list_proxies() if not lh.proxies.proxy_class(name).higher_is_better)
    assert rank_sums([[Measured({lower: value}) for value in (10.0, 9.0, 12.0)]], objective(lower)).tolist() == [0, 1]


def test_what_cannot_be_scored_without_an_operation_keeps_it():
    nothing = Measured({"swap": float("nan")}, {"swap": "constant"})
    whole = Measured({"swap": 1.0})
    assert rank_sums([[whole, nothing, Measured({"swap": 0.1})]], objective("swap")).tolist() == [1, 0]
    with pytest.raises(InputError, match="cannot be scored by swap: constant"):
        rank_sums([[nothing, whole]], objective("swap"))


def test_a_search_prunes_over_draws_of_the_weights_and_scores_what_is_left(batch, tmp_path, monkeypatch):
    plain, tables, seeds = evaluation.measure, [worth(seed) for seed in range(3)], []

    def measure(work, name):
        if "~" in name:
            return plain(work, name)
        seeds.append(work.seed)
        return Measured({"swap": scorer({"swap": tables[work.seed]})([name])[0][0].scores["swap"]})

    monkeypatch.setattr(evaluation, "measure", measure)
    options = {"algorithm": Pruning(repeats=3), "store": tmp_path / "scores.db", "progress": False}
    found = search("darts", batch, "swap", **options)
    averaged = sum(table / table.sum() for table in tables)  # losses are relative, and so small that some are equal
    kept = DARTS().parse(found.best).normal
    rank = averaged[0].argsort(axis=1).argsort(axis=1)
    picked = [
        rank[
            next(edge for edge, place in enumerate(EDGES) if place == (source, 2 + index // 2)), OPERATIONS.index(name)
        ]
        for index, (name, source) in enumerate(kept)
    ]
    assert min(picked) >= 5
    model = DARTS().build(found.best, image_size=8, seed=0)
    assert found.to_dict()["best"][0]["scores"]["swap"] == lh.score(model, batch, "swap", seed=0)["swap"]
    assert found.computed == len(seeds) + 1 and set(seeds) == {0, 1, 2}
    again = search("darts", batch, "swap", resume=True, **options)
    assert (again.computed, again.reused) == (0, found.computed)
    assert again.best == found.best and again.history == found.history


def test_a_real_supernet_is_scored_as_it_is_built(batch):
    live = without(FULL, 1, 3, (0, 1, 2, 3))
    proxies = tuple(lh.proxies.resolve_proxies("zico,swap"))
    work = SupernetWork(DARTS(), "cifar10", batch, proxies, 3, 10, 8, supernet=Supernet(2))
    model = Supernet(2).build(live, 10, seed=3)
    assert measure(work, written(live)).scores == dict(lh.score(model, batch, "zico,swap", seed=3))
    assert canonical(work.conditions()) != canonical(replace(work, supernet=Supernet(3)).conditions())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_params": 10}, "keeps no limits"),
        ({"objectives": "score,params"}, "only objective"),
        ({"evaluations": 10}, "leave their number out"),
    ],
)
def test_bad_input(batch, options, said):
    with pytest.raises(InputError, match=said):
        search("darts", batch, "swap", algorithm="pruning", progress=False, **options)
    with pytest.raises(InputError, match="repeats=0"):
        Pruning(repeats=0)
