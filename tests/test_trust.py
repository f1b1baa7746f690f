"""What a ranking is worth: the nearest benchmark, and what to expect of so few candidates."""

import importlib
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

import lswag_hooks as lh
from lswag_hooks.agreement import Agreement
from lswag_hooks.cli import main
from lswag_hooks.measured import Figure, Measured, figures_of, measured, summary_of_sizes
from lswag_hooks.standings import Ranking, Row

module = importlib.import_module("lswag_hooks.trust")  # the function of that name hides it


def benchmark(name, params, spread=0.5, networks=203, score=0.8, size=0.6, left=(0.3, 0.1, 0.5)):
    figure = lambda value: Figure(value, value - 0.1, value + 0.1)  # noqa: E731
    return Measured(
        name,
        networks,
        {"params": (math.log(params), spread), "depth": (math.log(50), 0.3)},
        {"zico": figure(score), "params": figure(size)},
        {"zico": Figure(*left)},
        {"what": name, "batch": "8 images"},
    )


@pytest.fixture
def stored(monkeypatch):
    def put(*benchmarks):
        monkeypatch.setattr(module, "measured", lambda: {one.name: one for one in benchmarks})

    put(benchmark("cells", 5e5), benchmark("vits", 7e6))
    return put


def test_the_benchmark_of_the_nearest_sizes_is_found(stored):
    assert lh.trust({"params": [6e6, 8e6, 9e6]}).benchmark.name == "vits"
    found = lh.trust({"params": [4e5, 6e5], "depth": [40, 60]})
    assert found.benchmark.name == "cells"
    params = (abs(np.log([4e5, 6e5]).mean() - np.log(5e5)), abs(np.log([4e5, 6e5]).std() - 0.5))
    depth = (abs(np.log([40, 60]).mean() - np.log(50)), abs(np.log([40, 60]).std() - 0.3))
    assert found.distance == pytest.approx((sum(params) + sum(depth)) / 2, abs=1e-3)


def test_the_interval_holds_what_samples_of_that_size_show(stored):
    """19 of 20 samples of 30 networks from a population of correlation .8 fall inside."""
    low, high = (getattr(lh.trust({"params": np.geomspace(3e5, 8e5, 30)}).expected["zico"], k) for k in ("low", "high"))
    rng = np.random.default_rng(0)
    normal = 2 * np.sin(np.pi * 0.8 / 6)  # of a Gaussian whose Spearman is .8
    inside = 0
    for _ in range(400):
        x = rng.normal(size=30)
        y = normal * x + math.sqrt(1 - normal**2) * rng.normal(size=30)
        inside += low <= pd.Series(x).corr(pd.Series(y), method="spearman") <= high
    assert 370 <= inside <= 398


def test_few_candidates_mean_wide_intervals(stored):
    width = []
    for count in (4, 40, 400):
        one = lh.trust({"params": np.geomspace(3e5, 8e5, count)}).expected["zico"]
        width.append(one.high - one.low)
    assert width[0] > 1.2 and width == sorted(width, reverse=True)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (benchmark("a", 5e5, score=0.5), "no proxy did better there than params"),
        (benchmark("a", 5e5, left=(0.1, -0.1, 0.3)), "nothing of zico's correlation is certain"),
        (benchmark("a", 9e9), "unlike every benchmark"),
    ],
)
def test_cautions(stored, one, said):
    stored(one)
    assert said in " ".join(lh.trust({"params": [4e5, 6e5]}).remarks())


def test_no_caution_where_there_is_no_cause(stored):
    stored(benchmark("a", 5e5))
    assert not any("note" in line for line in lh.trust({"params": np.geomspace(2e5, 1e6, 50)}).remarks())


def test_of_a_ranking():
    batch = lh.Batch(torch.randn(4, 3, 8, 8), torch.arange(4))

    def network(width):
        return lambda: torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36 * width, 4)
        )

    ranking = lh.rank({f"{w}": network(w) for w in (4, 8)}, batch)
    sizes = {name: [getattr(row, name) for row in ranking.rows] for name in module.SIZES}
    assert lh.trust(ranking).distances == lh.trust(sizes).distances


@pytest.mark.parametrize("bad", [{}, {"params": [1e6]}, {"weight": [1.0, 2.0]}, {"params": [math.nan, math.nan]}])
def test_what_cannot_be_told(bad):
    with pytest.raises(lh.InputError, match=r"give|no size"):
        lh.trust(bad)


def test_figures_of_a_comparison_are_kept_with_the_sizes():
    rng = np.random.default_rng(1)
    size = rng.lognormal(2, 1, 40)
    scores = pd.DataFrame({"zico": rng.normal(size=40), "params": size, "unwanted": rng.normal(size=40)})
    kept = figures_of(Agreement(scores, pd.Series(size)), ["zico"], {"what": "made up"})
    assert set(kept["proxies"]) == {"zico", "params"} and kept["networks"] == 40
    assert kept["proxies"]["params"]["spearman"] == [1.0, 1.0, 1.0]
    assert kept["sizes"]["params"] == pytest.approx((np.log(size).mean(), np.log(size).std()), abs=1e-4)


def test_sizes_that_are_unknown_are_left_out():
    assert summary_of_sizes({"params": [math.nan, 4.0, None, 4.0], "flops": [math.nan]}) == {
        "params": (round(math.log(4), 4), 0.0)
    }


def test_the_stored_figures_are_whole():
    for name, one in measured().items():
        assert one.networks >= 40 and set(one.sizes) == set(module.SIZES), name
        assert {"lswag", "lswag_robust", "params"} <= set(one.spearman) and "command" in one.about
        assert all(f.low <= f.value <= f.high for f in (*one.spearman.values(), *one.partial.values()))


def test_command(tmp_path, capsys):
    out = tmp_path / "trust.json"
    models = [
        "nasbench201/" + "+".join(["|{0}~0|", "|{0}~0|{0}~1|", "|{0}~0|{0}~1|{0}~2|"]).format(op)
        for op in ("nor_conv_1x1", "nor_conv_3x3")
    ]
    arguments = ["trust", *models, "--size", "3,32,32", "--samples", "4", "--json", str(out)]
    assert main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["candidates"] == 2 and found["benchmark"] in measured() and found["notes"]
    shown = capsys.readouterr().out
    assert "Spearman" in shown and "with 2 candidates" in shown


def test_figures_of_fewer_networks_are_less_certain():
    nb201 = measured()["nb201"]
    assert nb201.networks_of("zen") < nb201.networks_of("lswag") == nb201.networks
    wide = lh.trust({"params": np.geomspace(3e5, 8e5, 500), "depth": np.linspace(40, 60, 500)})
    assert wide.benchmark.name == "nb201"
    for name, one in wide.expected.items():
        error = math.sqrt(1.06 / 497 + 1.06 / (wide.benchmark.networks_of(name) - 3))
        assert math.atanh(one.high) - math.atanh(one.value) == pytest.approx(1.96 * error, rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "proxy", "said"),
    [
        (
            {"params": [4e5, 6e5]},
            "zico",
            r"on cells, the nearest that was measured, zico had \+0.30 \[\+0.10, \+0.50\]",
        ),
        ({"params": [4e12, 6e12]}, "zico", "what zico adds is not known"),
        ({"params": [4e5, 6e5]}, "params", None),
        ({"params": [4e5, 6e5]}, "mine", None),
        ({"params": [4e5]}, "zico", None),
    ],
)
def test_what_a_proxy_adds_to_size_is_said_in_a_line(stored, sizes, proxy, said):
    found = module.given_size(sizes, proxy)
    assert found is None if said is None else re.match(f"given size: .*{said}", found)
    rows = [Row(str(n), {proxy: float(n)}, params=value) for n, value in enumerate(sizes["params"])]
    ranking = Ranking(rows, {proxy: True})
    assert ranking.given_size() == found == ranking.to_dict()["given_size"]
    assert (found in ranking.remarks()) == (found is not None)


def test_candidates_of_several_families_are_compared_with_several_families():
    def ranked(*names):
        return Ranking([Row(name, {"lswag": 1.0}, params=6e5, depth=40) for name in names], {"lswag": True})

    assert lh.trust(ranked("timm/resnet18", "timm/resnet34")).benchmark.name == "nb201"
    assert lh.trust(ranked("timm/resnet18", "timm/vit_tiny_patch16_224")).benchmark.name == "timm"
    assert "among sets of several families: timm" in lh.trust(ranked("timm/resnet18", "timm/pvt_v2_b0")).remarks()[0]
