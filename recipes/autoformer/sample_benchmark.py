"""Make the benchmark of the paper: subnets with inherited weights, and their accuracies, in a CSV file.

``python -m recipes.autoformer.sample_benchmark --config FILE``
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
from jsonargparse import auto_cli

from lswag_hooks.errors import InputError
from recipes.autoformer.accuracy import check_fits, measured, quiet_trainer
from recipes.autoformer.checkpoints import Saved, read_checkpoint
from recipes.autoformer.supernet import distinct
from recipes.common import finish
from recipes.data import ImageData

COLUMNS = ("task", "arch", "val_accuracy", "params", "flops")


def sample_benchmark(
    checkpoints: list[str],
    data: ImageData,
    out: str,
    task: str | None = None,
    subnets: int = 2000,
    at_once: int = 20,
    seed: int = 0,
    trainer: L.Trainer | None = None,
) -> int:
    """Measure subnets with the weights that they inherit, on the test images, and append them to a CSV file.

    The file is a table of ``lswag_hooks.Benchmark``: task, arch, val_accuracy (per cent; with several supernets the
    mean, as in the paper), params and flops (in millions). The same command goes on where it was stopped; other data
    sets go into the same file by other commands, under other names. A smaller number of subnets is the beginning of
    a larger one.

    Args:
        checkpoints: of supernets; several of the same space are averaged.
        data: whose test images count.
        out: the CSV file; a file of the same name with .json beside it holds the settings.
        task: the data's name in the file; by default that of its class, such as cifar10.
        subnets: how many.
        at_once: subnets for each pass through the data; they are written after it.
        seed: of the choice of subnets.
        trainer: where and how to run; by default one device, in single precision.

    Returns:
        How many rows were added.

    Raises:
        InputError: an argument makes no sense, a checkpoint is no supernet, or the file has rows of other settings.
    """
    if not checkpoints or at_once < 1:
        raise InputError(f"checkpoints={checkpoints}, at_once={at_once}: give one or more.")
    saved = [read_checkpoint(path) for path in checkpoints]
    for one in saved:
        check_fits(one, data)
        if one.network != saved[0].network:
            raise InputError(f"{one.path} and {saved[0].path} are of different spaces: average supernets of the same.")
    supernets = [one.supernet() for one in saved]
    space, name = saved[0].space, task or type(data).__name__.lower()
    chosen = distinct(space, subnets, seed)
    data.setup("test")  # before the file is touched
    path = Path(out).expanduser()
    _check_settings(
        path, name, {"seed": seed, "checkpoints": [_digest(one.path) for one in saved], **_told(saved[0], data)}
    )
    done = _finished(path, name)
    missing = [architecture for architecture in chosen if architecture not in done]
    print(f"{name}: {len(chosen) - len(missing)} of {len(chosen)} subnets are measured", flush=True)
    run = quiet_trainer(trainer)
    for start in range(0, len(missing), at_once):
        part = missing[start : start + at_once]
        accuracies = np.mean(measured(supernets, part, data, run), axis=0)
        found = zip(part, accuracies, strict=True)
        _append(path, [_row(name, one, 100 * float(value), saved[0]) for one, value in found])
        print(f"{name}: {len(chosen) - len(missing) + start + len(part)} of {len(chosen)}", flush=True)
    return len(missing)


def _told(saved: Saved, data: Any) -> dict[str, Any]:
    # settings of training do not matter here
    kept = {name: value for name, value in data.settings().items() if name not in ("batch_size", "repeats", "held_out")}
    plain: dict[str, Any] = json.loads(json.dumps({"network": saved.network, "data": kept}))
    return plain


def _row(task: str, architecture: str, accuracy: float, saved: Saved) -> tuple[Any, ...]:
    size = (saved.network["channels"], saved.network["image_size"], saved.network["image_size"])
    cost = saved.space.cost(architecture, saved.network["num_classes"], image_size=size)
    return task, architecture, f"{accuracy:.6g}", cost.params / 1e6, cost.flops / 1e6


def _check_settings(path: Path, task: str, settings: dict[str, Any]) -> None:
    file = path.with_name(path.name + ".json")
    if not path.absolute().parent.is_dir():
        raise InputError(f"out={path}: there is no folder {path.parent}; make it first.")
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if path.is_file() and not known:
        raise InputError(f"{path} is there, but not {file.name} with its settings: give another file.")
    differ = [name for name in settings if task in known and known[task].get(name) != settings[name]]
    if differ:
        told_ = "; ".join(f"{name} is {known[task].get(name)} there, {settings[name]} here" for name in differ)
        raise InputError(f"{path} has rows of {task} with other settings: {told_}. Give another file, or another task.")
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(json.dumps({**known, task: settings}, indent=1), encoding="utf-8")
    temporary.replace(file)


def _finished(path: Path, task: str) -> set[str]:
    """The task's architectures in the file; a last line that was cut off is taken out."""
    if not path.is_file():
        _append(path, [COLUMNS])
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    with path.open(newline="", encoding="utf-8") as file:
        return {row["arch"] for row in csv.DictReader(file) if row["task"] == task}


def _append(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    auto_cli(sample_benchmark, as_positional=False, args=None if args is None else list(args))
    return 0


if __name__ == "__main__":
    finish(main)
