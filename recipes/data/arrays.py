"""Data in arrays: an .npz file, and the digits that scikit-learn ships."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from lswag_hooks.errors import InputError
from lswag_hooks.images import balanced_indices
from recipes.data.base import ImageData, Split
from recipes.data.transforms import Plain, Transforms

Arrays = tuple[np.ndarray, np.ndarray]

_BROKEN = (zipfile.BadZipFile, zlib.error)


class ArrayImages(Dataset[Any]):
    """Images (N, H, W, 3) or (N, H, W), uint8, with class numbers (N,)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.targets = images, labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.targets[index])


class _Arrays(ImageData):
    """Data in memory, of which a share, balanced over the classes, is for testing."""

    test_share: float
    samples: int | None

    def arrays(self) -> Arrays:
        """Images and labels."""
        raise NotImplementedError

    def read(self, split: Split) -> Any:
        """Each class's images are parted alike, by the seed."""
        images, labels = self.arrays()
        order = balanced_indices(labels, self.samples or len(labels), self.seed)
        tests = max(1, round(self.test_share * len(order)))
        chosen = np.sort(order[:tests] if split == "test" else order[tests:])
        if len(chosen) < 2:
            raise InputError(f"{len(order)} images are too few for data.test_share={self.test_share}.")
        return ArrayImages(images[chosen], labels[chosen])


class NPZ(_Arrays):
    """An .npz file with ``images`` (uint8, NHWC or NHW) and ``labels`` (N,).

    Args:
        path: of the file.
        test_share: share of the images that is for testing, balanced over the classes.
        samples: use so many, balanced; None: all.
        **options: of every :class:`~recipes.data.base.ImageData`.
    """

    obtain = "Give an .npz file with images (uint8, NHWC) and labels: numpy.savez(path, images=..., labels=...)."

    def __init__(
        self, path: str | None = None, test_share: float = 0.2, samples: int | None = None, **options: Any
    ) -> None:
        _check_share(test_share)
        self.test_share, self.samples, self.path = test_share, samples, path
        if not options.get("fake"):
            images, labels = self.arrays()
            self.num_classes, self.image_size = int(labels.max()) + 1, int(images.shape[1])
        super().__init__(path, **options)

    def arrays(self) -> Arrays:
        """Read the file.

        Raises:
            InputError: it cannot be read, or holds something else.
        """
        path = self.folder()
        try:
            with np.load(path, allow_pickle=False) as archive:
                images, labels = archive["images"], archive["labels"]
        except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, *_BROKEN) as error:
            raise InputError(f"data.path={path} cannot be read ({error}). {self.obtain}") from error
        pictures = images.dtype == np.uint8 and images.ndim in (3, 4) and images.shape[3:] in ((), (3,))
        if not pictures or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise InputError(
                f"data.path={path} holds images {images.dtype} {images.shape} and labels {labels.dtype} "
                f"{labels.shape}. {self.obtain}"
            )
        return images, labels.astype(np.int64)

    def settings(self) -> dict[str, Any]:
        """The file's name and the parts, too."""
        own = {"file": Path(self.path or "").name, "test_share": self.test_share, "samples": self.samples}
        return {**super().settings(), **own}


class Digits(_Arrays):
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn ships, in colour and resized; needs no path.

    Args:
        size: side of the images.
        test_share: share of the images that is for testing, balanced over the classes.
        samples: use so many, balanced; None: all.
        transforms: by default none but the normalisation.
        **options: of every :class:`~recipes.data.base.ImageData`.
    """

    def __init__(
        self,
        size: int = 32,
        test_share: float = 0.2,
        samples: int | None = None,
        transforms: Transforms | None = None,
        **options: Any,
    ) -> None:
        _check_share(test_share)
        self.test_share, self.samples, self.image_size = test_share, samples, size
        super().__init__(transforms=transforms or Plain(size), **options)

    def folder(self) -> Path:
        """Where scikit-learn has them."""
        import sklearn.datasets

        return Path(sklearn.datasets.__file__).parent

    def arrays(self) -> Arrays:
        """All of them, as bytes."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        small = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
        side = (self.image_size, self.image_size)
        return np.stack([np.asarray(Image.fromarray(image).resize(side)) for image in small]), labels.astype(np.int64)

    def settings(self) -> dict[str, Any]:
        """The parts, too."""
        return {**super().settings(), "test_share": self.test_share, "samples": self.samples}


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise InputError(f"data.test_share={share}: give a share between 0 and 1.")
