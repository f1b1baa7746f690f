"""The data sets that torchvision reads; never with ``download=True``."""

from __future__ import annotations

from typing import Any, ClassVar

from torchvision import datasets

from lswag_hooks.errors import InputError
from recipes.data.base import ImageData, Split
from recipes.data.transforms import CIFAR_MEAN, CIFAR_STD, Plain, Transforms


class CIFAR10(ImageData):
    """CIFAR-10: 50,000 and 10,000 images of 32×32."""

    obtain = (
        "Get cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and give the folder "
        "that holds cifar-10-batches-py."
    )
    own_transforms: ClassVar[Transforms | None] = Plain(None, CIFAR_MEAN, CIFAR_STD)

    def read(self, split: Split) -> Any:
        """Torchvision's reader."""
        return datasets.CIFAR10(self.folder(), train=split == "train")


class CIFAR100(ImageData):
    """CIFAR-100: 50,000 and 10,000 images of 32×32."""

    num_classes = 100
    obtain = (
        "Get cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and give the folder "
        "that holds cifar-100-python."
    )
    own_transforms: ClassVar[Transforms | None] = Plain(None, CIFAR_MEAN, CIFAR_STD)

    def read(self, split: Split) -> Any:
        """Torchvision's reader."""
        return datasets.CIFAR100(self.folder(), train=split == "train")


class SVHN(ImageData):
    """Street View House Numbers: 73,257 and 26,032 images of 32×32."""

    obtain = (
        "Get train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/, and give the folder that "
        "holds them."
    )

    def read(self, split: Split) -> Any:
        """Torchvision's reader."""
        return datasets.SVHN(self.folder(), split=split)


class Pets(ImageData):
    """Oxford-IIIT Pet: 3,680 and 3,669 images of 37 breeds."""

    num_classes = 37
    image_size = 224
    obtain = (
        "Get images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/, unpack both into a "
        "folder oxford-iiit-pet, and give the folder that holds it."
    )

    def read(self, split: Split) -> Any:
        """Torchvision's reader."""
        return datasets.OxfordIIITPet(self.folder(), split="trainval" if split == "train" else "test")


class ImageNet(ImageData):
    """ImageNet-1k as folders: ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE``, 1,000 classes.

    Args:
        path: of the folder with ``train`` and ``val``.
        classes: how many there are to be.
        **options: of every :class:`ImageData`.
    """

    num_classes = 1000
    image_size = 224
    obtain = (
        "Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/download.php (needs an "
        "account) and unpack them to train/CLASS/IMAGE and val/CLASS/IMAGE."
    )

    def __init__(self, path: str | None = None, classes: int = 1000, **options: Any) -> None:
        self.num_classes = classes
        super().__init__(path, **options)

    def read(self, split: Split) -> Any:
        """Torchvision's reader of folders."""
        folder = self.folder() / ("train" if split == "train" else "val")
        found = datasets.ImageFolder(str(folder))
        if len(found.classes) != self.num_classes:
            raise InputError(
                f"{folder} holds {len(found.classes)} classes, not {self.num_classes}. {self.obtain} For a part of it, "
                f"set data.classes={len(found.classes)}."
            )
        return found
