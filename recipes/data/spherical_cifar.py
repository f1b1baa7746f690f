"""Spherical-CIFAR-100: CIFAR-100 projected onto the sphere, each image turned by a rotation of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from recipes.data.base import Split, labels_of
from recipes.data.readers import CIFAR100
from recipes.data.spherical import on_sphere, random_rotation


class SphericalImages(Dataset[Any]):
    """Images of a data set on the sphere; image i of a split always has the same rotation."""

    def __init__(self, data: Any, seed: int, split: Split, rotate: bool = True) -> None:
        self.data, self.targets = data, labels_of(data)
        self.seeds, self.rotate = (seed, int(split == "test")), rotate

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.data[index]
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).float()
        rotation = random_rotation(*self.seeds, index) if self.rotate else None
        values = on_sphere(pixels, rotation).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(values.movedim(0, -1).numpy()), label


class SphericalCIFAR100(CIFAR100):
    """CIFAR-100 on the sphere, 60×60: see :mod:`recipes.data.spherical`; made from CIFAR-100 while it is read.

    Args:
        path: that of CIFAR-100.
        rotate: turn every image, by the seed.
        **options: of every :class:`~recipes.data.base.ImageData`.
    """

    image_size = 60

    def __init__(self, path: str | None = None, rotate: bool = True, **options: Any) -> None:
        self.rotate = rotate
        super().__init__(path, **options)

    def read(self, split: Split) -> Any:
        """CIFAR-100, projected."""
        return SphericalImages(super().read(split), self.seed, split, self.rotate)

    def settings(self) -> dict[str, Any]:
        """Whether images are turned, too."""
        return {**super().settings(), "rotate": self.rotate}
