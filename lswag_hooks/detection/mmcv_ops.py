"""What Mask R-CNN needs of ``mmcv._ext``, from torchvision: the stand-in for mmcv's compiled operations.

``mmcv-lite`` brings the Python side of ``mmcv.ops`` without the compiled one. An :class:`Extension` takes its place,
with torchvision's kernels, on CPU and CUDA. It is put there by :func:`lswag_hooks.detection.compat.prepare`, and only
where no compiled mmcv is installed. Every other operation fails by name when it is *called*: mmcv looks for all of them
when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torchvision
from torch import Tensor

__all__ = ["get_compiler_version", "get_compiling_cuda_version", "nms", "roi_align_backward", "roi_align_forward"]

AVERAGE = 1  # mmcv's number for pool_mode="avg"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the boxes kept by non-maximum suppression, best score first.

    Args:
        boxes: (N, 4) as (x1, y1, x2, y2).
        scores: (N,).
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        offset: 1: a box contains its last row and column of pixels, as in very old detectors.

    Example:
        >>> nms(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]), torch.tensor([0.5, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    kept: Tensor = torchvision.ops.nms(boxes, scores, iou_threshold)
    return kept


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` (R, C, aligned_height, aligned_width) with what ``rois`` (R, 5) cover of ``features``."""
    _check_mode(pool_mode)
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(features, rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``grad_input`` (N, C, H, W) with the gradient of :func:`roi_align_forward` towards its features."""
    _check_mode(pool_mode)
    grad_input.copy_(
        # the kernel that torchvision's own autograd calls: no second forward pass, as the public function would take
        torch.ops.torchvision._roi_align_backward(
            grad_output,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def get_compiler_version() -> str:
    """What mmcv reports as its compiler."""
    return "none: torchvision's operations stand in (lswag_hooks)"


def get_compiling_cuda_version() -> str:
    """What mmcv reports as the CUDA that it was compiled with."""
    return torch.version.cuda or "not available"


def _check_mode(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        missing("roi_align with pool_mode='max'")()


def missing(name: str) -> Callable[..., NoReturn]:
    """A function that refuses to be called, by name."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's operation {name} is not among those that torchvision provides: it needs a compiled mmcv "
            "(>= 2.0.0, < 2.2.0) in place of mmcv-lite, or a detector without it."
        )

    return refuse


class Extension(ModuleType):
    """A module with these operations, in which every other name is a function that refuses to be called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        self.__spec__ = ModuleSpec(name, None)  # importlib asks for one
        self.__dict__.update({operation: globals()[operation] for operation in __all__})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return missing(name)
