"""Recipe burgerformer_coco: bad input before any work, what is filled in, and the whole chain on drawn shapes."""

import json
import math

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

import lswag_hooks as lh
from lswag_hooks.detection.shapes import write_shapes
from lswag_hooks.errors import InputError
from lswag_hooks.spaces.burgerformer import NAMED
from lswag_hooks.standings import Ranking, Row
from recipes.burgerformer_coco import compare, cost, search
from recipes.burgerformer_coco.space import BurgerBackbones, checked_backbone, resolve_backbone

pytest.importorskip("mmdet", reason="needs the extra: pip install 'lswag-hooks[detection]'")

from recipes.burgerformer_coco import detect, detector, evaluate

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SMALL = str(detector.CONFIG.with_name("mask_rcnn_small.py"))
ARCHITECTURE = " / ".join(
    (
        "1,32,1|skip|skip|skip",
        "1,64,1|skip-skip-dwise_3x3-BN-gelu|skip|skip",
        "1,128,1|skip-LN-self_atten-skip-skip|skip|skip",
        "1,128,1|skip|skip|skip",
    )
)
BACKBONE = f"burgerformer/{ARCHITECTURE}"


@pytest.fixture(autouse=True)
def unformatted(monkeypatch):
    """mmengine formats its config for every checkpoint, which takes longer than the steps between them."""
    monkeypatch.setattr("mmengine.config.config.FormatCode", lambda text, **_: (text, True))


@pytest.fixture
def data(tmp_path):
    return write_shapes(tmp_path / "shapes", 8, (128, 96), seed=3)


def command(data, out, *more, backbone=BACKBONE):
    small = ["--detector", SMALL, "--scale", "[128,96]", "--batch_size", "4", "--workers", "0"]
    return ["--backbone", backbone, "--data", str(data), "--out", str(out), *small, *more]


def changed(data, change):
    file = data / "instances.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


class TestBadInput:
    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--detector", "gone.py"], "there is no config gone.py"),
            (["--data", "nowhere"], "nowhere holds no COCO"),
            (["--max_params", "400000"], r"parameters, more than max_params=400,000"),
            (["--backbone", "burgerformer/BurgerFormer-L"], r"36,052,256 parameters, more than max_params=30,000,000"),
            (["--backbone", "burgerformer/BurgerFormer-T"], "spatial_mlp mixes the places"),
            (["--backbone", "timm/test_vit"], "its 3 maps have strides 16, 16, 16"),
            (["--backbone", "found.yaml"], "there is no such file"),
            (["--weights", "gone.ckpt"], "cannot be read as a checkpoint"),
            (["--resume", "true"], "holds no run to go on with"),
            (["--iterations", "0"], "iterations=0: give one or more"),
            (["--batch_size", "0"], "batch_size=0"),
            (["--processes", "0"], "processes=0"),
        ],
    )
    def test_before_any_work(self, data, tmp_path, more, said):
        with pytest.raises(InputError, match=said):
            detect.main(command(data, tmp_path / "out", *more))
        assert not (tmp_path / "out").exists()

    def test_missing_pictures_and_empty_categories(self, data, tmp_path):
        (data / "images" / "000002.png").unlink()
        with pytest.raises(InputError, match=r"1 of the 8 pictures .* are not in .*000002.png"):
            detect.main(command(data, tmp_path / "out"))
        (data / "images" / "000002.png").write_bytes((data / "images" / "000001.png").read_bytes())
        changed(data, lambda content: content["annotations"][0].pop("segmentation"))
        with pytest.raises(InputError, match="1 of its annotations have no segmentation"):
            detect.main(command(data, tmp_path / "out"))
        changed(data, lambda content: content["categories"].clear())
        with pytest.raises(InputError, match="has no categories"):
            detect.main(command(data, tmp_path / "out"))
        with pytest.raises(InputError, match="has no categories"):
            search.search(str(data), str(tmp_path / "found.yaml"))
        assert not (tmp_path / "out").exists()

    def test_a_neck_for_other_maps(self, data, tmp_path):
        config = tmp_path / "three.py"
        config.write_text(f"_base_ = ['{SMALL}']\nmodel = dict(neck=dict(in_channels=[1, 2, 3]))\n")
        with pytest.raises(InputError, match=r"its neck takes 3 maps, a backbone has 4"):
            detector.configure(BACKBONE, str(data), "out", detector=str(config))
        config.write_text(f"_base_ = ['{SMALL}']\nmodel = dict(backbone=dict(type='ResNet'))\n")
        with pytest.raises(InputError, match="it needs a backbone of type LSWAGBackbone"):
            detector.configure(BACKBONE, str(data), "out", detector=str(config))

    def test_runs_that_are_there_and_runs_that_are_not(self, data, tmp_path):
        (tmp_path / detect.LATEST).write_text("somewhere.pth")
        with pytest.raises(InputError, match="holds a run: go on with --resume true"):
            detect.main(command(data, tmp_path))
        with pytest.raises(InputError, match=r"there is no checkpoint somewhere.pth"):
            evaluate.evaluate(str(tmp_path))
        with pytest.raises(InputError, match="holds no checkpoint: run detect first"):
            evaluate.evaluate(str(data))

    def test_files_that_are_no_search(self, tmp_path):
        (tmp_path / "other.yaml").write_text("space: nasbench201\narchitectures: [{architecture: x}]\n")
        with pytest.raises(InputError, match="no architectures of BurgerFormer"):
            resolve_backbone(str(tmp_path / "other.yaml"))
        for command in (search.search, compare.compare):
            with pytest.raises(InputError, match="make it first"):
                command(data="x", out=str(tmp_path / "gone" / "found.yaml"))


class TestWhatIsFilledIn:
    def test_any_backbone_and_any_categories(self, data, tmp_path):
        filled = detector.configure("timm/test_convnext", str(data), "out", detector=SMALL, scale=(128, 96), epochs=24)
        assert filled.model.neck.in_channels == [24, 32, 48, 64]
        assert filled.model.roi_head.bbox_head.num_classes == filled.model.roi_head.mask_head.num_classes == 3
        assert filled.train_dataloader.dataset.metainfo["classes"] == ("disc", "square", "triangle")
        assert filled.param_scheduler[1].milestones == [16, 22] and filled.train_cfg.max_epochs == 24
        for loader in (filled.train_dataloader, filled.val_dataloader, filled.test_dataloader):
            assert [s.scale for s in loader.dataset.pipeline if s.type == "Resize"] == [(128, 96)]

    def test_the_published_schedule_is_the_default(self, data):
        filled = detector.configure("burgerformer/BurgerFormer-B", str(data), "out")
        optimizer = filled.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 2e-4, 1e-4)
        assert filled.optim_wrapper.clip_grad is None and filled.train_cfg.max_epochs == 12
        warmup, falls = filled.param_scheduler
        assert (warmup.start_factor, warmup.end, falls.milestones, falls.gamma) == (0.001, 500, [8, 11], 0.1)
        assert filled.auto_scale_lr == {"enable": True, "base_batch_size": 16}
        assert filled.train_dataloader.batch_size == 2
        assert [s.scale for s in filled.train_dataloader.dataset.pipeline if s.type == "Resize"] == [(1333, 800)]
        model = filled.model
        assert model.neck.in_channels == [96, 128, 320, 512] and model.neck.num_outs == 5
        assert model.rpn_head.anchor_generator.scales == [8]
        assert model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
        assert model.roi_head.bbox_roi_extractor.roi_layer.output_size == 7
        assert model.roi_head.mask_roi_extractor.roi_layer.output_size == 14
        assert (
            model.data_preprocessor.mean == [123.675, 116.28, 103.53] and model.data_preprocessor.pad_size_divisor == 32
        )


class TestSpace:
    def test_parameters_are_those_of_the_classifier(self):
        space = BurgerBackbones()
        assert space.cost(NAMED["BurgerFormer-B"], image_size=(3, 96, 128)).params == 26_207_776  # published
        _, backbone = checked_backbone("burgerformer/BurgerFormer-B")
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 25_695_864

    def test_a_search_keeps_the_limit_and_its_file_is_read(self, data, tmp_path):
        few = search.Evolution(population=3, mutations=1, crossovers=1, parents=2)
        options = {"samples": 2, "scale": (96, 64), "evaluations": 4, "max_params": 1_500_000, "evolution": few}
        options["store"] = str(tmp_path / "scores.db")
        found = search.search(str(data), str(tmp_path / "found.yaml"), "zico", **options)
        again = search.search(str(data), str(tmp_path / "found.yaml"), "zico", **options)
        assert (found.computed, again.computed, again.reused) == (4, 0, 4) and again.best == found.best
        assert all(params <= 1_500_000 for params in found.to_pandas()["params"])
        spec, _ = checked_backbone(str(tmp_path / "found.yaml"))
        assert spec == f"burgerformer/{found.best}"
        batch = lh.Batch.from_coco(data, 2, (96, 64))
        plain = lh.detection.coco.coco_batch(lh.detection.coco.load_coco(data), 2, (96, 64), masks=False)
        score = lh.score(f"{spec}:backbone", plain, "zico", seed=0)["zico"]
        assert math.isclose(found.to_pandas()["zico"].iloc[0], score, rel_tol=1e-6) and len(batch) == 2

    def test_a_libra_of_proxies_without_class_scores(self, data, tmp_path):
        few = search.Evolution(population=2, mutations=1, crossovers=0, parents=1)
        options = {"samples": 2, "scale": (96, 64), "evaluations": 3, "max_params": 1_500_000, "evolution": few}
        found = search.search(str(data), str(tmp_path / "found.yaml"), libra="nasbench301/cifar10", **options)
        table = found.to_pandas()
        assert {"nwot", "l2_norm", "flops"} <= set(table.columns) and table["score"].notna().all()

    def test_a_limit_that_nothing_keeps(self, data, tmp_path):
        with pytest.raises(InputError, match=r"at most 1,000 parameters: the nearest has 465,472"):
            search.search(str(data), str(tmp_path / "found.yaml"), samples=2, scale=(96, 64), max_params=1000)


def test_costs_of_the_heads_are_those_of_torchvisions():
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import RPNHead

    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        maps = [torch.empty(1, 256, -(-160 // stride), -(-224 // stride)) for stride in (4, 8, 16, 32, 64)]
        RPNHead(256, 3)(maps)
        FastRCNNPredictor(1024, 81)(TwoMLPHead(256 * 49, 1024)(torch.empty(10, 256, 7, 7)))
        MaskRCNNPredictor(256, 256, 80)(MaskRCNNHeads(256, [256] * 4, 1)(torch.empty(4, 256, 14, 14)))
    # torchvision regresses boxes of the background too
    assert counter.get_total_flops() / 2 - 10 * 1024 * 4 == cost.head_macs(10, 4, (160, 224))


def test_the_cost_is_told(capsys):
    assert cost.cost("timm/test_resnet") == 0 and "detect, 12 epochs" in capsys.readouterr().out


def test_the_table_has_the_papers_figures():
    text = evaluate.table({"mine": (50, 60, 70, 1, 2, 3)})
    assert "| mine | 50.0 | 60.0 | 70.0 | 1.0 | 2.0 | 3.0 |" in text
    assert "| BurgerFormer by L-SWAG (paper) | 47.5 | 71.4 | 50.3 | 41.4 | 69.7 | 44.2 |" in text
    assert all(line.count("|") == 8 for line in text.splitlines())


def test_a_comparison_says_how_far_the_orders_agree():
    names = ["ResNet-50", "PoolFormer-S24", "Swin-T", "ConvNeXt-T", "BurgerFormer"]
    rows = [Row(name, {"zico": score}, params=9.0 - score) for name, score in zip(names, (1, 2, 4, 9, 3), strict=True)]
    text = compare.written(Ranking(rows, {"zico": True}), 8, "pictures", (64, 48))
    assert "over 4 backbones: zico 0.80, params -0.80" in text  # 1 2 4 3 against 1 2 3 4
    assert "| ConvNeXt-T | 9 |" in text and text.count("| - |") >= 1


def test_backbones_are_compared(data, tmp_path):
    out = tmp_path / "table.md"
    options = {"backbones": ["timm/test_resnet", "timm/test_vit"], "proxies": "zico", "samples": 2, "scale": (96, 64)}
    assert compare.compare(str(out), str(data), BACKBONE, **options) == 0
    text = out.read_text()
    assert "| timm/test_resnet |" in text and "| found |" in text and "Not scored: timm/test_vit" in text
    assert out.with_suffix(".csv").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_chain(data, tmp_path, capsys):
    """Pretrained weights go in, the loss falls, a stopped run goes on, and what was trained on is found."""
    classifier = lh.build(BACKBONE, num_classes=10, seed=9)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "pretrained.ckpt")
    out = tmp_path / "out"
    asked = command(data, out, "--iterations", "50", "--weights", str(tmp_path / "pretrained.ckpt"))
    assert detect.main([*asked, "--stop_after", "25"]) == 0
    with detect.readable_checkpoints():
        half = torch.load(out / "iter_25.pth", weights_only=True)
    assert half["meta"]["iter"] == 25 and "optimizer" in half
    other = BACKBONE.replace("1,64,1", "1,64,2")
    with pytest.raises(InputError, match=r"a run of another model \(backbone differ\)"):
        detect.main(command(data, out, "--iterations", "50", "--resume", "true", backbone=other))
    assert detect.main([*asked, "--resume", "true"]) == 0
    with detect.readable_checkpoints():
        done = torch.load(out / "iter_50.pth", weights_only=True)
    losses = done["message_hub"]["log_scalars"]["train/loss"].data[0]
    assert len(losses) == 50, "those before the stop are kept"
    assert losses[-10:].mean() < 0.5 * losses[:5].mean()
    capsys.readouterr()
    assert evaluate.evaluate(str(out), "small", pictures=2) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["coco/bbox_mAP"] > 0.01 and result["coco/segm_mAP"] > 0.01
    assert "| small |" in (out / "table.md").read_text()
    drawn = list(out.glob("*/pictures/*.png"))
    assert len(drawn) >= 2 and all(file.stat().st_size > 1000 for file in drawn)
    assert yaml.safe_load(json.dumps(result))["name"] == "small"


def test_pretrained_weights_reach_the_detector(data, tmp_path):
    classifier = lh.build(BACKBONE, num_classes=10, seed=9)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    filled = detector.configure(BACKBONE, str(data), "out", detector=SMALL, weights=str(tmp_path / "weights.pth"))
    from mmdet.registry import MODELS

    model = MODELS.build(filled.model)
    name = "stages.2.0.layers.0.inner.1.qkv.weight"
    assert torch.equal(model.backbone.body.state_dict()[name], classifier.state_dict()[name])
