"""What rules a candidate out before everything of it is computed, and the latency beside the score."""

import importlib
import itertools
import json

import numpy as np
import pytest
import torch
from test_search import known_score, run, told

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.latency import Latency
from lswag_hooks.measuring import Measured
from lswag_hooks.search import Evolution
from lswag_hooks.search.work import SearchWork
from lswag_hooks.store import Store

latency_module = importlib.import_module("lswag_hooks.latency")


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)


@pytest.fixture
def asked(monkeypatch):
    """Scores without networks; gives (architecture, keys) of every call."""
    calls, now = [], []

    def network(work, architecture):
        now[:] = [architecture]
        return None, None

    def scored(work, model, loss, proxies):
        calls.append((now[0], tuple(proxy.key for proxy in proxies)))
        seeds = {"zico": 99, "swap": 0, "lswag": 5, "te_nas_kappa": 7}
        return Measured({proxy.key: known_score(now[0], seeds[proxy.key]) for proxy in proxies})

    monkeypatch.setattr(SearchWork, "network", network)
    monkeypatch.setattr(SearchWork, "scored", scored)
    return calls


def times(calls, key):
    return sum(key in keys for _, keys in calls)


@pytest.mark.parametrize("proxies", ["lswag", "lswag,zico", "zico", "zico,lswag"])
@pytest.mark.parametrize("objectives", ["score", "score,params"])
def test_it_ends_where_a_search_that_computes_everything_does_and_computes_less(batch, asked, proxies, objectives):
    options = {"require": {"zico": 3.0}, "objectives": objectives}
    early = run(batch, proxies, **options)
    spared = times(asked, "zico") - times(asked, "lswag")
    asked.clear()
    late = run(batch, proxies, early_exit=False, **options)
    assert [keys for _, keys in asked] == [asked[0][1]] * 60  # everything of each, in one pass
    for one, other in zip(told(early), told(late), strict=True):
        assert one.equals(other) if hasattr(one, "equals") else one == other
    if "lswag" in proxies:
        assert early.spared == spared > 10 and late.spared == 0
    frame = early.to_pandas()
    out = frame["zico"] < 3
    assert out.any() and not out.all() and frame["score"].isna().equals(out)
    assert set(frame["reason"][out]) <= {"left out: zico is below 3", None}
    assert all(known_score(name, 99) >= 3 for name in (early.best, *early.front))


def test_among_all_architectures_the_best_that_keeps_it_is_found(batch, asked):
    found = run(batch, "lswag", algorithm="random", evaluations=400, require={"zico": 4.5, "swap": 2.0})
    names = found.seen.architectures
    allowed = [name for name in names if known_score(name, 99) >= 4.5 and known_score(name) >= 2]
    assert 0 < len(allowed) < 100
    assert found.top(5) == sorted(allowed, key=lambda name: -known_score(name, 5))[:5]
    assert times(asked, "lswag") == len(allowed) and found.spared == 400 - len(allowed)
    assert f"left out early: of {found.spared} candidates" in " ".join(found.remarks())


def test_a_proxy_that_is_better_when_lower_has_an_upper_bound(batch, asked):
    assert not lh.proxies.proxy_class("te_nas_kappa").higher_is_better
    found = run(batch, "lswag", require={"te_nas_kappa": 3.0})
    frame = found.to_pandas()
    assert (frame["te_nas_kappa"] > 3).equals(frame["score"].isna())
    assert "left out: te_nas_kappa is above 3" in set(frame["reason"].dropna())


def test_with_a_store_it_resumes_and_keeps_no_score_that_was_not_computed(batch, asked, tmp_path):
    options = {"require": {"zico": 3.0}, "store": tmp_path / "scores.db"}
    first = run(batch, "lswag", evaluations=30, **options)
    with Store(tmp_path / "scores.db") as store:
        assert len(store) == 60 - first.spared and not store.to_pandas()["value"].isna().any()
    asked.clear()
    longer = run(batch, "lswag", **options)
    assert len({name for name, _ in asked}) == 30 and longer.reused == 30
    fresh = run(batch, "lswag", require={"zico": 3.0})
    assert all(
        one.equals(other) if hasattr(one, "equals") else one == other
        for one, other in zip(told(longer), told(fresh), strict=True)
    )
    free = run(batch, "lswag", evaluations=30, store=tmp_path / "scores.db")  # without it all have their scores
    assert not free.to_pandas()["score"].isna().any()
    held = run(batch, "lswag", evaluations=30, **options)  # and with it those that are known now are still out
    assert held.to_pandas()["score"].isna().sum() == first.spared == held.spared


@pytest.mark.slow
def test_on_real_networks_both_ways_are_the_same_to_the_last_bit(batch):
    options = {"algorithm": Evolution(6, 3, 3, 3), "evaluations": 12}
    first = run(batch, "swap", algorithm="random", evaluations=6).to_pandas()["swap"]
    options["require"] = {"swap": float(np.median(first))}
    early, late = (run(batch, "lswag", early_exit=early, **options) for early in (True, False))
    for one, other in zip(told(early), told(late), strict=True):
        assert one.equals(other) if hasattr(one, "equals") else one == other
    assert 0 < early.spared < 12


# ------------------------------------------------------------------ latency


@pytest.fixture
def clock(monkeypatch):
    """Latencies that are known; gives what was measured."""
    measured = []

    def measure(self, space, architecture, task=None):
        measured.append(architecture)
        return 1e-3 * known_score(architecture, 17)

    monkeypatch.setattr(Latency, "measure", measure)
    return measured


def test_a_front_of_three_objectives(batch, asked, clock):
    found = run(batch, "lswag", objectives="score,params,latency", evaluations=100)
    cost = lh.get_space("nasbench201").cost
    names = found.seen.architectures
    points = {n: (known_score(n, 5), -cost(n).params, -known_score(n, 17)) for n in names}

    def beaten(mine):
        return any(all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine for other in points.values())

    assert set(found.front) == {name for name in names if not beaten(points[name])}
    assert sorted(clock) == sorted(names) and len(found.front) > 3
    two = run(batch, "lswag", objectives="score,params", evaluations=100)
    assert two.seen.architectures != names  # it is part of what decides
    row = found.to_dict()["front"][0]
    assert row["scores"]["latency"] == 1e-3 * known_score(row["architecture"], 17)
    assert "latency" in found.cells()[0] and "latency" in found.to_pandas()
    trial = found.study().trials[0]
    assert trial.values[2] == 1e-3 * known_score(trial.user_attrs["architecture"], 17)


def test_latencies_are_kept_for_the_same_measurement_and_machine(batch, asked, clock, tmp_path):
    def again(**options):
        clock.clear()
        run(
            batch, "lswag", objectives="score,latency", evaluations=10, store=tmp_path / "s.db",
            latency=Latency(**options),
        )  # fmt: skip
        return len(clock)

    assert (again(), again(), again(repeats=7), again(machine="another"), again(samples=2)) == (10, 0, 10, 10, 10)
    assert again(threads=torch.get_num_threads() + 1) == 10


def test_a_latency_may_be_required(batch, asked, clock):
    found = run(batch, "lswag", require={"latency": 3e-3})
    frame = found.to_pandas()
    assert (frame["latency"] > 3e-3).equals(frame["score"].isna())
    assert times(asked, "lswag") == 60 - found.spared < 60


def test_the_median_after_warming_up(monkeypatch):
    ticks = iter(itertools.accumulate([0, 9, 0, 9, 0, 1, 0, 5, 0, 2]))
    monkeypatch.setattr(latency_module.time, "perf_counter", lambda: next(ticks))
    calls = []
    seconds = latency_module.median_seconds(lambda: calls.append(1), torch.device("cpu"), repeats=3, warmup=2)
    assert (seconds, len(calls)) == (2, 5)


def test_it_is_measured_at_the_size_of_the_task_without_gradients(monkeypatch):
    seen = []
    plain = torch.nn.Conv2d.forward

    def forward(self, images):
        seen.append((tuple(images.shape), torch.is_inference_mode_enabled(), torch.get_num_threads(), self.training))
        return plain(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    space, threads = lh.get_space("nasbench201"), torch.get_num_threads()
    seconds = Latency(samples=2, repeats=2, warmup=1, threads=threads + 1).measure(space, space.sample(0))
    assert seconds > 0 and seen[0] == ((2, 3, 32, 32), True, threads + 1, False)
    assert sum(shape == (2, 3, 32, 32) for shape, *_ in seen) == 3 and torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objectives": "score,latency", "workers": 2}, "use workers=1"),
        ({"require": {"latency": 1}, "workers": 2}, "use workers=1"),
        ({"latency": Latency()}, "name 'latency' in objectives"),
        ({"require": {"zicco": 1.0}}, "Did you mean 'zico'"),
        ({"require": {"zico": float("nan")}}, "the least good value"),
        ({"require": {"zico": "much"}}, "the least good value"),
        ({"require": {"zico": 1.0}, "algorithm": "pruning", "evaluations": None}, "pruning"),
    ],
)
def test_bad_input(batch, asked, options, said):
    with pytest.raises(InputError, match=said):
        run(batch, "lswag", **options)
    assert not asked


@pytest.mark.parametrize("options", [{"samples": 0}, {"repeats": 0}, {"warmup": -1}, {"device": "toaster"}])
def test_a_measurement_that_makes_no_sense(options):
    with pytest.raises(InputError, match="latency: "):
        Latency(**options)


def test_the_command(asked, clock, capsys):
    from test_command import run as command

    options = ["--proxies", "lswag", "--objectives", "score,params,latency", "--require", "zico=2"]
    status = command(
        *["nasbench201", "--population", "6", "--evaluations", "18", "--size", "3,8,8", "--samples", "8", *options],
        *["--latency-samples", "4", "--latency-repeats", "5", "--json"],
    )
    found = json.loads(capsys.readouterr().out)
    assert status == 0 and found["settings"]["require"] == {"zico": 2.0}
    assert found["settings"]["latency"]["samples"] == 4 and found["settings"]["latency"]["repeats"] == 5
    assert all(np.isfinite(row["scores"]["latency"]) for row in found["front"])
    assert found["left_out_early"] > 0
