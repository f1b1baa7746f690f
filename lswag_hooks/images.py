"""Images and labels from what is at hand: scikit-learn's digits, noise, an .npz file, a folder. No network."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.rng import check_seed

Size: TypeAlias = int | tuple[int, ...]
Labelled: TypeAlias = tuple[Tensor, Tensor]

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MODES = {1: "L", 3: "RGB"}


def image_shape(size: Size) -> tuple[int, int, int]:
    """Read a size given as a side, as (height, width) or as (channels, height, width).

    Raises:
        InputError: It is none of these, or not positive.

    Example:
        >>> image_shape(32), image_shape((32, 48)), image_shape((1, 28, 28))
        ((3, 32, 32), (3, 32, 48), (1, 28, 28))
    """
    given = (size, size) if not isinstance(size, (tuple, list)) else tuple(size)
    shape = (3, *given) if len(given) == 2 else given
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise InputError(f"size={size!r}: give a side, (height, width) or (channels, height, width), all positive.")
    return shape[0], shape[1], shape[2]


def balanced_indices(labels: npt.NDArray[Any], samples: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Choose samples spread over the classes as evenly as they allow; every prefix of the choice is balanced too.

    Args:
        labels: One label a sample, shape (N,).
        samples: How many to choose; all N where there are fewer.
        seed: Of the draw within classes and of the order of the classes.

    Returns:
        Indices into ``labels``, shape (min(samples, N),).

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
        >>> sorted(labels[balanced_indices(labels, 5)].tolist())
        [0, 0, 1, 1, 2]
    """
    if samples < 1:
        raise InputError(f"samples={samples}: ask for two or more.")
    draw = np.random.default_rng(check_seed(seed))
    classes = draw.permutation(np.unique(labels))
    members = [draw.permutation(np.flatnonzero(labels == c)) for c in classes]
    turns = np.concatenate([np.arange(len(m)) for m in members])
    # stable: within one turn the classes keep their drawn order
    return np.concatenate(members)[np.argsort(turns, kind="stable")][:samples].astype(np.int64)


def standardise(images: Tensor) -> Tensor:
    """Shift and scale each channel to mean 0 and deviation 1 over all samples and pixels; shape (N, C, H, W).

    Raises:
        InputError: Every channel is constant.

    Example:
        >>> images = standardise(torch.arange(8.0).reshape(2, 1, 2, 2))
        >>> images.mean().item(), images.std(correction=0).item()
        (0.0, 1.0)
    """
    centred = images - images.mean(dim=(0, 2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
    if not bool((deviation > 0).any()):
        raise InputError("every image is one and the same flat colour: no score can tell samples apart on those.")
    return torch.where(deviation > 0, centred / deviation, torch.zeros_like(centred))


def fit(images: Tensor, size: Size | None) -> Tensor:
    """Resize (N, C, H, W) bilinearly to a size, and turn grey into colour or colour into grey where it asks for that.

    Raises:
        InputError: The channels do not fit and neither side is grey.

    Example:
        >>> fit(torch.rand(2, 1, 8, 8), (3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    if size is None:
        return images
    channels, *sides = image_shape(size)
    if images.shape[1] != channels:
        if images.shape[1] != 1 and channels != 1:
            raise InputError(
                f"the images have {images.shape[1]} channels and size={size!r} asks for {channels}: "
                f"give size=({images.shape[1]}, {sides[0]}, {sides[1]}), or images with {channels} channels."
            )
        images = images.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if list(images.shape[2:]) != sides:
        images = F.interpolate(images, size=sides, mode="bilinear", antialias=True)
    return images.contiguous()


def digits(size: Size, samples: int, seed: int) -> Labelled:
    """Take real handwritten digits, the 1,797 of 8 x 8 pixels that scikit-learn ships.

    Example:
        >>> images, labels = digits((3, 16, 16), samples=20, seed=0)
        >>> images.shape, torch.bincount(labels).tolist()
        (torch.Size([20, 3, 16, 16]), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    pixels, labels = load_digits(return_X_y=True)
    if samples > len(labels):
        raise InputError(f"samples={samples}: there are {len(labels)} digits; ask for that many or fewer.")
    chosen = balanced_indices(labels, samples, seed)
    images = torch.from_numpy(pixels[chosen]).float().reshape(-1, 1, 8, 8)
    return standardise(fit(images, size)), torch.from_numpy(labels[chosen]).long()


def noise(size: Size, samples: int, seed: int) -> Labelled:
    """Draw standard normal pixels, with labels 0 to 9 in turn.

    Example:
        >>> noise((3, 8, 8), samples=4, seed=0)[1]
        tensor([0, 1, 2, 3])
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    pixels = torch.randn(samples, *image_shape(size), generator=generator, device="cpu")
    return pixels, torch.arange(samples, device="cpu") % 10


def read_npz(path: str | Path, samples: int, size: Size | None, seed: int) -> Labelled:
    """Read ``images`` (uint8 NHWC or NHW, standardised here; or float NCHW, taken as they are) and ``labels`` (N,).

    Raises:
        InputError: The file cannot be read, or what is in it has another name, shape or type.
    """
    path = Path(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds one bare array: save it with numpy.savez(path, images=..., labels=...).")
        with archive:
            images, labels = (_member(path, archive, key) for key in ("images", "labels"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):  # which is a ValueError too
            raise
        raise InputError(
            f"{path} cannot be read as an .npz of plain arrays ({error}): "
            "write it with numpy.savez(path, images=..., labels=...)."
        ) from error

    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise InputError(
            f"{path}: 'labels' is {labels.dtype} of shape {labels.shape}; it must be whole class numbers of shape (N,)."
        )
    if len(images) != len(labels):
        raise InputError(f"{path}: {len(images)} images but {len(labels)} labels; they must pair up.")
    chosen = balanced_indices(labels, samples, seed)
    pixels = fit(_as_nchw(path, images, chosen), size)
    # floats come normalised the way their owner wants them; bytes do not
    pixels = standardise(pixels) if images.dtype == np.uint8 else pixels
    return pixels, torch.from_numpy(labels[chosen].astype(np.int64))


def read_image_folder(path: str | Path, samples: int, size: Size, seed: int) -> Labelled:
    """Read ``path/CLASS/**/*.png`` and the like: one class a folder, numbered in alphabetical order; standardised.

    Raises:
        InputError: There is no such folder, no class in it, no image in a class, or an image cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: check the path.")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(
        sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
    ):
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not found:
            raise InputError(f"{folder} holds no image ({', '.join(sorted(_SUFFIXES))}): fill it or remove it.")
        files += found
        labels += [label] * len(found)
    if not files:
        raise InputError(f"{path} has no sub-folders: put the images into one folder a class, {path}/CLASS/IMAGE.")
    shape = image_shape(size)
    chosen = balanced_indices(np.array(labels), samples, seed)
    images = torch.stack([_read_image(files[i], shape) for i in chosen])
    return standardise(images), torch.tensor([labels[i] for i in chosen], device="cpu")


BUILTIN: dict[str, Callable[[Size, int, int], Labelled]] = {"digits": digits, "noise": noise}


def builtin(name: str, size: Size, samples: int, seed: int) -> Labelled:
    """Make the built-in data of a name, or say which names there are."""
    if name not in BUILTIN:
        raise InputError(
            f"no built-in data is called {name!r}.{near_matches(name, BUILTIN)} There are {list(BUILTIN)}."
        )
    if not isinstance(samples, int) or samples < 2:
        raise InputError(f"samples={samples}: ask for two or more.")
    return BUILTIN[name](size, samples, seed)


def _member(path: Path, archive: Any, key: str) -> npt.NDArray[Any]:
    if key not in archive.files:
        raise InputError(
            f"{path} has no array {key!r}, only {sorted(archive.files)}: "
            "write it with numpy.savez(path, images=..., labels=...)."
        )
    member: npt.NDArray[Any] = archive[key]
    return member


def _as_nchw(path: Path, images: npt.NDArray[Any], chosen: npt.NDArray[np.int64]) -> Tensor:
    if images.dtype == np.uint8 and images.ndim in (3, 4):
        pixels = torch.from_numpy(images[chosen]).float() / 255
        return pixels.unsqueeze(1) if images.ndim == 3 else pixels.movedim(-1, 1)
    if images.dtype.kind == "f" and images.ndim == 4:
        if images.shape[1] > 4 and images.shape[3] in (1, 3, 4):
            raise InputError(
                f"{path}: float 'images' of shape {images.shape} look like NHWC; save images.transpose(0, 3, 1, 2)."
            )
        return torch.from_numpy(images[chosen].astype(np.float32))
    raise InputError(
        f"{path}: 'images' is {images.dtype} of shape {images.shape}; it must be uint8 of shape (N, H, W, C) or "
        "(N, H, W), or normalised floats of shape (N, C, H, W)."
    )


def _read_image(file: Path, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    if channels not in _MODES:
        raise InputError(f"size={shape}: image files are read as grey (1 channel) or colour (3), not {channels}.")
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert(_MODES[channels]).resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image ({error}): repair or remove it.") from error
    return torch.from_numpy(pixels.reshape(height, width, channels).astype(np.float32) / 255).movedim(-1, 0)
