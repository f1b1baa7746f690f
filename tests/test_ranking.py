import json
import math
import statistics
import weakref
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks import Batch, InputError, Ranking, prefilter, rank
from lswag_hooks.proxies import Params
from lswag_hooks.standings import Row, summarise
from lswag_hooks.wording import jsonable, named, quantity


def small(width: int = 4, classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, classes))


def narrow() -> nn.Module:
    return small(2)


def wide() -> nn.Module:
    return small(16)


class Refuses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, x):
        raise RuntimeError("this one\n  cannot run")


def unbuildable() -> nn.Module:
    raise OSError("no weights here")


@pytest.fixture
def batch() -> Batch:
    return Batch.builtin("digits", size=8, samples=8)


def test_order_scores_and_sizes(batch):
    ranking = rank({"narrow": narrow, "wide": wide}, batch, proxies="lswag,zico", seeds=1)
    assert ranking.top(5) == ["wide", "narrow"]
    frame = ranking.to_pandas()
    assert list(frame.columns) == [
        *("name", "rank", "lswag", "zico", "params", "flops", "depth", "log_size"),
        *("zero_gradient_share", "coverage", "seconds", "reason"),
    ]
    model = lh.build(wide, seed=0)
    alone = lh.score(model, batch, "lswag,zico,flops", seed=0)
    first = frame.iloc[0]
    assert (first["name"], first["rank"], first["reason"]) == ("wide", 1, "")
    assert first["lswag"] == alone["lswag"] and first["zico"] == alone["zico"]
    assert first["params"] == sum(p.numel() for p in model.parameters())
    assert first["flops"] == alone["flops"] and first["depth"] == 2 and first["coverage"] == 1
    assert first["log_size"] == pytest.approx(math.log(16 * 27) + math.log(16 * 36 * 10))
    assert ranking.results["wide"][0]["lswag"] == alone["lswag"]


def test_lower_may_be_better(batch):
    @dataclass(frozen=True)
    class Fewest(Params):
        name = "fewest"
        higher_is_better = False

    ranking = rank({"wide": wide, "narrow": narrow}, batch, [Fewest(), "zico"])
    assert ranking.top(1) == ["narrow"]
    assert ranking.to_pandas()["fewest"].is_monotonic_increasing
    assert rank({"wide": wide, "narrow": narrow}, batch, ["zico", Fewest()]).top(1) == ["wide"]


def test_sizes_are_proxies_too(batch):
    frame = rank([narrow, wide], batch, "flops,params").to_pandas()
    assert list(frame["name"]) == ["wide", "narrow"]
    assert list(frame.columns).count("params") == 1 and frame["depth"].isna().all()
    assert frame["params"].iloc[0] == sum(p.numel() for p in wide().parameters())


def test_seeds_are_averaged_and_their_spread_is_told(batch):
    ranking = rank({"narrow": narrow}, batch, seeds=[5, 0, 9])
    values = [lh.score(lh.build(narrow, seed=seed), batch, seed=seed)["lswag"] for seed in (5, 0, 9)]
    row = ranking.to_pandas().iloc[0]
    assert row["lswag"] == pytest.approx(statistics.fmean(values))
    assert row["lswag_std"] == pytest.approx(statistics.stdev(values))
    assert list(ranking.results["narrow"]) == [5, 0, 9] and ranking.seeds == [5, 0, 9]


def test_close_neighbours_are_told(batch):
    ranking = rank({"one": narrow, "again": lambda: small(2), "wide": wide}, batch, seeds=2)
    assert any("one and again" in note and "not settled" in note for note in ranking.notes)
    apart = Ranking([Row("a", {"s": 9.0}, {"s": 1.0}), Row("b", {"s": 1.0}, {"s": 1.0})], {"s": True})
    assert not apart.notes


def test_a_module_as_it_is_is_scored_once_and_untouched(batch):
    model = wide()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shared = narrow()
    ranking = rank({"given": model, "shared": lambda: shared, "drawn": narrow}, batch, seeds=3)
    frame = ranking.to_pandas().set_index("name")
    assert math.isnan(frame.loc["given", "lswag_std"]) and math.isnan(frame.loc["shared", "lswag_std"])
    assert frame.loc["drawn", "lswag_std"] > 0
    assert any(note.startswith("given, shared:") for note in ranking.notes)
    assert {name: len(found) for name, found in ranking.results.items()} == {"given": 1, "shared": 1, "drawn": 3}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_whatever_fails_is_a_row_and_the_rest_goes_on(batch):
    candidates = {
        "timm/test_vitt": None,
        "builds not": unbuildable,
        "runs not": Refuses,
        "nothing": nn.Identity,
        "few classes": lambda: small(2, classes=3),
        "wide": wide,
        "returns": lambda: 3,
        "narrow": narrow,
    }
    ranking = rank(candidates, batch, seeds=2)
    assert ranking.top(10) == ["wide", "narrow"] and not ranking.interrupted
    frame = ranking.to_pandas().set_index("name")
    assert len(frame) == len(candidates) and list(frame["rank"][:2]) == [1, 2]
    failed = frame.iloc[2:]
    assert failed["rank"].isna().all() and failed["lswag"].isna().all() and (failed["reason"] != "").all()
    assert "Did you mean 'test_vit'" in failed.loc["timm/test_vitt", "reason"]
    assert failed.loc["builds not", "reason"] == "OSError: no weights here"
    assert failed.loc["runs not", "reason"] == "RuntimeError: this one cannot run"
    assert "0 to 9" in failed.loc["few classes", "reason"] and "int" in failed.loc["returns", "reason"]
    shown = str(ranking)
    assert "not scored: runs not: RuntimeError" in shown and shown.index("wide") < shown.index("narrow")


def test_nothing_that_works_is_still_a_ranking(batch):
    ranking = rank([Refuses], batch)
    assert ranking.top(1) == [] and len(ranking.to_pandas()) == 1 and "Refuses" in str(ranking)


def test_a_seed_that_fails_does_not_lose_the_others(batch):
    calls = []

    def moody() -> nn.Module:
        calls.append(1)
        return unbuildable() if len(calls) == 2 else narrow()

    ranking = rank({"moody": moody}, batch, seeds=3)
    row = ranking.to_pandas().iloc[0]
    assert row["rank"] == 1 and row["lswag"] > 0 and row["reason"] == "OSError: no weights here (seed 1)"
    assert list(ranking.results["moody"]) == [0, 2] and "in part: moody" in str(ranking)


def test_a_proxy_that_cannot_be_had_is_told_beside_those_that_can(batch):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    ranking = rank({"narrow": narrow, "linear": linear}, batch, "lswag,zico")
    row = ranking.to_pandas().iloc[-1]
    assert row["name"] == "linear" and math.isnan(row["lswag"]) and row["zico"] > 0
    assert row["reason"].startswith("lswag: no activation")
    only = rank({"linear": linear}, batch, "lswag").to_pandas().iloc[0]
    assert only["reason"].startswith("lswag: no activation")  # its size is no score


@pytest.mark.parametrize("where", ["build", "forward"])
def test_interrupting_keeps_what_is_finished(batch, where):
    class Interrupts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if where == "build":
                raise KeyboardInterrupt
            self.layer = nn.Linear(3, 10)

        def forward(self, x):
            raise KeyboardInterrupt

    ranking = rank({"narrow": narrow, "stop": Interrupts, "wide": wide}, batch, seeds=2)
    assert ranking.interrupted and ranking.top(9) == ["narrow"] and len(ranking.rows) == 1
    assert "interrupted: 2 of 3 candidates were not scored." in ranking.notes
    with pytest.raises(KeyboardInterrupt):
        prefilter({"narrow": narrow, "stop": Interrupts}, batch, keep=1)


def test_interrupting_keeps_finished_seeds(batch):
    calls = []

    def stopped() -> nn.Module:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return narrow()

    ranking = rank({"stopped": stopped}, batch, seeds=4)
    assert ranking.interrupted and list(ranking.results["stopped"]) == [0, 1]


def test_candidates_are_freed_one_after_the_other(batch):
    alive: list[weakref.ref] = []

    def counted() -> nn.Module:
        assert not any(reference() is not None for reference in alive)
        model = narrow()
        model.itself = [model]  # only the garbage collector can free this one
        alive.append(weakref.ref(model))
        return model

    ranking = rank({"a": counted, "b": counted}, batch, seeds=2)
    assert len(alive) == 4 and not any(row.reason for row in ranking.rows)


def never() -> nn.Module:
    raise AssertionError("built before the arguments were checked")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"proxies": "zicco"}, "Did you mean 'zico'"),
        ({"proxies": []}, "no proxy"),
        ({"proxies": lh.LSWAG(label="depth")}, "'depth' is a column"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": True}, "seeds=True"),
        ({"seeds": 1.5}, "seeds=1.5"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [-1]}, "seed=-1"),
        ({"seeds": []}, "one seed or more"),
        ({"interval": (7, 10)}, "interval="),
        ({"interval": "atuo"}, "'auto', or None"),
        ({"engine": "spark"}, "there are local, ray"),
        ({"workers": 0}, "workers=0"),
        ({"address": "10.0.0.1:6379"}, "engine='ray'"),
        ({"store": "no/such/folder/scores.db"}, "does not exist: make it first"),
        pytest.param(
            {"store": "scores.db", "loss": lambda outputs, targets: outputs.sum()},
            "by which a store could know it",
            id="unknown loss",  # an address would part xdist's workers
        ),
        ({"mode": "test"}, "mode='test'"),
        ({"loss": "mse"}, "loss='mse'"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"image_size": "large"}, "size='large'"),
        ({"reduction": "none"}, "reduction='none'"),
        ({"init": "sleep"}, "init='sleep'"),
        ({"max_memory": "much"}, "max_memory"),
        ({"device": "toaster"}, "'toaster' cannot be used"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_before_any_work(batch, options, said):
    with pytest.raises(InputError, match=r"(?s).*" + said.replace("(", r"\(")):
        rank({"never": never}, batch, **options)


@pytest.mark.parametrize("data", [None, "digits", (1, 2, 3)], ids=str)
def test_data_that_are_no_batch(data):
    with pytest.raises(InputError, match=r"a Batch or a pair \(inputs, targets\), got"):
        rank({"never": never}, data)


@pytest.mark.parametrize("candidates", [{}, [], 7], ids=str)
def test_candidates_that_are_none(batch, candidates):
    with pytest.raises(InputError, match="candidates"):
        rank(candidates, batch)


def test_candidates_come_in_many_forms(batch):
    assert [row.name for row in rank("timm/test_resnet", batch, "params").rows] == ["timm/test_resnet"]
    assert [row.name for row in rank(wide(), batch, "params").rows] == ["Sequential"]
    assert [row.name for row in rank(wide, batch, "params").rows] == ["wide"]
    names = {row.name for row in rank((spec for spec in (wide, narrow, wide)), batch, "params").rows}
    assert names == {"wide", "narrow", "wide (2)"}


def test_the_batch_says_what_to_build():
    batch = Batch.builtin("digits", size=32, samples=10)
    pair = (batch.inputs, batch.targets)
    ranking = rank({"timm/test_vit": None}, pair, "params")
    model = lh.build("timm/test_vit", num_classes=10, image_size=(3, 32, 32))
    assert ranking.rows[0].params == sum(p.numel() for p in model.parameters())
    assert ranking.settings["num_classes"] == 10 and ranking.settings["image_size"] == (3, 32, 32)
    more = rank({"timm/test_vit": None}, pair, "params", num_classes=12)
    assert more.rows[0].params > ranking.rows[0].params


def test_random_states_are_as_before(batch):
    torch.manual_seed(3)
    rank({"narrow": narrow}, batch, seeds=2)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_zero_gradients_are_a_note_and_no_warning(recwarn):
    digits = Batch.builtin("digits", size=32, samples=4)
    ranking = rank(["timm/test_resnet"], digits)
    assert ranking.rows[0].zero_gradient_share > 0.5
    assert any("timm/test_resnet (" in note and "init='wake'" in note for note in ranking.notes)
    assert not [w for w in recwarn if "zero" in str(w.message)]
    awake = rank(["timm/test_resnet"], digits, init="wake")
    assert awake.rows[0].zero_gradient_share < 0.5 and not awake.notes


def test_families_are_a_note():
    digits = Batch.builtin("digits", size=32, samples=4)
    mixed = rank(["timm/test_resnet", "timm/test_vit"], digits, "params", image_size=None)
    assert any("2 families" in note for note in mixed.notes)
    assert not any("families" in note for note in rank({"a": narrow, "b": wide}, digits, "params").notes)
    joined = rank(["timm/test_resnet", "timm/test_vit"], digits, "backbone", init="wake", image_size=None)
    assert not any("families" in note for note in joined.notes)


def test_to_dict_is_json_and_to_csv_is_read_back(batch, tmp_path):
    ranking = rank({"wide": wide, "runs not": Refuses}, batch, ["lswag", "nwot"], seeds=2, interval=(0, 9))
    made = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))
    assert made["proxies"] == ["lswag", "nwot"] and made["higher_is_better"]["lswag"] is True
    assert made["seeds"] == [0, 1] and made["interrupted"] is False and made["settings"]["samples"] == 8
    assert [row["name"] for row in made["rows"]] == ["wide", "runs not"]
    assert set(made["rows"][0]["by_seed"]) == {"0", "1"} and made["rows"][1]["scores"]["lswag"] is None
    ranking.to_csv(tmp_path / "ranking.csv")
    read = pd.read_csv(tmp_path / "ranking.csv")
    assert list(read.columns) == list(ranking.to_pandas().columns)
    assert read["lswag"].iloc[0] == pytest.approx(ranking.rows[0].scores["lswag"])


def test_progress_is_shown_to_people_only(batch, capsys, monkeypatch):
    rank({"narrow": narrow}, batch)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    rank({"[narrow]": narrow}, batch, seeds=2)
    out, err = capsys.readouterr()
    assert out == "" and "[narrow]" in err and "2/2" in err
    rank({"narrow": narrow}, batch, progress=False)
    assert capsys.readouterr() == ("", "")


def test_ties_share_a_rank():
    rows = [
        Row(name, {"s": value}) for name, value in (("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", math.nan), ("e", 0.0))
    ]
    ranking = Ranking(rows, {"s": True})
    assert [(row.name, row.rank) for row in ranking.rows] == [("b", 1), ("c", 1), ("a", 3), ("e", 4), ("d", None)]
    assert ranking.top(2) == ["b", "c"] and ranking.top(0) == []
    with pytest.raises(InputError):
        ranking.top(-1)


def test_beside_size():
    rows = [Row(str(n), {"s": float(n)}, params=2.0**n, flops=float(-n), depth=5.0) for n in range(4)]
    rows += [Row("failed", {"s": math.nan})]
    found = Ranking(rows, {"s": True}).beside_size()
    assert found["params"] == pytest.approx(1) and found["flops"] == pytest.approx(-1)
    assert math.isnan(found["depth"]) and math.isnan(found["log_size"])
    backwards = Ranking(rows, {"s": False})
    assert backwards.beside_size()["params"] == pytest.approx(-1)
    assert "params -1.00, MACs 1.00" in str(backwards)
    assert math.isnan(Ranking(rows[:2], {"s": True}).beside_size()["params"])


def test_an_empty_ranking_can_be_shown():
    ranking = Ranking([], {"s": True}, interrupted=True)
    assert ranking.to_pandas().empty and ranking.top(3) == [] and json.dumps(ranking.to_dict()) and str(ranking)


def test_reasons_are_joined():
    row = summarise("x", ["s"], {}, {0: "broken", 1: "broken", 2: "lost"}, 0.0)
    assert row.reason == "broken (seed 0, 1); lost (seed 2)"
    assert summarise("x", ["s"], {}, {0: "broken", 1: "broken"}, 0.0).reason == "broken"


@pytest.mark.parametrize(("keep", "count"), [(1, 1), (2, 2), (99, 3), (0.2, 1), (0.5, 2), (0.99, 3)])
def test_prefilter_keeps_the_best(batch, keep, count):
    candidates = {"narrow": narrow, "wide": wide, "broken": Refuses, "middle": lambda: small(8)}
    kept = prefilter(candidates, batch, keep=keep)
    assert list(kept) == ["wide", "middle", "narrow"][:count]
    assert all(kept[name] is candidates[name] for name in kept)


def test_prefilter_gives_back_what_it_was_given(batch):
    assert prefilter({"timm/test_resnet": None, "narrow": narrow}, batch, 1, "params") == {"timm/test_resnet": None}
    model, other = wide(), wide()
    assert prefilter([narrow, model, other, Refuses], batch, 3, "params") == [model, other, narrow]
    assert prefilter(iter(["timm/test_resnet", "timm/none"]), batch, 5, "params") == ["timm/test_resnet"]


@pytest.mark.parametrize("keep", [0, -1, True, 0.0, 1.0, 1.5, math.nan, "3"])
def test_prefilter_refuses_a_keep_that_makes_no_sense(batch, keep):
    with pytest.raises(InputError, match="keep="):
        prefilter({"never": never}, batch, keep=keep)


def test_prefilter_with_nothing_left_says_why(batch):
    with pytest.raises(InputError, match="Refuses: RuntimeError: this one"):
        prefilter([Refuses], batch)


def test_words_for_numbers():
    cases = {999.6: "1.00k", 999.4: "999", 1e6: "1.00M", 4.1e9: "4.10G", 99950: "100k", 0.0: "0", -1500: "-1.50k"}
    assert {value: quantity(value) for value in cases} == cases
    assert quantity(3e17) == "3e+17" and quantity(math.inf) == "-"
    assert named("ab") == "a, b"
    assert jsonable({"a": {1: math.inf}, "b": (torch.float32, True, None)}) == {
        "a": {"1": None},
        "b": ["torch.float32", True, None],
    }


@pytest.mark.gpu
def test_on_a_gpu(batch):
    there = rank({"wide": wide, "narrow": narrow}, batch, device="cuda")
    here = rank({"wide": wide, "narrow": narrow}, batch)
    assert there.settings["device"].startswith("cuda")
    assert [r.scores["lswag"] for r in there.rows] == pytest.approx([r.scores["lswag"] for r in here.rows], rel=1e-2)
