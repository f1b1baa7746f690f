"""Training in two processes, by Lightning's DDP on a CPU: one script that trains, stops, goes on, for every recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DistributedSampler

from recipes.autoformer.checkpoints import read_checkpoint
from recipes.autoformer.supernet import drawn
from recipes.darts.evaluate import DARTSEvaluation
from recipes.data import DARTSCIFAR, Digits, Timm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SCRIPT = """
import json, os, sys
import torch
from lswag_hooks.errors import InputError
from recipes.autoformer import finetune, retrain, train_supernet
from recipes.autoformer.supernet import Supernet
from recipes.common import RecipeModule
from recipes.darts import train_cifar10
from recipes.data.sampler import EpochSampler

torch.set_num_threads(1)
folder, rank = sys.argv[1], int(os.environ.get("LOCAL_RANK", 0))
seen = {}


def iterated(self, plain=EpochSampler.__iter__):
    found = list(plain(self))
    seen["indices"].append(found)
    return iter(found)


def forward(self, images, architecture, plain=Supernet.forward):
    if self.training:
        seen["subnets"].append(architecture)
    return plain(self, images, architecture)


def stepped(self, outputs, batch, index):
    seen["losses"].append((self.current_epoch, len(batch[0]), outputs["loss"].item()))


def end(self):
    metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
    weights = {name: value.double().sum().item() for name, value in self.named_parameters()}
    seen.update(metrics=metrics, weights=weights, step=self.global_step)


EpochSampler.__iter__, Supernet.forward = iterated, forward
RecipeModule.on_train_batch_end, RecipeModule.on_fit_end = stepped, end
runs = {}
for name, command, options in json.load(open(f"{folder}/runs.json")):
    runs[name] = seen = {"indices": [], "subnets": [], "losses": []}
    try:
        seen["status"] = {"darts": train_cifar10, "supernet": train_supernet, "finetune": finetune,
            "retrain": retrain}[command].main([*options, f"--out={folder}/{name.split(' ')[0]}"])
    except InputError as error:
        seen["error"] = str(error)
json.dump(runs, open(f"{folder}/{rank}.json", "w"))
torch.distributed.destroy_process_group()  # as Lightning does on GPUs alone
"""

SKIPS = " ".join(["skip_connect~0 skip_connect~1"] * 4)
CHEAP = f"normal {SKIPS} reduce {SKIPS}".replace("skip_connect~0", "sep_conv_3x3~0", 1)
SPACE = "{depths: [1, 2], widths: [24, 32], heads: [1, 2], ratios: [1, 2.5]}"
BOTH = ["accelerator=cpu", "devices=2", "max_epochs=3", "log_every_n_steps=1", "enable_progress_bar=false"]
BOTH = [f"--trainer.{option}" for option in [*BOTH, "enable_model_summary=false"]]
DIGITS = ["--data=recipes.data.Digits", "--data.samples=80", "--data.workers=0", "--data.batch_size=8"]
DARTS = [*BOTH, *DIGITS, "--trainer.strategy=ddp", f"--model.genotype={CHEAP}", "--model.channels=2"]
DARTS += ["--model.layers=3", "--prefilter.samples=8"]
SMALL = [*BOTH, *DIGITS, "--data.size=16", "--data.transforms=recipes.data.Timm", "--data.transforms.size=16"]
SMALL += ["--trainer.precision=32-true", "--model.image_size=16", "--model.patch_size=8"]
SMALL += ["--model.schedule.warmup_epochs=1", f"--model.space={SPACE}"]
KEPT = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {filename: '{epoch}', dirpath: null, "
KEPT += "save_top_k: -1, save_on_train_epoch_end: true, save_last: true, auto_insert_metric_name: false}}"
AVERAGED = "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9, use_buffers: false}}"
SCORED = "{class_path: lswag_hooks.LSWAGCallback, init_args: {samples: 8}}"
ONE = "--model.architecture=d1 e24 h2 r2.5"
TUNED = ["--model.schedule.lr=1e-3", "--trainer.accumulate_grad_batches=2"]
SUPERNET = [*SMALL, "--data.repeats=3", f"--trainer.callbacks=[{SCORED}, {AVERAGED}, {KEPT}]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What both processes saw of each run, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("processes")
    first, last = f"{folder}/supernet/checkpoints/0.ckpt", f"{folder}/supernet/checkpoints/last.ckpt"
    runs = [
        ("darts", "darts", DARTS),
        ("halves", "darts", [*DARTS, "--stop_after=1"]),
        ("halves go on", "darts", [*DARTS, "--ckpt_path=last"]),
        ("halves with other settings", "darts", [*DARTS, "--ckpt_path=last", "--trainer.accumulate_grad_batches=2"]),
        ("supernet", "supernet", SUPERNET),
        ("resumed", "supernet", [*SUPERNET, f"--ckpt_path={first}"]),
        ("tuned", "finetune", [*SMALL, f"--model.weights={last}", *TUNED]),
        ("retrained", "retrain", [*SMALL, ONE]),
        ("rejected", "retrain", [*SMALL, ONE, f"--trainer.callbacks=[{SCORED[:-2]}, min_score: 1e30}}}}]"]),
    ]
    (folder / "runs.json").write_text(json.dumps(runs))
    (folder / "script.py").write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", str(folder / "script.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], folder, done.stdout


def each(trained, run, what):
    """What was seen of a run in the first and in the second process."""
    return [process[run][what] for process in trained[0]]


def test_the_processes_share_the_images_of_an_epoch(trained):
    ours = each(trained, "darts", "indices")
    assert [len(one) for one in ours] == [4, 4]  # the score's look at the first epoch, then three epochs
    for epoch in range(3):
        for rank, one in enumerate(ours):
            reference = DistributedSampler(range(64), 2, rank, seed=0)
            reference.set_epoch(epoch)
            assert one[1 + epoch] == list(reference)
        assert sorted(ours[0][1 + epoch] + ours[1][1 + epoch]) == list(range(64))


def test_repeated_augmentation_deals_each_image_three_times(trained):
    ours = each(trained, "supernet", "indices")
    for epoch in (1, 2, 3):
        dealt = [index for pair in zip(ours[0][epoch], ours[1][epoch], strict=True) for index in pair]
        assert len(dealt) == 64 and len(set(dealt)) == 22
        assert all(dealt[place] == dealt[place - place % 3] for place in range(64))
    assert ours[0][1] != ours[0][2]


def test_the_subnet_of_a_step_is_the_same_in_both_processes(trained):
    space = read_checkpoint(trained[1] / "supernet" / "checkpoints" / "last.ckpt").space
    expected = [drawn(space, 0, step) for step in range(12)]
    assert each(trained, "supernet", "subnets") == [expected, expected]
    assert each(trained, "resumed", "subnets") == [expected[4:], expected[4:]]
    twice = [name for name in expected[:6] for _ in range(2)]  # two batches are a step
    assert each(trained, "tuned", "subnets") == [twice, twice] and each(trained, "tuned", "step") == [6, 6]


def test_gradients_are_of_all_images(trained):
    for run in ("darts", "supernet", "tuned", "retrained"):
        one, other = each(trained, run, "weights")
        assert one == other
        losses = each(trained, run, "losses")
        assert len(losses[0]) == 12 and all(a != b for a, b in zip(*losses, strict=True))


def test_metrics_are_of_all_images(trained):
    for run in ("darts", "supernet", "tuned", "retrained"):
        one, other = each(trained, run, "metrics")
        assert one == other
        losses = [loss for process in each(trained, run, "losses") for epoch, _, loss in process if epoch == 2]
        if run != "tuned":  # Lightning divides an accumulated loss
            assert one["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_validation_is_of_the_network_in_the_checkpoint(trained):
    """Of its BatchNorm statistics, too, which each process has of its own while it trains."""
    folder = trained[1]
    darts = DARTSEvaluation(str(folder / "darts" / "checkpoints" / "last.ckpt")).eval()
    supernet = read_checkpoint(folder / "supernet" / "checkpoints" / "last.ckpt").supernet()
    for run, net, data in (
        ("darts", darts, Digits(samples=80, workers=0, transforms=DARTSCIFAR())),
        ("supernet", lambda images: supernet(images, "d2 e32 h2-2 r2.5-2.5"), Digits(16, samples=80, workers=0)),
    ):
        if run == "supernet":
            data.transforms = Timm(16)
        data.setup()
        with torch.no_grad():
            found = [(net(images), labels) for images, labels in data.val_dataloader()]
        scores, labels = (torch.cat(part) for part in zip(*found, strict=True))
        metrics = each(trained, run, "metrics")[1]
        assert metrics["val_loss"] == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5)
        assert metrics["val_acc"] == pytest.approx((scores.argmax(1) == labels).float().mean().item())


def test_one_process_writes(trained):
    _, folder, said = trained
    assert {file.name for file in (folder / "darts" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for run in ("darts", "supernet", "tuned", "retrained"):
        (rows,) = (folder / run).glob("csv/*/metrics.csv")
        assert rows.read_text().count("\n2,") == 2  # the last epoch: validation, training
    assert [line.partition(" epochs")[0] for line in said.splitlines() if " epochs, " in line] == [
        "3 of 3", "1 of 3", "3 of 3", "3 of 3", "3 of 3", "3 of 3", "3 of 3", "0 of 3",
    ]  # fmt: skip


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(trained):
    """With moving averages, too, and with their own weights beside them."""
    for whole, resumed, parts in (
        ("darts", "halves", ["state_dict"]),
        ("supernet", "resumed", ["state_dict", "current_model_state"]),
    ):
        before, after = (
            torch.load(trained[1] / run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, resumed)
        )
        for part in parts:
            assert before[part].keys() == after[part].keys()
            assert all(torch.equal(value, after[part][name]) for name, value in before[part].items())
    assert not torch.equal(*(before[part]["network.weights.head.weight"] for part in parts))
    assert each(trained, "darts", "metrics") == each(trained, "halves go on", "metrics")


def test_all_processes_refuse_and_reject_alike(trained):
    for said in each(trained, "halves with other settings", "error"):
        assert "global_batch is 16 there, 32 here" in said
    assert each(trained, "halves with other settings", "losses") == [[], []]
    assert each(trained, "rejected", "status") == [1, 1] and each(trained, "rejected", "step") == [0, 0]
    for run in ("darts", "supernet", "tuned", "retrained"):
        one, other = each(trained, run, "metrics")
        assert one["lswag/lswag"] == other["lswag/lswag"] > 0
