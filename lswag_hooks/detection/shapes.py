"""Pictures with shapes, drawn: a detection data set that needs no files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lswag_hooks.batch import Batch
from lswag_hooks.detection.coco import sample
from lswag_hooks.errors import InputError
from lswag_hooks.rng import check_seed

CORNERS = {"disc": 24, "square": 4, "triangle": 3}
COLOURS = ((200, 60, 50), (60, 160, 70), (60, 90, 200))


def draw_shapes(pictures: int, size: tuple[int, int], seed: int = 0) -> tuple[list[Image.Image], dict[str, Any]]:
    """Draw one to three shapes on each picture.

    Args:
        pictures: how many.
        size: width and height.
        seed: of all of it.

    Returns:
        The pictures, and the content of a COCO annotation file.

    Example:
        >>> drawn, content = draw_shapes(4, (64, 48))
        >>> len(drawn), drawn[0].size, [category["name"] for category in content["categories"]]
        (4, (64, 48), ['disc', 'square', 'triangle'])
    """
    if pictures < 1 or min(size) < 16:
        raise InputError(f"{pictures} pictures of {size[0]} x {size[1]}: draw one or more, of 16 x 16 or larger.")
    rng = np.random.default_rng(check_seed(seed))
    width, height = size
    content: dict[str, Any] = {
        "info": {"description": "shapes, drawn by lswag_hooks"},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CORNERS, start=1)],
    }
    drawn = []
    for number in range(1, pictures + 1):
        shade = rng.integers(150, 256)
        noise = rng.integers(-25, 26, (height, width, 3))
        picture = Image.fromarray(np.clip(shade + noise, 0, 255).astype(np.uint8))
        pen = ImageDraw.Draw(picture)
        centres: list[tuple[float, float, float]] = []
        for _ in range(rng.integers(1, 4)):
            radius = float(rng.uniform(0.14, 0.28) * min(size))
            x, y = (float(rng.uniform(radius, side - radius)) for side in size)
            if any(math.hypot(x - a, y - b) < radius + r for a, b, r in centres):
                continue  # no shape hides another
            centres.append((x, y, radius))
            category = int(rng.integers(len(CORNERS)))
            corners, turn = list(CORNERS.values())[category], float(rng.uniform(0, 2 * math.pi))
            angles = turn + 2 * math.pi * np.arange(corners) / corners
            points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
            pen.polygon([tuple(point) for point in points.tolist()], fill=COLOURS[category])
            (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": [points.flatten().tolist()],
                }
            )
        content["images"].append({"id": number, "file_name": f"{number:06d}.png", "width": width, "height": height})
        drawn.append(picture)
    return drawn, content


def write_shapes(folder: str | Path, pictures: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Draw a data set into a folder: ``instances.json`` beside ``images/``.

    Returns:
        The folder.
    """
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    drawn, content = draw_shapes(pictures, size, seed)
    for picture, entry in zip(drawn, content["images"], strict=True):
        picture.save(root / "images" / entry["file_name"])
    (root / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def shapes_batch(samples: int = 8, size: tuple[int, int] = (320, 256), seed: int = 0, masks: bool = True) -> Batch:
    """Pictures with shapes as :func:`~lswag_hooks.detection.coco.coco_batch` gives pictures; ``size``: width, height.

    Example:
        >>> shapes_batch(2, (64, 64), masks=False).inputs[1].shape
        torch.Size([3, 64, 64])
    """
    drawn, content = draw_shapes(samples, size, seed)
    labels = {number: number for number in range(1, len(CORNERS) + 1)}
    pairs = []
    for picture, entry in zip(drawn, content["images"], strict=True):
        mine = [one for one in content["annotations"] if one["image_id"] == entry["id"]]
        pairs.append(sample(picture, mine, labels, None, masks))
    return Batch(tuple(pixels for pixels, _ in pairs), tuple(target for _, target in pairs), "shapes")
