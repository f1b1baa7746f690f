"""The order of training images, which depends on a seed and the epoch alone, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """A shuffle for each epoch; with ``repeats`` each image several times, spread over processes (timm's sampler).

    It is a DistributedSampler with one process too, for Lightning replaces others by its own where there are several.

    Args:
        data: with a length.
        replicas: processes.
        rank: of this one.
        seed: of the order.
        repeats: how often an image comes up, in several augmentations; the epoch is as long as without.

    Attributes:
        generator: seeded anew each epoch; workers take their seeds from it.
    """

    def __init__(self, data: Any, replicas: int = 1, rank: int = 0, seed: int = 0, repeats: int = 1) -> None:
        super().__init__(data, replicas, rank, shuffle=True, seed=seed)
        self.generator = torch.Generator()
        self.repeated = RepeatAugSampler(data, replicas, rank, num_repeats=repeats) if repeats > 1 else None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls it before each epoch."""
        super().set_epoch(epoch)
        self.generator.manual_seed(1_000_003 * (self.seed + 1) + 1009 * self.rank + epoch)
        if self.repeated is not None:
            self.repeated.set_epoch(self.seed + epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(self.repeated) if self.repeated is not None else super().__iter__()

    def __len__(self) -> int:
        return len(self.repeated) if self.repeated is not None else super().__len__()
