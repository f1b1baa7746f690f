"""A small fixed selection of real models: scored without an exception, covered whole, reconciled with autograd."""

import pytest
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.objective import resolve_objective
from lswag_hooks.verify import verify_gradients

IMAGES = {  # model: side of the images
    "timm/test_resnet": 64,
    "timm/test_vit": 160,
    "timm/test_nfnet": 64,
    "timm/resnet18": 64,
    "timm/efficientnet_b0": 64,
    "timm/convnext_atto": 64,
    "timm/mobilenetv3_small_050": 64,
    "timm/nf_regnet_b0": 64,
    "timm/regnetx_002": 64,
    "timm/ghostnet_050": 64,
    "timm/swinv2_cr_tiny_ns_224": 224,
    "torchvision/shufflenet_v2_x0_5": 64,
    "torchvision/swin_t": 64,
}


def awake(model):
    """Random values for whatever starts at exactly zero, or the reconciliation would be vacuous."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def covered(model, batch):
    result = lh.score(model, batch, "lswag", mode="eval")
    assert result["lswag"] > 0
    assert not result.coverage.uncovered and not result.coverage.unplaced
    rows = verify_gradients(model, batch, resolve_objective(model))
    assert len(rows) == len(result.profile.weights)
    assert [row for row in rows if not row.passed] == []
    return result


@pytest.mark.parametrize("spec", IMAGES)
def test_image_model(spec):
    side = IMAGES[spec]
    model = awake(lh.build(spec, num_classes=5))
    generator = torch.Generator().manual_seed(1)
    covered(model, lh.Batch(torch.randn(2, 3, side, side, generator=generator), torch.tensor([1, 3])))


def test_vision_transformer_of_torchvision():
    """Its attention is nn.MultiheadAttention: rows are interleaved."""
    transformer = pytest.importorskip("torchvision").models.VisionTransformer
    torch.manual_seed(0)
    model = awake(transformer(32, 8, 2, 2, 16, 24, num_classes=5)).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator).double()
    result = covered(model, lh.Batch(images, torch.tensor([1, 3, 0])))
    assert sum(row.name.endswith("in_proj_weight") for row in result.profile.weights) == 2
    assert result.coverage.activations["gelu"] == 2


def language_batch(**more):
    tokens = torch.randint(0, 60, (3, 7), generator=torch.Generator().manual_seed(2))
    return tokens, lh.Batch({"input_ids": tokens, **more}, torch.tensor([0, 1, 1]))


def test_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    _, batch = language_batch()
    result = covered(transformers.BertForSequenceClassification(config).double(), batch)
    assert result.coverage.activations["gelu"] == 2


def test_gpt2_with_its_own_linear_class_and_a_tied_head():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    tokens, _ = language_batch()
    batch = lh.Batch({"input_ids": tokens}, tokens)
    result = covered(transformers.GPT2LMHeadModel(config).double(), batch)
    assert "transformer.wte" in [row.name for row in result.profile.weights]


def test_swin_with_position_networks():
    transformers = pytest.importorskip("transformers")
    config = transformers.Swinv2Config(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5
    )
    model = awake(transformers.Swinv2ForImageClassification(config)).double()
    generator = torch.Generator().manual_seed(1)
    covered(model, lh.Batch(torch.randn(2, 3, 32, 32, generator=generator).double(), torch.tensor([1, 3])))


class ContrastiveLoss:
    """Every pair of an image and a text for itself, so that samples are not coupled."""

    is_objective, reduction = True, "mean"

    def __call__(self, model, batch):
        found = model(**batch.inputs)
        return (1 - nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)).mean()


def test_clip_with_two_towers_and_its_own_gelu():
    transformers = pytest.importorskip("transformers")
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.CLIPConfig(
        text_config={**common, "vocab_size": 60, "max_position_embeddings": 16, "eos_token_id": 59},
        vision_config={**common, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = awake(transformers.CLIPModel(config)).double()
    tokens, _ = language_batch()
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    batch = lh.Batch({"input_ids": tokens, "pixel_values": pixels})
    result = lh.score(model, batch, "lswag", loss=ContrastiveLoss(), mode="eval")
    assert not result.coverage.uncovered and not result.coverage.unplaced
    assert result.coverage.activations["QuickGELUActivation"] == 4
    rows = verify_gradients(model, batch, ContrastiveLoss())
    assert len(rows) == 27 and [row for row in rows if not row.passed or row.vacuous] == []


class DetectionLoss:
    is_objective, reduction = True, "mean"

    def __call__(self, model, batch):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        torch.manual_seed(0)
        return sum(model(list(batch.inputs), [dict(target) for target in batch.targets]).values())


def test_detector_whose_heads_see_regions():
    detection = pytest.importorskip("torchvision").models.detection
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=128, max_size=160
    )
    awake(model)
    generator = torch.Generator().manual_seed(3)
    images = tuple(torch.rand(3, 128, 160, generator=generator) for _ in range(2))
    targets = tuple(
        {"boxes": torch.tensor([[10.0, 10.0, 90.0, 100.0]] * n), "labels": torch.ones(n, dtype=torch.int64)}
        for n in (1, 2)
    )
    batch = lh.Batch(images, targets)
    result = lh.score(model, batch, "lswag", loss=DetectionLoss(), mode="eval")
    assert not result.coverage.uncovered
    rows = verify_gradients(model, batch, DetectionLoss(), single=False)
    assert [row for row in rows if not row.passed] == []
    assert any(row.name == "roi_heads.box_head.fc6" for row in result.profile.weights)
