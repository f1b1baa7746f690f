import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.cli import COMMANDS, main
from lswag_hooks.commands.common import numbers
from lswag_hooks.measured import measured

SMALL = ["--size", "32", "--samples", "8"]

USERS = """
from torch import nn

def net(num_classes=10, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                         nn.Linear(16 * width, num_classes))

def wide(num_classes=10):
    return net(num_classes, 16)

class Stops(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 10)
    def forward(self, x):
        raise KeyboardInterrupt

class Linear(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3072, 10))
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A module of the user's own, in the folder where the command runs."""
    (tmp_path / "users_nets.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "users_nets"
    import sys

    sys.modules.pop("users_nets", None)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command; gives its status, stdout and stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return call


def test_rank(run, users):
    status, out, err = run("rank", f"{users}:net", f"{users}:wide", "timm/test_vit", "--seeds", "2", *SMALL)
    assert status == 0 and err == ""
    assert "8 samples of digits, 3 x 32 x 32, seed 0, 1" in out
    header = next(line for line in out.splitlines() if line.startswith("#"))
    assert header.split() == ["#", "candidate", "lswag", "±", "params", "MACs", "layers", "zero", "s"]
    assert out.index("timm/test_vit") < out.index(f"{users}:wide") < out.index(f"{users}:net")
    assert "beside size: Spearman" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_rank_goes_on_from_its_store(run, users, tmp_path):
    command = ["rank", f"{users}:net", f"{users}:wide", "--store", "scores.db", "--json", "-", *SMALL]
    first, again = (json.loads(run(*command, *more)[1]) for more in (["--workers", "1"], ["--engine", "local"]))
    for row in [*first["rows"], *again["rows"]]:
        del row["seconds"]
    assert first == again
    assert (tmp_path / "scores.db").exists()
    status, _, err = run(*command, "--engine", "spark")
    assert status == 2 and "there are local, ray" in err


def test_rank_keeps_failures_and_goes_on(run, users, tmp_path):
    command = ["rank", "timm/test_vitt", f"{users}:net", f"{users}:Linear", *SMALL]
    status, out, _ = run(*command, "--json", "all.json", "--csv", "all.csv")
    assert status == 0
    assert "not scored: timm/test_vitt: timm has no model" in out and "'test_vit'" in out
    assert "Linear: lswag: no activation" in " ".join(out.split())
    made = json.loads((tmp_path / "all.json").read_text())
    assert [row["rank"] for row in made["rows"]] == [1, None, None]
    frame = pd.read_csv(tmp_path / "all.csv")
    assert frame["name"].tolist()[0] == f"{users}:net" and frame["reason"].notna().tolist() == [False, True, True]


def test_rank_with_nothing_left_is_a_failure(run):
    status, out, err = run("rank", "timm/test_vitt", *SMALL)
    assert status == 1 and "not scored" in out and err == ""


def test_rank_as_json_alone(run, users):
    status, out, err = run("rank", f"{users}:wide", f"{users}:net", "--proxies", "zico,lswag", "--json", "-", *SMALL)
    made = json.loads(out)
    assert status == 0 and err == ""
    assert made["proxies"] == ["zico", "lswag"] and made["higher_is_better"] == {"zico": True, "lswag": True}
    batch = lh.Batch.builtin("digits", size=32, samples=8)
    want = lh.rank([f"{users}:wide", f"{users}:net"], batch, "zico,lswag")
    assert [row["scores"]["lswag"] for row in made["rows"]] == [row.scores["lswag"] for row in want.rows]
    assert made["settings"]["batch"] == batch.fingerprint and made["settings"]["data"] == "digits"
    row = made["rows"][0]
    assert {"name", "scores", "spreads", "rank", "params", "flops", "depth", "log_size", "by_seed"} <= set(row)
    assert {"zero_gradient_share", "coverage", "seconds", "reason"} <= set(row)


def test_score(run, users, tmp_path):
    status, out, err = run(
        *("score", f"{users}:net", "--proxies", "lswag,reg_swap", "--seed", "3", "--profile", "--csv", "one.csv"),
        *("--json", "one.json", "--interval", "0,9", *SMALL),
    )
    assert status == 0 and err == ""
    model = lh.build(f"{users}:net", num_classes=10, seed=3)
    want = lh.score(model, lh.Batch.builtin("digits", size=32, samples=8), seed=3)["lswag"]
    assert re.search(rf"^lswag +{want:.6g}$", out, re.M) and "not scored: reg_swap:" in out
    assert "trainability" in out and "patterns" in out and "2 weight layers" in out
    assert "covered: weights 100.0%" in out
    made = json.loads((tmp_path / "one.json").read_text())
    assert made["model"] == f"{users}:net" and made["scores"]["lswag"] == want and made["scores"]["reg_swap"] is None
    assert set(made["scores"]) == {"lswag", "reg_swap", "flops"} and made["settings"]["seed"] == 3
    assert len(made["profile"]["weights"]) == 2 and made["coverage"]["weight_share"] == 1
    frame = pd.read_csv(tmp_path / "one.csv")
    assert frame["lswag"].tolist() == [want] and frame["params"].tolist() == [
        sum(p.numel() for p in model.parameters())
    ]


def test_score_takes_the_size_that_the_model_was_made_for(run, monkeypatch):
    status, out, _ = run("score", "timm/test_resnet", "--samples", "4", "--proxies", "params")
    assert status == 0 and "3 x 160 x 160" in out
    assert "no layer was looked at" in run("score", "timm/test_resnet", *SMALL, "--proxies", "params", "--profile")[1]


def test_score_refuses_when_only_the_size_could_be_had(run, users):
    status, out, err = run("score", f"{users}:Linear", *SMALL)
    assert status == 2 and out == "" and err.startswith("lswag: lswag: no activation")


def test_zero_gradients_are_told_once_and_can_be_woken(run, recwarn):
    status, out, _ = run("score", "timm/test_resnet", *SMALL)
    assert status == 0 and out.count("gradient of exactly zero") == 1
    assert not [warning for warning in recwarn if "zero" in str(warning.message)]
    status, woken, _ = run("score", "timm/test_resnet", "--init", "wake", *SMALL)
    assert status == 0 and "gradient of exactly zero" not in woken


def test_both_spellings_of_a_flag(run, users):
    for flag in ("--num-classes", "--num_classes"):
        status, out, _ = run("rank", f"{users}:net", flag, "12", "--proxies", "params", "--json", "-", *SMALL)
        assert status == 0 and json.loads(out)["settings"]["num_classes"] == 12


def test_data_from_an_npz_keep_their_size(run, users, tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 255, (12, 20, 24, 3), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    status, out, _ = run("score", f"{users}:net", "--data", "data.npz", "--samples", "6", "--proxies", "params")
    assert status == 0 and "6 samples of data, 3 x 20 x 24" in out
    status, out, _ = run("score", f"{users}:net", "--data", "data.npz", "--proxies", "params", "--size", "16")
    assert status == 0 and "12 samples of data, 3 x 16 x 16" in out


def test_proxies_shows_how_each_did_on_every_benchmark(run):
    _, out, _ = run("proxies")
    for name, benchmark in measured().items():
        header = next(line for line in out.splitlines() if f" {name}" in line)
        place = header.index(f" {name}") + len(name) + 1  # its figures end where its name does
        block = out[out.index(header) :].split("\n\n")[0].splitlines()[1:]
        shown = {line.split()[0]: line[:place].split()[-1] for line in block}
        for proxy, figure in benchmark.spearman.items():
            assert shown[proxy] == f"{figure.value:.2f}"


def test_csv_alone(run, users):
    for command in (["score", f"{users}:net", *SMALL], ["rank", f"{users}:net", *SMALL], ["proxies"], ["spaces"]):
        status, out, _ = run(*command, "--csv", "-")
        assert status == 0 and "name" in pd.read_csv(io.StringIO(out)).columns


def test_options_from_a_file(run, users, tmp_path):
    (tmp_path / "rank.yaml").write_text("size: 32\nsamples: 8\nseeds: [1, 4]\ninterval: [5, 9]\nproxies: lswag\n")
    status, out, _ = run("rank", f"{users}:net", "--config", "rank.yaml", "--json", "-")
    settings = json.loads(out)["settings"]
    assert status == 0 and settings["interval"] == [5, 9] and settings["image_size"] == [3, 32, 32]
    assert json.loads(out)["seeds"] == [1, 4]


def test_proxies(run, tmp_path):
    status, out, _ = run("proxies")
    assert status == 0 and all(name in out for name in lh.list_proxies())
    assert all(len(line) <= 80 for line in out.splitlines())
    rows = json.loads(run("proxies", "--json", "-")[1])
    assert [row["name"] for row in rows] == lh.list_proxies() and rows[0]["better"] == "higher"
    grasp = next(row for row in rows if row["name"] == "grasp")
    assert grasp["passes"] == "F + 2 B" and "second derivative" in grasp["defined on"] and "draws" in grasp["traps"]
    assert "arXiv 2505.07300" in rows[0]["reference"] and "patterns" in rows[0]["needs"]
    stored = lh.measured.measured()["nb201"].spearman["lswag"].value
    assert float(rows[0]["nb201"]) == pytest.approx(stored, abs=0.005)
    run("proxies", "--csv", str(tmp_path / "proxies.csv"))
    assert pd.read_csv(tmp_path / "proxies.csv")["name"].tolist() == lh.list_proxies()


def test_spaces(run):
    code, out, err = run("spaces")
    assert (code, err) == (0, "")
    assert [name for name in lh.list_spaces() if name not in out] == []
    rows = json.loads(run("spaces", "--json", "-")[1])
    assert [row["name"] for row in rows] == lh.list_spaces()
    assert all(row["what"] and row["tasks"] and row["reference"] for row in rows)


def test_an_architecture_of_a_space_is_a_model(run):
    name = "nasbench201/|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    found = json.loads(run("score", name, *SMALL, "--proxies", "params,zico", "--json", "-")[1])
    assert found["scores"]["params"] == 101_306


def test_rank_finds_an_interval(run, users):
    out = run("rank", f"{users}:net", f"{users}:net", *SMALL, "--interval", "auto")[1]
    assert "interval: " in out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["score", "timm/test_vitt"], "Did you mean 'test_vit'"),
        (["score", "test_vit"], "Did you mean 'timm/test_vit'"),
        (["score", "timm/test_vit", "--proxies", "zicco"], "Did you mean 'zico'"),
        (["score", "timm/test_vit", "--data", "digit"], "Did you mean 'digits'"),
        (["score", "timm/test_vit", "--data", "none.npz"], "does not exist"),
        (["score", "timm/test_vit", "--interval", "9,7"], "interval="),
        (["score", "timm/test_vit", "--interval", "a,b"], "'a,b' is neither a whole number"),
        (["score", "timm/test_vit", "--size", "1,2,3,4"], "size="),
        (["score", "timm/test_vit", "--samples", "1"], "two or more"),
        (["score", "timm/test_vit", "--samples", "many"], "samples"),
        (["score", "timm/test_vit", "--num-classes", "4"], "the model has 4 outputs"),
        (["score", "timm/test_vit", "--num-classes", "0"], "num_classes=0"),
        (["score", "timm/test_vit", "--mode", "test"], "mode='test'"),
        (["score", "timm/test_vit", "--init", "sleep"], "init='sleep'"),
        (["score", "timm/test_vit", "--device", "toaster"], "'toaster' cannot be used"),
        (["score", "timm/test_vit", "--seed", "-1"], "seed=-1"),
        (["score", "timm/test_vit", "--max-memory", "much"], "max_memory"),
        (["rank", "timm/test_vit", "--seeds", "0"], "seeds=0"),
        (["rank", "timm/test_vit", "--seeds", "1,1"], "each once"),
        (["rank", "timm/test_vit", "--config", "none.yaml"], "none.yaml"),
        (["rank"], "MODEL"),
        (["score", "timm/test_vit", "--sampels", "3"], "--sampels"),
        (["scor", "timm/test_vit"], "scor"),
        ([], "subcommand"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_no_traceback(run, command, said):
    small = [] if not command or "--size" in command or command[0] == "scor" else ["--size", "32"]
    small += [] if not command or "--samples" in command or command[0] == "scor" else ["--samples", "4"]
    status, out, err = run(*command[:2], *small, *command[2:])
    assert status == 2 and out == ""
    assert err.startswith("lswag: ") and err.count("\n") == 1 and said in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--json", "nowhere/out.json"], "there is no folder nowhere"),
        (["--csv", "."], "is a folder"),
        (["--json", "-", "--csv", "-"], "both"),
    ],
    ids=str,
)
def test_where_to_write_is_checked_before_any_work(run, monkeypatch, flags, said):
    def fail(*_, **__):
        raise AssertionError("work before the check")

    monkeypatch.setattr(lh.Batch, "load", fail)
    for command in (["score", "timm/test_vit"], ["rank", "timm/test_vit"], ["proxies"], ["spaces"]):
        status, _, err = run(*command, *flags)
        assert status == 2 and said in err and err.count("\n") == 1


def test_interrupting(run, users, monkeypatch):
    status, out, err = run("score", f"{users}:Stops", *SMALL)
    assert (status, out, err) == (130, "", "lswag: interrupted\n")
    status, out, err = run("rank", f"{users}:net", f"{users}:Stops", f"{users}:wide", *SMALL)
    assert status == 130 and "1  users_nets:net" in out and "interrupted: 2 of 3 candidates" in out

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(lh.Batch, "load", interrupt)
    assert run("rank", f"{users}:net")[0] == 130


def test_a_model_that_cannot_take_the_images_is_told_in_one_line(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Output size\nis too small")

    monkeypatch.setattr("lswag_hooks.commands.score.score", fail)
    status, out, err = run("score", "timm/test_vit", *SMALL)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "3 x 32 x 32 (RuntimeError: Output size is too small): give it images of its own size, 3 x 160 x 160" in err


def test_errors_of_a_model_of_ones_own_keep_their_traceback(run, users, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lswag_hooks.commands.score.score", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run("score", f"{users}:net", *SMALL)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and lh.__version__ in capsys.readouterr().out


def test_help(capsys):
    for command in (["--help"], ["score", "--help"], ["rank", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 0 and "MODEL" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_names_not_addresses(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "0x" not in shown and ("--size" not in shown or "type: numbers" in shown)


def test_the_profile_has_every_layer(run, users):
    out = run("score", f"{users}:net", "--profile", *SMALL)[1]
    rows = [line.split() for line in out.splitlines()]
    layers = [row[0] for row in rows if len(row) in (5, 6, 7) and row[1] in ("conv", "matmul", "relu")]
    assert layers == ["0", "4", "1"]


def test_numbers():
    assert numbers("(7, 9)") == numbers([7, 9]) == numbers("7,9") == [7, 9]
    assert numbers(5) == 5


def test_a_score_by_hand_is_the_score_by_command(run, users):
    """The README's promise: the same numbers from Python and from the shell."""
    made = json.loads(run("score", f"{users}:net", "--proxies", "all", "--json", "-", *SMALL)[1])
    model = lh.build(f"{users}:net", num_classes=10, seed=0)
    batch = lh.Batch.builtin("digits", size=32, samples=8)
    assert isinstance(model, nn.Module) and torch.is_grad_enabled()
    for name, value in lh.score(model, batch, "all").items():
        assert made["scores"][name] == (None if math.isnan(value) else value)
