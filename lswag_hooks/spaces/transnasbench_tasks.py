"""Tasks of TransNAS-Bench-101: heads, decoders and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lswag_hooks.errors import InputError
from lswag_hooks.objective import cross_entropy

TASKS = {
    "class_object": 100,
    "class_scene": 63,
    "room_layout": 9,
    "jigsaw": 1000,
    "autoencoder": 3,
    "normal": 3,
    "segmentsemantic": 17,
}
IMAGE_SHAPES: dict[str, tuple[int, ...]] = {
    task: (9, 3, 64, 64) if task == "jigsaw" else (3, 256, 256) for task in TASKS
}
DENSE = ("autoencoder", "normal", "segmentsemantic")
TILES = 9


# ------------------------------------------------------------------ heads


def decoder_layer(entering: int, leaving: int, up: bool) -> list[nn.Module]:
    """A 3×3 convolution, transposed and doubling the size where ``up``, BatchNorm and a leaky ReLU."""
    conv: nn.Module = (
        nn.ConvTranspose2d(entering, leaving, 3, 2, 1, output_padding=1)
        if up
        else nn.Conv2d(entering, leaving, 3, 1, 1)
    )
    return [conv, nn.BatchNorm2d(leaving), nn.LeakyReLU(0.2)]


def generative_decoder(channels: int, ups: int, outputs: int) -> nn.Sequential:
    """Fourteen layers of which ``ups`` double the size; values in (-1, 1)."""
    layers = [
        (channels, 1024, False),
        (1024, 1024, False),
        (1024, 512, ups >= 6),
        (512, 512, False),
        (512, 256, ups >= 5),
        (256, 128, False),
        (128, 64, ups >= 4),
        (64, 64, False),
        (64, 32, ups >= 3),
        (32, 32, False),
        (32, 16, True),
        (16, 32, False),
        (32, 16, True),
    ]
    modules = [module for layer in layers for module in decoder_layer(*layer)]
    return nn.Sequential(*modules, nn.Conv2d(16, outputs, 3, 1, 1), nn.Tanh())


def segmentation_decoder(channels: int, ups: int, outputs: int) -> nn.Sequential:
    """Layers that halve the channels from 1024 to 32, the last ``ups`` of which double the size; logits a pixel."""
    width = 1024
    modules = decoder_layer(channels, width, False)
    for up in [False] * (6 - ups) + [True] * (ups - 1):
        modules += decoder_layer(width, width // 2, up)
        width //= 2
    return nn.Sequential(*modules, *decoder_layer(width, width, True), nn.Conv2d(width, outputs, 3, 1, 1))


def head(task: str, channels: int, ups: int, outputs: int) -> nn.Module:
    """What turns feature maps into a task's output.

    Args:
        task: one of ``TASKS``.
        channels: of the feature maps; for jigsaw those of one tile.
        ups: how many times a decoder has to double the size, 3 to 6.
        outputs: classes, numbers or channels.

    Example:
        >>> head("normal", 128, 5, 3).eval()(torch.zeros(1, 128, 2, 2)).shape
        torch.Size([1, 3, 64, 64])
    """
    if task == "segmentsemantic":
        return segmentation_decoder(channels, ups, outputs)
    if task in DENSE:
        return generative_decoder(channels, ups, outputs)
    entering = TILES * channels if task == "jigsaw" else channels
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(entering, outputs))


def check_sides(sides: Sequence[int], ups: int) -> None:
    """Refuse images whose size a decoder cannot come back to."""
    height, width = sides
    if height % 2**ups or width % 2**ups:
        raise InputError(
            f"images of {height}×{width}: for this task the sides must be multiples of {2**ups}, since the network "
            f"halves them {ups} times and its decoder doubles them as often."
        )


class TaskNetwork(nn.Module):
    """An encoder, and a head on its feature maps.

    Shapes: images are (N, channels, H, W), for jigsaw (N, 9, channels, H, W). The output is (N, outputs), for the tasks
    with a decoder (N, outputs, H, W).
    """

    def __init__(self, encoder: nn.Module, task: str, channels: int, ups: int, outputs: int) -> None:
        super().__init__()
        self.task = task
        self.ups = ups
        self.encoder = encoder
        self.head = head(task, channels, ups, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """The task's output."""
        if self.task in DENSE:
            check_sides(images.shape[-2:], self.ups)
        if self.task != "jigsaw":
            return self.head(self.encoder(images))  # type: ignore[no-any-return]
        if images.dim() != 5 or images.shape[1] != TILES:
            raise InputError(f"jigsaw takes images of shape (N, {TILES}, 3, H, W), got {tuple(images.shape)}.")
        return self.head(torch.cat([self.encoder(tile) for tile in images.unbind(1)], 1))  # type: ignore[no-any-return]


# ------------------------------------------------------------------ losses


def soft_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples of -Σ t·log(softmax + 1e-5); logits and targets of shape (N, classes).

    Example:
        >>> soft_target_cross_entropy(torch.zeros(2, 4), torch.full((2, 4), 0.25)).item()
        1.386
    """
    _check_same_shape(logits, targets)
    return -(targets * (logits.softmax(1) + 1e-5).log()).sum(1).mean()


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples and values of the squared difference."""
    _check_same_shape(outputs, targets)
    return F.mse_loss(outputs, targets)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples and values of the absolute difference."""
    _check_same_shape(outputs, targets)
    return F.l1_loss(outputs, targets)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # every one a mean over samples, which scoring relies on
    "class_object": soft_target_cross_entropy,
    "class_scene": soft_target_cross_entropy,
    "room_layout": squared_error,
    "jigsaw": cross_entropy,
    "autoencoder": absolute_error,
    "normal": absolute_error,
    "segmentsemantic": cross_entropy,
}


def _check_same_shape(outputs: Tensor, targets: Tensor) -> None:
    if not isinstance(targets, Tensor) or outputs.shape != targets.shape or not targets.is_floating_point():
        found = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(
            f"targets are {found}, the outputs are of shape {tuple(outputs.shape)}: this task's targets are real "
            "numbers of the outputs' shape. The space's batch(images, task) makes them from images with labels."
        )
