"""COCO annotation files: found, checked before any work, and read into a batch for detectors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.rng import check_seed

SCALE = (1333, 800)  # longest and shortest side that Mask R-CNN's pictures have at most
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Coco:
    """An annotation file and the folder of its pictures.

    Attributes:
        annotations: the JSON file.
        images: the folder.
        content: of the file.
    """

    annotations: Path
    images: Path
    content: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, in the order of the file."""
        return tuple(category["name"] for category in self.content["categories"])

    @property
    def instances(self) -> dict[int, list[dict[str, Any]]]:
        """What can be learnt of each picture: crowds and empty boxes are left out, and pictures with nothing else."""
        found: dict[int, list[dict[str, Any]]] = {}
        for annotation in self.content["annotations"]:
            if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) >= 1:
                found.setdefault(annotation["image_id"], []).append(annotation)
        return found


def find_coco(folder: str | Path, split: str = "train") -> tuple[Path, Path]:
    """Annotation file and pictures of a folder, laid out as COCO itself or as one small set.

    That is ``annotations/instances_train2017.json`` beside ``train2017/``, or ``instances.json`` beside ``images/``,
    which is then every split.

    Raises:
        InputError: there is neither.
    """
    root = Path(folder).expanduser()
    if split not in SPLITS:
        raise InputError(f"split={split!r}: there are {', '.join(SPLITS)}.")
    places = (
        (root / "instances.json", root / "images"),
        (root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"),
    )
    for file, images in places:
        if file.is_file():
            return file, images
    raise InputError(f"{root} holds no COCO: there is neither {places[0][0]} nor {places[1][0]}.")


def read_coco(annotations: str | Path, images: str | Path) -> Coco:
    """Read and check an annotation file.

    Raises:
        InputError: the file is missing or no annotation file; it has no categories, no pictures or no instances; an
            instance is of a picture or a category that the file does not know; or a picture is missing. All told before
            any picture is opened.
    """
    annotations, images = Path(annotations).expanduser(), Path(images).expanduser()
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{annotations} does not exist: check the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{annotations} cannot be read as JSON ({error}).") from error
    _check_content(annotations, content)
    if not images.is_dir():
        raise InputError(f"{images} is not a folder: it must hold the pictures of {annotations}.")
    there = {entry.name for entry in os.scandir(images)}
    missing = [entry["file_name"] for entry in content["images"] if entry["file_name"].partition("/")[0] not in there]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(content['images'])} pictures of {annotations} are not in {images}, "
            f"{missing[0]!r} among them: complete the folder, or take the pictures out of the file."
        )
    return Coco(annotations, images, content)


def load_coco(folder: str | Path, split: str = "train") -> Coco:
    """:func:`find_coco`, then :func:`read_coco`."""
    return read_coco(*find_coco(folder, split))


def check_complete(coco: Coco) -> Coco:
    """The same file, if it says all that MMDetection trains masks on and evaluates them by.

    Raises:
        InputError: a picture without its size, or an instance without a mask, its area or whether it is a crowd, which
            would be noticed in the middle of training, or after it.
    """
    wanted = {"images": ("width", "height"), "annotations": ("segmentation", "area", "iscrowd")}
    for part, keys in wanted.items():
        for key in keys:
            _check_has(coco.annotations, part, key, coco.content[part])
    return coco


def coco_batch(
    coco: Coco, samples: int = 8, scale: tuple[int, int] | None = SCALE, seed: int = 0, masks: bool = True
) -> Batch:
    """Draw pictures with their instances, as detectors of torchvision take them.

    Args:
        coco: the annotation file.
        samples: how many pictures; all with instances, where there are fewer.
        scale: longest and shortest side at most, in pixels; pictures are resized to it, smaller ones too, and keep
            their aspect ratio. None: as they are.
        seed: of the draw.
        masks: with a mask (H, W) for every instance.

    Returns:
        Inputs: a picture each, float32 (3, H, W), RGB from 0 to 1. Targets: a dictionary each with ``boxes``, float32
        (n, 4), as (x1, y1, x2, y2) in pixels, ``labels``, int64 (n,), from 1 in the order of the file's categories, and
        ``masks``, uint8 (n, H, W).

    Raises:
        InputError: a picture cannot be read, or fewer than two have instances.
    """
    instances = coco.instances
    entries = [entry for entry in coco.content["images"] if entry["id"] in instances]
    if samples < 2 or len(entries) < 2:
        raise InputError(f"samples={samples} of {len(entries)} pictures with instances: two are needed.")
    chosen = np.random.default_rng(check_seed(seed)).permutation(len(entries))[:samples]
    labels = {category["id"]: number for number, category in enumerate(coco.content["categories"], start=1)}
    pictures, targets = [], []
    for entry in (entries[index] for index in sorted(chosen)):
        file = coco.images / entry["file_name"]
        try:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, UnidentifiedImageError) as error:
            raise InputError(f"{file} cannot be read as an image ({error}): repair or remove it.") from error
        pixels, target = sample(picture, instances[entry["id"]], labels, scale, masks)
        pictures.append(pixels)
        targets.append(target)
    return Batch(tuple(pictures), tuple(targets), coco.annotations.parent.name)


def sample(
    picture: Image.Image,
    instances: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    scale: tuple[int, int] | None,
    masks: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One picture and its target, resized together."""
    width, height = picture.size
    if scale is not None:
        factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
    across, down = width / picture.size[0], height / picture.size[1]
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()
    corners = np.array([instance["bbox"] for instance in instances], dtype=np.float32)
    corners[:, 2:] += corners[:, :2]
    boxes = torch.from_numpy(corners * np.array([across, down, across, down], dtype=np.float32))
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    target = {
        "boxes": torch.minimum(boxes.clamp(min=0), limits),
        "labels": torch.tensor([labels[instance["category_id"]] for instance in instances]),
    }
    if masks:
        drawn = [polygon_mask(one.get("segmentation"), (width, height), (across, down)) for one in instances]
        target["masks"] = torch.from_numpy(np.stack(drawn))
    return pixels, target


def polygon_mask(
    polygons: Any, size: tuple[int, int], factors: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Fill polygons, each [x1, y1, x2, y2, ...]; shape (height, width), empty where there are none.

    Example:
        >>> int(polygon_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (8, 6)).sum())
        12
    """
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for polygon in polygons if isinstance(polygons, list) else ():
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2) * factors
        if len(points) >= 3:
            pen.polygon([tuple(point) for point in points.tolist()], fill=1)
    return np.array(canvas, dtype=np.uint8)


def _check_content(path: Path, content: Any) -> None:
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise InputError(f"{path} is no COCO annotation file: it needs lists of {', '.join(keys)}.")
    for key in keys:
        if not content[key]:
            raise InputError(f"{path} has no {key}: nothing can be learnt from it.")
    _check_known(path, content["annotations"], "image_id", content["images"])
    _check_known(path, content["annotations"], "category_id", content["categories"])
    for key, part in (("file_name", "images"), ("bbox", "annotations")):
        _check_has(path, part, key, content[part])
    names = [category.get("name") for category in content["categories"]]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"{path}: every category needs a name of its own.")


def _check_has(path: Path, part: str, key: str, entries: Iterable[Mapping[str, Any]]) -> None:
    without = [entry.get("id") for entry in entries if entry.get(key) is None]
    if without:
        raise InputError(f"{path}: {len(without)} of its {part} have no {key}, such as {without[0]!r}.")


def _check_known(path: Path, annotations: Iterable[Mapping[str, Any]], key: str, owners: Sequence[Any]) -> None:
    known = {owner.get("id") for owner in owners}
    if len(known) < len(owners):
        raise InputError(f"{path}: an id of its {'images' if key == 'image_id' else 'categories'} is there twice.")
    strange = [annotation for annotation in annotations if annotation.get(key) not in known]
    if strange:
        one = strange[0]
        raise InputError(
            f"{path}: {len(strange)} instances have a {key} that the file does not know, such as {one.get(key)!r} of "
            f"instance {one.get('id')!r}."
        )
