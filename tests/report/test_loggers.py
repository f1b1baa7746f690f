"""What loggers of a training run receive; event files, run folders and stores are read back."""

import importlib
import io
import json
import math
import struct
import subprocess
import sys
import types
import warnings
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lswag_hooks as lh
from lswag_hooks.report import plots
from lswag_hooks.report.loggers import log_report
from lswag_hooks.report.table import markdown, profile_cells
from lswag_hooks.standings import Ranking, Row

pytest.importorskip("matplotlib")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:`isinstance"),
    pytest.mark.filterwarnings("ignore:.*overflow.*:RuntimeWarning"),
]


class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(logger, **options):
    """Train for two steps; the weights at the end, and the callback."""
    L.seed_everything(1, verbose=False)
    data = TensorDataset(torch.randn(16, 1, 8, 8), torch.randint(10, (16,)))
    callback = lh.LSWAGCallback(["lswag", "zico"], interval=(5, 9))
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    module = Lit()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, callbacks=[callback], log_every_n_steps=1, **quiet, **options
    )
    trainer.fit(module, DataLoader(data, batch_size=8, shuffle=True))
    return module.state_dict(), callback


def events(folder):
    """Every summary of the event files in a folder, parsed record by record: its step, its tag and its value."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        Event = pytest.importorskip("tensorboardX.proto.event_pb2").Event
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            yield from ((event.step, value.tag, value) for value in event.summary.value)


def ranking():
    rows = [
        Row("a", {"zico": 3.0}, {"zico": 0.5}, params=30),
        Row("b|c", {"zico": 1.0}, {"zico": math.nan}, params=10),
        Row("d", {"zico": math.nan}, params=20),
    ]
    return Ranking(rows, {"zico": True}, seeds=[0, 1])


# ------------------------------------------------------------------ pictures and tables


def test_the_picture_of_layers_shows_what_was_measured():
    torch.manual_seed(0)
    batch = lh.Batch.builtin("digits", size=(1, 8, 8), samples=16)
    profile = lh.score(Lit().net, batch, ["lswag"]).profile
    panels = profile.plot((5, 9)).axes
    heights = [[bar.get_height() for bar in axes.patches[: len(profile.weights)]] for axes in panels[:2]]
    assert heights[0] == pytest.approx([row.trainability for row in profile.weights])
    assert heights[1] == pytest.approx([row.mean_deviation for row in profile.weights])
    assert panels[2].patches[0].get_height() == profile.activations[0].expressivity
    assert [row.percentile for row in profile.weights] == [0, 5]
    shaded = panels[0].patches[len(profile.weights)]  # the second of the two layers
    bounds = shaded.get_extents().transformed(panels[0].transData.inverted())
    assert (bounds.x0, bounds.width) == pytest.approx((0.5, 1.0))
    assert len(profile.plot().axes[0].patches) == 2
    assert len(plots.layers(profile, (7, 8)).axes[0].patches) == 2  # no layer is inside


def test_the_picture_of_a_ranking_shows_scores_by_rank_and_against_size():
    by_rank, by_size = ranking().plot().axes
    assert by_rank.lines[0].get_xydata().tolist() == [[1.0, 3.0], [2.0, 1.0]]
    assert by_size.lines[0].get_xydata().tolist() == [[30.0, 3.0], [10.0, 1.0]]
    assert by_rank.collections[0].get_segments()[0][:, 1].tolist() == [2.5, 3.5]


# ------------------------------------------------------------------ TensorBoard


def test_tensorboard_receives_numbers_picture_and_table(tmp_path):
    logger = L.loggers.TensorBoardLogger(tmp_path)
    trained, callback = fit(logger)
    logger.finalize("success")
    found = {tag: (step, value) for step, tag, value in events(tmp_path)}
    for key, value in callback.scores.items():
        assert found[f"lswag/{key}"][0] == 0
        assert found[f"lswag/{key}"][1].simple_value == pytest.approx(value, rel=1e-6)
    step, table = found["lswag/table/text_summary"]
    assert step == 0 and table.tensor.string_val[0].decode() == markdown(*profile_cells(callback.result.profile))
    step, picture = found["lswag/picture"]
    seen = np.asarray(Image.open(io.BytesIO(picture.image.encoded_image_string)).convert("RGB"))
    assert step == 0 and seen.shape[:2] == (picture.image.height, picture.image.width) == (290, 960)
    gold = (abs(seen.astype(int) - [255, 243, 178]) <= 3).all(-1)  # gold, three tenths of it on white
    assert gold.mean() > 0.05  # the interval
    without, _ = fit(False)
    assert all(torch.equal(trained[name], value) for name, value in without.items())


def test_a_ranking_goes_to_tensorboard(tmp_path):
    logger = L.loggers.TensorBoardLogger(tmp_path)
    assert log_report(logger, ranking(), 7, "candidates")
    logger.finalize("success")
    found = {tag: (step, value) for step, tag, value in events(tmp_path)}
    step, table = found["candidates/table/text_summary"]
    lines = table.tensor.string_val[0].decode().splitlines()
    assert step == 7 and len(lines) == 4 and lines[3].startswith("| 2 | b\\|c | 1 |")
    assert found["candidates/picture"][0] == 7


# ------------------------------------------------------------------ W&B and MLflow: stand-ins, and the real ones


def stand_in(name, **parts):
    """A logger that is one by its name and notes every call of its client."""
    calls = []

    def noted(what):
        return lambda *args, **options: calls.append((what, args, options))

    logger = type(name, (L.loggers.CSVLogger,), {})("unused")
    for what in parts.pop("methods", ()):
        setattr(logger, what, noted(what))
    client = types.SimpleNamespace(**{what: noted(what) for what in parts.pop("client", ())})
    logger._experiment = client
    type(logger).experiment = property(lambda self: client)
    type(logger).run_id = "run7"
    return logger, calls


def test_wandb_receives_an_image_and_a_table():
    logger, calls = stand_in("WandbLogger", methods=("log_table", "log_image"))
    assert log_report(logger, ranking(), 3)
    (table, image) = calls
    headers, rows = ranking().cells()
    assert table == ("log_table", ("lswag/table",), {"columns": headers, "data": rows, "step": 3})
    assert image[:2] == ("log_image", ("lswag/picture", image[1][1])) and len(image[1][1][0].axes) == 2


def test_mlflow_receives_a_figure_and_a_table():
    logger, calls = stand_in("MLFlowLogger", client=("log_table", "log_figure"))
    assert log_report(logger, ranking(), 3)
    (table, image) = calls
    assert table[1][0] == image[1][0] == "run7"
    assert table[1][1]["candidate"] == ["a", "b|c"] and table[1][2] == "lswag/table_3.json"
    assert len(image[1][1].axes) == 2 and image[1][2] == "lswag/picture_3.png"


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import lightning.pytorch as L\n"
        "from tests.report.test_loggers import fit\n"
        "fit(L.loggers.WandbLogger(save_dir=sys.argv[1], offline=True))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), root], capture_output=True, text=True, cwd=tmp_path, timeout=280
    )
    assert done.returncode == 0 and "did not take" not in done.stderr, done.stderr[-2000:]
    files = [file for file in tmp_path.glob("wandb/offline-run-*/files/media/**/*") if file.is_file()]
    (picture,) = (file for file in files if file.suffix == ".png")
    assert Image.open(picture).size == (960, 290)
    (table,) = (json.loads(file.read_text()) for file in files if file.suffix == ".json")
    assert table["columns"][0] == "layer" and [row[0] for row in table["data"][:2]] == ["net.0", "net.3"]


def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = L.loggers.MLFlowLogger(tracking_uri=f"file:{tmp_path}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*did not take.*")
        _, callback = fit(logger)
    (file,) = tmp_path.rglob("table_0.json")
    table = json.loads(file.read_text())
    rows = profile_cells(callback.result.profile)[1]
    assert table["columns"][0] == "layer" and table["data"] == rows
    (picture,) = tmp_path.rglob("picture_0.png")
    assert Image.open(picture).size == (960, 290)
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics["lswag/zico"] == pytest.approx(callback.scores["zico"])


# ------------------------------------------------------------------ what goes wrong


class Broken(L.loggers.CSVLogger):
    def log_metrics(self, metrics, step=None):
        if any("lswag" in name for name in metrics):
            raise OSError("the disk is full")


def test_a_logger_that_fails_does_not_stop_training(tmp_path):
    board = L.loggers.TensorBoardLogger(tmp_path)
    board.experiment.add_text = None
    with pytest.warns(UserWarning) as told:
        trained, callback = fit([Broken(tmp_path), board])
    said = [str(one.message) for one in told]
    assert any("Broken did not take the scores: OSError('the disk is full')" in one for one in said)
    assert any("TensorBoardLogger did not take the report of lswag: TypeError" in one for one in said)
    without, _ = fit(False)
    assert callback.scores["zico"] > 0 and all(torch.equal(trained[name], value) for name, value in without.items())


def test_other_loggers_are_asked_for_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not log_report(L.loggers.CSVLogger(tmp_path), ranking())
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_table_goes_alone(monkeypatch):
    logger, calls = stand_in("WandbLogger", methods=("log_table", "log_image"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"without its picture.*lswag-hooks\[plots\]"):
        assert log_report(logger, ranking())
    assert [call[0] for call in calls] == ["log_table"]


def test_loggers_of_pytorch_lightning_are_known(tmp_path):
    loggers = pytest.importorskip("pytorch_lightning.loggers")
    importlib.import_module("pytorch_lightning")
    logger = loggers.TensorBoardLogger(tmp_path)
    assert log_report(logger, ranking())
