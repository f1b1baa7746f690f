"""Each example runs, and does what its first line says."""

import builtins
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lswag_hooks as lh

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.filterwarnings("ignore")


def load(path, monkeypatch):
    name = f"example_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # jsonargparse looks it up
    spec.loader.exec_module(module)
    return module


def names(ranking):
    return {row.name for row in ranking.rows if row.rank is not None}


def test_optuna_gate(monkeypatch, capsys):
    study = load(EXAMPLES / "optuna_gate.py", monkeypatch).main()
    states = [trial.state.name for trial in study.trials]
    scores = [trial.user_attrs["score lswag"] for trial in study.trials]
    assert len(states) == 12 and set(states) == {"COMPLETE", "PRUNED"} and states[:4] == ["COMPLETE"] * 4
    assert all(
        (state == "PRUNED") == (number >= 4 and scores[number] < sorted_median(scores[:number]))
        for number, state in enumerate(states)
    )
    assert study.best_value > 0.5
    assert f"trained {states.count('COMPLETE')} of 12" in capsys.readouterr().out


def sorted_median(values):
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def test_lightning_cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = EXAMPLES / "lightning_cli"
    module = load(folder / "main.py", monkeypatch)
    cli = module.main(["fit", "--config", str(folder / "config.yaml")])
    callback = next(one for one in cli.trainer.callbacks if isinstance(one, lh.LSWAGCallback))
    assert not callback.rejected and cli.trainer.global_step == 4
    assert type(cli.model.net).__module__.startswith("lswag_hooks.spaces")
    assert cli.model.architecture in capsys.readouterr().out
    low = ["--trainer.callbacks.init_args.min_score", '{"zico": 1e9}', "--model.architecture", "null"]
    cli = module.main(["fit", "--config", str(folder / "config.yaml"), *low])
    assert cli.trainer.global_step == 0 and "rejected" in capsys.readouterr().out


def test_transformers_bert(monkeypatch):
    pytest.importorskip("transformers")
    module = load(EXAMPLES / "transformers_bert.py", monkeypatch)
    ranking = module.main()
    assert names(ranking) == {"1 layers of 32", "2 layers of 32", "2 layers of 64"}
    batch = module.masked_text()
    model = lh.build(lambda: module.bert(1, 32, 2))
    model.eval()
    given = model(**batch.inputs, labels=batch.targets).loss
    assert module.OwnLoss()(model, batch).item() == given.item() > 0


def test_timm_models(monkeypatch):
    module = load(EXAMPLES / "timm_models.py", monkeypatch)
    rankings = module.main()
    assert len(rankings) == 2 and {"timm/test_resnet"} in [names(one) for one in rankings.values()]
    config = module.config_of("test_resnet")
    batch = module.batch_for(config)
    assert tuple(batch.inputs.shape[1:]) == config["input_size"] == (3, 160, 160)
    assert batch.inputs.min() == -1  # black, with mean and deviation one half


def test_torchvision_detection(monkeypatch):
    ranking = load(EXAMPLES / "torchvision_detection.py", monkeypatch).main()
    assert names(ranking) == {"Faster R-CNN", "SSDlite"}
    assert all(row.coverage == 1 for row in ranking.rows)


def test_select_k_best(monkeypatch):
    module = load(EXAMPLES / "select_k_best.py", monkeypatch)
    kept = module.main()
    assert list(kept) == ["ReLU 32", "GELU 16", "GELU 32"]  # the three of the highest score, as they were given


def test_ray_tune_says_what_is_missing(monkeypatch, capsys):
    module = load(EXAMPLES / "ray_tune.py", monkeypatch)
    real = builtins.__import__

    def without_ray(name, *args, **kwargs):
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    assert module.main() is None
    assert "skipped: this example needs Ray Tune" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_tune():
    try:
        from ray import tune  # noqa: F401
    except ImportError as error:
        pytest.skip(f"Ray Tune is not there: {error}")
    # as a script: workers cannot import what a test has loaded from a path
    run = [sys.executable, "-W", "ignore", str(EXAMPLES / "ray_tune.py")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True, timeout=240).stdout
    found = dict(re.findall(r"^width +(\d+) .*(accuracy|not trained)", printed, re.M))
    assert found == {"2": "not trained", "8": "not trained", "32": "accuracy", "64": "accuracy"}


def test_all_examples_are_listed_and_tested():
    readme, tests = (EXAMPLES / "README.md").read_text("utf-8"), Path(__file__).read_text("utf-8")
    here = [path for path in EXAMPLES.iterdir() if path.suffix == ".py" or (path.is_dir() and path.name[0] not in "_.")]
    assert len(here) == 7
    for path in here:
        assert f"`{path.name}" in readme and f"def test_{path.stem}" in tests
