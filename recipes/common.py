"""What recipes share beside their data: a command line, seeds of epochs, and checkpoints that say what they are of."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lswag_hooks.errors import InputError, LSWAGError
from lswag_hooks.search import SearchResult
from recipes.data import ImageData

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
        training = {
            **self.options,
            "epochs": self.trainer.max_epochs,
            "global_batch": self.global_batch(),
            "gradient_clip_val": self.trainer.gradient_clip_val,
            "precision": self.trainer.precision,
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
        """Where results go, and what to go on from."""
        parser.add_argument("--out", type=str, default="runs", help="folder for checkpoints, logs and results")
        parser.add_argument("--ckpt_path", type=str, help="go on from this checkpoint; last: the latest in --out")
        if self.link_classes:
            parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Put loggers and checkpoints into the folder."""
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


def check_out_file(out: str) -> None:
    """Refuse a file that could not be written after the work.

    Raises:
        InputError: there is no folder for it.
    """
    if not Path(out).expanduser().absolute().parent.is_dir():
        raise InputError(f"out={out}: there is no folder {Path(out).parent}; make it first.")


def keep_search(found: SearchResult, out: str) -> SearchResult:
    """Write the best architectures as YAML, which the other commands read, and say how it went."""
    found.to_yaml(Path(out).expanduser())
    for remark in found.remarks():
        print(remark)
    print(f"best: {found.best}")
    return found


def finish(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a command; what is wrong with its input is told without a traceback.

    Exits with the command's status, 2 for wrong input, 130 after Ctrl-C.
    """
    try:
        status = main(None)
    except LSWAGError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)
