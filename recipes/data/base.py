"""What all data modules share: splits, loaders, messages."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import lightning.pytorch as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.datasets import FakeData

from lswag_hooks.errors import InputError
from lswag_hooks.images import balanced_indices
from recipes.data.sampler import EpochSampler
from recipes.data.transforms import Plain, Transform, Transforms

Split: TypeAlias = Literal["train", "test"]


class ImageData(L.LightningDataModule):
    """Images with class numbers, from a folder or file that the user has.

    A subclass has ``num_classes``, ``image_size``, ``obtain`` and :meth:`read`.

    Args:
        path: where the data is; nothing is ever downloaded.
        batch_size: of one process.
        test_batch_size: of one process in evaluation; by default ``batch_size``.
        workers: processes that read, for each loader.
        held_out: so many training images, balanced over the classes, are for validation instead; 0: the test images are
            for validation, too, as most published code has it.
        transforms: of training and evaluation; by default the size and the normalisation of the data alone.
        repeats: repeated augmentation: how often an image comes up in an epoch (which stays as long).
        seed: of the order of images, of ``held_out``, and of images made up.
        fake: make images up on the spot, for a dry run of a whole schedule; needs no ``path``.
        fake_samples: how many for each split and process.

    Raises:
        InputError: an argument makes no sense; in ``setup``: the data is not there, and where it is to be had.
    """

    num_classes: int = 10
    image_size: int = 32  # side of the images as they come
    obtain: ClassVar[str] = ""
    own_transforms: ClassVar[Transforms | None] = None

    def __init__(
        self,
        path: str | None = None,
        batch_size: int = 128,
        test_batch_size: int | None = None,
        workers: int = 4,
        held_out: int = 0,
        transforms: Transforms | None = None,
        repeats: int = 1,
        seed: int = 0,
        fake: bool = False,
        fake_samples: int = 2,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("test_batch_size", batch_size if test_batch_size is None else test_batch_size, 1),
            ("workers", workers, 0),
            ("held_out", held_out, 0),
            ("repeats", repeats, 1),
            ("fake_samples", fake_samples, 2),
        ):
            if value < least:
                raise InputError(f"data.{name}={value}: give {least} or more.")
        self.path = path
        self.batch_size = batch_size
        self.test_batch_size = test_batch_size or batch_size
        self.workers = 0 if fake else workers
        self.held_out = 0 if fake else held_out
        self.transforms = transforms or self.own_transforms or Plain(self.image_size)
        self.repeats = repeats
        self.seed = seed
        self.fake = fake
        self.fake_samples = fake_samples
        self.parts: dict[str, Dataset[Any]] = {}

    def read(self, split: Split) -> Any:
        """The data set of a split, whose items are a PIL image and a class number; may raise what readers raise."""
        raise NotImplementedError

    def made_up(self, split: Split) -> Any:
        """A data set of noise, of the data's size and classes."""
        size = (3, self.image_size, self.image_size)
        number = self.fake_samples * (self.trainer.world_size if self.trainer else 1)
        offset = self.seed + (split == "test") * number
        return FakeData(number, size, self.num_classes, random_offset=offset)

    def folder(self) -> Path:
        """The path that was given.

        Raises:
            InputError: none was given, or there is nothing.
        """
        if self.path is None:
            raise InputError(f"{type(self).__name__} needs data.path. {self.obtain} For a dry run: --data.fake true")
        found = Path(self.path).expanduser()
        if not found.exists():
            raise InputError(f"data.path={self.path}: there is nothing. {self.obtain} For a dry run: --data.fake true")
        return found

    def opened(self, split: Split) -> Any:
        """The data set of a split, as it is read.

        Raises:
            InputError: it is not there, or something else is.
        """
        if self.fake:
            return self.made_up(split)
        self.folder()
        try:
            return self.read(split)
        except InputError:
            raise
        except (RuntimeError, OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            said = " ".join(str(error).split()).replace("You can use download=True to download it", "").strip()
            raise InputError(f"no {type(self).__name__} ({split}) in {self.path}: {said} {self.obtain}") from error

    def setup(self, stage: str | None = None) -> None:
        """Open what the stage needs."""
        if self.parts:
            return
        train, test = self.opened("train"), self.opened("test")
        fitted: list[int] | None = None
        kept: list[int] | None = None
        if self.held_out:
            labels = labels_of(train)
            if not self.held_out < len(labels):
                raise InputError(f"data.held_out={self.held_out}: there are {len(labels)} training images.")
            chosen = balanced_indices(labels, self.held_out, self.seed)
            kept, fitted = sorted(map(int, chosen)), np.setdiff1d(np.arange(len(labels)), chosen).tolist()
        self.parts = {
            "train": Part(train, self.transforms.train, fitted),
            "val": Part(train if kept else test, self.transforms.test, kept),
            "test": Part(test, self.transforms.test),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled; incomplete batches at the end are left out, unless there is no other."""
        data: Any = self.parts["train"]
        trainer = self.trainer
        replicas, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        sampler = EpochSampler(data, replicas, rank, self.seed, self.repeats)
        # with workers the first batches are read before Lightning tells the sampler which epoch it is, and before
        # trainer.current_epoch is that of a resumed run
        progress: Any = trainer.fit_loop.epoch_progress.current if trainer else None
        sampler.set_epoch(progress.processed if progress else 0)
        return DataLoader(
            data,
            self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=self.collate,
            drop_last=len(sampler) >= self.batch_size,
            generator=sampler.generator,
            pin_memory=_on_gpu(self),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """In order."""
        return self._in_order("test")

    def collate(self, items: list[Any]) -> Any:
        """Join items to a mini-batch."""
        return default_collate(items)

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on, as plain values; not where the data is, nor who reads it."""
        return {
            "data": type(self).__name__,
            "num_classes": self.num_classes,
            "batch_size": self.batch_size,
            "held_out": self.held_out,
            "transforms": repr(self.transforms),
            "repeats": self.repeats,
            "seed": self.seed,
            "fake": self.fake,
        }

    def _in_order(self, part: str) -> DataLoader[Any]:
        return DataLoader(
            self.parts[part],
            self.test_batch_size,
            num_workers=self.workers,
            collate_fn=self.collate,
            pin_memory=_on_gpu(self),
        )


class Part(Dataset[Any]):
    """Some items of a data set, transformed."""

    def __init__(self, data: Any, transform: Transform, indices: list[int] | None = None) -> None:
        self.data, self.transform = data, transform
        self.indices = list(range(len(data))) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.data[self.indices[index]]
        return self.transform(image), label


def labels_of(data: Any) -> np.ndarray:
    """The class numbers of a data set, without reading its images; shape (N,)."""
    for name in ("targets", "labels", "_labels"):
        if hasattr(data, name):
            return np.asarray(getattr(data, name))
    return np.array([int(label) for _, label in data])


def _on_gpu(module: L.LightningDataModule) -> bool:
    return module.trainer is not None and module.trainer.strategy.root_device.type == "cuda"
