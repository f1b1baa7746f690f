"""Train Mask R-CNN on a backbone: ``python -m recipes.burgerformer_coco.detect --help``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from lswag_hooks.detection.coco import SCALE
from lswag_hooks.detection.compat import readable_checkpoints
from lswag_hooks.detection.configs import load_config
from lswag_hooks.errors import InputError
from recipes.burgerformer_coco.detector import CONFIG, EPOCHS, configure, joined_processes, make_runner
from recipes.burgerformer_coco.space import LIMIT
from recipes.command import finish

LATEST = "last_checkpoint"  # mmengine writes the path of the latest into it


def detect(
    backbone: str,
    data: str,
    out: str,
    detector: str = str(CONFIG),
    weights: str | None = None,
    norms: bool | None = None,
    max_params: int | None = LIMIT,
    scale: tuple[int, int] = SCALE,
    batch_size: int = 2,
    workers: int = 2,
    epochs: int = EPOCHS,
    iterations: int | None = None,
    stop_after: int | None = None,
    lr: float | None = None,
    processes: int = 1,
    resume: bool = False,
    seed: int = 0,
) -> int:
    """Train a detector with MMDetection's Runner.

    Args:
        backbone: ``burgerformer/ARCHITECTURE``, ``timm/NAME``, or the YAML file that the search wrote.
        data: COCO's folder: ``annotations/`` and ``train2017/``, or ``instances.json`` and ``images/``.
        out: folder of checkpoints and logs.
        detector: config of MMDetection, with a backbone of type LSWAGBackbone.
        weights: checkpoint of ``pretrain``, or any state dict of the classifier; by default none, which trains from
            scratch.
        norms: a norm for each of the four maps; by default BurgerFormer has them.
        max_params: most parameters of the backbone; null: no limit.
        scale: longest and shortest side of the pictures at most.
        batch_size: pictures of one process.
        workers: processes that read, for each loader.
        epochs: the learning rate falls after two thirds and eleven twelfths of them.
        iterations: steps instead of epochs, for very few pictures.
        stop_after: end after so many epochs or iterations; ``--resume true`` goes on.
        lr: learning rate for 16 pictures a step; for other numbers it is scaled in proportion.
        processes: one a GPU; they are started by ``torchrun``.
        resume: go on from the latest checkpoint in ``out``.
        seed: of weights, order and regions.

    Raises:
        InputError: whatever can be wrong, before any work.
    """
    folder = Path(out).expanduser()
    if processes < 1:
        raise InputError(f"processes={processes}: give one or more.")
    if resume != (folder / LATEST).is_file() and "LOCAL_RANK" not in os.environ:
        told = "holds no run to go on with" if resume else "holds a run: go on with --resume true, or give another out"
        raise InputError(f"out={out} {told}.")
    filled = configure(
        backbone,
        data,
        out,
        detector=detector,
        weights=weights,
        norms=norms,
        max_params=max_params,
        scale=scale,
        batch_size=batch_size,
        workers=workers,
        epochs=epochs,
        iterations=iterations,
        stop_after=stop_after,
        lr=lr,
        seed=seed,
    )
    if resume:
        _check_same(folder, filled)
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        return _started(processes)
    with readable_checkpoints(), joined_processes():
        runner = make_runner(filled, resume)
        runner.train()
    if runner.rank == 0:
        history = runner.message_hub.get_scalar("train/loss").data[0]
        print(f"loss {history[:5].mean():.4f} at first, {history[-5:].mean():.4f} at last, in {out}", flush=True)
    return 0


def _check_same(folder: Path, filled: Any) -> None:
    """Refuse to go on with another model: mmengine would load what fits and say nothing of the rest."""
    there, here = (one.model.to_dict() for one in (load_config(config_of(folder)), filled))
    if there != here:
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        raise InputError(f"out={folder} is a run of another model ({', '.join(names)} differ): give another out.")


def config_of(folder: Path) -> Path:
    """The config that mmengine wrote beside its checkpoints."""
    found = sorted(folder.glob("*.py"))
    if len(found) != 1:
        raise InputError(f"{folder} holds {len(found)} configs, not one: give the folder that detect wrote.")
    return found[0]


def _started(processes: int) -> int:
    """Run this very command in several processes; torchrun ends all of them if one fails."""
    from torch.distributed.run import main as torchrun

    torchrun(["--standalone", f"--nproc_per_node={processes}", "-m", "recipes.burgerformer_coco.detect", *sys.argv[1:]])
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return int(auto_cli(detect, as_positional=False, args=None if args is None else list(args)))


if __name__ == "__main__":
    finish(main)
