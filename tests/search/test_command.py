import importlib
import json

import pandas as pd
import pytest
import yaml
from jsonargparse import ArgumentParser

import lswag_hooks as lh
from lswag_hooks.commands.search import add_search, amount, run_search
from lswag_hooks.errors import InputError
from lswag_hooks.measuring import Measured

evaluation = importlib.import_module("lswag_hooks.search.evaluation")
QUICK = ["--population", "6", "--evaluations", "18", "--size", "3,8,8", "--samples", "8", "--proxies", "swap"]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    def measure(work, name):
        return Measured({proxy.key: name.count("nor_conv_3x3") + len(name) / 100 for proxy in work.proxies}, {}, 0.01)

    monkeypatch.setattr(evaluation, "measure", measure)


def run(*arguments):
    parser = ArgumentParser(exit_on_error=False)
    add_search(parser)
    return run_search(parser.parse_args(list(arguments)))


def test_json_has_the_best_and_what_was_done(tmp_path, capsys):
    store = str(tmp_path / "scores.db")
    command = ["nasbench201", *QUICK, "--max-params", "0.9M", "--store", store, "--seed", "3", "--workers", "1"]
    assert run(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluations"] == {"total": 18, "done": 18, "reused": 0}
    space = lh.get_space("nasbench201")
    for row in found["best"]:
        assert row["params"] == space.cost(row["architecture"]).params <= 900_000
        assert row["scores"] == {"swap": row["score"]}
    assert len(found["best"]) == 10
    assert run(*command, "--resume", "--json", str(tmp_path / "again.json"), "--engine", "local") == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["evaluations"] == {"total": 18, "done": 0, "reused": 18}
    assert again["best"] == found["best"]


def test_a_table_with_the_baseline_and_files(tmp_path, capsys):
    yaml_file, csv = tmp_path / "best.yaml", tmp_path / "all.csv"
    assert run("nasbench201", *QUICK, "--best", "2", "--yaml", str(yaml_file), "--csv", str(csv)) == 0
    shown = capsys.readouterr().out
    assert "random, the best of" in shown and "18 evaluations: 18 done, 0 reused" in shown
    table = pd.read_csv(csv)
    best = [one["architecture"] for one in yaml.safe_load(yaml_file.read_text())["architectures"]]
    assert best == list(table["architecture"][:2]) and len(table) == 18


@pytest.mark.parametrize("algorithm", ["random", "optuna", "evolution"])
def test_every_algorithm_and_a_front(algorithm, capsys):
    options = ["--algorithm", algorithm, "--objectives", "score,params", "--json"]
    assert run("nasbench201", *QUICK, *options) == 0
    found = json.loads(capsys.readouterr().out)
    front = [(row["score"], row["params"]) for row in found["front"]]
    assert front == sorted(front, reverse=True) and found["settings"]["algorithm"] == algorithm


def test_burgerformer_without_spatial_mlp(capsys):
    command = ["burgerformer", *QUICK, "--spatial-mlp", "false", "--min-params", "5M", "--max-params", "30M", "--json"]
    assert run(*command) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert all("spatial_mlp" not in row["architecture"] and 5e6 <= row["params"] <= 30e6 for row in best)
    with pytest.raises(InputError, match="is of burgerformer"):
        run("nasbench201", *QUICK, "--spatial-mlp", "false")


def test_bad_input(tmp_path):
    for options, said in (
        (["--algorithm", "annealing"], "there are evolution"),
        (["--evaluations", "0"], "evaluations=0"),
        (["--max-params", "70k"], "the nearest has 73,306"),
        (["--best", "0"], "--best 0"),
        (["--yaml", str(tmp_path / "no" / "best.yaml")], "there is no folder"),
        (["--resume"], "give store=FILE"),
        (["--algorithm", "pruning"], "use it on 'darts'"),
    ):
        with pytest.raises(InputError, match=said):
            run("nasbench201", *QUICK, *options)


def test_amounts():
    assert (amount("24M"), amount("1e3"), amount("2_000k")) == (24_000_000, 1000, 2_000_000)
    for text in ("many", "-3M", "0", "nan"):
        with pytest.raises(Exception, match="write it like 24M"):
            amount(text)
