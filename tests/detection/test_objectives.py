"""Losses of detectors, and whose rows are whose in their heads."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.detection.objectives import TorchvisionObjective, detector_library, losing
from lswag_hooks.detection.pyramid import Pyramid, build_backbone
from lswag_hooks.detection.shapes import shapes_batch
from lswag_hooks.detection.survey import kept_bytes
from lswag_hooks.errors import InputError
from lswag_hooks.hooks.forward import Watcher
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.hooks.weights import GradientCapture
from lswag_hooks.objective import resolve_objective
from lswag_hooks.verify import verify_gradients

CONFIG = Path(__file__).parent / "configs" / "mask_rcnn.py"


@pytest.fixture(scope="module")
def batch():
    return shapes_batch(3, (128, 96), seed=2)


def torchvision_detector():
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=128
    )


def mmdet_detector():
    pytest.importorskip("mmdet", reason="needs the extra: pip install 'lswag-hooks[detection]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lh.build(str(CONFIG), seed=0)


DETECTORS = {"torchvision": torchvision_detector, "mmdet": mmdet_detector}


@pytest.mark.parametrize("library", DETECTORS)
class TestEveryLibrary:
    def test_a_score_needs_nothing_but_the_detector(self, library, batch):
        model = DETECTORS[library]()
        assert detector_library(model) == library
        before = {name: value.clone() for name, value in model.state_dict().items()}
        result = lh.score(model, batch, ["lswag", "zico", "flops"], seed=0)
        again = lh.score(model, batch, ["lswag", "zico", "flops"], seed=0)
        assert dict(result.scores) == dict(again.scores) and not result.reasons
        assert not result.coverage.uncovered and not result.coverage.unplaced
        assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_no_experiment_is_made(self, library, batch, monkeypatch):
        """Pooling tells whose regions are whose: three more of a detector's pictures would take a lot of memory."""
        monkeypatch.setattr(Watcher, "outputs", lambda *args: pytest.fail("an experiment"))
        result = lh.score(DETECTORS[library](), batch, "swap", seed=0)
        assert not result.coverage.unplaced and result["swap"] > 0

    def test_a_batch_that_does_not_fit_is_refused_before_any_work(self, library, batch):
        model = DETECTORS[library]()

        def run(module, inputs):
            assert inputs[0].is_meta, "work"

        model.backbone.register_forward_pre_hook(run)
        with pytest.raises(InputError, match=r"a detector's losses are divided .* \(--samples, --size\)"):
            lh.score(model, batch, mode="eval", max_memory="1MB")

    def test_what_is_held_is_at_least_what_backbone_and_neck_keep(self, library, batch):
        model = DETECTORS[library]()
        objective = resolve_objective(model)
        kept = objective.held_bytes(model, batch)
        part, size = objective.trunk(model, batch)
        part.requires_grad_(True).eval()
        found = kept_bytes(part, torch.zeros(1, 3, *size))
        assert kept == pytest.approx(found, rel=0.02) and kept > 1e6

    def test_every_layer_reconciles_with_autograd(self, library, batch):
        """A picture's gradient is its share of a loss divided by the regions of all: there is none of it alone."""
        result = lh.score(DETECTORS[library](), batch, verify=True)
        rows = result.verification
        assert [row for row in rows if not row.passed] == [] and len(rows) > 20
        assert all(row.sample_error is None for row in rows)
        assert not [note for note in result.notes if "verification" in note]

    def test_rows_of_the_box_head_go_back_to_their_pictures(self, library, batch):
        """Against rows split by hand: the image of every region is in what the pooling is given."""
        model = DETECTORS[library]()
        if library == "mmdet":
            model.roi_head.bbox_sampler.num = 4000  # all proposals, and not as many of every picture
        head = dict(model.named_modules())[{"torchvision": "roi_heads.box_head.fc6"}.get(library, BOX)]
        pools = [m for m in model.modules() if type(m).__name__ in ("MultiScaleRoIAlign", "SingleRoIExtractor")]
        seen: dict = {}

        def pooled(module, inputs):
            regions = inputs[1]
            image = regions[:, 0] if torch.is_tensor(regions) else None
            counts = [len(r) for r in regions] if image is None else [int((image == i).sum()) for i in range(3)]
            seen.setdefault("counts", counts)  # of the box head; those of the mask head come later

        def called(module, inputs, output):
            seen["input"] = inputs[0].detach()
            output.register_hook(lambda gradient: seen.update(gradient=gradient))  # what follows may work in place

        handles = [pool.register_forward_pre_hook(pooled) for pool in pools]
        handles.append(head.register_forward_hook(called))
        objective, found = resolve_objective(model), {}
        with ProbeSession(model, "eval", 0):
            watcher = Watcher(model, 3)
            result = watcher.run(batch.inputs, lambda inputs: objective(model, _with(batch, inputs)))
            (layer,) = [one for one in result.inventory.layers if watcher.parameters.owners[one.parameter] is head]

            def consume(one, gradients):
                parts = [torch.cat([gradients.source.block(s, rows) for s in cut]) for rows, cut in BLOCKS(gradients)]
                found["tile"] = gradients.source.restore(torch.cat(parts, 1))

            result.loss.backward(retain_graph=True)
            GradientCapture(result.graph, watcher.parameters, 3).run(result.loss, [layer], consume, 1.0)
        for handle in handles:
            handle.remove()
        assert len(set(seen["counts"])) > 1, "unequal blocks are what this is about"
        start = 0
        for picture, count in enumerate(seen["counts"]):
            rows = slice(start, start + count)
            wanted = seen["gradient"][rows].T @ seen["input"][rows]
            assert torch.allclose(found["tile"][picture], wanted, atol=1e-6 + 1e-4 * float(wanted.abs().max()))
            start += count

    def test_a_batch_without_boxes_is_refused(self, library):
        digits = lh.Batch.builtin("digits", size=64, samples=4)
        with pytest.raises(InputError, match=r"no boxes.*from_coco"):
            lh.score(DETECTORS[library](), digits)


BOX = "roi_head.bbox_head.shared_fcs.0"


def BLOCKS(gradients):
    return blocks(gradients.source)


def _with(batch, inputs):
    from lswag_hooks.experiment import with_inputs

    return with_inputs(batch, inputs)


def test_torchvisions_detectors_give_their_backbones_where_they_have_four_maps():
    assert lh.build("torchvision/maskrcnn_resnet50_fpn:backbone").backbone.channels == (256, 512, 1024, 2048)
    for name, said in (("fasterrcnn_mobilenet_v3_large_320_fpn", "strides 32, 32"), ("ssd300_vgg16", "no four maps")):
        with pytest.raises(InputError, match=said):
            lh.build(f"torchvision/{name}:backbone")


@pytest.mark.parametrize(("name", "said"), [("maskrcnn", "mask"), ("keypointrcnn", "keypoint")])
def test_what_torchvisions_heads_learn_must_be_there(name, said):
    model = lh.build(f"torchvision/{name}_resnet50_fpn")
    with pytest.raises(InputError, match=f"has a {said} head, and the batch no '{said}s'"):
        lh.score(model, shapes_batch(2, (64, 64), masks=False))


@pytest.mark.gpu
@pytest.mark.parametrize("library", DETECTORS)
def test_on_a_gpu(library, batch):
    model = DETECTORS[library]()
    model.to("cuda")
    rows = verify_gradients(model, batch.to("cuda"), resolve_objective(model))
    assert [row for row in rows if not row.passed] == []


def test_the_loss_is_that_of_training(batch):
    model = torchvision_detector()
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    torch.manual_seed(0)
    expected = sum(model(list(batch.inputs), [dict(target) for target in batch.targets]).values())
    model.eval()
    assert torch.allclose(TorchvisionObjective()(model, batch), expected)
    assert not any(module.training for module in model.modules())


def test_pictures_are_not_resized_at_random(batch):
    model = torchvision_detector().eval()
    with losing(model, "torchvision.models.detection"):
        assert model.training and model.rpn.training and model.roi_heads.training
        assert not model.transform.training and not model.backbone.body["0"][1].training


class TestMMDet:
    @pytest.fixture(autouse=True)
    def _extra(self):
        pytest.importorskip("mmdet", reason="needs the extra: pip install 'lswag-hooks[detection]'")

    def test_the_loss_is_that_of_its_own_train_step(self, batch):
        """Through mmdet's pipeline form: uint8 BGR pictures and its own call."""
        from lswag_hooks.detection.objectives import MMDetObjective, data_sample
        from lswag_hooks.rng import seeded

        model = mmdet_detector()
        pictures = [(picture * 255).round().to(torch.uint8) for picture in batch.inputs]
        exact = lh.Batch(tuple(picture.float() / 255 for picture in pictures), batch.targets)
        samples = [data_sample(p, t, True) for p, t in zip(pictures, batch.targets, strict=True)]
        model.eval()
        with seeded(0), losing(model, "mmdet.models"):
            data = model.data_preprocessor({"inputs": [p.flip(0) for p in pictures], "data_samples": samples}, True)
            losses = model(**data, mode="loss")
        total = sum(sum(v) if isinstance(v, list) else v for k, v in losses.items() if "loss" in k)
        assert torch.allclose(MMDetObjective()(model, exact), total, rtol=1e-5)
        assert {int(label) for sample in samples for label in sample.gt_instances.labels} <= {0, 1, 2}

    def test_a_config_is_scored_by_its_path_whole_or_its_backbone_alone(self, batch):
        whole = lh.score(str(CONFIG), batch, seed=0)
        backbone = lh.score(f"{CONFIG}:backbone", batch, seed=0)
        assert whole["lswag"] != backbone["lswag"]
        names = {row.name.split(".")[0] for row in whole.profile.weights}
        assert {"backbone", "neck", "rpn_head", "roi_head"} <= names
        assert {row.name.split(".")[0] for row in backbone.profile.weights} == {"backbone", "fpn"}
        assert isinstance(lh.build(f"{CONFIG}:backbone"), Pyramid)
        assert lh.models.expected_input_size(str(CONFIG)) == (3, 200, 320)

    def test_by_default_on_shapes_of_the_configs_size_and_what_it_takes_is_told_first(self, capsys, monkeypatch):
        from lswag_hooks.cli import main
        from lswag_hooks.commands import score

        asked = []
        monkeypatch.setattr(score, "MUCH", 1e6)
        monkeypatch.setattr(score, "score", lambda *args, **options: (_ for _ in ()).throw(InputError("work")))
        monkeypatch.setattr(lh.Batch, "load", lambda *args: asked.append(args) or shapes_batch(2, (96, 64)))
        assert main(["score", str(CONFIG)]) == 2
        assert asked == [("shapes", (3, 200, 320), 8)]
        told, work = capsys.readouterr().err.splitlines()
        assert "backbone and neck hold 0.0 GB of 2 pictures" in told and work == "lswag: work"

    def test_a_detector_gives_its_backbone(self):
        assert build_backbone(mmdet_detector()).channels == (32, 48, 192, 96)

    def test_seeds_and_classes(self):
        one, same, other = (lh.build(str(CONFIG), seed=seed) for seed in (1, 1, 2))
        first, again, third = (model.roi_head.bbox_head.fc_cls.weight for model in (one, same, other))
        assert torch.equal(first, again) and not torch.equal(first, third)
        assert lh.build(str(CONFIG), num_classes=7).roi_head.mask_head.num_classes == 7

    def test_bad_configs(self, tmp_path):
        with pytest.raises(InputError, match="there is no config"):
            lh.build(str(tmp_path / "gone.py"))
        for text, said in (
            ("model = dict(", "cannot be read as a config"),
            ("x = 1", "describes no model"),
            ("model = dict(type='NoSuchDetector')", r"cannot be built.*NoSuchDetector"),
        ):
            (tmp_path / "config.py").write_text(text)
            with pytest.raises(InputError, match=said):
                lh.build(str(tmp_path / "config.py"))

    def test_no_pretrained_weights_are_asked_for(self, monkeypatch):
        import mmengine.runner.checkpoint as loading

        def refuse(*args, **kwargs):
            raise AssertionError("a download")

        monkeypatch.setattr(loading.CheckpointLoader, "load_checkpoint", refuse)
        from lswag_hooks.detection.configs import without_weights

        described = {"backbone": {"init_cfg": {"type": "Pretrained"}, "depth": 18}, "heads": [{"num_classes": 80}]}
        assert without_weights(described, 3) == {
            "backbone": {"init_cfg": None, "depth": 18},
            "heads": [{"num_classes": 3}],
        }

    def test_on_the_command_line(self, capsys):
        from lswag_hooks.cli import main

        assert main(["score", str(CONFIG), "--data", "shapes", "--samples", "2", "--size", "3,96,128"]) == 0
        assert "mask_rcnn.py on 2 samples of shapes, up to 3 x 96 x 128" in " ".join(capsys.readouterr().out.split())
        assert main(["score", "nowhere/config.py", "--data", "shapes"]) == 2
        assert "there is no config nowhere/config.py" in capsys.readouterr().err
