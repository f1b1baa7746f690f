"""Rankings with a store, and in worker processes."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks import Batch, InputError, attempts, rank
from lswag_hooks.keeping import fingerprint, loss_name
from lswag_hooks.store import Store

SPECS = ["tests.test_keeping:narrow", "tests.test_keeping:wide"]


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 10))


def narrow() -> nn.Module:
    return net(2)


def wide() -> nn.Module:
    return net(6)


def hopeless() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))  # no activation: no L-SWAG, ever


class Starved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, x):
        raise MemoryError("not today")


@pytest.fixture
def batch() -> Batch:
    return Batch.builtin("digits", size=8, samples=8)


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """The seeds with which something was scored."""
    seeds: list[int] = []
    plain = attempts.score

    def score(*arguments, **options):
        seeds.append(options["seed"])
        return plain(*arguments, **options)

    monkeypatch.setattr(attempts, "score", score)
    return seeds


def told(ranking: lh.Ranking) -> dict:
    """All of a ranking, to the last bit, but for the clock."""
    plain = ranking.to_dict()
    for row in plain["rows"]:
        del row["seconds"]
    whole = {
        name: {seed: dataclasses.replace(result, seconds=0.0).to_text() for seed, result in found.items()}
        for name, found in ranking.results.items()
    }
    return {**plain, "results": whole}


def test_results_are_kept_and_come_back_bit_for_bit(batch, scored, tmp_path):
    candidates = {"narrow": narrow, "wide": None, "spec": SPECS[0], "hopeless": hopeless}
    candidates["wide"] = wide
    plain = told(rank(candidates, batch, "lswag,zico", seeds=2))
    scored.clear()
    first = rank(candidates, batch, "lswag,zico", seeds=2, store=tmp_path / "scores.db")
    assert len(scored) == 8 and told(first) == plain
    again = rank(candidates, batch, "lswag,zico", seeds=2, store=str(tmp_path / "scores.db"))
    assert len(scored) == 8 and told(again) == plain


def test_each_part_of_the_key_counts(batch, scored, tmp_path):
    def again(**options):
        scored.clear()
        arguments = {"candidates": SPECS[:1], "batch": batch, "proxies": "zico", "store": tmp_path / "scores.db"}
        rank(**{**arguments, **options})
        return len(scored)

    assert (again(), again(), again(progress=False)) == (1, 0, 0)
    assert again(candidates=SPECS) == 1  # the other one
    assert again(seeds=3) == 2  # 1 and 2
    assert again(batch=Batch.builtin("digits", size=8, samples=9)) == 1
    assert again(mode="train") == 1
    assert again(init="wake") == 1
    assert again(num_classes=12) == 1
    assert again(loss=nn.CrossEntropyLoss(label_smoothing=0.1)) == 1
    assert again(loss=nn.CrossEntropyLoss(label_smoothing=0.2)) == 1
    assert again(loss=nn.CrossEntropyLoss(label_smoothing=0.1)) == 0
    assert again(proxies="zico,lswag") == 1
    assert again(proxies="lswag") == 0  # a part of what is there
    assert again(proxies=lh.LSWAG(interval=(0, 5))) == 1
    assert again(proxies="lswag", interval=(0, 5)) == 0  # the same in other words
    assert again(proxies=lh.LSWAG(label="mine")) == 0


def test_a_part_of_what_is_kept_has_the_same_scores(batch, scored, tmp_path):
    rank(SPECS, batch, "zico,lswag", store=tmp_path / "scores.db")
    scored.clear()
    part = rank(SPECS, batch, lh.LSWAG(label="mine"), store=tmp_path / "scores.db")
    assert not scored
    fresh = rank(SPECS, batch, lh.LSWAG(label="mine"))
    assert [row.scores for row in part.rows] == [row.scores for row in fresh.rows]
    first = part.results[SPECS[0]][0]
    assert [row.terms for row in first.profile.weights] == [
        row.terms for row in fresh.results[SPECS[0]][0].profile.weights
    ]


def test_an_interval_of_its_own_is_found_in_what_is_kept(batch, scored, tmp_path):
    options = {"interval": "auto", "store": tmp_path / "scores.db"}
    plain = told(rank(SPECS, batch, interval="auto"))
    scored.clear()
    assert told(rank(SPECS, batch, **options)) == told(rank(SPECS, batch, **options)) == plain
    assert len(scored) == 2


def test_a_module_is_known_by_what_it_is(batch, scored, tmp_path):
    options = {"store": tmp_path / "scores.db", "seeds": 2}
    torch.manual_seed(0)
    model = net(3)
    assert math.isnan(rank({"mine": model}, batch, **options).rows[0].spreads["lswag"])  # one draw
    rank({"mine": model}, batch, **options)
    assert len(scored) == 1
    with torch.no_grad():
        model[0].bias[0] += 1e-3
    rank({"mine": model}, batch, **options)
    assert len(scored) == 2  # the same name for another network is another candidate
    rank({"mine": lambda: net(5)}, batch, **options)
    rank({"mine": lambda: net(5)}, batch, **options)
    assert len(scored) == 4
    rank({"mine": lambda: net(4)}, batch, **options)
    assert len(scored) == 6


def test_a_factory_that_gives_one_module_is_known_again(batch, scored, tmp_path):
    model = net(3)
    rankings = [rank({"one": lambda: model}, batch, seeds=3, store=tmp_path / "scores.db") for _ in range(2)]
    assert len(scored) == 1 and told(rankings[0]) == told(rankings[1])
    assert "one: a module as it is" in " ".join(rankings[1].notes)


def test_a_failure_of_the_networks_own_is_kept_and_a_breakdown_is_not(batch, scored, tmp_path):
    path = tmp_path / "scores.db"
    candidates = {"hopeless": hopeless, "starved": Starved, "narrow": narrow}
    first = told(rank(candidates, batch, store=path))
    assert len(scored) == 3
    assert told(rank(candidates, batch, store=path)) == first
    assert len(scored) == 4  # the one that broke down
    with Store(path) as store:
        failures = {failed.key.candidate.split(" ")[0]: failed for failed in store.failures()}
        assert len(store) == 2 and not store.to_pandas()["value"].isna().any()  # of `narrow`: lswag and flops
    assert failures["hopeless"].decided and failures["hopeless"].reason.startswith("lswag: no activation")
    assert not failures["starved"].decided and failures["starved"].reason == "MemoryError: not today"


def test_what_broke_down_once_is_forgotten_when_it_works(batch, monkeypatch, tmp_path):
    plain = attempts.score

    def starved(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(attempts, "score", starved)
    assert rank(SPECS, batch, store=tmp_path / "scores.db").top(2) == []
    monkeypatch.setattr(attempts, "score", plain)
    assert len(rank(SPECS, batch, store=tmp_path / "scores.db").top(2)) == 2
    with Store(tmp_path / "scores.db") as store:
        assert store.failures() == []


def test_after_ctrl_c_it_goes_on_where_it_was(batch, monkeypatch, tmp_path):
    plain, calls = attempts.score, []

    def stopped(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*arguments, **options)

    monkeypatch.setattr(attempts, "score", stopped)
    options = {"seeds": 3, "store": tmp_path / "scores.db"}
    part = rank(SPECS, batch, **options)
    assert part.interrupted and len(part.rows) == 1
    whole = rank(SPECS, batch, **options)
    assert len(calls) == 4 + 3 and not whole.interrupted
    assert told(whole) == told(rank(SPECS, batch, seeds=3))


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_where_it_was(batch, tmp_path):
    program = (
        "import sys; import lswag_hooks as lh; import tests.test_keeping as here;"
        "batch = lh.Batch.builtin('digits', size=8, samples=8);"
        "lh.rank(here.SPECS, batch, seeds=500, store=sys.argv[1], progress=False)"
    )
    path = tmp_path / "scores.db"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        while not path.exists() or _count(path) < 6:
            time.sleep(0.05)
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = _count(path) // 2  # lswag and flops
    seeds = range(kept + 2)
    assert told(rank(SPECS[:1], batch, seeds=seeds, store=path)) == told(rank(SPECS[:1], batch, seeds=seeds))
    assert _count(path) // 2 == kept + 2


def _count(path) -> int:
    with Store(path) as store:
        return len(store)


@pytest.mark.slow
def test_workers_give_the_same(batch, tmp_path):
    candidates = {"narrow": narrow, "wide": wide, "hopeless": hopeless, "no": "timm/nosuchnet", "one": net(3)}
    plain = told(rank(candidates, batch, "lswag,zico", seeds=2))
    shared = rank(candidates, batch, "lswag,zico", seeds=2, workers=2, store=tmp_path / "scores.db")
    assert told(shared) == plain
    assert told(rank(candidates, batch, "lswag,zico", seeds=2, store=tmp_path / "scores.db")) == plain


def test_what_cannot_be_sent_is_refused_before_any_work(batch, scored, tmp_path):
    with pytest.raises(InputError, match=r"candidate 'closure' cannot be sent.*workers=1"):
        rank({"narrow": narrow, "closure": lambda: net(2)}, batch, workers=2)
    assert not scored


def test_fingerprints_see_types_options_code_and_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    own = fingerprint(model)
    assert own == fingerprint(model)
    model[1].running_mean[0] = 1.0
    assert fingerprint(model) != own
    model[1].running_mean[0] = 0.0
    assert fingerprint(model) == own
    model[0].stride = (2, 2)
    assert fingerprint(model) != own

    model[0].stride = (1, 1)
    model.eval()
    model.slope = 0.1
    sloped = fingerprint(model)
    model.slope = 0.2
    assert len({own, sloped, fingerprint(model)}) == 3, "an option that no representation shows"
    del model.slope
    model.register_full_backward_hook(lambda *_: None).remove()
    assert fingerprint(model) == own, "neither the mode nor a hook that is gone"

    def kind(forward):
        return type("Same", (nn.Module,), {"forward": forward, "__module__": "here", "__qualname__": "Same"})

    first, again, other = (kind(forward)() for forward in (lambda s, x: x + 1, lambda s, x: x + 1, lambda s, x: x + 2))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_losses_without_a_lasting_name_are_refused():
    assert loss_name(None) is None and loss_name("training_step") == "training_step"
    assert loss_name(narrow) == f"{__name__}.narrow"
    for loss in (lambda a, b: a, nn.CrossEntropyLoss(weight=torch.ones(3)), object()):
        with pytest.raises(InputError, match="leave store out"):
            loss_name(loss)
