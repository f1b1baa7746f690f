import csv
import importlib
import itertools
import json
import math
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.utils.flop_counter import FlopCounterMode

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.measuring import Measured
from lswag_hooks.spaces.darts import GENOTYPES, network
from lswag_hooks.spaces.darts_network import OPERATIONS
from recipes.common import finish
from recipes.darts import cost, evaluate, search, table, train_cifar10, train_imagenet
from recipes.darts.genotypes import read_genotype
from recipes.darts.schedule import learning_rate
from recipes.darts.train import CONFIGS, TrainCLI
from recipes.darts.training import DARTSTraining
from recipes.data import Digits

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance"),
]

SKIPS = " ".join(["skip_connect~0 skip_connect~1"] * 4)
PLAIN = f"normal {SKIPS} reduce {SKIPS}"
CHEAP = PLAIN.replace("skip_connect~0", "sep_conv_3x3~0", 1)
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false", "--prefilter.samples", "4"]
SMALL = ["--model.genotype", CHEAP, "--model.channels", "2", "--model.layers", "3"]
DATA = ["--data", "recipes.data.Digits", "--data.samples", "60", "--data.batch_size", "16", "--data.workers", "0"]


def command(out, *more, genotype=CHEAP):
    return [*SMALL, *DATA, *QUIET, "--out", str(out), "--trainer.max_epochs", "4", *more, "--model.genotype", genotype]


def rows(out):
    """What the loggers of all runs in a folder wrote, by epoch."""
    found = {}
    for file in sorted(Path(out).glob("csv/version_*/metrics.csv")):
        for row in csv.DictReader(file.open()):
            if row.get("epoch"):
                found.setdefault(int(row["epoch"]), {}).update({k: v for k, v in row.items() if v})
    return found


def weights(out):
    return torch.load(Path(out) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


# ------------------------------------------------------------------ schedules


def test_cosine_and_decay_are_torchs():
    for shape, scheduler, options in (
        ("cosine", torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 30}),
        ("decay", torch.optim.lr_scheduler.ExponentialLR, {"gamma": 0.97}),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.025)
        reference = scheduler(optimizer, **options)
        for epoch in range(30):
            assert learning_rate(shape, 0.025, epoch, 30) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
            optimizer.step()
            reference.step()


def test_the_line_of_pc_darts_falls_twice_after_its_warm_up():
    found = [learning_rate("linear", 0.5, epoch, 250, 5) for epoch in range(250)]
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found[5] == pytest.approx(0.5 * 240 / 245) and found[244] == pytest.approx(0.5 * 1 / 245)
    assert found[245:] == pytest.approx([0.5 * left / (245 * 5) for left in (5, 4, 3, 2, 1)])
    assert all(later < earlier for earlier, later in itertools.pairwise(found[5:245]))


PUBLISHED = {  # Liu et al. 2019; Xu et al. 2020
    "train_cifar10.yaml": {
        "model": {"channels": 36, "layers": 20, "stem": "cifar", "auxiliary": 0.4, "drop_path": 0.2, "smoothing": 0.0}
        | {"lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "schedule": "cosine", "lr_batch": 96},
        "trainer": {"max_epochs": 600, "gradient_clip_val": 5.0},
        "params": 3_349_342,
        "auxiliary": 476_426,
    },
    "train_imagenet.yaml": {
        "model": {
            "channels": 48,
            "layers": 14,
            "stem": "imagenet",
            "auxiliary": 0.4,
            "drop_path": 0.0,
            "smoothing": 0.1,
        }
        | {"lr": 0.5, "lr_batch": 1024, "weight_decay": 3e-5, "schedule": "linear", "warmup_epochs": 5},
        "trainer": {"max_epochs": 250, "gradient_clip_val": 5.0},
        "params": 4_718_752,
        "auxiliary": 1_260_776,
    },
}


@pytest.mark.parametrize("config", PUBLISHED)
def test_the_configurations_are_the_published_schedules(config, tmp_path):
    args = ["--data.fake", "true", "--out", str(tmp_path), "--model.genotype", "DARTS_V2"]
    cli = TrainCLI(DARTSTraining, CONFIGS / config, args)
    expected = PUBLISHED[config]
    for part in ("model", "trainer"):
        given = cli.config[part].as_dict()
        assert {name: given[name] for name in expected[part]} == expected[part]
    parameters = {name: one.numel() for name, one in cli.model.network.named_parameters()}
    extra = sum(number for name, number in parameters.items() if name.startswith("auxiliary."))
    assert extra == expected["auxiliary"] and sum(parameters.values()) - extra == expected["params"]
    told = repr(cli.datamodule.transforms)
    crops = ["RandomCrop(size=(32, 32), padding=4)", "Cutout(16)"]
    if "imagenet" in config:
        crops = [
            "RandomResizedCrop(size=(224, 224)",
            "hue=(-0.2, 0.2)",
            "Resize(size=256",
            "CenterCrop(size=(224, 224))",
        ]
    assert all(part in told for part in [*crops, "RandomHorizontalFlip(p=0.5)"])
    assert [type(one).__name__ for one in cli.trainer.callbacks].count("LSWAGCallback") == 1


@pytest.mark.parametrize("overlay", ["tensorboard.yaml", "wandb.yaml"])
def test_loggers_are_chosen_by_a_file(overlay):
    pytest.importorskip(overlay.removesuffix(".yaml"))
    args = ["--config", str(CONFIGS / overlay), "--data.fake", "true", "--model.genotype", PLAIN]
    assert len(TrainCLI(DARTSTraining, CONFIGS / "train_cifar10.yaml", args).trainer.loggers) == 1


def test_the_overlays_name_loggers_that_there_are():
    for overlay in ("tensorboard.yaml", "wandb.yaml"):
        (one,) = yaml.safe_load((CONFIGS / overlay).read_text())["trainer"]["logger"]
        assert hasattr(L.loggers, one["class_path"].rpartition(".")[2])


# ------------------------------------------------------------------ steps


def test_the_loss_is_both_heads_with_smoothed_labels():
    module = DARTSTraining(CHEAP, 2, 3, auxiliary=0.4, smoothing=0.1, drop_path=0.0)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 3, 9])
    module.log = lambda *args, **options: None
    torch.manual_seed(0)
    loss = module.training_step((images, labels), 0)
    torch.manual_seed(0)
    heads = module.network(images)
    smoothed = F.one_hot(labels, 10) * 0.9 + 0.01
    parts = [-(smoothed * head.log_softmax(1)).sum(1).mean() for head in heads]
    assert loss.item() == pytest.approx((parts[0] + 0.4 * parts[1]).item(), rel=1e-5)


class Watch(L.Callback):
    def __init__(self):
        self.seen, self.norms = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen.append(
            (trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"], module.network.drop_path_rate)
        )

    def on_before_zero_grad(self, trainer, module, optimizer):
        gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(torch.stack(gradients).norm().item())


def test_learning_rate_drop_path_and_clipping_follow_the_schedule():
    watch = Watch()
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        gradient_clip_val=0.05,
        limit_val_batches=0,
    )
    module = DARTSTraining(CHEAP, 2, 3, auxiliary=0, drop_path=0.3, lr=0.1, lr_batch=32)
    trainer.fit(module, Digits(samples=40, batch_size=16, workers=0))
    assert len(watch.seen) == 6
    for epoch, lr, rate in watch.seen:  # a batch of 16 has half the learning rate of one of 32
        assert lr == pytest.approx(0.05 * (1 + math.cos(math.pi * epoch / 3)) / 2)
        assert rate == pytest.approx(0.3 * epoch / 3)
    assert watch.norms and max(watch.norms) <= 0.05 * 1.001


# ------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert train_cifar10.main(command(out)) == 0
    return out


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(workers, whole, tmp_path):
    """Augmentation, drop path and order of images included; with workers, which read ahead, too."""
    out = tmp_path / "out"
    if workers != "0":
        whole = tmp_path / "whole"
        assert train_cifar10.main(command(whole, "--data.workers", workers)) == 0
    assert train_cifar10.main(command(out, "--data.workers", workers, "--stop_after", "2")) == 0
    assert sorted(rows(out)) == [0, 1]
    assert train_cifar10.main(command(out, "--data.workers", workers, "--ckpt_path", "last")) == 0
    expected, found = rows(whole), rows(out)
    assert sorted(found) == [0, 1, 2, 3]
    for epoch in range(4):
        for name in ("train_loss", "val_loss", "val_acc", "lr"):
            assert found[epoch][name] == expected[epoch][name], (epoch, name)
    assert len({row["train_loss"] for row in found.values()}) == 4
    before, after = weights(whole), weights(out)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


STAGES = {
    "cifar10 in bfloat16": (train_cifar10, ["--trainer.precision", "bf16-mixed"]),
    "imagenet": (train_imagenet, ["--trainer.max_epochs", "6"]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_resumes_to_the_same_weights(stage, tmp_path):
    main, more = STAGES[stage][0].main, STAGES[stage][1]
    if stage == "imagenet":
        more = [*more, "--data.transforms.size", "64", "--data.transforms.resize", "72", "--model.auxiliary", "0"]
    assert main(command(tmp_path / "whole", *more)) == 0
    assert main(command(tmp_path / "halves", *more, "--stop_after", "3")) == 0
    assert main(command(tmp_path / "halves", *more, "--ckpt_path", "last")) == 0
    before, after = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(before[name], after[name]) for name in before)
    name = "train_loss"
    found, expected = rows(tmp_path / "halves"), rows(tmp_path / "whole")
    assert {epoch: row[name] for epoch, row in found.items()} == {epoch: row[name] for epoch, row in expected.items()}


def test_half_precision_on_a_cpu_is_lightnings_bfloat16(tmp_path):
    """Its float16 needs CUDA; Lightning says so and takes bfloat16, and so the checkpoint has it."""
    with pytest.warns(UserWarning, match="AMP with fp16 is not supported on CPU"):
        assert train_cifar10.main(command(tmp_path, "--trainer.precision", "16-mixed", "--stop_after", "1")) == 0
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["recipe"]["training"]["precision"] == "bf16-mixed"
    with pytest.raises(InputError, match="precision is 'bf16-mixed' there, '32-true' here"):
        train_cifar10.main(command(tmp_path, "--ckpt_path", "last"))


def test_a_dry_run_passes_through_the_whole_schedule(tmp_path, capsys):
    args = ["--data.fake", "true", "--out", str(tmp_path), "--model.lr_batch", "96", "--fake_epochs", "4"]
    assert train_cifar10.main([*SMALL, *QUIET, *args]) == 0
    said = capsys.readouterr().out.splitlines()
    shown = [line for line in said if line.startswith("epoch ")]
    epochs = [0, 1, 200, 399, 598, 599]
    assert shown == [
        f"epoch {e + 1} of 600: learning rate {learning_rate('cosine', 0.025, e, 600):.3g}, "
        f"drop path {0.2 * e / 600:.3g}"
        for e in epochs
    ]
    assert sorted(rows(tmp_path)) == epochs
    assert "600 of 600 epochs (6 trained, on made-up images)" in said[-1]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    with pytest.raises(InputError, match="fake is True there, False here"):
        train_cifar10.main([*command(tmp_path), "--ckpt_path", "last", "--trainer.max_epochs", "600"])
    with pytest.raises(InputError, match="fake_epochs 1"):
        train_cifar10.main([*SMALL, *QUIET, *args, "--fake_epochs", "1"])


def test_a_dry_run_that_was_stopped_goes_on(tmp_path):
    args = [*SMALL, *QUIET, "--data.fake", "true", "--fake_epochs", "4"]
    assert train_cifar10.main([*args, "--out", str(tmp_path / "whole")]) == 0
    assert train_cifar10.main([*args, "--out", str(tmp_path / "halves"), "--stop_after", "200"]) == 0
    assert sorted(rows(tmp_path / "halves")) == [0, 1, 200]
    assert train_cifar10.main([*args, "--out", str(tmp_path / "halves"), "--ckpt_path", "last"]) == 0
    assert sorted(rows(tmp_path / "halves")) == sorted(rows(tmp_path / "whole"))
    before, after = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tensorboard_and_csv_receive_numbers_picture_and_table(tmp_path):
    from tests.report.test_loggers import events

    pytest.importorskip("tensorboardX")
    loggers = "[{class_path: TensorBoardLogger, init_args: {save_dir: runs, name: board}}, "
    loggers += "{class_path: CSVLogger, init_args: {save_dir: runs, name: csv}}]"
    assert train_cifar10.main(command(tmp_path, "--trainer.logger", loggers, "--stop_after", "2")) == 0
    found = {}
    for step, tag, value in events(tmp_path / "board"):
        found.setdefault(tag, []).append((step, value))
    csv_rows = rows(tmp_path)
    for name in ("train_loss", "val_loss", "val_acc", "lr"):
        board = [value.simple_value for _, value in found[name]]
        assert board == pytest.approx([float(csv_rows[epoch][name]) for epoch in (0, 1)], rel=1e-6)
    assert [step for step, _ in found["lswag/lswag"]] == [0]
    assert {"lswag/picture", "lswag/table/text_summary"} <= found.keys()


def test_the_overlay_of_tensorboard_runs(tmp_path):
    from tests.report.test_loggers import events

    pytest.importorskip("tensorboardX")
    more = ["--config", str(CONFIGS / "tensorboard.yaml"), "--trainer.max_epochs", "1"]
    assert train_cifar10.main(command(tmp_path, *more)) == 0
    assert {"train_loss", "lswag/lswag"} <= {tag for _, tag, _ in events(tmp_path / "tensorboard")}
    assert not rows(tmp_path)


def test_the_overlay_of_wandb_runs_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    more = ["--config", str(CONFIGS / "wandb.yaml"), "--trainer.max_epochs", "1"]
    assert train_cifar10.main(command(tmp_path, *more)) == 0
    summary = dict(wandb.run.summary)
    wandb.finish()
    assert summary["lswag/lswag"] > 0 and {"train_loss", "val_acc", "lr"} <= summary.keys()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_the_callback_scores_before_the_first_step(whole):
    found = [row for file in whole.glob("csv/*/metrics.csv") for row in csv.DictReader(file.open())]
    assert [float(row["lswag/lswag"]) > 0 for row in found if row["lswag/lswag"]] == [True]


def test_a_network_below_the_threshold_is_not_trained(tmp_path):
    floor = ["--prefilter.min_score", '{"lswag": 1e30}']
    assert train_cifar10.main(command(tmp_path, *floor)) == 1
    assert untouched(tmp_path)


def test_made_up_images_run_the_whole_schedule(tmp_path):
    args = ["--data.fake", "true", "--trainer.max_epochs", "7", "--model.schedule", "linear", "--out", str(tmp_path)]
    assert train_cifar10.main([*SMALL, *QUIET, *args]) == 0
    assert sorted(rows(tmp_path)) == list(range(7))


def test_training_learns(whole):
    losses = [float(row["train_loss"]) for _, row in sorted(rows(whole).items())]
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------ bad input, before any epoch


def untouched(out):
    return not list(Path(out).rglob("*.ckpt")) and not rows(out)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--data", "recipes.data.CIFAR10"], r"needs data\.path.*cifar-10-python\.tar\.gz"),
        (["--data", "recipes.data.CIFAR10", "--data.path", "/nowhere"], "there is nothing.*cs.toronto.edu"),
        (["--model.genotype", "normal what"], "no DARTS architecture"),
        (["--model.genotype", CHEAP.replace("sep_conv_3x3", "sep_conf_3x3")], "Did you mean 'sep_conv_3x3'"),
        (["--model.genotype", "nothing.yaml"], "there is no such file"),
        (["--model.genotype", "RESNET"], "DARTS_V2"),
        (["--model.warmup_epochs", "4"], "warmup_epochs=4"),
        (["--model.schedule", "linear", "--trainer.max_epochs", "5"], "more than 5"),
        (["--model.drop_path", "1"], "drop_path=1"),
        (["--model.channels", "3"], "even number"),
        (["--ckpt_path", "last"], "there is no checkpoint"),
        (["--ckpt_path", "nothing.ckpt"], "there is no checkpoint nothing.ckpt"),
        (["--stop_after", "0"], "stop_after 0"),
    ],
)
def test_bad_input_is_told_before_any_epoch(more, told, tmp_path):
    with pytest.raises(InputError, match=f"(?s){told}"):
        train_cifar10.main([*command(tmp_path), *more])
    assert untouched(tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--trainer.max_epochs", "5"], "epochs is 4 there, 5 here"),
        (["--model.lr", "0.1"], r"lr is 0\.025 there, 0\.1 here"),
        (["--data.batch_size", "8"], "batch_size is 16 there, 8 here"),
        (["--trainer.gradient_clip_val", "1"], "gradient_clip_val"),
        (["--data.transforms", "recipes.data.DARTSCIFAR", "--data.transforms.cutout", "8"], "transforms is"),
        (["--model.channels", "4"], "another architecture: channels is 2 there, 4 here"),
        (["--model.genotype", PLAIN], "another architecture: genotype is"),
        (["--model.auxiliary", "0"], "another architecture: auxiliary is True there, False here"),
    ],
)
def test_a_run_goes_on_only_with_its_own_settings(more, told, whole, tmp_path):
    before = weights(whole)
    checkpoint = ["--ckpt_path", str(whole / "checkpoints" / "last.ckpt")]
    with pytest.raises(InputError, match=told):
        train_cifar10.main([*command(tmp_path), *checkpoint, *more])
    assert untouched(tmp_path) and all(torch.equal(before[name], one) for name, one in weights(whole).items())


def test_a_folder_with_a_run_is_not_begun_again(whole):
    with pytest.raises(InputError, match="--ckpt_path last"):
        train_cifar10.main(command(whole))


def test_another_programs_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.0.0"}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"none of recipes\.darts|no checkpoint of recipes\.darts"):
        evaluate.main(["--model.checkpoint", str(tmp_path / "other.ckpt"), *DATA, *QUIET[:4], "--out", str(tmp_path)])
    with pytest.raises(InputError, match="no checkpoint of this recipe"):
        train_cifar10.main([*command(tmp_path / "out"), "--ckpt_path", str(tmp_path / "other.ckpt")])


def test_commands_tell_errors_without_a_traceback(capsys):
    def wrong(args):
        raise InputError("give another")

    for main, status in ((wrong, 2), (lambda args: 0, 0)):
        with pytest.raises(SystemExit) as ended:
            finish(main)
        assert ended.value.code == status
    assert capsys.readouterr().err == "error: give another\n"


# ------------------------------------------------------------------ evaluation, table


def test_the_evaluation_is_a_loop_over_the_test_images(whole, tmp_path, capsys):
    saved = whole / "checkpoints" / "last.ckpt"
    args = [*DATA, *QUIET[:4], "--out", str(tmp_path), "--model.checkpoint", str(saved)]
    assert evaluate.main(args) == 0
    found = json.loads((tmp_path / "result.json").read_text())
    net = network(CHEAP, 2, 3)
    net.load_state_dict(
        {name.removeprefix("network."): one for name, one in weights(whole).items() if "network" in name}
    )
    data = Digits(samples=60, workers=0, transforms=None)
    data.transforms = TrainCLI(
        DARTSTraining, CONFIGS / "train_cifar10.yaml", command(tmp_path / "x")
    ).datamodule.transforms
    data.setup()
    images, labels = (torch.stack(list(map(torch.as_tensor, part))) for part in zip(*data.parts["test"], strict=True))
    with torch.no_grad():
        order = net.eval()(images).argsort(1, descending=True)
    right = order == labels[:, None]
    assert found["error"] == pytest.approx(100 * (1 - right[:, 0].float().mean().item()), abs=1e-4)
    assert found["error5"] == pytest.approx(100 * (1 - right[:, :5].any(1).float().mean().item()), abs=1e-4)
    assert found["images"] == len(labels) == 12 and found["genotype"] == CHEAP and found["epochs"] == 4
    own = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("auxiliary."))
    assert found["params"] == own
    assert "note" not in capsys.readouterr().out
    assert evaluate.main([*args, "--data.transforms", "recipes.data.Plain", "--data.transforms.size", "36"]) == 0
    assert "note: images come in another form" in capsys.readouterr().out


def test_an_evaluation_in_several_processes_is_refused(whole, tmp_path):
    args = ["--model.checkpoint", str(whole / "checkpoints" / "last.ckpt"), *QUIET[:4], "--out", str(tmp_path), *DATA]
    with pytest.raises(InputError, match="2 processes"):
        evaluate.main([*args, "--trainer.devices", "2"])


@pytest.mark.parametrize(
    "more", [["--data.fake", "true", "--data", "recipes.data.CIFAR100"], ["--data.path", "/nowhere"]]
)
def test_an_evaluation_on_other_data_is_refused(more, whole, tmp_path):
    args = ["--model.checkpoint", str(whole / "checkpoints" / "last.ckpt"), *QUIET[:4], "--out", str(tmp_path), *more]
    with pytest.raises(InputError, match=r"10 classes, and the data 100|there is nothing"):
        evaluate.main(args)


def test_the_table_puts_results_beside_the_papers(tmp_path):
    result = {
        "kind": "result",
        "data": "CIFAR10",
        "fake": False,
        "genotype": CHEAP,
        "params": 3_456_789,
        "error": 2.514,
    }
    result |= {"epochs": 600, "channels": 36, "layers": 20}
    other = {**result, "genotype": GENOTYPES["DARTS_V2"], "data": "NPZ", "fake": True}
    found = {"kind": "search", "genotype": CHEAP, "method": "lswag", "approach": "TF", "seconds": 864.0, "reused": 0}
    found["device"] = "cuda"
    files = []
    for number, content in enumerate((result, other, found)):
        files.append(str(tmp_path / f"{number}.json"))
        Path(files[-1]).write_text(json.dumps(content))
    assert table.main([*files, "--out", str(tmp_path / "table.md")]) == 0
    blocks = (tmp_path / "table.md").read_text().split("DARTS, ")[1:]
    cifar, imagenet, small = ([line.split(" | ") for line in block.splitlines() if "|" in line] for block in blocks)
    assert [cell.strip("| ") for cell in cifar[-1]][:5] == ["L-SWAG", "TF", "3.46", "0.01", "2.51"]
    assert ["| LIBRA", "TF", "3.1", "0.08", "2.45", "paper |"] in cifar
    assert ["| L-SWAG", "TF", "5.8", "0.11", "23.4", "paper |"] in imagenet and len(imagenet) == 9
    assert small[-1][0] == "| DARTS_V2" and "MADE-UP" in small[-1][-1] and len(small) == 3
    for content in ("{}", "nothing", '{"kind": "other"}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=r"bad\.json"):
            table.filled([str(tmp_path / "bad.json")])


# ------------------------------------------------------------------ search


def test_search_writes_a_genotype_that_training_reads(tmp_path, monkeypatch):
    """Supernets are scored by how many of their live operations have the last number, so that the genotype is known."""

    def measure(work, name):
        words = [word for word in name.split(" ") if word.isdigit()]
        return Measured({"swap": 1.0 + sum(word.count("2") for word in words)})  # 2 is sep_conv_5x5

    monkeypatch.setattr(importlib.import_module("lswag_hooks.search.evaluation"), "measure", measure)
    args = [*DATA, "--data.transforms.size", "8", "--samples", "4", "--operations", "6", "--repeats", "1"]
    args += ["--proxies", "swap", "--out", str(tmp_path), "--progress", "false"]
    assert search.main(args) == 0
    found = read_genotype(str(tmp_path / "genotype.yaml"))
    summary = json.loads((tmp_path / "search.json").read_text())
    assert summary["genotype"] == found and summary["method"] == "swap" and summary["settings"]["samples"] == 4
    assert {edge.partition("~")[0] for edge in found.split() if "~" in edge} == {"sep_conv_5x5"}
    assert search.main(args) == 0
    again = json.loads((tmp_path / "search.json").read_text())
    assert again["genotype"] == found and again["reused"] > 200


@pytest.mark.gpu
def test_a_space_is_searched_where_the_batch_lies():
    batch = lh.Batch.builtin("digits", size=(3, 8, 8), samples=8).to("cuda")
    found = lh.search("nasbench201", batch, "lswag", algorithm="random", evaluations=2, progress=False)
    assert found.evaluations == 2 and found.best


def test_search_refuses_bad_input_before_any_score(tmp_path):
    for more, told in (
        (["--data", "recipes.data.CIFAR10"], r"needs data\.path"),
        ([*DATA, "--samples", "1000"], "samples 1000"),
        ([*DATA, "--proxies", "nothing", "--samples", "4"], "nothing"),
        ([*DATA, "--libra", "nothing", "--samples", "4"], "nothing"),
    ):
        with pytest.raises(InputError, match=told):
            search.main([*more, "--out", str(tmp_path)])
    assert not (tmp_path / "genotype.yaml").exists()


def test_the_search_of_imagenet_is_configured():
    config = yaml.safe_load((CONFIGS / "search_imagenet.yaml").read_text())
    read = search.parser().parse_args(["--config", str(CONFIGS / "search_imagenet.yaml"), "--data.fake", "true"])
    assert (read.operations, read.task, read.data.class_path) == (2, "imagenet", "recipes.data.ImageNet")
    assert config["data"]["init_args"]["transforms"]["init_args"]["size"] == 32


def test_a_genotype_is_a_string_a_name_or_a_file(tmp_path):
    assert read_genotype(CHEAP) == CHEAP and read_genotype("TE_NAS_CIFAR") == GENOTYPES["TE_NAS_CIFAR"]
    file = tmp_path / "found.yaml"
    for content in ("", "architectures: []", "architectures: 3", "[", "architectures: [{architecture: normal}]"):
        file.write_text(content)
        with pytest.raises(InputError):
            read_genotype(str(file))
    assert all(name in GENOTYPES["TE_NAS_CIFAR"] + CHEAP + GENOTYPES["DARTS_V2"] for name in OPERATIONS[2:4])


# ------------------------------------------------------------------ cost


def test_operations_of_training_are_three_forward_passes():
    # the counter gets depthwise convolutions wrong in backward: a genotype without any
    pools = CHEAP.replace("sep_conv_3x3", "max_pool_3x3")
    net = network(pools, 4, 3, auxiliary=True)
    images = torch.randn(2, 3, 32, 32)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        net(images)
    with FlopCounterMode(display=False) as both:
        sum(part.sum() for part in net(images)).backward()
    ratio = both.get_total_flops() / forward.get_total_flops()
    assert 2.7 < ratio <= 3  # the images want no gradient
    setting = cost.Setting(4, 3, 10, "cifar", 32, 1000, 0, 5, 8)
    found = cost.estimate(pools, setting, 10.0, 0.5)
    assert found.macs == forward.get_total_flops() // 4  # two images, two operations each
    assert found.flops == pytest.approx(2 * found.macs * 3 * 1000 * 5)
    assert found.days == pytest.approx(found.flops / 5e12 / 86_400)
    assert found.params == sum(p.numel() for p in net.parameters())


def test_the_full_runs_cost_what_the_tables_of_operations_say():
    cifar = cost.forward_macs(GENOTYPES["TE_NAS_CIFAR"], cost.SETTINGS["cifar10"])
    assert cifar == 637_568_640 + 576 * 128 * 4 + 4 * 128 * 768 + 768 * 10
    imagenet = cost.forward_macs(GENOTYPES["TE_NAS_IMAGENET"], cost.SETTINGS["imagenet"])
    assert imagenet == 590_414_400 + 768 * 128 * 4 + 4 * 128 * 768 + 768 * 1000
    with pytest.raises(InputError, match="tflops 0"):
        cost.estimate(PLAIN, cost.SETTINGS["cifar10"], 0, 0.5)


def test_memory_is_what_autograd_keeps():
    layers = [
        torch.nn.Conv2d(3, 4, 3, padding=1, bias=False),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 2),
    ]
    with torch.device("meta"):
        found = cost.kept_bytes(torch.nn.Sequential(*layers).to("meta"), torch.empty(5, 3, 4, 4))
    # the convolution keeps the images, ReLU its output, which the linear layer keeps too
    assert found == 4 * 5 * (3 * 16 + 4 * 16)


def test_imagenet_trains_on_made_up_images(tmp_path):
    args = ["--data.fake", "true", "--data.fake_samples", "2", "--out", str(tmp_path), "--trainer.max_epochs", "6"]
    args += ["--model.genotype", PLAIN, "--model.channels", "2", "--model.layers", "3", "--model.auxiliary", "0"]
    args += ["--data.transforms.size", "64", "--data.transforms.resize", "72", "--stop_after", "1"]
    assert train_imagenet.main([*args, *QUIET]) == 0
    assert float(rows(tmp_path)[0]["lr"]) == pytest.approx(0.5 * 128 / 1024 / 5)


def test_every_recipe_cli_takes_classes_from_the_data(tmp_path):
    args = [
        "--data",
        "recipes.data.CIFAR100",
        "--data.fake",
        "true",
        "--model.genotype",
        PLAIN,
        "--model.channels",
        "2",
    ]
    cli = TrainCLI(DARTSTraining, CONFIGS / "train_cifar10.yaml", [*args, "--out", str(tmp_path)])
    assert cli.model.described["num_classes"] == 100
