"""Transformers' model classes at a few thousand to a few hundred thousand weights, made from their configurations.

No weights are downloaded: every case is a configuration, inputs drawn with a fixed seed, and a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import lswag_hooks as lh

TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 60}
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {"image_size": 32, "patch_size": 8}


class Loss:
    """A scalar from whatever the model returns."""

    is_objective, reduction = True, "mean"

    def __init__(self, of: Callable[[Any, lh.Batch], Tensor]) -> None:
        self.of = of

    def __call__(self, model: nn.Module, batch: lh.Batch) -> Tensor:
        inputs = batch.inputs
        found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        return self.of(found, batch)


def _pooled(found: Any, batch: lh.Batch) -> Tensor:
    return nn.functional.cross_entropy(found.pooler_output, batch.targets)


def _pixels(found: Any, batch: lh.Batch) -> Tensor:
    return nn.functional.cross_entropy(found.logits.mean((2, 3)), batch.targets)


def _boxes(found: Any, batch: lh.Batch) -> Tensor:
    return (found.logits.square().mean() + found.pred_boxes.square().mean()) / 2


def _masks(found: Any, batch: lh.Batch) -> Tensor:
    return found.masks_queries_logits.square().mean() + found.class_queries_logits.square().mean()


def _mobilevit(transformers: Any) -> Any:
    return transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 12, 16, 16, 24, 48],
        num_labels=16,
        initializer_range=0.3,
    )


def _mask2former(transformers: Any) -> Any:
    return transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=24,
        dim_feedforward=24,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        num_labels=3,
    )


def _detr(transformers: Any) -> Any:
    return transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        ),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_queries=5,
        num_labels=3,
    )


IMAGES, WORDS, PAIRS, SOUND = "images", "words", "encoder and decoder", "sound"
Case = tuple[Callable[[Any], Any], str, int, Loss | None]
#: class name: configuration, kind of input, image size (or 0), loss (None: cross-entropy of the logits)
CASES: dict[str, Case] = {
    "AlbertForSequenceClassification": (lambda t: t.AlbertConfig(**TEXT, embedding_size=8), WORDS, 0, None),
    "BertForMaskedLM": (lambda t: t.BertConfig(**TEXT), WORDS, 1, None),
    "BertForSequenceClassification": (lambda t: t.BertConfig(**TEXT), WORDS, 0, None),
    "CLIPVisionModel": (lambda t: t.CLIPVisionConfig(**VISION, **IMAGE), IMAGES, 32, Loss(_pooled)),
    "ConvNextForImageClassification": (
        lambda t: t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=16),
        IMAGES,
        64,
        None,
    ),
    "DeiTForImageClassification": (lambda t: t.DeiTConfig(**VISION, **IMAGE, num_labels=16), IMAGES, 32, None),
    "DetrForObjectDetection": (_detr, IMAGES, 64, Loss(_boxes)),
    "Dinov2ForImageClassification": (
        lambda t: t.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **IMAGE, num_labels=16),
        IMAGES,
        32,
        None,
    ),
    "GPT2LMHeadModel": (
        lambda t: t.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=16),
        WORDS,
        1,
        None,
    ),
    "LevitForImageClassification": (
        lambda t: t.LevitConfig(
            image_size=64,
            hidden_sizes=[16, 16, 24],
            num_attention_heads=[1, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            num_labels=16,
        ),
        IMAGES,
        64,
        None,
    ),
    "LlamaForCausalLM": (lambda t: t.LlamaConfig(**TEXT, num_key_value_heads=2), WORDS, 1, None),
    "Mask2FormerForUniversalSegmentation": (_mask2former, IMAGES, 64, Loss(_masks)),
    "MixtralForCausalLM": (
        lambda t: t.MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=4),
        WORDS,
        1,
        None,
    ),
    "MobileViTForImageClassification": (_mobilevit, IMAGES, 64, None),
    "ResNetForImageClassification": (
        lambda t: t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=16),
        IMAGES,
        32,
        None,
    ),
    "SegformerForSemanticSegmentation": (
        lambda t: t.SegformerConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
            num_labels=16,
        ),
        IMAGES,
        64,
        Loss(_pixels),
    ),
    "SwinForImageClassification": (
        lambda t: t.SwinConfig(
            image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=16
        ),
        IMAGES,
        32,
        None,
    ),
    "Swinv2ForImageClassification": (
        lambda t: t.Swinv2Config(
            image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=16
        ),
        IMAGES,
        32,
        None,
    ),
    "T5ForConditionalGeneration": (
        lambda t: t.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
        PAIRS,
        1,
        None,
    ),
    "ViTForImageClassification": (lambda t: t.ViTConfig(**VISION, **IMAGE, num_labels=16), IMAGES, 32, None),
    "Wav2Vec2ForSequenceClassification": (
        lambda t: t.Wav2Vec2Config(
            **TEXT,
            conv_dim=[16, 16],
            conv_stride=[5, 2],
            conv_kernel=[10, 3],
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            classifier_proj_size=16,
            num_labels=4,
        ),
        SOUND,
        0,
        None,
    ),
}


def _settle(model: nn.Module, pixels: Tensor) -> None:
    """Running statistics of the inputs at hand: with those of a new BatchNorm small networks fade to nothing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(pixels)


def case(name: str) -> tuple[nn.Module, lh.Batch, Loss | None]:
    """Model, batch of two samples, and loss."""
    import transformers

    make, kind, size, loss = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, name)(make(transformers))
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([1, 0])
    if kind == IMAGES:
        pixels = torch.randn(2, 3, size, size, generator=generator)
        _settle(model, pixels)
        return model, lh.Batch({"pixel_values": pixels}, classes), loss
    if kind == SOUND:
        return model, lh.Batch({"input_values": torch.randn(2, 800, generator=generator)}, classes), loss
    tokens = torch.randint(1, 60, (2, 7), generator=generator)
    inputs = {"input_ids": tokens, **({"decoder_input_ids": tokens} if kind == PAIRS else {})}
    return model, lh.Batch(inputs, tokens if size else classes), loss
