"""Top-1 accuracy of a checkpoint on the test images: ``python -m recipes.autoformer.evaluate --config FILE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from jsonargparse import auto_cli

from lswag_hooks.errors import InputError
from recipes.autoformer.accuracy import check_fits, measured, quiet_trainer
from recipes.autoformer.checkpoints import read_checkpoint
from recipes.autoformer.choices import largest_subnet, read_architecture
from recipes.common import finish
from recipes.data import ImageData


def evaluate(
    checkpoint: str,
    data: ImageData,
    architecture: str | None = None,
    out: str | None = None,
    trainer: L.Trainer | None = None,
) -> dict[str, Any]:
    """Print a checkpoint's accuracy, error, parameters and multiply-accumulates.

    Args:
        checkpoint: of this recipe, or a released supernet.
        data: whose test images count.
        architecture: of a supernet's subnet, or the YAML file of a search; by default the largest.
        out: a JSON file to write the same to.
        trainer: where and how to run; by default one device, in single precision.

    Returns:
        What it printed.

    Raises:
        InputError: the checkpoint, the architecture and the data do not go together.
    """
    saved = read_checkpoint(checkpoint)
    check_fits(saved, data)
    own = saved.network.get("architecture")
    name = own or largest_subnet(saved.space)
    if architecture is not None:
        name = read_architecture(architecture, saved.space)
        if own not in (None, name):
            raise InputError(f"{checkpoint} holds {own!r}, not {name!r}.")
    data.setup("test")
    [[accuracy]] = measured([saved.build()], [name], data, quiet_trainer(trainer))
    side = saved.network["image_size"]
    cost = saved.space.cost(name, saved.network["num_classes"], image_size=(saved.network["channels"], side, side))
    found = {
        "architecture": name,
        "data": type(data).__name__,
        "images": len(data.parts["test"]),  # type: ignore[arg-type]
        "accuracy": 100 * accuracy,
        "error": 100 - 100 * accuracy,
        "params": cost.params,
        "macs": cost.macs,
    }
    print(
        f"{name}: accuracy {found['accuracy']:.2f} %, error {found['error']:.2f} %, {cost.params:,} parameters, "
        f"{cost.macs:,} multiply-accumulates ({found['images']} images of {found['data']})"
    )
    if out is not None:
        Path(out).expanduser().write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    auto_cli(evaluate, as_positional=False, args=None if args is None else list(args))
    return 0


if __name__ == "__main__":
    finish(main)
