"""Rank timm models on pictures that are resized and normalised as each one's data config says."""

import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_transform, resolve_data_config

import lswag_hooks as lh

SAMPLES = 8


def pictures() -> tuple[list[Image.Image], torch.Tensor]:
    """Digits as RGB pictures; put your own here."""
    digits = load_digits()
    images = [
        Image.fromarray((16 * one).clip(0, 255).astype("uint8")).convert("RGB") for one in digits.images[:SAMPLES]
    ]
    return images, torch.from_numpy(digits.target[:SAMPLES])


def config_of(name: str) -> dict:
    """Size, mean, deviation and crop of a model, as published; nothing is downloaded."""
    return resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())


def batch_for(config: dict) -> lh.Batch:
    """The pictures as a model with this config wants them."""
    images, labels = pictures()
    transform = create_transform(**config, is_training=False)
    return lh.Batch(torch.stack([transform(image) for image in images]), labels, name="digits")


def main() -> dict[str, lh.Ranking]:
    """Names by a pattern, one ranking for each data config: scores on different pictures cannot be compared."""
    groups: dict[str, list[str]] = {}
    for name in ["test_resnet", *timm.list_models("test_vit*")]:
        groups.setdefault(str(config_of(name)), []).append(name)
    rankings = {}
    for config, names in groups.items():
        print(f"\n{', '.join(names)}: {config}")
        batch = batch_for(config_of(names[0]))
        rankings[config] = lh.rank([f"timm/{name}" for name in names], batch, init="wake", progress=False)
        print(rankings[config])
    return rankings


if __name__ == "__main__":
    main()
