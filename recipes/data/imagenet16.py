"""ImageNet16-120: the first 120 classes of ImageNet at 16×16, as NAS-Bench-201 uses it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lswag_hooks.errors import InputError
from recipes.data.arrays import ArrayImages
from recipes.data.base import ImageData, Split
from recipes.data.transforms import Plain, Transforms

# what a pickle of arrays in a dictionary needs; others could run code
PLAIN = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class ImageNet16120(ImageData):
    """The batches of ImageNet downsampled to 16×16 (Chrabaszcz et al., 2017), of which the labels 1 to 120 are kept."""

    num_classes = 120
    image_size = 16
    obtain = (
        "Get Imagenet16_train and Imagenet16_val from https://image-net.org/download-images (downsampled ImageNet; an "
        "account is needed), and give the folder that holds train_data_batch_1 to train_data_batch_10 and val_data."
    )
    own_transforms: ClassVar[Transforms | None] = Plain(
        None, [x / 255 for x in (122.68, 116.66, 104.01)], [x / 255 for x in (63.22, 61.26, 65.09)]
    )

    def read(self, split: Split) -> Any:
        """All batches of a split."""
        folder = self.folder()
        names = [f"train_data_batch_{number}" for number in range(1, 11)] if split == "train" else ["val_data"]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} has no {missing[0]}. {self.obtain}")
        images, labels = zip(*(self._batch(folder / name) for name in names), strict=True)
        return ArrayImages(np.concatenate(images), np.concatenate(labels))

    def _batch(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        with path.open("rb") as file:
            content = _Plain(file, encoding="latin1").load()
        pixels, labels = np.asarray(content["data"], np.uint8), np.asarray(content["labels"])
        side = self.image_size
        if pixels.shape != (len(labels), 3 * side * side):
            raise InputError(f"{path}: pixels {pixels.shape} for {len(labels)} labels. {self.obtain}")
        kept = labels <= self.num_classes  # they begin with 1
        return pixels[kept].reshape(-1, 3, side, side).transpose(0, 2, 3, 1), labels[kept].astype(np.int64) - 1


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array.")
