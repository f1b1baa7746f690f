import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

import lswag_hooks as lh
from lswag_hooks.correlating import Measured
from lswag_hooks.errors import InputError
from lswag_hooks.search import Evolution, OptunaSearch, RandomSearch, search
from lswag_hooks.search.pareto import best_first, crowding, pareto_front
from lswag_hooks.search.problem import Limits, Problem
from lswag_hooks.spaces.burgerformer import BurgerFormer
from lswag_hooks.store import Store

evaluation = importlib.import_module("lswag_hooks.search.evaluation")
SMALL = Evolution(population=10, mutations=5, crossovers=4, parents=3)


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)


def known_score(architecture, seed=0):
    """A landscape that takes no network: convolutions count, and each architecture has a little that is all its own."""
    own = np.random.default_rng([seed, *architecture.encode()]).random()
    return architecture.count("nor_conv_3x3") + 0.5 * architecture.count("nor_conv_1x1") + own


@pytest.fixture
def fake(monkeypatch):
    """Scores without networks; gives the architectures that were measured."""
    measured = []

    def measure(work, architecture):
        measured.append(architecture)
        scores = {"swap": known_score(architecture), "zico": known_score(architecture, 99)}
        scores["params"] = -float(len(architecture))
        return Measured({proxy.key: scores[proxy.key] for proxy in work.proxies}, {}, 0.01)

    monkeypatch.setattr(evaluation, "measure", measure)
    return measured


def run(batch, proxies="swap", **options):
    options = {"algorithm": SMALL, "evaluations": 60, "progress": False, **options}
    return search("nasbench201", batch, proxies, **options)


def told(result):
    """All of a result that does not depend on the clock, the store and the number of workers."""
    frame = result.to_pandas().drop(columns="seconds")
    content = result.to_dict()
    kept = {key: content[key] for key in ("best", "front", "baseline", "history", "notes")}
    return frame, kept, content["evaluations"]["total"]


def assert_same(first, second):
    (one, content, total), (other, others, also) = told(first), told(second)
    pd.testing.assert_frame_equal(one, other)
    assert content == others and total == also


# ------------------------------------------------------------------ the way of the search


def test_evolution_is_the_published_loop_written_out(batch, fake):
    found = run(batch, max_params=900_000)
    space = lh.get_space("nasbench201")
    fits = lambda name: space.cost(name).params <= 900_000  # noqa: E731
    scored = {}
    for generation in itertools.count():
        rng = np.random.default_rng([0, generation])
        best = sorted(scored, key=lambda name: -scored[name])[:3]
        children = []

        def grow(make, number, tries):
            grown = []
            for _ in range(tries):
                if len(grown) < number:
                    child = make()
                    if child not in {*scored, *children, *grown} and fits(child):  # noqa: B023
                        grown.append(child)
            return grown

        pick = lambda: best[int(rng.integers(len(best)))]  # noqa: B023, E731
        if best:
            children += grow(lambda: space.mutate(pick(), rng), 5, 50)  # noqa: B023
            children += grow(lambda: space.crossover(pick(), pick(), rng), 4, 40)  # noqa: B023
        children += grow(lambda: space.sample(rng), 10 - len(children), 10_000)  # noqa: B023
        scored |= {name: known_score(name) for name in children[: 60 - len(scored)]}
        if len(scored) == 60:
            break
    assert found.seen.architectures == list(scored)
    assert found.top(5) == sorted(scored, key=lambda name: -scored[name])[:5]


def test_evolution_finds_more_than_random_search(batch, fake):
    evolved = [run(batch, seed=seed).values[:, 0].max() for seed in range(5)]
    drawn = [run(batch, seed=seed, algorithm="random").values[:, 0].max() for seed in range(5)]
    assert np.mean(evolved) > np.mean(drawn) + 0.5


@pytest.mark.parametrize("algorithm", [SMALL, RandomSearch(10), OptunaSearch(population=10)])
def test_the_same_seed_gives_the_same_and_another_does_not(batch, fake, algorithm):
    first = run(batch, algorithm=algorithm)
    assert_same(first, run(batch, algorithm=algorithm))
    assert first.seen.architectures != run(batch, algorithm=algorithm, seed=1).seen.architectures


@pytest.mark.parametrize("algorithm", [SMALL, RandomSearch(10), OptunaSearch(population=10)])
def test_nothing_twice_and_nothing_beyond_the_limits(batch, fake, algorithm):
    limits = {"min_params": 300_000, "max_params": 700_000, "max_flops": 90_000_000}
    found = run(batch, algorithm=algorithm, evaluations=80, **limits)
    assert len(fake) == len(set(fake)) == 80
    costs = [lh.get_space("nasbench201").cost(name) for name in fake]
    assert all(300_000 <= cost.params <= 700_000 and cost.flops <= 90_000_000 for cost in costs)
    assert found.computed == 80 and found.reused == 0


def test_it_ends_where_nothing_new_is_left(batch, fake):
    space = lh.get_space("nasbench201")
    few = {name for name in space if space.validate(name) is None and space.cost(name).params == 73_306 + 6 * 243_040}
    found = run(batch, evaluations=20, min_params=73_306 + 6 * 243_040)
    assert set(found.seen.architectures) == few and len(few) == 1
    assert "ended after 1 of 20 evaluations" in found.remarks()[-1]


def test_a_window_that_random_draws_never_hit_is_reached():
    problem = Problem(BurgerFormer(spatial_mlp=False), Limits(27_000_000, 30_000_000))
    rng = np.random.default_rng(0)
    drawn = [problem.draw(rng, set()) for _ in range(3)]
    assert len(set(drawn)) == 3
    for name in drawn:
        assert 27_000_000 <= BurgerFormer().cost(name).params <= 30_000_000 and "spatial_mlp" not in name


# ------------------------------------------------------------------ objectives


def test_the_front_is_that_of_a_comparison_of_all_with_all(batch, fake):
    found = run(batch, objectives="score,params", evaluations=100)
    cost = lh.get_space("nasbench201").cost
    points = {name: (known_score(name), -cost(name).params) for name in fake}

    def beaten(mine):
        return any(all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine for other in points.values())

    assert set(found.front) == {name for name in fake if not beaten(points[name])}
    assert found.front == sorted(found.front, key=lambda name: -points[name][0])
    assert list(found.to_pandas().query("front")["architecture"]) == found.front


def test_the_study_has_the_same_front_by_optunas_own_reckoning(batch, fake):
    found = run(batch, objectives="score,flops", evaluations=40)
    study = found.study()
    assert sorted(trial.user_attrs["architecture"] for trial in study.best_trials) == sorted(found.front)
    trial = study.trials[0]
    space = lh.get_space("nasbench201")
    assert space.compose(lambda name, _: trial.params[name]) == trial.user_attrs["architecture"] == fake[0]
    assert trial.values == [known_score(fake[0]), space.cost(fake[0]).flops]


def test_front_and_order_against_brute_force():
    rng = np.random.default_rng(0)
    for objectives in (1, 2, 3):
        values = rng.integers(0, 6, size=(60, objectives)).astype(float)
        values[5] = np.nan
        dominated = [
            any((values[j] >= values[i]).all() and (values[j] > values[i]).any() for j in range(60)) for i in range(60)
        ]
        expected = [i for i in range(60) if i != 5 and not dominated[i]]
        assert pareto_front(values).tolist() == expected
        order = best_first(values, 60)
        assert sorted(order) == [i for i in range(60) if i != 5]
        ranks = {}  # front by front
        left = np.array([i for i in range(60) if i != 5])
        for rank in itertools.count():
            if not len(left):
                break
            front = left[pareto_front(values[left])]
            ranks |= dict.fromkeys(front.tolist(), rank)
            left = np.setdiff1d(left, front)
        assert [ranks[i] for i in order] == sorted(ranks.values())


def test_crowding_by_hand():
    # in both objectives 5 wide: (3 - 0) / 5 + (5 - 1) / 5, then (5 - 1) / 5 + (3 - 0) / 5
    values = np.array([[0.0, 5.0], [1.0, 3.0], [3.0, 1.0], [5.0, 0.0]])
    assert crowding(values).tolist() == pytest.approx([np.inf, 7 / 5, 7 / 5, np.inf])


def test_several_proxies_are_merged_by_rank_among_all_that_were_seen(batch, fake):
    found = run(batch, "swap,zico")
    frame = found.to_pandas()
    expected = sum(np.log(stats.rankdata(frame[key]) / len(frame)) for key in ("swap", "zico"))
    np.testing.assert_allclose(frame["score"], expected)
    assert frame["score"].is_monotonic_decreasing


def test_a_libra_decides_by_its_own_choice_and_directions(batch, fake):
    rng = np.random.default_rng(0)
    accuracy = rng.normal(size=100)
    scores = {"swap": accuracy + 0.5 * rng.normal(size=100), "params": accuracy + 0.52 * rng.normal(size=100)}
    libra = lh.ensembles.Libra().fit(scores, accuracy)
    assert set(libra.selected) == {"swap", "params"}
    found = run(batch, libra)
    frame = found.to_pandas().set_index("architecture")
    merged = libra.score({key: frame[key] for key in libra.selected})
    np.testing.assert_allclose(frame["score"], merged)


def test_a_lower_proxy_is_better_when_lower(batch, monkeypatch):
    lower = next(name for name in lh.list_proxies() if not lh.proxies.proxy_class(name).higher_is_better)
    monkeypatch.setattr(evaluation, "measure", lambda work, name: Measured({lower: known_score(name)}))
    found = run(batch, lower)
    column = found.to_pandas()[lower]
    assert column.is_monotonic_increasing and column.iloc[0] == min(map(known_score, found.seen.architectures))


def test_the_baseline_is_the_best_of_what_was_drawn_at_random(batch, fake):
    found = run(batch)
    drawn = [name for name, origin in zip(fake, found.seen.origins, strict=True) if origin == "random"]
    assert found.baseline["architecture"] == max(drawn, key=known_score)
    assert found.baseline["evaluations"] == len(drawn) >= 10
    assert run(batch, algorithm=RandomSearch(10)).seen.architectures[:10] == drawn[:10]


# ------------------------------------------------------------------ stores, workers, death


def test_a_store_is_reused_and_gives_the_same(batch, fake, tmp_path):
    path = tmp_path / "scores.db"
    first = run(batch, store=path, evaluations=35)
    assert (first.computed, first.reused) == (35, 0)
    fake.clear()
    longer = run(batch, store=path, resume=True)
    assert (longer.computed, longer.reused) == (25, 35) and len(fake) == 25
    assert_same(longer, run(batch))


@pytest.mark.slow
def test_real_scores_are_the_same_with_two_workers(batch):
    options = {"algorithm": Evolution(4, 2, 2, 2), "evaluations": 8}
    one = run(batch, "zico", **options)
    assert_same(one, run(batch, "zico", workers=2, **options))
    space = lh.get_space("nasbench201")
    model = space.build(one.best, 10, image_size=8, seed=0)
    assert lh.score(model, batch, "zico", seed=0)["zico"] == one.to_pandas()["zico"].iloc[0]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_where_an_undisturbed_one_does(tmp_path):
    program = (
        "import sys, json, torch; torch.set_num_threads(1); import lswag_hooks as lh;"
        "from lswag_hooks.search import search, Evolution, evaluation;"
        "import itertools, time; turns, plain = itertools.count(), evaluation.measure;"
        "evaluation.measure = lambda *job: plain(*job) if next(turns) != int(sys.argv[3]) else time.sleep(600);"
        "batch = lh.Batch.builtin('digits', size=(3, 8, 8), samples=8);"
        "found = search('nasbench201', batch, 'zico', algorithm=Evolution(6, 3, 3, 2), evaluations=24,"
        " store=sys.argv[1], progress=False);"
        "kept = found.to_dict(24);"
        "json.dump({key: kept[key] for key in ('best', 'history', 'evaluations')}, open(sys.argv[2], 'w'))"
    )

    def command(store, out, hangs_at=-1):
        return [sys.executable, "-c", program, str(tmp_path / store), str(tmp_path / out), str(hangs_at)]

    def stored():
        if not (tmp_path / "killed.db").exists():
            return 0
        with Store(tmp_path / "killed.db") as store:
            return len(store)

    kept = 9
    process = subprocess.Popen(command("killed.db", "never.json", hangs_at=kept))  # amid its tenth it is killed
    while stored() < kept:
        time.sleep(0.05)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert stored() == kept
    subprocess.run(command("killed.db", "resumed.json"), check=True)
    subprocess.run(command("fresh.db", "fresh.json"), check=True)
    resumed, fresh = (json.loads((tmp_path / name).read_text()) for name in ("resumed.json", "fresh.json"))
    assert resumed.pop("evaluations") == {"total": 24, "done": 24 - kept, "reused": kept}
    assert fresh.pop("evaluations") == {"total": 24, "done": 24, "reused": 0}
    assert resumed == fresh


def test_ctrl_c_gives_what_is_finished_and_the_rest_follows(batch, fake, tmp_path, monkeypatch):
    plain = evaluation.measure

    def stopped(work, architecture):
        if len(fake) == 27:
            raise KeyboardInterrupt
        return plain(work, architecture)

    monkeypatch.setattr(evaluation, "measure", stopped)
    part = run(batch, store=tmp_path / "scores.db")
    assert part.interrupted and part.evaluations == len(part.seen) == 27
    monkeypatch.setattr(evaluation, "measure", plain)
    whole = run(batch, store=tmp_path / "scores.db")
    assert (whole.reused, whole.computed) == (27, 33) and not whole.interrupted
    assert_same(whole, run(batch))


def test_what_cannot_be_scored_is_no_parent_and_comes_last(batch, fake, monkeypatch):
    plain = evaluation.measure

    def partly(work, architecture):
        if "none" in architecture:
            return Measured({"swap": float("nan")}, {"swap": "it has a hole"})
        return plain(work, architecture)

    monkeypatch.setattr(evaluation, "measure", partly)
    found = run(batch)
    frame = found.to_pandas()
    assert "none" not in found.best and len(frame) == 60
    failed = frame["score"].isna()
    assert failed.any() and set(frame["reason"][failed]) == {"it has a hole"}
    assert not failed.iloc[: 60 - failed.sum()].any()


# ------------------------------------------------------------------ what comes out


def test_yaml_and_dictionary(batch, fake, tmp_path):
    found = run(batch, max_params=1_000_000)
    text = found.to_yaml(tmp_path / "best.yaml", number=3)
    assert (tmp_path / "best.yaml").read_text() == text
    content = yaml.safe_load(text)
    assert [one["architecture"] for one in content["architectures"]] == found.top(3)
    assert content["space"] == "nasbench201" and content["architectures"][0]["params"] <= 1_000_000
    plain = found.to_dict(3)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["best"][0]["scores"] == {"swap": known_score(found.best)}
    assert plain["history"][-1]["evaluations"] == 60 and plain["history"][-1]["best"] == found.best


def test_histories_never_fall(batch, fake):
    scores = [step["score"] for step in run(batch).history]
    assert scores == sorted(scores) and len(scores) == 6


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evaluations": 0}, "evaluations=0: give one or more"),
        ({"evaluations": 2.5}, "evaluations=2.5"),
        ({"algorithm": "evolutoin"}, "Did you mean 'evolution'"),
        ({"algorithm": "pruning", "evaluations": None}, "use it on 'darts'"),
        ({"engine": "spark"}, "there are local, ray"),
        ({"workers": 0}, "workers=0"),
        ({"address": "auto"}, "engine='ray'"),
        ({"objectives": "params"}, "'score' first"),
        ({"objectives": "score,parms"}, "Did you mean 'params'"),
        ({"merge": "sum"}, "merge='sum'"),
        ({"max_params": 0}, "max_params=0"),
        ({"min_params": 5, "max_params": 4}, "nothing can be both"),
        ({"resume": True}, "give store=FILE"),
        ({"mode": "test"}, "mode='test'"),
        ({"task": "svhn"}, "no task 'svhn'"),
        ({"proxies": "zicco"}, "zico"),
    ],
)
def test_bad_input_is_told_before_any_work(batch, fake, options, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        run(batch, **options)
    assert not fake


@pytest.mark.parametrize(
    ("space", "limits", "said"),
    [
        ("nasbench201", {"max_params": 70_000}, "at most 70,000 parameters: the nearest has 73,306 parameters"),
        ("nasbench201", {"min_params": 2_000_000}, "the nearest has 1,531,546 parameters"),
        ("nasbench201", {"max_flops": 10}, "the nearest has 7,943,872 flops"),
        ("burgerformer", {"max_params": 400_000}, "the nearest has 465,472 parameters"),
    ],
)
def test_an_impossible_limit_names_the_nearest_value(batch, fake, space, limits, said):
    with pytest.raises(InputError, match=said):
        search(space, batch, "swap", progress=False, **limits)
    assert not fake


def test_there_must_be_something_to_resume(batch, fake, tmp_path):
    path = tmp_path / "scores.db"
    with pytest.raises(InputError, match="no store"):
        run(batch, store=path, resume=True)
    assert not path.exists()
    run(batch, store=path, evaluations=5)
    other = lh.Batch.builtin("digits", size=(3, 8, 8), samples=9)
    with pytest.raises(InputError, match="no score of nasbench201 with this batch"):
        run(other, store=path, resume=True)
    assert run(other, store=path, evaluations=5).reused == 0
    with pytest.raises(InputError, match="no score of nasbench101 with this batch"):
        search("nasbench101", batch, "swap", store=path, resume=True, progress=False)


def test_an_unreachable_cluster_is_told(batch):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"nothing answers at '127\.0\.0\.1:9'.*ray start --head"):
        run(batch, engine="ray", address="127.0.0.1:9")


def test_a_foreign_file_is_refused_and_left_as_it_is(batch, fake, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a store")
    with pytest.raises(InputError, match="is not a store"):
        run(batch, store=path)
    assert path.read_text() == "not a store" and not fake


def test_where_nothing_can_be_scored_it_ends_after_the_first_generation(batch, fake, monkeypatch):
    lost = Measured({"swap": float("nan")}, {"swap": "images of 8 x 8 are too small"})
    monkeypatch.setattr(evaluation, "measure", lambda work, name: fake.append(name) or lost)
    with pytest.raises(InputError, match="none of the first 10 architectures could be scored: images of 8 x 8"):
        run(batch)
    assert len(fake) == 10


def test_settings_of_an_evolution_must_agree():
    with pytest.raises(InputError, match="at most the population, 10"):
        Evolution(population=10)
    with pytest.raises(InputError, match="parents=0"):
        Evolution(parents=0)
