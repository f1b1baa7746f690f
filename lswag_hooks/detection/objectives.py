"""The losses of detectors, of torchvision and of MMDetection, on one kind of batch.

Both take pictures as :func:`~lswag_hooks.detection.coco.coco_batch` gives them, and bring their own normalisation,
padding and, in torchvision, resizing.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.objective import Reduction
from lswag_hooks.rng import seeded

SEED = 0  # of which proposals and anchors the losses are taken on: the same in every pass over a batch
_RESIZING = "GeneralizedRCNNTransform"  # draws a size in training; in evaluation it takes the largest


def detector_library(model: nn.Module) -> str | None:
    """``"torchvision"`` or ``"mmdet"`` for a detector of theirs or a subclass of one, else None; imports neither."""
    for cls in type(model).__mro__:
        if cls.__module__.startswith("torchvision.models.detection.") and cls.__name__ in _TORCHVISION:
            return "torchvision"
        if cls.__module__.startswith("mmdet.models.detectors.") and cls.__name__ == "BaseDetector":
            return "mmdet"
    return None


_TORCHVISION = ("GeneralizedRCNN", "RetinaNet", "FCOS", "SSD")


def check_pictures(batch: Batch) -> None:
    """Refuse a batch without boxes.

    Raises:
        InputError: the targets are not one dictionary with boxes and labels a picture.
    """
    targets = batch.targets
    if not isinstance(targets, tuple) or not all(
        isinstance(t, dict) and {"boxes", "labels"} <= set(t) for t in targets
    ):
        raise InputError(
            f"the batch {batch.name!r} has no boxes, which a detector's loss needs: take Batch.from_coco(folder) or "
            "Batch.builtin('shapes') (--data FOLDER or --data shapes), or targets of one dictionary a picture with "
            "'boxes' and 'labels'."
        )


class PicturesObjective(abc.ABC):
    """What the losses of detectors, and of their backbones, have in common.

    Attributes:
        joins: why a batch cannot be scored part by part, nor a picture alone; empty where it can.
        mend: what to do about pictures that do not fit into memory.
    """

    is_objective = True
    reduction: Reduction = "mean"
    joins = "a detector's losses are divided by the number of regions of all pictures"
    mend = "take fewer or smaller pictures (--samples, --size), or the backbone alone (CONFIG.py:backbone)"

    def for_layout(self, batch: Batch) -> tuple[Any, Batch]:
        """Objective and batch that show as well whose rows are whose, in a tenth of the memory: smaller pictures."""
        return self, shrunk(batch)

    def held_bytes(self, model: nn.Module, batch: Batch) -> int | None:
        """What backbone and neck keep of one picture for the backward pass, counted without values."""
        from lswag_hooks.detection.survey import kept_of

        parts, size = self.trunk(model, batch)
        return kept_of(parts, size)

    @abc.abstractmethod
    def trunk(self, model: nn.Module, batch: Batch) -> tuple[nn.Module, tuple[int, int]]:
        """What runs over whole pictures, and the height and width at which it does."""


class TorchvisionObjective(PicturesObjective):
    """The sum of the losses of a detector of ``torchvision.models.detection``.

    The detector's own modules are in training mode for the while of the pass, in which alone they give losses; its
    convolutions and norms stay in the mode that was asked for, and pictures are not resized at random.
    """

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        check_pictures(batch)
        _check_heads(model, batch)
        with seeded(SEED), losing(model, "torchvision.models.detection"):
            losses = model(list(batch.inputs), [dict(target) for target in batch.targets])
        return torch.stack([value.float() for value in losses.values()]).sum()

    def trunk(self, model: nn.Module, batch: Batch) -> tuple[nn.Module, tuple[int, int]]:
        """Its backbone, with the pyramid, on pictures of the detector's own size."""
        detector: Any = model
        with torch.no_grad():
            images, _ = detector.transform(list(batch.inputs))
        return detector.backbone, tuple(images.tensors.shape[-2:])


def _check_heads(model: nn.Module, batch: Batch) -> None:
    heads = getattr(model, "roi_heads", None)
    for head in ("mask", "keypoint"):
        has = getattr(heads, f"has_{head}", None)
        if has is not None and has() and any(f"{head}s" not in target for target in batch.targets):
            mend = "take coco_batch(..., masks=True)" if head == "mask" else "put them into the targets"
            raise InputError(f"the detector has a {head} head, and the batch no '{head}s': {mend}.")


class MMDetObjective(PicturesObjective):
    """The sum of the losses of a detector of MMDetection, behind its own data preprocessor."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        with seeded(SEED), losing(model, "mmdet.models"):
            data = self._data(model, batch, training=True)
            detector: Any = model
            loss, _ = detector.parse_losses(detector.loss(data["inputs"], data["data_samples"]))
        return loss  # type: ignore[no-any-return]

    def predict(self, model: nn.Module, batch: Batch) -> Any:
        """Forward pass without a loss."""
        data = self._data(model, batch, training=False)
        return model(data["inputs"], data["data_samples"], mode="tensor")

    def trunk(self, model: nn.Module, batch: Batch) -> tuple[nn.Module, tuple[int, int]]:
        """Backbone and neck."""
        detector: Any = model
        pictures = self._data(model, batch, training=False)["inputs"]
        parts = [detector.backbone, detector.neck] if detector.with_neck else [detector.backbone]
        return nn.Sequential(*parts), tuple(pictures.shape[-2:])

    @staticmethod
    def _data(model: nn.Module, batch: Batch, training: bool) -> Any:
        check_pictures(batch)
        detector: Any = model
        masks = _wants_masks(detector)
        data = {
            "inputs": [picture.flip(0) * 255 for picture in batch.inputs],  # as OpenCV reads them: BGR, 0 to 255
            "data_samples": [data_sample(p, t, masks) for p, t in zip(batch.inputs, batch.targets, strict=True)],
        }
        return detector.data_preprocessor(data, training)


def shrunk(batch: Batch, longest: int = 448) -> Batch:
    """Pictures with boxes, no side of which is longer than so many pixels.

    Example:
        >>> batch = shrunk(Batch.builtin("shapes", size=(3, 600, 900), samples=2), 90)
        >>> batch.inputs[0].shape, batch.targets[0]["masks"].shape[1:], bool((batch.targets[0]["boxes"] <= 90).all())
        (torch.Size([3, 60, 90]), torch.Size([60, 90]), True)
    """
    pictures, targets = [], []
    for picture, target in zip(batch.inputs, batch.targets, strict=True):
        sides = picture.shape[-2:]
        factor = min(1.0, longest / max(sides))
        size = [max(1, round(side * factor)) for side in sides]
        made = {**target, "boxes": target["boxes"] * factor}
        if "masks" in target:
            made["masks"] = F.interpolate(target["masks"][:, None], size)[:, 0]
        pictures.append(F.interpolate(picture[None], size)[0])
        targets.append(made)
    return Batch(tuple(pictures), tuple(targets), batch.name)


def _wants_masks(detector: Any) -> bool:
    return any(bool(getattr(part, "with_mask", False)) for part in (detector, getattr(detector, "roi_head", None)))


def data_sample(picture: Tensor, target: Mapping[str, Tensor], masks: bool) -> Any:
    """A picture's target in MMDetection's form, whose labels begin at 0."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = (int(side) for side in picture.shape[-2:])
    shape = {"img_shape": (height, width), "ori_shape": (height, width), "pad_shape": (height, width)}
    made = DetDataSample(metainfo={**shape, "scale_factor": (1.0, 1.0)})
    made.gt_instances = InstanceData(bboxes=target["boxes"], labels=target["labels"] - 1)
    made.ignored_instances = InstanceData(bboxes=target["boxes"][:0], labels=target["labels"][:0])
    if masks:
        if "masks" not in target:
            raise InputError(
                "the detector has a mask head, and the batch no 'masks': take coco_batch(..., masks=True)."
            )
        made.gt_instances.masks = BitmapMasks(target["masks"].cpu().numpy(), height, width)
    return made


@contextlib.contextmanager
def losing(model: nn.Module, package: str) -> Iterator[None]:
    """Put a library's own modules, and not those of torch, into training mode, by their flags alone."""
    own = [
        module
        for module in model.modules()
        if type(module).__name__ != _RESIZING
        and any(cls.__module__.startswith(package) for cls in type(module).__mro__)
    ]
    kept = [module.training for module in own]
    try:
        for module in own:
            module.training = True
        yield
    finally:
        for module, flag in zip(own, kept, strict=True):
            module.training = flag
