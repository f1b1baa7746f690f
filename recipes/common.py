"""What recipes that train with Lightning share: their command line, seeds, checkpoints that say what they are of."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lswag_hooks.errors import InputError
from recipes.command import check_out_file, finish, keep_search
from recipes.data import ImageData
from recipes.dry_run import DryRun

__all__ = [
    "KEY",
    "RecipeCLI",
    "RecipeModule",
    "check_one_process",
    "check_out_file",
    "differences",
    "finish",
    "keep_search",
    "seed_epoch",
]

KEY = "recipe"  # of what a checkpoint says about itself


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed Python, NumPy and PyTorch from the epoch alone, so that a resumed run draws what an undisturbed one does."""
    state = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Which settings are others, in words; empty where all are the same.

    Example:
        >>> differences({"lr": 0.1, "epochs": 5}, {"lr": 0.2, "epochs": 5})
        'lr is 0.1 there, 0.2 here'
    """
    names = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
    return "; ".join(f"{name} is {there.get(name)!r} there, {here.get(name)!r} here" for name in names)


class RecipeModule(L.LightningModule):
    """A module whose checkpoints say what they are of, and refuse to go on as something else.

    Attributes:
        described: the network, as plain values.
        options: of the training, as plain values; among them ``lr_batch``, the batch that the learning rate is for.
    """

    described: dict[str, Any]
    options: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on, as plain values."""
        data: Any = getattr(self.trainer, "datamodule", None)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        training = {
            **self.options,
            "epochs": self.trainer.max_epochs,
            "global_batch": self.global_batch(),
            "gradient_clip_val": self.trainer.gradient_clip_val,
            "gradient_clip_algorithm": self.trainer.gradient_clip_algorithm,
            "precision": self.trainer.precision,
            # without its callback Lightning would take the averages for the weights and go on from them
            "averaging": [type(one).__name__ for one in callbacks if "Averaging" in type(one).__name__] or None,
        }
        found = {"network": self.described, "training": training, "data": data.settings() if data else {}}
        plainly: dict[str, Any] = json.loads(json.dumps(found))
        return plainly

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what it is a checkpoint of."""
        # not save_hyperparameters(): LightningCLI would let those of the checkpoint win over what the user says
        checkpoint[KEY] = self.settings()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network, and in training one of other settings."""
        if KEY not in checkpoint:
            raise InputError("ckpt_path is no checkpoint of this recipe.")
        there, here = checkpoint[KEY], self.settings()
        if told := differences(there["network"], here["network"]):
            raise InputError(f"ckpt_path is of another architecture: {told}.")
        told = "; ".join(filter(None, (differences(there[part], here[part]) for part in ("training", "data"))))
        if told and self.trainer.state.fn == "fit":
            raise InputError(f"ckpt_path is of a run with other settings: {told}. Give those, or begin a new run.")

    def on_validation_epoch_start(self) -> None:
        """Validate the network that checkpoints hold in all processes: BatchNorm's statistics are the first one's."""
        kept = [buffer for buffer in self.buffers() if buffer.is_floating_point()]
        if kept and self.trainer.world_size > 1:
            together = torch.cat([buffer.flatten() for buffer in kept])  # one message instead of hundreds
            torch.distributed.broadcast(together, 0)
            for buffer, values in zip(kept, together.split([buffer.numel() for buffer in kept]), strict=True):
                buffer.copy_(values.view_as(buffer))

    def global_batch(self) -> int:
        """Images in a step, over all processes and accumulated batches."""
        data: Any = getattr(self.trainer, "datamodule", None)
        one = getattr(data, "batch_size", self.options["lr_batch"])
        return int(one * self.trainer.world_size * self.trainer.accumulate_grad_batches)


class RecipeCLI(LightningCLI):
    """LightningCLI for a module and any :class:`~recipes.data.ImageData`; the number of classes comes from the data.

    Args:
        module: the LightningModule.
        config: YAML file of defaults.
        args: instead of the command line's.
        link_classes: whether the module has an argument ``num_classes``.
    """

    def __init__(self, module: Any, config: Path, args: ArgsType = None, link_classes: bool = True) -> None:
        self.link_classes = link_classes
        super().__init__(
            module,
            ImageData,
            subclass_mode_data=True,
            run=False,
            args=args,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            parser_kwargs={"default_config_files": [str(config)]},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where results go, what to go on from, and how long a dry run is."""
        parser.add_argument("--out", type=str, default="runs", help="folder for checkpoints, logs and results")
        parser.add_argument("--ckpt_path", type=str, help="go on from this checkpoint; last: the latest in --out")
        told = "with --data.fake: how many epochs are trained, spread over the whole schedule"
        parser.add_argument("--fake_epochs", type=int, default=12, help=told)
        if self.link_classes:
            parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Put loggers and checkpoints into the folder."""
        if self.config.fake_epochs < 2:
            raise InputError(f"--fake_epochs {self.config.fake_epochs}: give two or more.")
        out = self.config.out
        trainer = self.config.trainer
        trainer.default_root_dir = out
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for one in [*loggers, *(trainer.callbacks or [])]:
            arguments = getattr(one, "init_args", None)
            if arguments is not None and "save_dir" in arguments:
                arguments.save_dir = out
            if arguments is not None and "dirpath" in arguments and arguments.dirpath is None:
                arguments.dirpath = str(Path(out) / "checkpoints")

    def fit(self) -> int:
        """Train, or go on training, and say how it ended; a dry run trains some epochs of the schedule.

        Returns:
            The exit status: 0; 130 after Ctrl-C; 1 where the pre-filter rejected the network.
        """
        trainer: Any = self.trainer
        dry = DryRun(self.config.fake_epochs) if self.datamodule.fake else None
        if dry is not None:
            trainer.callbacks.insert(0, dry)
        trainer.fit(self.model, self.datamodule, ckpt_path=self.resume_from(), weights_only=True)
        if trainer.interrupted:
            return 130
        if trainer.is_global_zero:
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            done = f"{trainer.current_epoch} of {trainer.max_epochs} epochs"
            done += "" if dry is None else f" ({dry.trained} trained, on made-up images)"
            scores = "".join(f", {name} {value:.6g}" for name, value in found.items() if name.startswith("lswag/"))
            accuracy = 100 * found.get("val_acc", float("nan"))
            print(f"{done}, top-1 {accuracy:.2f} %{scores}, in {self.config.out}", flush=True)
        return 0 if trainer.current_epoch else 1

    def resume_from(self) -> str | None:
        """The checkpoint to go on from.

        Raises:
            InputError: there is none; or none is asked for, and the folder holds a run.
        """
        last = Path(self.config.out) / "checkpoints" / "last.ckpt"
        asked: str | None = self.config.ckpt_path
        if asked is None:
            if last.is_file():
                raise InputError(f"{self.config.out} holds a run: go on with --ckpt_path last, or give another --out.")
            return None
        found = last if asked == "last" else Path(asked).expanduser()
        if not found.is_file():
            raise InputError(f"--ckpt_path {asked}: there is no checkpoint {found}.")
        return str(found)


def check_one_process(trainer: L.Trainer) -> None:
    """Refuse several processes where each test image must count once.

    Raises:
        InputError: there are several.
    """
    if trainer.world_size > 1:
        raise InputError(
            f"trainer has {trainer.world_size} processes, which would see some images twice: give it one device; "
            "others can measure other data at the same time."
        )
