"""A dry run: some epochs of a schedule, spread over all of it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L


def visited(epochs: int, number: int, warmup: int = 0) -> list[int]:
    """The epochs that a dry run trains: ``number`` spread evenly, and those where schedules bend.

    These are the second and the last but one, and those on both sides of the warm-up's end.

    Example:
        >>> visited(500, 6, 20)
        [0, 1, 19, 20, 100, 200, 299, 399, 498, 499]
        >>> visited(4, 6)
        [0, 1, 2, 3]
    """
    if number >= epochs:
        return list(range(epochs))
    even = {round(place * (epochs - 1) / (number - 1)) for place in range(number)}
    return sorted(epoch for epoch in even | {1, warmup - 1, warmup, epochs - 2} if 0 <= epoch < epochs)


class DryRun(L.Callback):
    """Leave out epochs of a schedule, and print a line for each that is trained.

    Learning rate, drop path and random states of a recipe follow from the epoch alone, so they pass through the whole
    schedule however few epochs are trained.

    Args:
        number: of epochs to train, spread evenly; see :func:`visited`.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.trained = 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Go to the next epoch that is to be trained; the module's own hook comes after this one."""
        here = trainer.current_epoch
        to_train = visited(trainer.max_epochs, self.number, pl_module.options["warmup_epochs"])
        ahead = next(epoch for epoch in to_train if epoch >= here) - here
        progress = trainer.fit_loop.epoch_progress.current
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, getattr(progress, name) + ahead)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Say where in the schedule it is."""
        self.trained += 1
        if trainer.is_global_zero:
            rate = getattr(pl_module.network, "drop_path_rate", None)
            said = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            said += f": learning rate {trainer.optimizers[0].param_groups[0]['lr']:.3g}"
            print(said + ("" if rate is None else f", drop path {rate:.3g}"), flush=True)
