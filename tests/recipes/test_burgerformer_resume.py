"""Recipe burgerformer_coco: a run that goes on is the run that was stopped, in one process and in two."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lswag_hooks.detection.shapes import write_shapes
from tests.recipes.test_burgerformer_coco import command, unformatted  # noqa: F401

pytest.importorskip("mmdet", reason="needs the extra: pip install 'lswag-hooks[detection]'")

from recipes.burgerformer_coco import detect, evaluate
from recipes.burgerformer_coco.randomness import Streams

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


RECIPE = "recipes.burgerformer_coco.detect"
TINY = Path(__file__).parent / "configs" / "mask_rcnn_tiny.py"
SIZE = ["--scale", "[64,48]", "--batch_size", "2"]


@pytest.fixture
def data(tmp_path):
    return write_shapes(tmp_path / "shapes", 4, (64, 48), seed=3)


def interrupted(run, copy):
    """A copy of a run of two epochs as it was after the first."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("epoch_2.pth"))
    (copy / detect.LATEST).write_text(str(copy / "epoch_1.pth"))


def checkpoint(file):
    with detect.readable_checkpoints():
        return torch.load(file, weights_only=True)


def losses(found):
    return found["message_hub"]["log_scalars"]["train/loss"].data[0].tolist()


def check_same(one, other):
    """Losses and weights to the last bit."""
    assert losses(one) == losses(other)
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


class Runner:
    """What the hook asks of mmengine's."""

    def __init__(self, seed=0, epoch=0, iteration=0):
        self.seed, self.epoch, self.iter = seed, epoch, iteration


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class TestStreams:
    def test_a_step_depends_on_seed_and_number_alone(self):
        def step(hook, **runner):
            drawn()  # whatever was before
            hook.before_train_iter(Runner(**runner), 0, None)
            found = drawn()
            hook.after_train_iter(None, 0, None, None)
            return found

        hook = Streams()
        first, second = step(hook, iteration=5), step(hook, iteration=6)
        assert step(Streams(), iteration=5) == first != second != step(hook, iteration=6, seed=1)

    def test_pictures_do_not_depend_on_steps(self):
        hook, found = Streams(), []
        for steps in (0, 3):
            hook.before_train_epoch(Runner(epoch=2))
            for _ in range(steps):
                hook.before_train_iter(Runner(), 0, None)
                drawn()
                hook.after_train_iter(None, 0, None, None)
            found.append(drawn())
        assert found[0] == found[1]
        hook.before_train_epoch(Runner(epoch=3))
        assert drawn() != found[0]


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "workers"), [("epoch", 1), ("epoch", 0), ("iter", 0)])
def test_it_goes_on_to_the_last_bit(data, tmp_path, unit, workers):
    """Regions, flips and dropped paths are drawn, in the steps and in the processes that read."""
    length = ("--epochs", "2") if unit == "epoch" else ("--iterations", "2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    def run(out, *more):
        asked = [*command(data, out, *length, *more), *SIZE, "--detector", str(TINY), "--workers", str(workers)]
        assert detect.main(asked) == 0

    run(whole)
    if workers:
        interrupted(whole, stopped)
    else:
        run(stopped, "--stop_after", "1")
    run(stopped, "--resume", "true")
    found, again = (checkpoint(out / f"{unit}_2.pth") for out in (whole, stopped))
    assert len(losses(found)) == (4 if unit == "epoch" else 2)
    check_same(found, again)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_are_one_run(data, tmp_path):
    """They go on to the last bit, and what both find in all pictures is what one process finds alone."""
    config = tmp_path / "told.py"
    config.write_text(
        f"_base_ = ['{TINY}']\n"
        f"val_evaluator = dict(outfile_prefix='{tmp_path / 'two'}')\n"
        f"test_evaluator = dict(outfile_prefix='{tmp_path / 'one'}')\n"
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for out, more in ((whole, ()), (stopped, ("--resume", "true"))):
        if more:
            interrupted(whole, stopped)
        asked = [*command(data, out, "--epochs", "2", *more), *SIZE, "--batch_size", "1", "--detector", str(config)]
        if more:
            started(RECIPE, *asked, "--processes", "2")
        else:  # as on several machines
            started("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", RECIPE, *asked)
    found, again = (checkpoint(out / "epoch_2.pth") for out in (whole, stopped))
    check_same(found, again)
    assert found["meta"]["iter"] == 4, "four pictures, one a process"
    assert sorted(file.name for file in whole.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]
    assert evaluate.evaluate(str(whole), pictures=0) == 0
    two, one = (json.loads((tmp_path / f"{name}.bbox.json").read_text()) for name in ("two", "one"))
    assert {found["image_id"] for found in two} == set(range(1, 5)) and len(one) == len(two)
    for mine, theirs in zip(*(sorted(found, key=place) for found in (one, two)), strict=True):
        assert place(mine)[:2] == place(theirs)[:2] and mine["bbox"] == pytest.approx(theirs["bbox"], abs=1e-2)


def place(found):
    return found["image_id"], found["category_id"], found["score"]


def started(*arguments):
    """A module as a user starts it, with the package of these tests."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-6000:]
