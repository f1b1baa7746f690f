"""Taskonomy's seven tasks of TransNAS-Bench-101."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision import transforms as T

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.spaces.transnasbench_batches import jigsaw_tiles, task_batch
from lswag_hooks.spaces.transnasbench_tasks import TASKS
from recipes.data.base import ImageData, Split
from recipes.data.transforms import Plain, Transforms

SOURCES = {  # domain and type of a task's targets
    "class_object": ("class_object", "npy"),
    "class_scene": ("class_scene", "npy"),
    "room_layout": ("room_layout", "npy"),
    "normal": ("normal", "png"),
    "segmentsemantic": ("segmentsemantic", "png"),
}
MEAN, STD = (0.5224, 0.5222, 0.5221), (0.2234, 0.2235, 0.2236)  # of TransNAS-Bench-101; pixel tasks: 0.5


class Taskonomy(ImageData):
    """One of the seven tasks; targets have the form that the losses of ``lswag_hooks.spaces`` take.

    Files are ``BUILDING/DOMAIN/point_P_view_V_domain_DOMAIN.EXT`` below ``path``, where DOMAIN is ``rgb`` or the
    task's own. There is no augmentation: a crop or a flip would have to turn normals and layouts, too.

    Args:
        path: of the folder with a folder a building.
        task: class_object, class_scene, room_layout, jigsaw, autoencoder, normal or segmentsemantic.
        splits: of the table of buildings, with the columns id, train, val, test (0 or 1): Taskonomy's own, such as
            ``train_val_test_tiny.csv``.
        classes: class_object, class_scene: an .npy with a 1 for each class that is kept; None: all are.
        size: side of the images.
        transforms: by default the size and the task's normalisation.
        **options: of every :class:`~recipes.data.base.ImageData`.

    Shapes: images (3, S, S), jigsaw (9, 3, S/4, S/4). Targets: class vectors (K,) that add up to 1; room layout (9,);
    jigsaw a number; autoencoder and normal (3, S, S) in [-1, 1]; segmentation (S, S), 0 to 16.
    """

    obtain = (
        "Get the domains rgb and that of the task from https://github.com/StanfordVL/taskonomy, with its table of "
        "buildings, and the masks of classes from https://github.com/yawen-d/TransNASBench (lib/data)."
    )

    def __init__(
        self,
        path: str | None = None,
        task: str = "class_object",
        splits: str | None = None,
        classes: str | None = None,
        size: int = 256,
        transforms: Transforms | None = None,
        **options: Any,
    ) -> None:
        if task not in TASKS:
            raise InputError(f"data.task={task!r}:{near_matches(task, TASKS)} there are {', '.join(TASKS)}.")
        self.task, self.splits, self.image_size = task, splits, size
        self.kept = None if classes is None or options.get("fake") else _mask(classes)
        self.num_classes = TASKS[task] if self.kept is None else int(self.kept.sum())
        if task in ("class_object", "class_scene") and self.kept is None and not options.get("fake"):
            self.num_classes = {"class_object": 1000, "class_scene": 365}[task]
        soft = task in ("class_object", "class_scene", "room_layout")
        mean, std = (MEAN, STD) if soft else ((0.5,) * 3, (0.5,) * 3)
        super().__init__(path, transforms=transforms or Plain(size, mean, std), **options)

    def read(self, split: Split) -> Any:
        """The files of the buildings of a split."""
        folder = self.folder()
        if self.splits is None:
            raise InputError(f"Taskonomy in {folder} needs data.splits, the table of buildings. {self.obtain}")
        named = _buildings(Path(self.splits), split)
        pictures = [file for name in named for file in sorted((folder / name / "rgb").glob("*_domain_rgb.png"))]
        if not pictures:
            raise InputError(f"{folder} has no picture BUILDING/rgb/*_domain_rgb.png ({split}). {self.obtain}")
        missing = [file for file in map(self._target_file, pictures) if not file.is_file()]
        if missing:
            raise InputError(f"{len(missing)} targets of {self.task} are missing, such as {missing[0]}. {self.obtain}")
        return TaskonomyImages(self, pictures)

    def collate(self, items: list[Any]) -> Any:
        """Join items; jigsaw cuts the images of the mini-batch, and fake data gets the task's stand-ins for targets."""
        images, targets = default_collate(items)
        if self.task == "jigsaw":
            return list(jigsaw_tiles(images, int(torch.randint(2**31, ()))))
        if self.fake:
            made = task_batch(Batch(images, targets), self.task, self.seed)
            return [made.inputs, made.targets]
        return [images, images if self.task == "autoencoder" else targets]

    def settings(self) -> dict[str, Any]:
        """The task, too."""
        return {**super().settings(), "task": self.task, "size": self.image_size}

    def target(self, picture: Path) -> Any:
        """The target of a picture."""
        if self.task not in SOURCES:
            return 0  # made of the images, in collate
        file = self._target_file(picture)
        if SOURCES[self.task][1] == "npy":
            values = torch.from_numpy(np.load(file)).float().flatten()
            if self.task == "room_layout":
                return values
            values = values if self.kept is None else values[torch.from_numpy(self.kept)]
            return values / values.sum()
        with Image.open(file) as image:
            return normals(image, self.image_size) if self.task == "normal" else segments(image, self.image_size)

    def _target_file(self, picture: Path) -> Path:
        if self.task not in SOURCES:
            return picture
        domain, kind = SOURCES[self.task]
        name = picture.name.replace("_domain_rgb.png", f"_domain_{domain}.{kind}")
        return picture.parent.parent / domain / name


class TaskonomyImages(Dataset[Any]):
    """Pictures with a task's targets."""

    def __init__(self, data: Taskonomy, pictures: list[Path]) -> None:
        self.data, self.pictures = data, pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        with Image.open(self.pictures[index]) as image:
            return image.convert("RGB"), self.data.target(self.pictures[index])


def normals(image: Image.Image, size: int) -> Tensor:
    """Surface normals as colours, to (3, size, size) in [-1, 1]."""
    pixels: Tensor = T.ToTensor()(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return 2 * pixels - 1


def segments(image: Image.Image, size: int) -> Tensor:
    """A map of classes to (size, size): 0, which is unknown, counts as 1, and all are lowered by one.

    Example:
        >>> segments(Image.fromarray(np.array([[0, 1], [2, 17]], np.uint8)), 2).tolist()
        [[0, 0], [1, 16]]
    """
    numbers = torch.from_numpy(np.array(image)).long()
    resized = F.interpolate(numbers[None, None].float(), size=(size, size), mode="nearest")[0, 0].long()
    return resized.clamp_min(1) - 1


def _buildings(table: Path, split: Split) -> list[str]:
    if not table.is_file():
        raise InputError(f"data.splits={table}: there is no such file. {Taskonomy.obtain}")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"id", "train", "test"} <= set(rows[0]):
        raise InputError(f"data.splits={table} has not the columns id, train, val, test. {Taskonomy.obtain}")
    return [row["id"] for row in rows if row[split] == "1"]


def _mask(path: str) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path).astype(bool).ravel()
    except (OSError, ValueError) as error:
        raise InputError(f"data.classes={path} cannot be read ({error}). {Taskonomy.obtain}") from error
    return found
