"""Batches for the tasks of TransNAS-Bench-101, made from images with labels."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.rng import check_seed
from lswag_hooks.spaces.transnasbench_tasks import DENSE, TASKS, TILES

SMALLEST_JIGSAW = 16  # side of an image whose tiles are of four pixels
SMOOTHING = 0.1


def task_batch(images: Batch, task: str, seed: int) -> Batch:
    """A classification batch in a task's form.

    Natural images have no targets for ``room_layout``, ``normal`` and ``segmentsemantic``: those made here are
    stand-ins of the same shape and range, computed from the images themselves. So are the labels of ``class_object``
    and ``class_scene`` where the data has other classes.

    * class_object, class_scene: inputs as they are; the label modulo the number of classes, softened.
    * room_layout: inputs as they are; stand-in: nine statistics of the image, see :func:`image_statistics`.
    * jigsaw: nine tiles, see :func:`jigsaw_tiles`; the number of their permutation.
    * autoencoder: every image stretched to [-1, 1]; itself.
    * normal: the same inputs; stand-in: normals of the brightness as a surface, see :func:`brightness_normals`.
    * segmentsemantic: the same inputs; stand-in: 17 levels of brightness, see :func:`brightness_levels`.

    Args:
        images: inputs of shape (N, 3, H, W), normalised; class numbers as targets where the task needs them.
        task: one of ``TASKS``.
        seed: of the permutations.

    Raises:
        InputError: the inputs are no images, or there are no class numbers.
    """
    check_seed(seed)
    inputs = images.inputs
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or not inputs.is_floating_point():
        raise InputError(f"{task} is made from images of shape (N, 3, H, W), which {images!r} does not hold.")
    if task in DENSE and inputs.shape[1] != 3:
        raise InputError(f"{task} is made from images of 3 channels, these have {inputs.shape[1]}.")
    stretched = stretch(inputs) if task in DENSE else inputs
    name = f"{images.name} ({task})"
    if task == "jigsaw":
        return Batch(*jigsaw_tiles(inputs, seed), name)
    if task == "room_layout":
        return Batch(inputs, image_statistics(inputs), name)
    if task == "autoencoder":
        return Batch(stretched, stretched, name)
    if task == "normal":
        return Batch(stretched, brightness_normals(stretched), name)
    if task == "segmentsemantic":
        return Batch(stretched, brightness_levels(stretched, TASKS[task]), name)
    return Batch(inputs, soft_labels(images, TASKS[task]).to(inputs), name)


def soft_labels(images: Batch, classes: int) -> Tensor:
    """One-hot vectors of the labels modulo the classes, softened by a tenth; shape (N, classes)."""
    labels = images.targets
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 1:
        raise InputError(f"classification needs class numbers of shape (N,), which {images!r} does not hold.")
    one_hot = F.one_hot(labels.long() % classes, classes).float()
    return one_hot * (1 - SMOOTHING) + SMOOTHING / classes


def stretch(images: Tensor) -> Tensor:
    """Every image to a smallest value of -1 and a largest of 1, whatever its normalisation was; flat ones to 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    spread = (high - low).clamp_min(torch.finfo(images.dtype).tiny)
    return torch.where(high > low, 2 * (images - low) / spread - 1, torch.zeros_like(images))


def brightness_normals(images: Tensor) -> Tensor:
    """Stand-in for surface normals: those of the brightness taken for a height, of slope 1 on average; (N, 3, H, W)."""
    height = images.mean(1)
    across, down = (torch.gradient(height, dim=axis)[0] for axis in (2, 1))
    slope = (across.square() + down.square()).mean((1, 2), keepdim=True).sqrt().clamp_min(1e-6)
    return F.normalize(torch.stack([-across / slope, -down / slope, torch.ones_like(height)], 1), dim=1)


def brightness_levels(images: Tensor, levels: int) -> Tensor:
    """Stand-in for a map of classes: levels of brightness, about equally many pixels in each; (N, H, W), int64."""
    brightness = images.mean(1).flatten(1)
    ranked = brightness.sort(1).values
    places = [level * brightness.shape[1] // levels for level in range(1, levels)]
    return torch.searchsorted(ranked[:, places].contiguous(), brightness, right=True).view(
        len(images), *images.shape[2:]
    )


def image_statistics(images: Tensor) -> Tensor:
    """Stand-in for a room's layout: nine numbers an image, shape (N, 9).

    They are the smallest, largest and middle channel mean and deviation, the horizontal and vertical centre of
    brightness from -1 to 1, and the brightness of the middle of the image less that of all of it.
    """
    n, _, height, width = images.shape
    means, deviations = images.mean((2, 3)), images.std((2, 3), correction=0)
    parts = [torch.stack([s.amin(1), s.amax(1), s.median(1).values], 1) for s in (means, deviations)]
    brightness = images.mean(1)
    weight = brightness - brightness.amin((1, 2), keepdim=True) + 1e-6
    weight = weight / weight.sum((1, 2), keepdim=True)
    x, y = (torch.linspace(-1, 1, side, device=images.device, dtype=images.dtype) for side in (width, height))
    middle = brightness[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    parts += [(weight.sum(1) @ x).view(n, 1), (weight.sum(2) @ y).view(n, 1)]
    return torch.cat([*parts, (middle.mean((1, 2)) - brightness.mean((1, 2))).view(n, 1)], 1)


def jigsaw_tiles(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Tiles of images in shuffled order, and the number of each order among :func:`permutations`.

    The middle nine tenths of an image are brought to a square of nine fields, at 256×256 of 85 pixels each, of which
    each tile is the middle: 64 pixels, a quarter of the image's side. The gaps keep edges from telling neighbours.

    Returns:
        Tiles of shape (N, 9, channels, S/4, S/4), where S is the shorter side, and class numbers of shape (N,).
    """
    n, _, *sides = images.shape
    side = min(sides)
    if side < SMALLEST_JIGSAW:
        raise InputError(f"images of {sides[0]}×{sides[1]}: jigsaw needs sides of {SMALLEST_JIGSAW} or more.")
    field, tile = (side - 1) // 3, side // 4
    top, left = (int(0.05 * s) for s in sides)
    cropped = images[:, :, top : sides[0] - top, left : sides[1] - left]
    square = F.interpolate(cropped, size=(3 * field, 3 * field), mode="bilinear", antialias=True)
    gap = (field - tile) // 2
    tiles = torch.stack(
        [
            square[:, :, i * field + gap : i * field + gap + tile, j * field + gap : j * field + gap + tile]
            for i, j in itertools.product(range(3), range(3))
        ],
        1,
    )
    labels = torch.from_numpy(np.random.default_rng(seed).integers(TASKS["jigsaw"], size=n))
    order = torch.from_numpy(permutations())[labels].to(images.device)
    labels = labels.to(images.device)
    return tiles[torch.arange(n, device=images.device)[:, None], order].contiguous(), labels


@functools.lru_cache(maxsize=1)
def permutations() -> np.ndarray:
    """The 1000 orders of jigsaw, far apart: each next one has the largest smallest Hamming distance to those before.

    Chosen from every seventeenth permutation, which is quick; the mean distance of two is 8.008, the most there can be,
    the smallest 5.

    Returns:
        Array of shape (1000, 9), int64, the same in every process.
    """
    every = itertools.islice(itertools.permutations(range(TILES)), 0, None, 17)
    candidates = np.array(list(every), dtype=np.int8).T.copy()  # one candidate a column
    nearest = np.full(candidates.shape[1], TILES + 1)
    total = np.zeros(candidates.shape[1], dtype=np.int64)
    chosen = []
    latest = 0
    for _ in range(TASKS["jigsaw"]):
        chosen.append(latest)
        distance = (candidates != candidates[:, latest : latest + 1]).sum(0, dtype=np.int8)
        nearest = np.minimum(nearest, distance)
        total += distance
        # the distance to all of them together decides among equals; those chosen have a nearest distance of 0
        latest = int(np.argmax(nearest * (TILES * TASKS["jigsaw"] + 1) + total))
    return candidates[:, chosen].T.astype(np.int64)
