"""The AutoFormer recipe, end to end on small data; the supernet against a second forward pass written out."""

import argparse
import csv
import json
import math
from types import SimpleNamespace

import lightning.pytorch as L
import numpy as np
import pytest
import torch
import yaml
from torch import nn

import lswag_hooks as lh
from lswag_hooks.errors import InputError
from lswag_hooks.spaces import get_space
from lswag_hooks.spaces.autoformer import NAMED
from recipes.autoformer import cost as costs
from recipes.autoformer import evaluate, finetune, fit_libra, retrain, sample_benchmark, search, train_supernet
from recipes.autoformer.checkpoints import compare, read_checkpoint
from recipes.autoformer.choices import Choices, largest, largest_subnet, resolve_space
from recipes.autoformer.supernet import Supernet, distinct, drawn
from recipes.autoformer.train import CONFIGS
from recipes.autoformer.training import Schedule, SubnetTraining, SupernetTraining
from recipes.common import RecipeCLI
from recipes.data import Digits, Timm

CHOICES = Choices(depths=(1, 2), widths=(24, 32), heads=(1, 2), ratios=(1, 2.5))
SPACE = "{depths: [1, 2], widths: [24, 32], heads: [1, 2], ratios: [1, 2.5]}"
SMALL = "d1 e24 h2 r2.5"
SIZES = ["--space", SPACE, "--image_size", "16", "--patch_size", "8"]
DATA = [
    "--data",
    "recipes.data.Digits",
    "--data.size=16",
    "--data.samples=72",
    "--data.workers=0",
    "--data.batch_size=16",
]
AUGMENTED = ["--data.repeats=3", "--data.transforms=recipes.data.Timm", "--data.transforms.size=16"]
TRAINER = ["max_epochs=3", "accelerator=cpu", "devices=1", "strategy=auto", "precision=32-true", "log_every_n_steps=1"]
QUIET = ["enable_progress_bar=false", "enable_model_summary=false", "callbacks.save_top_k=-1"]
QUIET += ["callbacks.filename=null", "callbacks.save_last=true"]
MODEL = ["image_size=16", "patch_size=8", "schedule.warmup_epochs=1", f"space={SPACE}"]
FIT = [
    *DATA,
    *AUGMENTED,
    *(f"--trainer.{option}" for option in TRAINER + QUIET),
    *(f"--model.{option}" for option in MODEL),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A supernet of three epochs."""
    folder = tmp_path_factory.mktemp("supernet")
    assert train_supernet.main([*FIT, f"--out={folder}"]) == 0
    return folder / "checkpoints"


def own_supernet(space=None, **options):
    made = Supernet(space or resolve_space(CHOICES, 8), 5, (16, 24), 8, **options).double()
    for parameter in made.parameters():  # so that neither biases nor norms are trivial
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def by_hand(named, spec, images, patch, columns):
    """A subnet's scores from the supernet's weights, head by head, with rows picked one by one."""
    e = spec.embed_dim

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * named[f"{name}.weight"][:e] + named[f"{name}.bias"][:e]

    patches = images.unfold(2, patch, patch).unfold(3, patch, patch)
    tokens = torch.einsum("ncrsij,ecij->nrse", patches, named["patch_embed.weight"][:e])
    tokens = tokens.flatten(1, 2) + named["patch_embed.bias"][:e]
    tokens = (
        torch.cat([named["class_token"][..., :e].repeat(len(images), 1, 1), tokens], 1) + named["position"][..., :e]
    )
    length = tokens.shape[1]
    pairs = [[(0, 0)] * length for _ in range(length)]  # entries of the tables; 0 with the class token
    for i in range(1, length):
        for j in range(1, length):
            down = (j - 1) // columns - (i - 1) // columns
            right = (j - 1) % columns - (i - 1) % columns
            pairs[i][j] = (min(14, max(-14, down)) + 15, min(14, max(-14, right)) + 15)
    vertical, horizontal = (torch.tensor([[pair[axis] for pair in row] for row in pairs]) for axis in (0, 1))
    for number, (heads, ratio) in enumerate(zip(spec.heads, spec.ratios, strict=True)):
        at, q = f"blocks.{number}", 64 * heads
        weight, bias = named[f"{at}.attention.qkv.weight"], named[f"{at}.attention.qkv.bias"]
        x = layer_norm(tokens, f"{at}.norm1")
        kinds = []
        for kind in range(3):
            rows = torch.stack([weight[3 * i + kind, :e] for i in range(q)])
            kinds.append(x @ rows.T + bias[kind * q : (kind + 1) * q])
        tables = {
            kind: named[f"{at}.attention.relative_{kind}.table_v"][vertical]
            + named[f"{at}.attention.relative_{kind}.table_h"][horizontal]
            for kind in "kv"
        }
        outputs = []
        for head in range(heads):
            query, key, value = (kind[..., 64 * head : 64 * head + 64] for kind in kinds)
            logits = torch.einsum("nid,njd->nij", query, key) + torch.einsum("nid,ijd->nij", query, tables["k"])
            share = (logits / 8).softmax(-1)
            outputs.append(share @ value + torch.einsum("nij,ijd->nid", share, tables["v"]))
        projection = named[f"{at}.attention.proj.weight"][:e, :q], named[f"{at}.attention.proj.bias"][:e]
        tokens = tokens + torch.cat(outputs, -1) @ projection[0].T + projection[1]
        f = int(e * ratio)
        x = (
            layer_norm(tokens, f"{at}.norm2") @ named[f"{at}.mlp.fc1.weight"][:f, :e].T
            + named[f"{at}.mlp.fc1.bias"][:f]
        )
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        tokens = tokens + x @ named[f"{at}.mlp.fc2.weight"][:e, :f].T + named[f"{at}.mlp.fc2.bias"][:e]
    return layer_norm(tokens, "norm")[:, 1:].mean(1) @ named["head.weight"][:, :e].T + named["head.bias"]


# ---------------------------------------------------------------------- the supernet


@pytest.mark.parametrize("architecture", [SMALL, "d2 e32 h1-2 r2.5-1", "d2 e24 h2-1 r1-1", "d2 e32 h2-2 r2.5-2.5"])
def test_a_subnet_is_a_part_of_the_supernet(architecture):
    supernet = own_supernet()
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    spec = supernet.space.parse(architecture)
    with torch.no_grad():
        expected = by_hand(dict(supernet.weights.named_parameters()), spec, images, 8, columns=3)
        torch.testing.assert_close(supernet(images, architecture), expected, rtol=1e-9, atol=1e-9)
        inherited = supernet.inherit(architecture).double().eval()
        torch.testing.assert_close(inherited(images), expected, rtol=1e-5, atol=1e-5)


def test_inherited_weights_are_exact_slices():
    supernet = own_supernet().float()
    own = {name: value.detach().numpy() for name, value in supernet.weights.named_parameters()}
    for name, value in supernet.inherit(SMALL).named_parameters():
        whole = own[name]
        if name.endswith("qkv.weight"):
            rows = [*range(0, 384, 3), *range(1, 384, 3), *range(2, 384, 3)]  # of two heads: queries, keys, values
            expected = whole[rows, :24]
        else:
            expected = whole[tuple(slice(size) for size in value.shape)]
        assert np.array_equal(value.detach().numpy(), expected), name
    one_head = supernet.inherit("d1 e32 h1 r1").blocks[0].attention.qkv
    assert np.array_equal(one_head.weight.detach()[64:128], own["blocks.0.attention.qkv.weight"][1:192:3])
    assert np.array_equal(one_head.bias.detach(), own["blocks.0.attention.qkv.bias"][:192])  # not sorted: as released


def test_a_step_changes_the_subnets_weights_alone():
    supernet = own_supernet()
    supernet(torch.randn(2, 3, 16, 24, dtype=torch.float64), SMALL).square().sum().backward()
    gradients = {name: value.grad for name, value in supernet.weights.named_parameters()}
    assert all(value is None for name, value in gradients.items() if name.startswith("blocks.1"))
    weight = gradients["blocks.0.mlp.fc1.weight"]
    assert weight[:60, :24].abs().min() > 0
    assert weight[60:].abs().max() == weight[:, 24:].abs().max() == 0
    qkv = SupernetTraining(CHOICES, 10, 16, 8).network
    qkv(torch.randn(2, 3, 16, 16), "d1 e24 h1 r1").square().sum().backward()
    moved = qkv.weights.blocks[0].attention.qkv.weight.grad.abs().sum(1) > 0
    assert moved[:192].all() and not moved[192:].any()


def test_the_subnet_of_a_step_depends_on_seed_and_step_alone():
    space = resolve_space(CHOICES, 8)
    first = [drawn(space, 3, step) for step in range(200)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert first == [drawn(space, 3, step) for step in range(200)]
    assert first != [drawn(space, 4, step) for step in range(200)]
    specs = [space.parse(one) for one in first]
    assert {spec.depth for spec in specs} == {1, 2}
    assert {spec.embed_dim for spec in specs} == {24, 32}
    assert {spec.heads for spec in specs if spec.depth == 2} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_all_subnets_can_be_drawn_once():
    space = resolve_space(CHOICES, 8)
    assert sorted(distinct(space, space.size, 0)) == sorted({*distinct(space, space.size, 1)})
    assert distinct(space, 5, 0) == distinct(space, 20, 0)[:5]
    with pytest.raises(InputError, match="has 40 architectures"):
        distinct(space, 41, 0)


@pytest.mark.parametrize(
    ("name", "params"),
    [("autoformer_tiny", 11_669_224), ("autoformer_small", 34_790_440), ("autoformer_base", 80_160_360)],
)
def test_published_supernets_have_their_size(name, params):
    space = get_space(name)
    with torch.device("meta"):
        assert sum(p.numel() for p in Supernet(space).parameters()) == params
    assert largest_subnet(space) in {*distinct(space, 1, 0)} or space.validate(largest_subnet(space)) is None


def test_rates_of_a_subnet():
    """Of dropout in proportion to its width; drop path of block i is the supernet's own."""
    made = own_supernet(dropout=0.2, drop_path=0.1)
    assert made._rates(made.space.parse(SMALL)) == pytest.approx(
        {"dropout": 0.15, "attention_dropout": 0, "drop_path": 0}
    )
    deep = Supernet(get_space("autoformer_tiny"), 10, 32, drop_path=0.13)
    rates = deep._rates(deep.space.parse(NAMED["AutoFormer-T"]))
    assert rates["drop_path"] == pytest.approx(0.12)  # of 14 blocks the 13th


# ---------------------------------------------------------------------- released weights


def released(width=256, heads=4, depth=14, tokens=5, classes=7):
    """A state in the names of the released code, with random values."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed_super.proj.weight": (width, 3, 16, 16),
        "patch_embed_super.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    q = 64 * heads
    for i in range(depth):
        shapes |= {f"blocks.{i}.attn.rel_pos_embed_{k}.embeddings_table_{v}": (30, 64) for k in "kv" for v in "vh"}
        for layer, (rows, columns) in {
            "attn.qkv": (3 * q, width),
            "attn.proj": (width, q),
            "fc1": (4 * width, width),
            "fc2": (width, 4 * width),
        }.items():
            shapes |= {f"blocks.{i}.{layer}.weight": (rows, columns), f"blocks.{i}.{layer}.bias": (rows,)}
        shapes |= {
            f"blocks.{i}.{n}.{p}": (width,) for n in ("attn_layer_norm", "ffn_layer_norm") for p in ("weight", "bias")
        }
    return {name: torch.randn(shape, generator=draw) * 0.1 for name, shape in shapes.items()}


def test_released_weights_give_what_their_names_say(tmp_path):
    """Also the quirk: of a narrower subnet the bias of keys begins where its queries' end, in the unsorted bias."""
    theirs = released()
    torch.save({"model": theirs, "args": argparse.Namespace(lr=1)}, tmp_path / "supernet-tiny.pth")
    saved = read_checkpoint(tmp_path / "supernet-tiny.pth")
    assert saved.network["space"] == "autoformer_tiny"
    assert (saved.network["image_size"], saved.network["num_classes"]) == (32, 7)
    supernet = saved.supernet()
    architecture = "d12 e192 h3-4-3-3-4-3-3-3-4-3-3-4 r3.5-4-4-3.5-4-4-3.5-4-4-4-3.5-4"
    spec = supernet.space.parse(architecture)
    named = {}
    for name, value in theirs.items():  # by hand, in another way than the loader does
        short = name.replace("patch_embed_super.proj", "patch_embed").replace("cls_token", "class_token")
        short = short.replace("pos_embed", "position") if name == "pos_embed" else short
        for old, new in {
            "attn_layer_norm": "norm1",
            "ffn_layer_norm": "norm2",
            "attn.rel_pos_embed_": "attention.relative_",
            "embeddings_table": "table",
            "attn.qkv": "attention.qkv",
            "attn.proj": "attention.proj",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        }.items():
            short = short.replace(old, new)
        named[short] = value.double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        found = supernet.double()(images, architecture)
        torch.testing.assert_close(found, by_hand(named, spec, images, 16, columns=2), rtol=1e-8, atol=1e-8)


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        read_checkpoint(tmp_path / "nothing.ckpt")
    (tmp_path / "text.ckpt").write_text("no tensors")
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="first entries are state_dict"):
        read_checkpoint(tmp_path / "other.ckpt")
    state = released()
    torch.save({**state, "cls_token": torch.zeros(1, 1, 100)}, tmp_path / "narrow.pth")
    with pytest.raises(InputError, match="100 wide"):
        read_checkpoint(tmp_path / "narrow.pth")
    del state["norm.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"weights\.norm\.bias is missing"):
        read_checkpoint(tmp_path / "part.pth").supernet()


# ---------------------------------------------------------------------- training


def test_the_published_schedule():
    module = SupernetTraining(CHOICES, 10, 16, 8)
    module.trainer = L.Trainer(max_epochs=500, accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer.datamodule = SimpleNamespace(batch_size=512)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    for epoch in (0, 7, 19, 20, 250, 499):
        module._lr.step(epoch)
        top = 1e-3 / 2  # half of the global batch of 1,024
        warm = 1e-6 + (top - 1e-6) * epoch / 20
        cosine = 1e-5 + (top - 1e-5) * (1 + math.cos(math.pi * epoch / 500)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(warm if epoch < 20 else cosine)
    names = {id(p): name for name, p in module.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(names)
    for name, decay in decays.items():
        kept = name.endswith(("bias", "class_token", "position")) or ".norm" in name
        assert decay == (0.0 if kept else 0.05), name


@pytest.mark.parametrize("config", ["train_supernet", "retrain", "finetune"])
def test_the_configurations_say_what_the_readme_says(config, tmp_path):
    model = {"train_supernet": SupernetTraining, "retrain": SubnetTraining, "finetune": finetune.finetuning}[config]
    given = ["--data.fake=true", f"--out={tmp_path}"]
    if config == "retrain":
        given.append(f"--model.architecture={NAMED['AZ-NAS-S']}")
    if config == "finetune":
        given += ["--config", str(CONFIGS / "data" / "spherical_cifar100.yaml")]
        module = SupernetTraining("autoformer_small", 10)
        torch.save({"recipe": {"network": module.described}, "state_dict": module.state_dict()}, tmp_path / "a.ckpt")
        given.append(f"--model.weights={tmp_path / 'a.ckpt'}")
    cli = RecipeCLI(model, CONFIGS / f"{config}.yaml", given)
    epochs, lr, batch, warm = {"finetune": (1000, 5e-6, 96, 5), "retrain": (500, 1e-3, 256, 20)}.get(
        config, (500, 1e-3, 128, 20)
    )
    schedule = cli.model.schedule
    assert (cli.trainer.max_epochs, schedule.lr, cli.datamodule.batch_size) == (epochs, lr, batch)
    assert (schedule.warmup_epochs, schedule.weight_decay, schedule.smoothing) == (warm, 0.05, 0.1)
    assert (schedule.mixup, schedule.cutmix, cli.datamodule.repeats) == (0.8, 1.0, 3)
    assert cli.model.num_classes == {"finetune": 100}.get(config, 1000)
    assert "RandAugment" in repr(cli.datamodule.transforms)
    assert any(isinstance(one, lh.LSWAGCallback) for one in cli.trainer.callbacks)


def test_every_other_configuration_parses(tmp_path):
    for name in ("cifar10", "cifar100", "svhn", "pets", "spherical_cifar100"):
        found = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())
        assert found["data"]["init_args"]["repeats"] == 3
    for command in (sample_benchmark, search, fit_libra, evaluate):
        name = command.__name__.rsplit(".", 1)[-1]
        for file in CONFIGS.glob(f"{name}*.yaml"):
            with pytest.raises(SystemExit) as end:
                command.main(["--config", str(file), "--print_config"])
            assert end.value.code == 0, file


def test_a_batch_stays_as_it_is_when_it_is_mixed():
    module = SupernetTraining(CHOICES, 10, 16, 8)
    module.log = lambda *_, **__: None
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 3, 4])
    before = images.clone()
    module.eval()
    losses = {float(module.training_step((images, labels), 0)) for _ in range(4)}
    assert torch.equal(images, before)
    assert len(losses) > 1


def test_a_resumed_run_ends_with_the_same_weights(trained, tmp_path):
    (first,) = trained.glob("epoch=0-*.ckpt")
    assert train_supernet.main([*FIT, f"--out={tmp_path}", f"--ckpt_path={first}"]) == 0
    assert compare([str(trained / "last.ckpt"), str(tmp_path / "checkpoints" / "last.ckpt")]) == 0
    assert compare([str(first), str(trained / "last.ckpt")]) == 1


def test_the_prefilter_scored_the_largest_subnet_and_can_end_the_run(trained, tmp_path, capsys):
    saved = torch.load(trained / "last.ckpt", weights_only=True)
    (state,) = (value for name, value in saved["callbacks"].items() if "LSWAG" in name)
    assert math.isfinite(state["result"]["scores"]["lswag"])
    callbacks = "[{class_path: lswag_hooks.LSWAGCallback, init_args: {min_score: 1e30, samples: 16}}]"
    fit = [option for option in FIT if "trainer.callbacks" not in option]
    assert train_supernet.main([*fit, f"--trainer.callbacks={callbacks}", f"--out={tmp_path}"]) == 1
    assert "0 of 3 epochs" in capsys.readouterr().out


def test_moving_averages_resume_too(tmp_path):
    average = (
        "{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.9, use_buffers: false}}"
    )
    keep = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {save_last: true, dirpath: null, "
    keep += "save_top_k: -1, save_on_train_epoch_end: true}}"
    fit = [option for option in FIT if "trainer.callbacks" not in option] + ["--trainer.max_epochs=2"]
    both = [*fit, f"--trainer.callbacks=[{average}, {keep}]"]
    assert train_supernet.main([*both, f"--out={tmp_path / 'a'}"]) == 0
    (first,) = (tmp_path / "a" / "checkpoints").glob("epoch=0-*.ckpt")
    go_on = [f"--out={tmp_path / 'b'}", f"--ckpt_path={first}"]
    with pytest.raises(InputError, match=r"averaging is \['EMAWeightAveraging'\] there, None here"):
        train_supernet.main([*fit, f"--trainer.callbacks=[{keep}]", *go_on])
    with pytest.raises(InputError, match="use_buffers: false"):
        train_supernet.main([option.replace(", use_buffers: false", "") for option in both] + go_on)
    assert train_supernet.main([*both, *go_on]) == 0
    lasts = [str(tmp_path / run / "checkpoints" / "last.ckpt") for run in "ab"]
    assert compare(lasts) == 0
    content = torch.load(lasts[0], weights_only=True)
    name = "network.weights.head.weight"
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])
    (rows,) = ([*csv.DictReader(file.open())] for file in (tmp_path / "a").glob("csv/*/metrics.csv"))
    losses = [float(row["val_loss"]) for row in rows if row["val_loss"]]
    assert losses[-1] == pytest.approx(loss_of(read_checkpoint(lasts[0]).supernet()), rel=1e-5)


def loss_of(supernet):
    """On the validation images, of the largest subnet."""
    data = Digits(16, samples=72, workers=0, transforms=Timm(16))
    data.setup()
    with torch.no_grad():
        found = [(supernet(images, "d2 e32 h2-2 r2.5-2.5"), labels) for images, labels in data.val_dataloader()]
    return nn.functional.cross_entropy(*(torch.cat(part) for part in zip(*found, strict=True))).item()


# each training command, as it is given on a command line; every one is stopped and goes on
STAGES = {
    "supernet": (train_supernet, []),
    "supernet in bfloat16": (train_supernet, ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1"]),
    "finetune the supernet": (finetune, ["--model.weights=WEIGHTS", "--model.schedule.lr=1e-3"]),
    "finetune one": (
        finetune,
        ["--model.weights=WEIGHTS", f"--model.architecture={SMALL}", "--model.schedule.lr=1e-3"],
    ),
    "retrain": (retrain, [f"--model.architecture={SMALL}", "--trainer.accumulate_grad_batches=2"]),
}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "supernet"])
def test_every_stage_resumes_to_the_same_weights(stage, trained, tmp_path):
    command, options = STAGES[stage]
    fit = [
        *FIT,
        *(option.replace("WEIGHTS", str(trained / "last.ckpt")) for option in options),
        "--trainer.max_epochs=2",
    ]
    assert command.main([*fit, f"--out={tmp_path / 'a'}"]) == 0
    (first,) = (tmp_path / "a" / "checkpoints").glob("epoch=0-*.ckpt")
    go_on = [*fit, f"--ckpt_path={first}"]
    with pytest.raises(InputError, match=r"with other settings: weight_decay is 0\.05 there, 0\.1 here"):
        command.main([*go_on, "--model.schedule.weight_decay=0.1", f"--out={tmp_path / 'b'}"])
    with pytest.raises(InputError, match=r"of another architecture: .*patch_size is 8 there, 16 here"):
        command.main([*go_on, "--model.patch_size=16", f"--out={tmp_path / 'b'}"])
    assert not list((tmp_path / "b").rglob("*.ckpt"))
    assert command.main([*go_on, f"--out={tmp_path / 'b'}"]) == 0
    lasts = [str(tmp_path / run / "checkpoints" / "last.ckpt") for run in "ab"]
    assert compare(lasts) == 0 and compare([str(first), lasts[0]]) == 1
    saved = [torch.load(path, weights_only=True) for path in lasts]
    assert saved[0]["recipe"]["training"]["precision"] == ("bf16-mixed" if "bfloat16" in stage else "32-true")
    for one, other in zip(*(content["optimizer_states"][0]["state"].values() for content in saved), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_dry_run_passes_through_the_whole_schedule(tmp_path, capsys):
    fit = [option for option in FIT if option not in (*DATA, *AUGMENTED)]
    made_up = ["--data.fake=true", "--data.transforms.size=16", "--data.repeats=3", "--fake_epochs=3"]
    more = ["--trainer.max_epochs=500", "--model.schedule.warmup_epochs=20", f"--out={tmp_path}"]
    assert train_supernet.main([*fit, *made_up, *more]) == 0
    said = capsys.readouterr().out.splitlines()
    rates = {int(line.split()[1]): float(line.rsplit(" ", 1)[1]) for line in said if line.startswith("epoch ")}
    assert list(rates) == [1, 2, 20, 21, 251, 499, 500]
    top = 1e-3 / 8  # one process of 128 images
    for epoch, rate in rates.items():
        warm = 1e-6 + (top - 1e-6) * (epoch - 1) / 20
        cosine = 1e-5 + (top - 1e-5) * (1 + math.cos(math.pi * (epoch - 1) / 500)) / 2
        assert rate == pytest.approx(warm if epoch <= 20 else cosine, rel=6e-3)
    assert "500 of 500 epochs (7 trained, on made-up images)" in said[-1]


# ---------------------------------------------------------------------- bad input, before any epoch


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        (train_supernet, ["--data", "CIFAR10"], "data.path"),
        (train_supernet, ["--data=SVHN", "--data.path=nowhere"], "data.path=nowhere: there is nothing"),
        (train_supernet, ["--model.space=nasbench201"], "no space of AutoFormer"),
        (train_supernet, ["--model.validate_with=d9 e24 h1 r1"], "depth 9"),
        (train_supernet, ["--data.batch_size=15"], "even number"),
        (train_supernet, ["--trainer.max_epochs=-1"], "max_epochs"),
        (train_supernet, ["--model.schedule.warmup_epochs=3"], "leave some to train"),
        (train_supernet, ["--model.image_size=24"], "built for 24 x 24"),
        (train_supernet, ["--model.patch_size=7"], "whole number of patches"),
        (retrain, ["--model.architecture=d2 e24"], "no AutoFormer architecture"),
        (retrain, ["--model.architecture=d1 e24 h3 r1"], "number of heads 3"),
        (retrain, ["--model.architecture=nowhere.yaml"], "no file nowhere.yaml"),
        (finetune, ["--model.weights=null"], "model.weights"),
        (train_supernet, ["--data.batch_size=8"], "7.8125e-06, below min_lr"),
        (finetune, ["--model.weights=nowhere.ckpt"], "no checkpoint nowhere.ckpt"),
    ],
)
def test_bad_input_is_told(command, options, told, tmp_path):
    with pytest.raises(InputError, match=told):
        command.main([*FIT, *options, f"--out={tmp_path}"])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_resume_with_other_settings_is_refused(trained, tmp_path):
    last = f"--ckpt_path={trained / 'last.ckpt'}"
    others = ["--model.schedule.lr=0.1", "--trainer.max_epochs=5", "--data.batch_size=8", "--data.transforms.erasing=0"]
    with pytest.raises(InputError, match="with other settings") as told:
        train_supernet.main([*FIT, last, *others, f"--out={tmp_path}"])
    for part in ("lr is 0.001 there, 0.1 here", "epochs is 3 there, 5 here", "batch_size is 16 there", "transforms is"):
        assert part in str(told.value)
    with pytest.raises(InputError, match="another architecture: patch_size is 8 there, 16 here"):
        train_supernet.main([*FIT, last, "--model.patch_size=16", f"--out={tmp_path}"])
    assert not list(tmp_path.rglob("*.ckpt"))
    with pytest.raises(InputError, match="holds a run: go on with"):
        train_supernet.main([*FIT, f"--out={trained.parent}"])


def test_weights_of_another_architecture_are_refused(trained, tmp_path):
    weights = str(trained / "last.ckpt")
    with pytest.raises(InputError, match=r"space is .*there"):
        finetune.finetuning(space="autoformer_tiny", weights=weights, image_size=16, patch_size=8)
    with pytest.raises(InputError, match="image_size is 16 there, 32 here"):
        finetune.finetuning(space=CHOICES, weights=weights, image_size=32, patch_size=8)
    single = SubnetTraining(SMALL, CHOICES, 10, 16, 8)
    torch.save({"recipe": {"network": single.described}, "state_dict": single.state_dict()}, tmp_path / "one.ckpt")
    with pytest.raises(InputError, match="single network"):
        finetune.finetuning(space=CHOICES, weights=str(tmp_path / "one.ckpt"), image_size=16, patch_size=8)
    with pytest.raises(InputError, match="architecture is"):
        SubnetTraining("d1 e24 h1 r1", CHOICES, 10, 16, 8, weights=str(tmp_path / "one.ckpt"))
    with pytest.raises(InputError, match="holds the single network"):
        read_checkpoint(tmp_path / "one.ckpt").supernet()
    again = SubnetTraining(SMALL, CHOICES, 10, 16, 8, weights=str(tmp_path / "one.ckpt"))
    assert all(torch.equal(value, single.state_dict()[name]) for name, value in again.state_dict().items())


# ---------------------------------------------------------------------- fine-tuning, benchmark, search, evaluation


def test_fine_tuning_starts_from_the_supernets_weights(trained):
    weights = str(trained / "last.ckpt")
    before = read_checkpoint(weights).supernet()
    tuned = finetune.finetuning(space=CHOICES, num_classes=7, image_size=16, patch_size=8, weights=weights)
    for (name, value), old in zip(tuned.network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(value, old) == ("head" not in name), name
    assert tuned.network.weights.head.out_features == 7
    single = finetune.finetuning(SMALL, CHOICES, 10, 16, 8, weights=weights)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(single.eval()(images), before(images, SMALL))


def test_a_subnet_is_fine_tuned(trained, tmp_path):
    options = [f"--model.weights={trained / 'last.ckpt'}", f"--model.architecture={SMALL}", "--trainer.max_epochs=2"]
    options.append("--model.schedule.lr=1e-3")
    fit = [option for option in FIT if "trainer.callbacks" not in option]  # as configured: the best and the last
    assert finetune.main([*fit, *options, f"--out={tmp_path}"]) == 0
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    found = evaluate.main(["--checkpoint", str(tmp_path / "checkpoints" / "last.ckpt"), *DATA])
    assert found == 0
    with pytest.raises(InputError, match="holds 'd1 e24 h2 r2"):
        evaluate.evaluate(str(tmp_path / "checkpoints" / "last.ckpt"), Digits(16, samples=72), "d1 e24 h1 r1")


def sampled(trained, out, *options):
    return sample_benchmark.main(["--checkpoints", f"[{trained / 'last.ckpt'}]", "--out", str(out), *DATA, *options])


def test_the_benchmark_is_what_its_subnets_reach(trained, tmp_path):
    out = tmp_path / "benchmark.csv"
    sampled(trained, out, "--subnets=5", "--at_once=2", "--task=digits")
    complete = out.read_text()
    benchmark = lh.Benchmark.load(out, "autoformer_small")
    found = benchmark.accuracy("digits")
    supernet = read_checkpoint(trained / "last.ckpt").supernet()
    assert list(found.index) == distinct(supernet.space, 5, 0)
    data = Digits(16, samples=72, workers=0)
    data.setup()
    for architecture, accuracy in found.items():
        net = supernet.inherit(architecture).eval()
        with torch.no_grad():
            hits = [int((net(x).argmax(1) == y).sum()) for x, y in data.test_dataloader()]
        assert accuracy == pytest.approx(100 * sum(hits) / len(data.parts["test"]), abs=1e-3)
        params = sum(p.numel() for p in net.parameters())
        assert benchmark.proxies("digits").loc[architecture, "params"] == pytest.approx(params / 1e6)
    # killed in the middle of a row: the same command ends with the same table
    out.write_text(complete[: complete.rindex("d") + 4])
    sampled(trained, out, "--subnets=5", "--task=digits")
    assert out.read_text() == complete
    sampled(trained, out, "--subnets=7", "--task=digits")
    assert out.read_text().startswith(complete) and len(out.read_text().splitlines()) == 8
    with pytest.raises(InputError, match="other settings: seed is 0 there, 1 here"):
        sampled(trained, out, "--subnets=5", "--seed=1", "--task=digits")
    with pytest.raises(InputError, match="other settings: data"):
        sampled(trained, out, "--subnets=5", "--data.test_share=0.5", "--task=digits")


def test_the_benchmark_averages_supernets(trained, tmp_path):
    out = tmp_path / "mean.csv"
    paths = [trained / "last.ckpt", next(trained.glob("epoch=0-*.ckpt"))]
    data = Digits(16, samples=72, workers=0)
    sample_benchmark.sample_benchmark([*map(str, paths)], data, str(out), "both", subnets=2)
    for path in paths:
        sample_benchmark.sample_benchmark([str(path)], data, str(out), path.stem, subnets=2)
    table = lh.Benchmark.load(out)
    one, other = (table.accuracy(path.stem.lower()) for path in paths)
    assert table.accuracy("both").to_numpy() == pytest.approx(((one + other) / 2).to_numpy(), abs=1e-3)


def test_search_fits_libra_and_hands_on_to_retraining(tmp_path):
    names = distinct(resolve_space(CHOICES, 8), 12, 0)
    rows = [f"digits,{name},{accuracy}" for accuracy, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["task,arch,val_accuracy", *rows]))
    given = [*SIZES, *DATA, "--samples=8"]
    libra = tmp_path / "libra.json"
    assert (
        fit_libra.main([*given, "--benchmark", str(tmp_path / "table.csv"), "--out", str(libra), "--proxies=zico,nwot"])
        == 0
    )
    evolution = ["--evolution.population=4", "--evolution.mutations=2", "--evolution.crossovers=1", "--evaluations=8"]
    limit = 45_000
    for options in (["--proxies=lswag"], ["--libra", str(libra)]):
        out = tmp_path / "found.yaml"
        assert search.main([*given, *evolution, *options, f"--max_params={limit}", "--out", str(out)]) == 0
        best = yaml.safe_load(out.read_text())["architectures"][0]
        module = SubnetTraining(str(out), CHOICES, 10, 16, 8)
        assert module.described["architecture"] == best["architecture"]
        assert sum(p.numel() for p in module.parameters()) == best["params"] <= limit
    with pytest.raises(InputError, match="no folder"):
        search.main([*given, "--out", str(tmp_path / "no" / "such.yaml")])


def test_evaluation_of_a_subnet(trained, tmp_path):
    data, out = Digits(16, samples=72, workers=0), tmp_path / "accuracy.json"
    found = evaluate.evaluate(str(trained / "last.ckpt"), data, SMALL, str(out))
    assert json.loads(out.read_text()) == found
    net = read_checkpoint(trained / "last.ckpt").supernet().inherit(SMALL).eval()
    with torch.no_grad():
        hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in data.test_dataloader())
    assert found["accuracy"] == pytest.approx(100 * hits / len(data.parts["test"]), abs=1e-3)
    whole = evaluate.evaluate(str(trained / "last.ckpt"), data)
    assert whole["architecture"] == "d2 e32 h2-2 r2.5-2.5"
    with pytest.raises(InputError, match="tells 10 classes apart"):
        other = Digits(16, samples=72)
        other.num_classes = 3
        evaluate.evaluate(str(trained / "last.ckpt"), other)


# ---------------------------------------------------------------------- costs


def test_memory_is_what_autograd_keeps():
    def kept(depth, images):
        space = resolve_space(Choices([depth], [64], [2], [3]), 8)
        supernet = Supernet(space, 10, 32, 8).train()
        own = {p.untyped_storage().data_ptr() for p in supernet.parameters()}
        seen = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that no other takes its place
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            supernet(torch.randn(images, 3, 32, 32), largest_subnet(space)).sum()
        return sum(size for size, _ in seen.values()) / 4  # bytes a number

    block = (kept(2, 8) - kept(1, 8) - kept(2, 4) + kept(1, 4)) / 4  # what a block keeps of a further image
    (one,) = {costs.kept_numbers(largest(resolve_space(Choices([1], [64], [2], [3]), 8)), tokens=17)}
    assert one == pytest.approx(block, rel=1e-6)


def test_costs_follow_from_operations(capsys):
    assert costs.main(["--peak=1e15", "--utilisation=1"]) == 0
    said = capsys.readouterr().out
    assert "5.06G multiply-accumulates" in said
    assert costs.main([]) == 0
    assert capsys.readouterr().out in (CONFIGS.parent / "README.md").read_text()
    days = 6 * 5.06e9 * 500 * 1_281_167 / 1e15 / 86_400
    assert f"supernet, 500 epochs: 1.94e+19 operations, {days:.2g} GPU days" in said


def test_schedule_has_the_published_defaults():
    assert Schedule() == Schedule("adamw", 1e-3, 1024, 0.05, 0.9, 20, 1e-6, 1e-5, 0.1, 0.8, 1.0, 1.0, 0.5)
