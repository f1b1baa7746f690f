import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import lswag_hooks as lh
from lswag_hooks.agreement import BASELINES, Agreement
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.cli import main
from lswag_hooks.correlating import correlate
from lswag_hooks.errors import InputError
from lswag_hooks.measured import figures_of
from lswag_hooks.passes.flow import Flow
from lswag_hooks.spaces.nasbench201 import NASBench201
from lswag_hooks.store import Store

DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.fixture(scope="module")
def batch():
    return lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)


def few(count, *more):
    table = Benchmark.load("nasbench201").sample("cifar10", count, seed=1).to_pandas()
    extra = pd.DataFrame({"task": "cifar10", "architecture": list(more), "accuracy": 10.0})
    return Benchmark("few", "nasbench201", pd.concat([table, extra], ignore_index=True), "a test")


def run(batch, benchmark, **options):
    options = {"architectures": 0, "resamples": 20, "progress": False, **options}
    return correlate("nasbench201", batch, "lswag,zico", benchmark=benchmark, **options)


def test_scores_are_those_of_score_and_correlations_those_of_scipy(batch):
    benchmark = few(8)
    found = run(batch, benchmark)
    space = lh.get_space("nasbench201")
    for architecture in benchmark.architectures("cifar10")[:2]:
        model = space.build(architecture, 10, image_size=8, seed=0)
        result = lh.score(model, batch, ["lswag", "zico", "params", "flops", "depth", "log_size"], seed=0)
        assert dict(found.scores.loc[architecture]) == pytest.approx(dict(result))
    truth = benchmark.accuracy("cifar10").loc[found.scores.index]
    assert found.estimates["zico"]["spearman"].value == pytest.approx(stats.spearmanr(found.scores["zico"], truth)[0])
    assert found.estimates["lswag"]["kendall"].value == pytest.approx(stats.kendalltau(found.scores["lswag"], truth)[0])


def test_a_degenerate_architecture_is_left_out_with_its_reason(batch):
    found = run(batch, few(6, DISCONNECTED))
    assert found.scores.loc[DISCONNECTED].isna().all()
    assert "disconnected" in found.reasons[DISCONNECTED]
    assert DISCONNECTED not in found.complete and len(found.complete) == 6
    assert any("left out: 1 networks: disconnected" in remark for remark in found.remarks())


def test_a_store_is_reused_and_gives_the_same(batch, tmp_path, monkeypatch):
    path = tmp_path / "scores.db"
    first = run(batch, few(6, DISCONNECTED), store=path)
    with Store(path) as store:
        assert len(store) == 7 * 6
    monkeypatch.setattr("lswag_hooks.measuring.measure", None)  # nothing is left to be measured
    again = run(batch, few(6, DISCONNECTED), store=path)
    pd.testing.assert_frame_equal(first.scores, again.scores)
    assert first.reasons == again.reasons


def test_what_broke_down_is_not_kept_as_a_score(batch, tmp_path, monkeypatch):
    path, plain = tmp_path / "scores.db", NASBench201.build
    lost, *others = few(4).architectures("cifar10")
    words = iter([MemoryError("not today"), InputError("no images of this size")])

    def starved(space, architecture, *arguments, **options):
        if architecture == lost:
            raise next(words)
        return plain(space, architecture, *arguments, **options)

    monkeypatch.setattr(NASBench201, "build", starved)
    assert run(batch, few(4), store=path).reasons == {lost: "MemoryError: not today"}
    with Store(path) as store:
        assert {record.key.candidate for record in store} == {*others}
        assert {failed.reason for failed in store.failures()} == {"MemoryError: not today"}
    for _ in range(2):  # what this package says is kept, and not asked again
        assert run(batch, few(4), store=path).reasons == {lost: "no images of this size"}
    with Store(path) as store:
        assert len(store) == 4 * 6 and store.failures() == []


def test_a_pass_that_broke_down_is_tried_again(batch, tmp_path, monkeypatch):
    plain, failing = Flow.run, [True]

    def broken(self, *arguments):
        if failing:
            raise MemoryError("not today")
        return plain(self, *arguments)

    monkeypatch.setattr(Flow, "run", broken)

    def scores():
        options = {"architectures": 0, "resamples": 20, "progress": False, "store": tmp_path / "scores.db"}
        return correlate("nasbench201", batch, "zico,synflow", benchmark=few(3), **options).scores

    first = scores()
    assert first["synflow"].isna().all() and first["zico"].notna().all()
    with Store(tmp_path / "scores.db") as store:
        assert "synflow" not in "".join(record.key.proxy for record in store) and len(store.failures()) == 3
    failing.clear()
    again = scores()
    assert again["synflow"].notna().all() and again["zico"].equals(first["zico"])


def test_a_store_does_not_mix_seeds_batches_or_settings(batch, tmp_path):
    path = tmp_path / "scores.db"
    run(batch, few(5), store=path)
    other = run(batch, few(5), store=path, seed=1)
    assert not np.allclose(other.scores["lswag"], run(batch, few(5), store=path).scores["lswag"])
    narrow = run(batch, few(5), store=path, interval=(5, 9))
    assert (narrow.scores["lswag"] < run(batch, few(5), store=path).scores["lswag"]).all()
    with Store(path) as store:
        assert len(store) == 2 * 5 * 6 + 5


def test_workers_give_the_same(batch):
    benchmark = few(5, DISCONNECTED)
    pd.testing.assert_frame_equal(run(batch, benchmark).scores, run(batch, benchmark, workers=2).scores)


@pytest.mark.slow
@pytest.mark.timeout(400)  # three processes after one another, each of which imports torch
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path):
    lswag = "import sys; from lswag_hooks.cli import main; sys.exit(main())"
    hanging = (  # amid its sixth architecture
        "import itertools, time; from lswag_hooks import measuring; turns, plain = itertools.count(), "
        "measuring.measure; measuring.measure = lambda *job: plain(*job) if next(turns) < 5 else time.sleep(600);"
    )
    arguments = ["correlate", "nasbench201", "--architectures", "12", "--samples", "8", "--proxies", "zico"]
    arguments += ["--resamples", "20", "--store", str(tmp_path / "scores.db")]
    process = subprocess.Popen([sys.executable, "-c", hanging + lswag, *arguments], stdout=subprocess.DEVNULL)
    while not (tmp_path / "scores.db").exists() or _stored(tmp_path) < 5 * len(["zico", *BASELINES]):
        time.sleep(0.1)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed, fresh = tmp_path / "resumed.json", tmp_path / "fresh.json"
    command = [sys.executable, "-m", "lswag_hooks", *arguments]
    subprocess.run([*command, "--json", str(resumed)], check=True, stdout=subprocess.DEVNULL)
    command[-1] = str(tmp_path / "other.db")
    subprocess.run([*command, "--json", str(fresh)], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = (json.loads(path.read_text())["correlations"] for path in (resumed, fresh))
    assert ours == theirs


def _stored(folder):
    with Store(folder / "scores.db") as store:
        return len(store)


def test_everything_is_saved(batch, tmp_path):
    found = run(batch, few(8), tenths=True)
    written = {path.name for path in found.save(tmp_path / "out")}
    pictures = {"scores.png", "ranks.png", "tenths.png"}
    assert written == {"correlations.csv", "scores.csv", "summary.json", *pictures}
    assert all((tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    table = pd.read_csv(tmp_path / "out" / "correlations.csv", float_precision="round_trip").set_index("proxy")
    assert table.loc["zico", "spearman"] == pytest.approx(found.estimates["zico"]["spearman"].value)
    assert {"spearman_low", "kendall_high", "partial"} <= set(table.columns)
    scores = pd.read_csv(tmp_path / "out" / "scores.csv", index_col="architecture", float_precision="round_trip")
    np.testing.assert_array_equal(scores["lswag"], found.scores["lswag"])


def test_the_tenths_of_the_layers_add_up_to_the_whole(batch):
    found = run(batch, few(5), tenths=True)
    tenths = found.scores[[name for name in found.scores if name.startswith("lswag tenth")]]
    np.testing.assert_allclose(tenths.sum(axis=1), found.scores["lswag"], rtol=1e-6)
    assert set(found.tenths) == set(range(10)) and "lswag tenth 3" not in found.estimates


def test_the_command_prints_a_table_in_eighty_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["correlate", "nasbench201", "--architectures", "6", "--size", "3,8,8", "--samples", "8"]
    assert main([*arguments, "--proxies", "swap", "--resamples", "20", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(printed) if line.startswith("proxy"))
    names = {line.split()[0] for line in printed[header + 1 : header + 6]}
    assert names == {"swap", "params*", "flops*", "depth*", "log_size*"}
    assert (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nasbench202"], "Did you mean 'nasbench201'"),
        (["nasbench201", "--task", "cifar100"], "has no task 'cifar100'"),
        (["nasbench201", "--architectures", "100000"], "has 500 architectures"),
        (["nasbench101"], "Obtain"),
        (["nasbench201", "--benchmark", "nowhere.csv"], "there is no benchmark"),
        (["nasbench201", "--proxies", "zicoo"], "Did you mean 'zico'"),
        (["nasbench201", "--workers", "0"], "workers=0"),
        (["nasbench201", "--store", "no/such/folder/scores.db"], "no/such/folder"),
        (["nasbench201", "--interval", "5,12"], "interval"),
    ],
)
def test_bad_input_is_told_before_any_work(arguments, said, capsys, monkeypatch):
    monkeypatch.setattr("lswag_hooks.measuring.measure", None)
    assert main(["correlate", *arguments, "--samples", "8"]) == 2
    assert said in capsys.readouterr().err


def test_an_interruption_keeps_what_is_finished(batch, tmp_path, monkeypatch):
    from lswag_hooks import measuring as module

    calls = []

    def twice(work, architecture, measure=module.measure):
        calls.append(architecture)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return measure(work, architecture)

    monkeypatch.setattr(module, "measure", twice)
    found = run(batch, few(9), store=tmp_path / "scores.db")
    assert found.interrupted and len(found.scores) == 6
    assert "interrupted" in " ".join(found.remarks())
    monkeypatch.undo()
    assert len(run(batch, few(9), store=tmp_path / "scores.db").scores) == 9


def test_a_benchmark_of_another_space_is_refused(batch):
    with pytest.raises(InputError, match="holds accuracies of nasbench201, not of darts"):
        correlate("darts", batch, benchmark=few(5))


def test_transnas_tasks_score_with_their_own_losses():
    space = lh.get_space("transnasbench_macro")
    rows = {"task": "autoencoder", "architecture": [space.sample(seed) for seed in range(5)], "accuracy": range(5)}
    benchmark = Benchmark("five", "transnasbench_macro", pd.DataFrame(rows), "a test")
    images = lh.Batch.builtin("digits", size=(3, 32, 32), samples=4)
    found = correlate(
        "transnasbench_macro", images, "zico", benchmark=benchmark, architectures=0, resamples=20, progress=False
    )
    assert found.scores.notna().all().all(), found.reasons


def test_proxies_are_compared_on_the_same_networks():
    scores = pd.DataFrame({"a": [1.0, 2, 3, 4, 5, 6, 7], "b": [1.0, 2, 3, np.nan, 5, 6, 7]}, index=list("abcdefg"))
    found = Agreement(scores, pd.Series(range(7), index=list("abcdefg"), dtype=float), {"d": "no"}, resamples=20)
    assert {estimate["spearman"].pairs for estimate in found.estimates.values()} == {6}


def test_a_proxy_of_some_families_is_compared_on_these_and_takes_no_network_from_the_others():
    names, accuracy = list("abcdefghijkl"), np.array([1.0, 2, 3, 5, 4, 6, 8, 7, 9, 10, 11, 12])
    half, few = accuracy.copy(), accuracy.copy()
    half[:6] = few[5:] = np.nan  # half of them still decide for all
    scores = pd.DataFrame({"a": np.arange(12.0), "few": few}, index=names)
    found = Agreement(scores, pd.Series(accuracy, index=names), {}, resamples=20)
    assert list(found.complete) == names and found.estimates["a"]["spearman"].pairs == 12
    alone = found.estimates["few"]["spearman"]
    assert alone.pairs == 5 and alone.value == pytest.approx(1)
    assert "few: over 5 of these alone, where it has a value" in found.remarks()
    assert list(figures_of(found, ["a", "few"], {})["proxies"]) == ["a"]
    both = Agreement(scores.assign(half=half), found.accuracy, {}, resamples=20)
    assert list(both.complete) == names[6:] and "no value on any of these: few" in both.remarks()


def test_a_proxy_without_any_value_does_not_take_the_others_networks(tmp_path):
    names = list("abcdefg")
    scores = pd.DataFrame({"a": [1.0, 2, 3, 4, 5, 6, np.nan], "none": np.nan}, index=names)
    reasons = dict.fromkeys(names, "none: not defined") | {"g": "disconnected"}
    found = Agreement(scores, pd.Series(range(7), index=names, dtype=float), reasons, resamples=20)
    assert list(found.complete) == names[:6] and found.estimates["a"]["spearman"].pairs == 6
    assert np.isnan(found.estimates["none"]["spearman"].value)
    assert (
        "no value on any of these: none" in found.remarks() and "left out: 1 networks: disconnected" in found.remarks()
    )
    assert (tmp_path / "scores.png") in found.save(tmp_path)
