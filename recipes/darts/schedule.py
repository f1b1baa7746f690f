"""Learning rates of an epoch: DARTS's for CIFAR-10 and ImageNet, PC-DARTS's for ImageNet."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

from lswag_hooks.errors import InputError

Shape: TypeAlias = Literal["cosine", "decay", "linear"]

TAIL = 5  # epochs at the end in which PC-DARTS's line falls once more
DECAY = 0.97


def learning_rate(shape: Shape, lr: float, epoch: int, epochs: int, warmup: int = 0) -> float:
    """The learning rate of an epoch, counted from 0.

    * cosine: lr (1 + cos(pi e / E)) / 2.
    * decay: lr 0.97^e (DARTS, ImageNet).
    * linear: lr (E - 5 - e) / (E - 5), in the last five epochs lr (E - e) / (5 (E - 5)) (PC-DARTS, ImageNet).
    * In the first ``warmup`` epochs lr (e + 1) / warmup instead.

    Example:
        >>> [learning_rate("linear", 0.5, epoch, 250, 5) for epoch in (0, 5, 249)]
        [0.1, 0.4897..., 0.0004...]
    """
    if epoch < warmup:
        return lr * (epoch + 1) / warmup
    if shape == "cosine":
        return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
    if shape == "decay":
        return lr * DECAY**epoch
    left = epochs - epoch
    return lr * (left - TAIL if left > TAIL else left / TAIL) / (epochs - TAIL)


def check_schedule(shape: str, epochs: int | None, warmup: int) -> None:
    """Refuse a schedule that makes no sense.

    Raises:
        InputError: says which argument.
    """
    if shape not in get_args(Shape):
        raise InputError(f"model.schedule={shape!r}: use one of {', '.join(get_args(Shape))}.")
    if epochs is None or epochs < 1:
        raise InputError("set trainer.max_epochs: learning rate and drop path depend on it.")
    if warmup < 0 or (warmup and warmup >= epochs):
        raise InputError(f"model.warmup_epochs={warmup} of trainer.max_epochs={epochs}: leave some to train.")
    if shape == "linear" and epochs <= TAIL:
        raise InputError(f"trainer.max_epochs={epochs}: the linear schedule needs more than {TAIL}; or use 'cosine'.")
