"""Backbones: their maps, what cannot serve, their costs, and their ranking."""

import math

import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.detection.pretrained import load_pretrained
from lswag_hooks.detection.pyramid import Backbone, Pyramid, PyramidObjective, build_backbone, build_pyramid, stacked
from lswag_hooks.detection.shapes import shapes_batch
from lswag_hooks.detection.survey import counted, kept_bytes, survey
from lswag_hooks.errors import InputError
from lswag_hooks.spaces.burgerformer import NAMED
from lswag_hooks.verify import verify_gradients

SMALL = "burgerformer/" + " / ".join(
    (
        "1,32,1|skip|skip|skip",
        "1,64,1|skip-skip-dwise_3x3-BN-gelu|skip|skip",
        "1,128,1|skip-LN-self_atten-skip-skip|skip|skip",
        "1,128,1|skip|skip|skip",
    )
)


class Stem(nn.Module):
    """Maps of given strides, by pooling."""

    def __init__(self, *strides, size=None):
        super().__init__()
        self.strides, self.size = strides, size
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, pictures):
        if self.size is not None and pictures.shape[2:] != self.size:
            raise ValueError(f"made for {self.size}")
        return [nn.functional.avg_pool2d(self.conv(pictures), stride) for stride in self.strides]


@pytest.fixture(scope="module")
def batch():
    return shapes_batch(2, (96, 64), masks=False)


def test_swins_maps_have_channels_first():
    backbone = build_backbone("timm/swin_tiny_patch4_window7_224")
    maps = backbone(torch.zeros(1, 3, 96, 160))
    assert [tuple(features.shape[1:]) for features in maps] == [
        (96, 24, 40),
        (192, 12, 20),
        (384, 6, 10),
        (768, 3, 5),
    ]


def test_burgerformer_has_a_norm_for_each_map_and_no_head():
    backbone = build_backbone("burgerformer/BurgerFormer-B")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 25_695_864  # published
    assert [tuple(m.shape[1:]) for m in backbone(torch.zeros(1, 3, 256, 320))] == [
        (96, 64, 80),
        (128, 32, 40),
        (320, 16, 20),
        (512, 8, 10),
    ]


def test_norms_of_the_maps_are_those_of_one_group():
    body = Stem(4, 8, 16, 32)
    pictures = torch.rand(2, 3, 64, 64)
    plain, normed = Backbone(body, "stem")(pictures), Backbone(body, "stem", norms=True)(pictures)
    for before, after in zip(plain, normed, strict=True):
        expected = (before - before.mean((1, 2, 3), keepdim=True)) / (
            before.var((1, 2, 3), keepdim=True, correction=0) + 1e-5
        ).sqrt()
        assert torch.allclose(after, expected, atol=1e-5)


def test_the_maps_of_the_right_strides_are_chosen():
    maps = Backbone(Stem(2, 4, 8, 16, 32, 64), "stem")(torch.rand(1, 3, 64, 128))
    assert [features.shape[3] for features in maps] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm/vit_tiny_patch16_224", "one size only"),
        ("timm/test_vit", "strides 16, 16, 16; a pyramid needs 4, 8, 16 and 32"),
        ("burgerformer/BurgerFormer-T", "spatial_mlp mixes the places of maps of one size"),
        ("burgerformer/nothing", "no BurgerFormer architecture"),
        ("timm/resnet51", "timm has no model 'resnet51'. Did you mean"),
        ("torchvision/resnet18", "take the network of that name from timm"),
        ("nowhere.py", "there is no config nowhere.py"),
        (lambda: Stem(4, 8, 16), "its 3 maps have strides 4, 8, 16"),
        (lambda: Stem(4, 8, 16, 32, size=(256, 320)), "no pictures of 320 x 384.*made for"),
        (lambda: nn.Conv2d(3, 8, 4, 4), r"a tensor of shape \(1, 8, 64, 80\), not feature maps"),
    ],
)
def test_what_cannot_serve_says_why(spec, said):
    with pytest.raises(InputError, match=said):
        build_backbone(spec)


def test_seeds_draw_all_weights():
    one, same, other = (build_pyramid(SMALL, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name in ("backbone.body.stem.first.0.weight", "fpn.inner_blocks.0.0.weight"):
        assert not torch.equal(one[name], other[name])


def test_pictures_are_normalised_before_they_are_padded():
    images = stacked([torch.ones(3, 20, 40), torch.zeros(3, 33, 10)])
    assert images.shape == (2, 3, 64, 64)
    assert not images[0, :, 20:].any() and not images[1, :, :, 10:].any()
    assert images[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)


def test_the_loss_is_that_of_torchvisions_proposal_network(batch):
    """The whole network of the library, proposals and all, as the oracle, a picture at a time."""
    from torchvision.models.detection.image_list import ImageList

    from lswag_hooks.detection.pyramid import _proposal_network
    from lswag_hooks.rng import seeded

    model = build_pyramid(SMALL).eval()
    network = _proposal_network("cpu", torch.float32)
    network.train()
    wanted = []
    for picture, target in zip(batch.inputs, batch.targets, strict=True):
        images = stacked([picture])
        features = {str(level): maps for level, maps in enumerate(model(images))}
        with seeded(0):
            _, losses = network(ImageList(images, [(64, 96)]), features, [dict(target)])
        wanted.append(sum(losses.values()))
    assert torch.allclose(PyramidObjective()(model, batch), sum(wanted) / len(wanted), rtol=1e-5)


def test_parts_of_a_batch_score_as_the_whole():
    """Pictures of several sizes, whose padding a norm over places sees."""
    batch = mixed()
    model = build_pyramid(SMALL)
    whole = lh.score(model, batch, ["lswag", "zico"], seed=0, mode="eval")
    kept = PyramidObjective().over(batch).held_bytes(model, batch)
    parts = lh.score(model, batch, ["lswag", "zico"], seed=0, mode="eval", max_memory=3 * kept)
    assert (whole.memory["parts"], parts.memory["parts"]) == (1, 2)
    for name in ("lswag", "zico"):
        assert math.isclose(parts[name], whole[name], rel_tol=1e-4)


def test_an_experiment_is_made_on_small_pictures(monkeypatch):
    """Windows need one; three more pictures of full size would take more than those that are scored."""

    class Windows(Stem):
        def __init__(self):
            super().__init__(4, 8, 16, 32)
            self.linear = nn.Linear(3 * 32 * 32, 3 * 32 * 32)

        def forward(self, pictures):
            n, c, h, w = pictures.shape
            rows = pictures.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 1, 4, 5)
            rows = self.linear(rows.flatten(0, 2).flatten(1)).view(rows.shape)
            return super().forward(rows.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w))

    sizes = []
    model = build_pyramid(Windows())
    model.backbone.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape)))
    result = lh.score(model, shapes_batch(2, (640, 320), masks=False), "zico", seed=0)
    assert sizes == [(2, 3, 320, 640), (3, 3, 224, 448)] and not result.coverage.uncovered


def mixed():
    parts = [shapes_batch(2, size, masks=False) for size in ((96, 64), (64, 128))]
    return lh.Batch(sum((part.inputs for part in parts), ()), sum((part.targets for part in parts), ()))


def test_every_layer_of_a_pyramid_reconciles_and_the_head_is_no_part_of_it():
    """A picture's gradient is that of its own loss, alone."""
    model = build_pyramid(SMALL)
    rows = verify_gradients(model, mixed(), PyramidObjective().over(mixed()))
    assert [row for row in rows if not row.passed or row.vacuous] == []
    assert {row.layer.split(".")[0] for row in rows} == {"backbone", "fpn"}


def test_costs_are_those_of_the_published_network():
    """The backbone of BurgerFormer-B at 224: multiply-accumulates in closed form, less the classifier."""
    backbone = build_backbone("burgerformer/BurgerFormer-B")
    macs, _ = counted(backbone, (224, 224))
    assert macs == lh.get_space("burgerformer").cost(NAMED["BurgerFormer-B"]).macs - 512 * 1000


def test_kept_bytes_of_a_pass_worked_out_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    pictures = torch.empty(1, 3, 10, 10, device="meta")
    # the picture, and the output of the ReLU, which is the input of the next convolution too
    assert kept_bytes(net.to("meta"), pictures) == 4 * (3 * 100 + 8 * 100)


def test_a_survey_leaves_no_trace():
    model = build_pyramid("timm/test_resnet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = survey(model, (64, 64), repeats=1)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found["strides"] == [4, 8, 16, 32] and found["channels"] == [32, 48, 192, 96] and found["latency"] > 0


def test_a_network_that_needs_values_is_not_counted():
    class Counting(Stem):
        def forward(self, pictures):
            float(pictures.sum())
            return super().forward(pictures)

    assert counted(Pyramid(Backbone(Counting(4, 8, 16, 32), "counting"))) == (None, None)


@pytest.fixture(scope="module")
def ranking(batch):
    candidates = dict.fromkeys([SMALL, "timm/test_resnet", "timm/test_vit"])
    candidates["pooled"] = lambda: Stem(4, 8, 16, 32)
    return lh.rank(candidates, batch, ["lswag", "zico"], role="backbone", progress=False)


class TestRanking:
    def test_scores_are_those_of_the_pyramids(self, ranking, batch):
        assert len(ranking.top(4)) == 3
        for name in (SMALL, "timm/test_resnet"):
            model = lh.build(f"{name}:backbone")  # seed 0
            assert isinstance(model, Pyramid)
            row = next(row for row in ranking.rows if row.name == name)
            assert math.isclose(lh.score(model, batch, "zico", seed=0)["zico"], row.scores["zico"], rel_tol=1e-6)

    def test_what_cannot_serve_is_a_row_with_its_reason(self, ranking):
        assert ranking.rows[-1].name == "timm/test_vit" and "strides 16, 16, 16" in ranking.rows[-1].reason

    def test_facts_stand_beside_the_score(self, ranking):
        table = ranking.to_pandas().set_index("name")
        assert table.loc["timm/test_resnet", "channels"] == "32-48-192-96"
        assert table.loc["timm/test_resnet", "strides"] == "4-8-16-32"
        assert table.loc["timm/test_resnet", "params"] == sum(
            parameter.numel() for parameter in build_backbone("timm/test_resnet").parameters()
        )
        assert table.loc["timm/test_resnet", "act_mb"] > 100 and table.loc["timm/test_resnet", "ms"] > 0
        assert "1333 x 800" in "\n".join(ranking.remarks()) and "test_resnet" in str(ranking)

    def test_arguments_of_classifiers_are_refused(self, batch):
        with pytest.raises(InputError, match="num_classes=10 is of classifiers"):
            lh.rank(["timm/test_resnet"], batch, role="backbone", num_classes=10)
        with pytest.raises(InputError, match="role='neck' is unknown"):
            lh.rank(["timm/test_resnet"], batch, role="neck")
        with pytest.raises(InputError, match="no boxes"):
            lh.rank(["timm/test_resnet"], lh.Batch.builtin("digits", 32, 4), role="backbone")

    def test_on_the_command_line(self, capsys, tmp_path):
        from lswag_hooks.cli import main

        table = tmp_path / "table.csv"
        arguments = ["backbones", "timm/test_resnet", "timm/test_vit", "--size", "3,64,96", "--samples", "2"]
        assert main([*arguments, "--csv", str(table)]) == 0
        said = capsys.readouterr().out
        assert "2 pictures of shapes" in said and "not scored: timm/test_vit" in said
        assert "channels" in table.read_text()
        assert main(["backbones", "timm/test_vit", "--size", "3,64,96", "--samples", "2"]) == 1


class TestPretrained:
    def test_a_classifiers_weights_go_into_its_backbone(self, tmp_path):
        classifier = lh.build(SMALL, num_classes=10, seed=5)
        state = {f"net.{name}": value for name, value in classifier.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
        backbone = build_backbone(SMALL, seed=1)
        fresh = load_pretrained(backbone, tmp_path / "last.ckpt")
        assert fresh and all(name.startswith("out_norms.") for name in fresh)
        pictures = torch.rand(1, 3, 64, 64)
        classifier.eval(), backbone.eval()
        wanted = classifier.features(pictures)[-1]
        assert torch.allclose(backbone.body.out_norms[-1](wanted), backbone(pictures)[-1], atol=1e-6)

    def test_weights_of_another_network_are_refused(self, tmp_path):
        torch.save(lh.build("timm/test_resnet").state_dict(), tmp_path / "other.pth")
        with pytest.raises(InputError, match="has 0% of the weights"):
            load_pretrained(build_backbone(SMALL), tmp_path / "other.pth")
        torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
        for name in ("module.pth", "gone.pth"):
            with pytest.raises(InputError, match="cannot be read as a checkpoint"):
                load_pretrained(build_backbone(SMALL), tmp_path / name)
