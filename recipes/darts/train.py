"""The command that trains; ``train_cifar10`` and ``train_imagenet`` are this with a configuration each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipes.common import RecipeCLI
from recipes.darts.training import DARTSTraining

CONFIGS = Path(__file__).parent / "configs"


def train(config: str, args: Sequence[str] | None = None) -> int:
    """Train, or go on training.

    Args:
        config: name of a file in ``configs``.
        args: instead of the command line's.

    Returns:
        The exit status: 0; 130 after Ctrl-C; 1 where the pre-filter rejected the network.
    """
    cli = RecipeCLI(DARTSTraining, CONFIGS / config, None if args is None else list(args))
    trainer = cli.trainer
    trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.resume_from(), weights_only=True)
    if trainer.interrupted:
        return 130
    found = trainer.callback_metrics
    accuracy = float(found["val_acc"]) if "val_acc" in found else float("nan")
    if trainer.is_global_zero:
        print(f"{trainer.current_epoch} of {trainer.max_epochs} epochs, top-1 {accuracy:.4f}, in {cli.config.out}")
    return 0 if trainer.current_epoch else 1
