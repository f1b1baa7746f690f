"""The comparison of searches by known accuracies, on a table and on a store that is made here."""

import importlib.util
import pathlib
import sys

import numpy as np
import pandas as pd
import pytest

import lswag_hooks as lh
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.correlating import correlate

FILE = pathlib.Path(__file__).parent.parent / "benchmarks" / "search.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_search", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_search", module)  # for its dataclasses
    spec.loader.exec_module(module)
    module.SEEDS = range(2)
    return module


def table(path: pathlib.Path, frame: pd.DataFrame) -> str:
    frame.rename(columns={"architecture": "arch", "accuracy": "val_accuracy"}).to_csv(path, index=False)
    return str(path)


def test_by_the_scores_of_a_store(script, tmp_path, capsys):
    known = Benchmark.load("nasbench201").sample("cifar10", 14, seed=2)
    few = Benchmark("few", "nasbench201", known.to_pandas().head(12))
    batch = lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)
    options = {"architectures": 0, "resamples": 20, "progress": False, "store": tmp_path / "nb201.db"}
    found = correlate("nasbench201", batch, "swap,zico", benchmark=few, tenths=True, **options)
    correlate("nasbench201", batch, "swap", benchmark=few, seed=1, **options)
    known_csv, out = table(tmp_path / "known.csv", known.to_pandas()), str(tmp_path / "out")
    script.main([known_csv, "--store", str(tmp_path / "nb201.db"), "--evaluations", "12", "--out", out])
    runs = pd.read_csv(tmp_path / "out" / "search.csv")
    scores, accuracy = found.scores, few.accuracy("cifar10")
    for proxy in ("swap", "zico", "params", "flops"):
        best = set(scores.index[scores[proxy] == scores[proxy].max()])  # with twelve evaluations all twelve are seen
        rows = runs[runs["proxy"] == proxy]
        assert len(rows) == 4 and set(rows["architecture"]) <= best
        assert rows["accuracy"].tolist() == [accuracy[name] for name in rows["architecture"]]
    assert not runs["proxy"].str.contains("interval").any()
    best = runs[runs["proxy"] == "the best there is"]
    assert best["accuracy"].tolist() == [accuracy.max()]
    assert (tmp_path / "out" / "search.png").stat().st_size > 1000
    text = (tmp_path / "out" / "search.md").read_text()
    assert "12 architectures finds with 12 evaluations" in text and "| zico |" in text
    assert "several of seed: taken are those with 0" in capsys.readouterr().out


def test_among_architectures_of_autoformer_with_their_sizes(script, tmp_path):
    space, rng = lh.get_space("autoformer_tiny"), np.random.default_rng(0)
    names = [space.sample(rng) for _ in range(30)]
    specs = [space.parse(name) for name in names]
    frame = pd.DataFrame(
        {
            "depth": [spec.depth for spec in specs],
            "embed_dim": [spec.embed_dim for spec in specs],
            "num_heads": ["-".join(map(str, spec.heads)) for spec in specs],
            "mlp_ratio": ["-".join(map(str, spec.ratios)) for spec in specs],
            "imagenet_top1_inherited": [space.cost(name).params / 1e6 for name in names],
        }
    )
    frame.to_csv(tmp_path / "tiny.csv", index=False)
    script.main([str(tmp_path / "tiny.csv"), "--sizes", "--evaluations", "15", "--out", str(tmp_path / "out")])
    runs = pd.read_csv(tmp_path / "out" / "search.csv").set_index("proxy")
    assert set(runs["architecture"]) <= set(names)
    assert set(runs.index) == {"params", "flops", "depth", "log_size", "no proxy: one at random", "the best there is"}
    assert runs.loc["params", "accuracy"].mean() > runs.loc["no proxy: one at random", "accuracy"].mean()
    batch = lh.Batch.builtin("digits", size=(3, 224, 224), samples=2)
    counted = script.sizes(space, names[:1]).iloc[0]
    result = lh.score(space.build(names[0], seed=0), batch, "params,flops,depth,log_size,zico")
    assert counted["params"] == result["params"] and counted["depth"] == result["depth"]
    assert counted["log_size"] == pytest.approx(result["log_size"])


def test_a_store_of_another_space_is_told(script, tmp_path):
    batch = lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)
    few = Benchmark.load("nasbench201").sample("cifar10", 2)
    correlate("nasbench201", batch, "params", benchmark=few, architectures=0, store=tmp_path / "s.db", progress=False)
    with pytest.raises(SystemExit, match="has no scores of darts"):
        script.stored(tmp_path / "s.db", "darts")
