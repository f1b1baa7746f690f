"""Random numbers of seed, step and process alone, so that a run that goes on is the one that was stopped."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from lswag_hooks.rng import seeded

PICTURES, STEP = 0, 1  # what a stream of random numbers is for


def stream(seed: int, what: int, number: int, rank: int) -> int:
    """The seed of one stream: of the pictures of an epoch, or of one step.

    Example:
        >>> len({stream(0, what, number, rank) for what in (0, 1) for number in (0, 1) for rank in (0, 1)})
        8
    """
    return int(np.random.SeedSequence((seed, what, number, rank)).generate_state(1)[0])


class Streams(Hook):  # type: ignore[misc]  # mmengine has no types
    """Draw what is random in each step and in each epoch's pictures from streams of their own.

    mmengine seeds once, at the start. Which regions a step draws then depends on all steps since that start, and
    whether a picture is flipped on the validation too: nothing of it is in a checkpoint. Here nothing needs to be. The
    steps leave the pictures' stream alone, because mmengine's loop over iterations reads all pictures before the
    checkpoint once more when it goes on.
    """

    def __init__(self) -> None:
        self._step = ExitStack()

    def before_train_epoch(self, runner: Any) -> None:
        """Seed what is drawn for pictures, here and, through torch, in the processes that read them."""
        seed = stream(runner.seed, PICTURES, runner.epoch, get_rank())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Seed the step."""
        self._step.enter_context(seeded(stream(runner.seed, STEP, runner.iter, get_rank())))

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Give the pictures' stream back."""
        self._step.close()


def seeded_by_torch(worker_id: int) -> None:
    """Leave a reading process the seeds that torch gave it from the epoch's; mmengine's are the same in every epoch."""
