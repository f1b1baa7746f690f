"""What the commands of this recipe share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lswag_hooks.errors import LSWAGError
from recipes.data import ImageData


class RecipeCLI(LightningCLI):
    """LightningCLI with one folder for all that a run writes, and the data's number of classes for the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs/autoformer", help="folder for logs and checkpoints")
        parser.link_arguments("out", "trainer.default_root_dir")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        # the best and the last; after validation, where an epoch is complete and resumes to the same weights
        kept = {"monitor": "val_acc", "mode": "max", "save_last": True, "save_on_train_epoch_end": True}
        parser.set_defaults({f"checkpoint.{name}": value for name, value in kept.items()})
        parser.link_arguments("out", "checkpoint.dirpath", compute_fn=lambda out: str(Path(out) / "checkpoints"))
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")


def train(model: Callable[..., L.LightningModule], args: Any = None) -> RecipeCLI:
    """The commands fit, validate and test for a model, with any data of the recipes."""
    return RecipeCLI(
        model,
        ImageData,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},  # a run that goes on in its folder
        args=args,
    )


def told(run: Callable[[], Any]) -> None:
    """Run a command; bad input is told in a line, with exit status 2."""
    try:
        run()
    except LSWAGError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
