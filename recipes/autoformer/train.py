"""The command that trains; ``train_supernet``, ``finetune`` and ``retrain`` are this with a model each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.autoformer.training import Training
from recipes.common import RecipeCLI

CONFIGS = Path(__file__).parent / "configs"


def train(model: Callable[..., Training], config: str, args: Sequence[str] | None = None) -> int:
    """Train, or go on training.

    Args:
        model: what to train.
        config: name of a file in ``configs``, of defaults.
        args: instead of the command line's.

    Returns:
        The exit status: 0; 130 after Ctrl-C; 1 where the pre-filter rejected the network.
    """
    cli = RecipeCLI(model, CONFIGS / config, None if args is None else list(args))
    trainer = cli.trainer
    trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.resume_from(), weights_only=True)
    if trainer.interrupted:
        return 130
    found = trainer.callback_metrics
    accuracy = float(found["val_acc"]) if "val_acc" in found else float("nan")
    if trainer.is_global_zero:
        scores = "".join(f", {name} {float(value):.6g}" for name, value in found.items() if name.startswith("lswag/"))
        done = f"{trainer.current_epoch} of {trainer.max_epochs} epochs"
        print(f"{done}, top-1 {100 * accuracy:.2f} %{scores}, in {cli.config.out}", flush=True)
    return 0 if trainer.current_epoch else 1
