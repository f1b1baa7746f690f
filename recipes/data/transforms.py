"""What is done to images in training and in evaluation, made of torchvision's and timm's own transforms."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import transforms as T

Transform: TypeAlias = Callable[[Any], Any]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # DARTS's


class Transforms:
    """A transform for training and one for evaluation; each takes a PIL image."""

    def __init__(self, train: Transform, test: Transform) -> None:
        self.train, self.test = train, test

    def __repr__(self) -> str:
        # checkpoints keep this to tell other settings; an address says nothing
        return re.sub(r" at 0x\w+", "", f"{type(self).__name__}(train={self.train!r}, test={self.test!r})")


class Plain(Transforms):
    """No augmentation: colour, a size, normalised."""

    def __init__(
        self,
        size: int | None = None,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        resized = [] if size is None else [T.Resize((size, size))]
        both = T.Compose([rgb, *resized, T.ToTensor(), T.Normalize(tuple(mean), tuple(std))])
        super().__init__(both, both)


class DARTSCIFAR(Transforms):
    """DARTS's for CIFAR: a crop of padded images, a flip, cutout.

    Args:
        cutout: side of the square that is blanked; 0: none.
        size: side of the images.
        padding: on each side, before the crop.
        mean: of each channel.
        std: of each channel.
    """

    def __init__(
        self,
        cutout: int = 16,
        size: int = 32,
        padding: int = 4,
        mean: Sequence[float] = CIFAR_MEAN,
        std: Sequence[float] = CIFAR_STD,
    ) -> None:
        end = [T.ToTensor(), T.Normalize(tuple(mean), tuple(std))]
        resized = [rgb, T.Resize((size, size))]  # nothing changes where it is the size already
        cut = [Cutout(cutout)] if cutout else []
        train = [*resized, T.RandomCrop(size, padding), T.RandomHorizontalFlip(), *end, *cut]
        super().__init__(T.Compose(train), T.Compose([*resized, *end]))


class DARTSImageNet(Transforms):
    """DARTS's for ImageNet: a random crop, a flip, colour jitter; in evaluation a central crop.

    Args:
        size: side of the images.
        resize: shorter side in evaluation, before the crop.
        jitter: brightness, contrast, saturation, hue.
    """

    def __init__(
        self, size: int = 224, resize: int = 256, jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.2)
    ) -> None:
        end = [T.ToTensor(), T.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
        train = [rgb, T.RandomResizedCrop(size), T.RandomHorizontalFlip(), T.ColorJitter(*jitter), *end]
        super().__init__(T.Compose(train), T.Compose([rgb, T.Resize(resize), T.CenterCrop(size), *end]))


class Timm(Transforms):
    """timm's transforms for training and evaluation (``timm.data.create_transform``); the defaults are AutoFormer's.

    Args:
        size: side of the images.
        color_jitter: used only where ``auto_augment`` is None, as in timm.
        auto_augment: timm's word for it, such as ``rand-m9-mstd0.5-inc1``; None: none.
        erasing: chance of random erasing.
        erasing_mode: const, rand or pixel.
        interpolation: bicubic, bilinear or random.
        crop: share of the resized image that is kept in evaluation: .875 of 256 is 224.
        mean: of each channel.
        std: of each channel.
    """

    def __init__(
        self,
        size: int = 224,
        color_jitter: float | None = 0.4,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        erasing: float = 0.25,
        erasing_mode: str = "pixel",
        interpolation: str = "bicubic",
        crop: float = 0.875,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        same: dict[str, Any] = {
            "input_size": (3, size, size),
            "interpolation": interpolation,
            "mean": tuple(mean),
            "std": tuple(std),
        }
        train = create_transform(
            **same,
            is_training=True,
            color_jitter=color_jitter or 0.0,
            auto_augment=auto_augment,
            re_prob=erasing,
            re_mode=erasing_mode,
        )
        for step in train.transforms:
            for operation in getattr(step, "ops", ()):
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = posterize
        super().__init__(T.Compose([rgb, train]), T.Compose([rgb, create_transform(**same, crop_pct=crop)]))


class Cutout:
    """Blank a square whose middle is anywhere, so that part of it may be outside (DeVries & Taylor, 2017).

    Shapes: (C, H, W) to the same.

    Example:
        >>> image = Cutout(2)(torch.ones(1, 8, 8))
        >>> 60 <= image.sum().item() <= 63
        True
    """

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        """A copy with the hole."""
        slices = []
        for length in image.shape[-2:]:
            start = int(torch.randint(length, ())) - self.side // 2
            slices.append(slice(max(start, 0), max(start + self.side, 0)))
        image = image.clone()
        image[..., slices[0], slices[1]] = 0
        return image

    def __repr__(self) -> str:
        return f"Cutout({self.side})"


def posterize(image: Any, bits: int, **_: Any) -> Any:
    """Keep the upper bits of each colour; timm's strongest asks for none, which is black, and Pillow 13 refuses that.

    Example:
        >>> pixel = Image.new("RGB", (1, 1), (200, 255, 3))
        >>> posterize(pixel, 1).getpixel((0, 0)), posterize(pixel, 0).getpixel((0, 0))
        ((128, 128, 0), (0, 0, 0))
    """
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def rgb(image: Any) -> Any:
    """A PIL image in colour."""
    return image if image.mode == "RGB" else image.convert("RGB")
