"""The command that trains; ``train_cifar10`` and ``train_imagenet`` are this with a configuration each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as L
from lightning.pytorch.cli import LightningArgumentParser

from lswag_hooks import LSWAGCallback
from lswag_hooks.errors import InputError
from recipes.common import RecipeCLI
from recipes.darts.training import DARTSTraining

CONFIGS = Path(__file__).parent / "configs"


class StopAfter(L.Callback):
    """End after so many epochs of the schedule, to go on another time."""

    def __init__(self, epochs: int) -> None:
        if epochs < 1:
            raise InputError(f"--stop_after {epochs}: give one or more.")
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the Trainer."""
        if trainer.current_epoch + 1 >= self.epochs:
            trainer.should_stop = True


class TrainCLI(RecipeCLI):
    """With a pre-filter, and an option that ends a run early."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add them."""
        super().add_arguments_to_parser(parser)
        parser.add_lightning_class_args(LSWAGCallback, "prefilter")
        parser.add_argument("--stop_after", type=int | None, default=None, help="epochs of the schedule to end after")


def train(config: str, args: Sequence[str] | None = None) -> int:
    """Train, or go on training.

    Args:
        config: name of a file in ``configs``.
        args: instead of the command line's.

    Returns:
        The exit status: 0; 130 after Ctrl-C; 1 where the pre-filter rejected the network.
    """
    cli = TrainCLI(DARTSTraining, CONFIGS / config, None if args is None else list(args))
    if cli.config.stop_after is not None:
        cli.trainer.callbacks.insert(0, StopAfter(cli.config.stop_after))  # type: ignore[attr-defined]
    return cli.fit()
