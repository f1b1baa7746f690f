"""The losses of detectors, of torchvision and of MMDetection, on one kind of batch.

Both take pictures as :func:`~lswag_hooks.detection.coco.coco_batch` gives them, and bring their own normalisation,
padding and, in torchvision, resizing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

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


class TorchvisionObjective:
    """The sum of the losses of a detector of ``torchvision.models.detection``.

    The detector's own modules are in training mode for the while of the pass, in which alone they give losses; its
    convolutions and norms stay in the mode that was asked for, and pictures are not resized at random.
    """

    is_objective = True
    reduction: Reduction = "mean"

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        check_pictures(batch)
        with seeded(SEED), losing(model, "torchvision.models.detection"):
            losses = model(list(batch.inputs), [dict(target) for target in batch.targets])
        return torch.stack([value.float() for value in losses.values()]).sum()


class MMDetObjective:
    """The sum of the losses of a detector of MMDetection, behind its own data preprocessor."""

    is_objective = True
    reduction: Reduction = "mean"

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
