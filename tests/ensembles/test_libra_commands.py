import json

import numpy as np
import pandas as pd
import pytest

from lswag_hooks.cli import _Parser
from lswag_hooks.commands.libra import add_libra, run_libra
from lswag_hooks.ensembles import Libra, LibraChecked, list_fitted
from lswag_hooks.errors import InputError


@pytest.fixture(autouse=True)
def _wide(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scores(tmp_path):
    rng = np.random.default_rng(0)
    accuracy = rng.normal(size=120)
    table = pd.DataFrame({name: accuracy + s * rng.normal(size=120) for name, s in (("zico", 0.5), ("params", 0.6))})
    table["cost"] = -accuracy + 0.4 * rng.normal(size=120)
    table = table.assign(top1=accuracy, name=[f"net{i}" for i in range(120)])
    table.to_csv(tmp_path / "scores.csv", index=False)
    return table


def run(*arguments):
    parser = _Parser(prog="lswag libra")
    add_libra(parser)
    return run_libra(parser.parse_args([*map(str, arguments)]))


def test_fit_apply_explain(scores, capsys):
    assert run("fit", "scores.csv", "--accuracy", "top1", "-o", "libra.json", "--lower-is-better", "cost") == 0
    libra = Libra.load("libra.json")
    expected = Libra(higher_is_better={"cost": False}).fit(scores.drop(columns=["name", "top1"]), scores["top1"])
    assert libra.selected == expected.selected and libra.selected[0] == "cost"
    said = capsys.readouterr().out
    assert "cost: the highest correlation" in said and "written: libra.json" in said

    scores.loc[5, "zico"] = np.nan
    scores.drop(columns="top1").to_csv("new.csv", index=False)
    assert run("apply", "libra.json", "new.csv", "--top", 3, "--csv", "ranks.csv") == 0
    said = capsys.readouterr().out
    ranks = pd.read_csv("ranks.csv").set_index("name")["rank"]
    wanted = expected.rank(scores.set_index("name"))
    assert ranks.dropna().to_dict() == wanted.dropna().to_dict()
    assert all(name in said for name in wanted.index[:3]) and wanted.index[3] not in said.split("not ranked")[0]
    assert "120 candidates" in said and "by -cost + " in said and "a score is missing: 1: net5" in said

    assert run("explain", "libra.json") == 0
    assert libra.report() in capsys.readouterr().out
    assert run("explain", "libra.json", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == libra.to_dict()


def test_the_checked_rule_and_fitted_directions(scores):
    arguments = ("fit", "scores.csv", "--accuracy", "top1", "-o", "libra.json", "--rule", "checked")
    assert run(*arguments, "--merge", "rank", "--size", "none_such") == 0
    libra = Libra.load("libra.json")
    assert type(libra) is LibraChecked and libra.merge == "rank" and libra.tolerance is None
    assert "cost" in libra.selected  # turned round of itself
    run("fit", "scores.csv", "--accuracy", "top1", "-o", "libra.json", "--fit-directions", "--tolerance", "0.3")
    libra = Libra.load("libra.json")
    assert type(libra) is Libra and libra.tolerance == 0.3 and libra.selected[0] == "cost"


def test_a_benchmark_with_and_without_scores_of_ones_own(capsys):
    assert run("fit", "--benchmark", "nasbench201", "-o", "a.json") == 0
    from lswag_hooks.benchmark import Benchmark

    benchmark = Benchmark.load("nasbench201")
    assert Libra.load("a.json").selected == Libra().fit(benchmark).selected
    own = benchmark.proxies("cifar10")[["nwot", "params", "synflow"]].dropna()[:100]
    own.to_csv("own.csv")
    assert run("fit", "own.csv", "--benchmark", "nasbench201", "-o", "b.json") == 0
    libra = Libra.load("b.json")
    assert libra.seen["networks"] == 100 and set(libra.seen["proxies"]) == {"nwot", "params", "synflow"}
    assert libra.seen["source"] == {"file": "own.csv", "benchmark": "nasbench201", "task": "cifar10"}


def test_explain_of_what_comes_with_the_package(capsys):
    assert run("explain", "transnasbench_macro/autoencoder/checked") == 0
    said = capsys.readouterr().out
    assert "LibraChecked fitted to 725 networks" in said and "judged on the other, ten times: LIBRA 0.800" in said
    assert run("explain") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in list_fitted() if not name.endswith("/checked"))
    line = next(line for line in said.splitlines() if line.startswith("LIBRA "))
    assert line.split()[1:] == ["0.704", "0.805", "0.849", "0.530"]
    paper = next(line for line in said.splitlines() if line.startswith("paper, LIBRA "))
    assert paper.split()[2:] == ["0.770", "0.890", "0.890", "0.740"]


def test_nothing_that_can_be_ranked_is_exit_status_one(scores, capsys):
    run("fit", "scores.csv", "--accuracy", "top1", "-o", "libra.json")
    pd.DataFrame({"zico": [np.nan], "params": [1.0], "cost": [1.0], "name": ["a"]}).to_csv("n.csv", index=False)
    assert run("apply", "libra.json", "n.csv") == 1
    assert "not ranked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "-o", "x.json"], "give SCORES.csv and --accuracy"),
        (["fit", "scores.csv", "-o", "x.json"], "give SCORES.csv and --accuracy"),
        (["fit", "scores.csv", "--accuracy", "top1", "-o", "no/x.json"], "there is no folder no"),
        (["fit", "scores.csv", "--accuracy", "top1", "-o", "x.json", "--rule", "papr"], "Did you mean 'paper'"),
        (["fit", "scores.csv", "--accuracy", "top", "-o", "x.json"], "Did you mean 'top1'"),
        (["fit", "--benchmark", "nasbench201", "--accuracy", "top1", "-o", "x.json"], "give one"),
        (["fit", "s", "--accuracy", "a", "-o", "x", "--fit-directions", "--lower-is-better", "a"], "give one of them"),
        (["fit", "scores.csv", "--accuracy", "top1"], "out"),
        (["apply", "nowhere.json", "scores.csv"], "there is no fitted LIBRA"),
        (["apply", "nasbench201/cifar10", "scores.csv"], "the scores lack jacov"),
        (["apply", "nasbench201/cifar10", "nowhere.csv"], "there is no file"),
        ([], "one of {fit,apply,explain}"),
    ],
)
def test_bad_input_is_told(scores, arguments, message):
    with pytest.raises(InputError, match=message):
        run(*arguments)
