"""The samples a network is scored on: inputs and targets, checked once, the same for every proxy and candidate."""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lswag_hooks import images, loaders, parts
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.images import Size
from lswag_hooks.rng import preserved

SHAPES = "shapes"  # for detectors


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """A batch of samples.

    Attributes:
        inputs: A tensor of shape (N, ...), or a tuple or dict of tensors. Tensors whose dimension 0 is not N are shared
            by all samples. A tuple of images goes with a tuple of dicts as targets, one a sample, as torchvision's
            detectors take them.
        targets: A tensor of shape (N, ...), a tuple or dict of such, a tuple of dicts with one a sample, or None.
        name: What to call the data in a report.
        layout: How a mini-batch of the loader was built, which `as_loaded` restores: "pair" (inputs, targets), "flat"
            (inputs, *targets), "single" (inputs,), "inputs", or "key:NAME", a dict with the targets under NAME.

    Raises:
        InputError: See `validate`.

    Example:
        >>> batch = Batch(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1]))
        >>> len(batch), batch.num_classes, batch.fingerprint == batch[:].fingerprint
        (4, 3, True)
        >>> batch
        Batch('tensors', 4 samples, inputs=float32 (4, 3, 8, 8), targets=int64 (4,))
    """

    inputs: Any
    targets: Any = None
    name: str = "tensors"
    layout: str = "pair"

    def __post_init__(self) -> None:
        inputs, targets, _ = parts.marked(
            parts.normalised(self.inputs, "inputs"), parts.normalised(self.targets, "targets")
        )
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)
        self.validate()

    def validate(self) -> None:
        """Check everything that can be told without a model; done on construction, but not on slices.

        Raises:
            InputError: Fewer than two samples, raw bytes as images, NaN or infinite values, targets of another length,
                or tensors on several devices.
        """
        if len(self) < 2:
            raise InputError(
                f"the batch has {len(self)} sample{'s' * (len(self) != 1)}: scores compare samples, "
                "so pass two or more (64 is usual)."
            )
        for name, tensor in parts.tensors(self.inputs, "inputs"):
            if tensor.dtype == torch.uint8 and tensor.ndim >= 3:
                raise InputError(f"{name} is uint8: scale it first, for example {name}.float() / 255.")
        parts.check_lengths(self.targets, "targets", len(self))
        devices = {str(tensor.device) for _, tensor in self._tensors()}
        if len(devices) > 1:
            raise InputError(f"the batch lies on several devices ({', '.join(sorted(devices))}): move it to one.")
        self._check_finite()

    @classmethod
    def from_tensors(cls, inputs: Any, targets: Any = None, name: str = "tensors") -> "Batch":
        """Build a batch from tensors, NumPy arrays or lists of numbers; whole-number targets become int64.

        Example:
            >>> Batch.from_tensors([[0.0, 1.0], [1.0, 0.0]], [1, 0])
            Batch('tensors', 2 samples, inputs=float32 (2, 2), targets=int64 (2,))
        """
        return cls(parts.as_tensors(inputs), parts.mapped(parts.as_tensors(targets), parts.class_numbers), name)

    @classmethod
    def from_dataloader(cls, loader: Iterable[Any], samples: int = 64, name: str | None = None) -> "Batch":
        """Take the first samples of a loader, joined over as many mini-batches as that needs.

        A mini-batch may be a tensor; (inputs, targets); (inputs, target, target, ...); or a dict, whose entry "labels",
        "label", "targets", "target" or "y" is the target. All random states, the loader's generators among them, are
        given back as they were, so that training afterwards is the same as without.

        Args:
            loader: A DataLoader, or anything that yields mini-batches; it may be endless.
            samples: How many to take; all there are, where there are fewer.
            name: What to call the data; by default the class of the loader's dataset.

        Raises:
            InputError: The loader yields nothing, mini-batches that cannot be joined, or fewer than two samples.

        Example:
            >>> data = torch.utils.data.TensorDataset(torch.rand(10, 5), torch.arange(10))
            >>> len(Batch.from_dataloader(torch.utils.data.DataLoader(data, batch_size=4), samples=7))
            7
        """
        inputs, targets, layout = loaders.first_samples(loader, samples)
        return cls(inputs, targets, name or type(getattr(loader, "dataset", loader)).__name__, layout)

    @classmethod
    def from_datamodule(cls, datamodule: Any, samples: int = 64, stage: str = "fit") -> "Batch":
        """Take the first samples of a LightningDataModule, of ``lightning`` or of ``pytorch_lightning``.

        Its ``prepare_data`` and ``setup`` are called once, and random states are given back as they were. The batch
        transfer hooks are not called.

        Args:
            datamodule: Anything with ``prepare_data``, ``setup`` and a loader for the stage.
            samples: As for `from_dataloader`.
            stage: "fit" (train loader), "validate" or "test".

        Raises:
            InputError: The stage is unknown, there is no loader for it or several, or as for `from_dataloader`.
        """
        with preserved():
            loader = loaders.of_datamodule(datamodule, stage)
            return cls.from_dataloader(loader, samples, name=type(datamodule).__name__)

    @classmethod
    def builtin(cls, name: str, size: Size = (3, 224, 224), samples: int = 64, seed: int = 0) -> "Batch":
        """Make a batch that needs no files.

        Args:
            name: "digits", real handwritten digits of scikit-learn, resized, grey in every channel, mean 0 and
                deviation 1, balanced over the ten classes; "noise", standard normal pixels; or "shapes", pictures with
                boxes and masks for detectors, see :func:`lswag_hooks.detection.shapes.shapes_batch`.
            size: (channels, height, width), (height, width) or a side.
            samples: How many.
            seed: Of the choice or the noise.

        Raises:
            InputError: Unknown name, or a size, number or seed that makes no sense.

        Example:
            >>> Batch.builtin("digits", size=(3, 32, 32), samples=20)
            Batch('digits', 20 samples, inputs=float32 (20, 3, 32, 32), targets=int64 (20,))
        """
        if name == SHAPES:
            from lswag_hooks.detection.shapes import shapes_batch

            _, height, width = images.image_shape(size)
            return shapes_batch(samples, (width, height), seed)
        return cls(*images.builtin(name, size, samples, seed), name)

    @classmethod
    def from_coco(
        cls, path: str | Path, samples: int = 8, scale: tuple[int, int] | None = (1333, 800), seed: int = 0
    ) -> "Batch":
        """Draw pictures with boxes and masks from a folder with COCO annotations, as detectors take them.

        Args:
            path: The folder: ``instances.json`` beside ``images/``, or COCO's own ``annotations/`` and ``train2017/``.
            samples: How many pictures.
            scale: Longest and shortest side at most; pictures are resized to it and keep their aspect ratio. None: as
                they are.
            seed: Of the draw.

        Raises:
            InputError: No such file, no categories or instances in it, or pictures that it lists are missing.
        """
        from lswag_hooks.detection.coco import coco_batch, load_coco

        return coco_batch(load_coco(path), samples, scale, seed)

    @classmethod
    def from_npz(cls, path: str | Path, samples: int = 64, size: Size | None = None, seed: int = 0) -> "Batch":
        """Read an .npz with ``images`` (uint8 NHWC or NHW, float NCHW) and ``labels`` (N,), balanced over classes.

        Bytes are brought to mean 0 and deviation 1 a channel; floats are taken as they are.

        Args:
            path: The file.
            samples: How many to take; all there are, where there are fewer.
            size: What to resize to; by default they stay as they are.
            seed: Of the choice.

        Raises:
            InputError: The file cannot be read, or holds something else.
        """
        return cls(*images.read_npz(path, samples, size, seed), Path(path).stem)

    @classmethod
    def from_image_folder(
        cls, path: str | Path, samples: int = 64, size: Size = (3, 224, 224), seed: int = 0
    ) -> "Batch":
        """Read images laid out as ``path/CLASS/IMAGE.png``, balanced over classes, mean 0 and deviation 1 a channel.

        Args:
            path: The folder with one sub-folder a class.
            samples: How many to take; all there are, where there are fewer.
            size: What to resize to; the aspect ratio is not kept.
            seed: Of the choice.

        Raises:
            InputError: No folder, no class, no image, or one that cannot be read.
        """
        return cls(*images.read_image_folder(path, samples, size, seed), Path(path).name)

    @classmethod
    def load(cls, spec: str, size: Size | None = None, samples: int = 64, seed: int = 0) -> "Batch":
        """Read what a person writes on a command line.

        That is "digits", "noise", "shapes", an .npz file, a folder of images with a folder a class, or one with COCO
        annotations, whose pictures then keep their aspect ratio and have at most the two sides of ``size``.

        Raises:
            InputError: It is none of these, or cannot be read.
        """
        wanted: Size = (3, 224, 224) if size is None else size
        if not isinstance(spec, (str, Path)) or not str(spec):
            raise InputError(f"data are {spec!r}: give a name such as 'digits', an .npz file, or a folder of images.")
        if spec in (*images.BUILTIN, SHAPES):
            return cls.builtin(spec, wanted, samples, seed)
        path = Path(spec).expanduser()
        if (path / "instances.json").is_file() or (path / "annotations").is_dir():
            _, *sides = images.image_shape(wanted)
            return cls.from_coco(path, samples, (max(sides), min(sides)), seed)
        if path.is_dir():
            return cls.from_image_folder(path, samples, wanted, seed)
        if path.is_file() or path.suffix == ".npz":
            return cls.from_npz(path, samples, size, seed)
        raise InputError(
            f"there are no data {spec!r}.{near_matches(spec, (*images.BUILTIN, SHAPES))} "
            f"Give {', '.join(images.BUILTIN)} or {SHAPES}, the path of an .npz file, or a folder with one sub-folder "
            "a class or with COCO annotations."
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of types, shapes and content; the same in every process and on every device."""
        digest = hashlib.blake2b(digest_size=8)
        for root, part in (("inputs", self.inputs), ("targets", self.targets)):
            for path, leaf in parts.leaves(part, root):
                if isinstance(leaf, Tensor):
                    digest.update(f"{path} {leaf.dtype} {tuple(leaf.shape)};".encode())
                    digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                else:
                    digest.update(f"{path} {leaf!r};".encode())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the inputs lie."""
        return next(parts.tensors(self.inputs, "inputs"))[1].device

    @property
    def num_classes(self) -> int | None:
        """The largest whole-number target plus one; None where the targets are no single tensor of class numbers."""
        targets = self.targets
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
            return None
        largest = -1 if targets.dtype == torch.bool or not targets.numel() else int(targets.max())
        return largest + 1 if largest >= 0 else None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """Move the batch; ``dtype`` changes floating-point inputs only.

        Raises:
            InputError: A value overflows in the new type.

        Example:
            >>> Batch.builtin("noise", size=8, samples=2).to("cpu", torch.float64).inputs.dtype
            torch.float64
        """

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        there = self._with(parts.mapped(self.inputs, moved), parts.mapped(self.targets, lambda t: t.to(device)))
        if dtype is not None:
            there._check_finite()
        return there

    def split(self, size: int) -> list["Batch"]:
        """Cut into batches of at most ``size`` samples, in order; a batch of one sample is allowed here.

        Example:
            >>> [len(piece) for piece in Batch.builtin("noise", size=8, samples=5).split(2)]
            [2, 2, 1]
        """
        if size < 1:
            raise InputError(f"size={size}: ask for pieces of one sample or more.")
        return [self[start : start + size] for start in range(0, len(self), size)]

    def as_loaded(self) -> Any:
        """Build a mini-batch as the loader gave it, which is what a LightningModule's ``training_step`` takes.

        Example:
            >>> loader = [{"pixels": torch.rand(2, 4), "labels": torch.tensor([0, 1])}]
            >>> sorted(Batch.from_dataloader(loader, samples=2).as_loaded())
            ['labels', 'pixels']
        """
        return loaders.rebuilt(self.inputs, self.targets, self.layout)

    def __len__(self) -> int:
        if isinstance(self.inputs, parts.PerSample):
            return len(self.inputs)
        return len(next(parts.tensors(self.inputs, "inputs"))[1])

    def __getitem__(self, index: slice) -> "Batch":
        if not isinstance(index, slice):
            raise TypeError(f"a Batch takes slices, not {type(index).__name__}: write batch[i : i + 1].")
        n = len(self)
        if not len(range(n)[index]):
            raise InputError(f"{index} selects none of the {n} samples.")
        # torch takes no negative steps, and a batch has no use for them
        if index.step is not None and index.step < 1:
            raise InputError(f"{index}: take steps of one or more.")
        return self._with(parts.take(self.inputs, index, n), parts.take(self.targets, index, n))

    def __repr__(self) -> str:
        said = [repr(self.name), f"{len(self)} samples"]
        for root, part in (("inputs", self.inputs), ("targets", self.targets)):
            found = [
                f"{path}={str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
                for path, tensor in parts.tensors(part, root)
            ]
            said += found[:4] + [f"{len(found) - 4} more in {root}"] * (len(found) > 4)
        return f"Batch({', '.join(said)})"

    def _with(self, inputs: Any, targets: Any) -> "Batch":
        """Make a batch with parts that were checked already, and may be of one sample."""
        made = object.__new__(Batch)
        for field, value in (("inputs", inputs), ("targets", targets), ("name", self.name), ("layout", self.layout)):
            object.__setattr__(made, field, value)
        return made

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from parts.tensors(self.inputs, "inputs")
        yield from parts.tensors(self.targets, "targets")

    def _check_finite(self) -> None:
        for name, tensor in self._tensors():
            if not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex()):
                bad = int((~torch.isfinite(tensor)).sum())
                if bad:
                    raise InputError(
                        f"{name} ({tensor.dtype}) holds {bad} NaN or infinite values of {tensor.numel()}: clean the "
                        "data, or check its normalisation and type."
                    )


def as_batch(given: Any) -> Batch:
    """A Batch as it is, or one of a pair (inputs, targets).

    Raises:
        InputError: It is neither, or as for `Batch`.

    Example:
        >>> as_batch((torch.rand(4, 3), torch.arange(4)))
        Batch('tensors', 4 samples, inputs=float32 (4, 3), targets=int64 (4,))
    """
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return Batch(*given)
    if not isinstance(given, Batch):
        raise InputError(
            f"a batch is a Batch or a pair (inputs, targets), got {type(given).__name__}: see Batch.builtin, "
            "Batch.load and Batch.from_dataloader."
        )
    return given
