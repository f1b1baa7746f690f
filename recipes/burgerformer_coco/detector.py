"""A config of MMDetection for a backbone and a folder, and the Runner for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lswag_hooks.detection.coco import SCALE, Coco, check_complete, load_coco
from lswag_hooks.detection.configs import load_config
from lswag_hooks.errors import InputError
from recipes.burgerformer_coco.space import LIMIT, checked_backbone

CONFIG = Path(__file__).parent / "configs" / "mask_rcnn_1x.py"
EPOCHS, MILESTONES = 12, (8, 11)
WORKERS = "recipes.burgerformer_coco.randomness.seeded_by_torch"


def configure(
    backbone: str,
    data: str,
    out: str,
    *,
    detector: str = str(CONFIG),
    weights: str | None = None,
    norms: bool | None = None,
    max_params: int | None = LIMIT,
    scale: Sequence[int] = SCALE,
    batch_size: int = 2,
    workers: int = 2,
    epochs: int = EPOCHS,
    iterations: int | None = None,
    stop_after: int | None = None,
    lr: float | None = None,
    seed: int = 0,
) -> Any:
    """Fill in a config; everything that can be wrong is found here, before any work.

    Args:
        backbone: a spec, or the YAML file of a search.
        data: COCO's folder.
        out: where checkpoints and logs go.
        detector: config of MMDetection, with a backbone of type LSWAGBackbone and a neck with ``in_channels``.
        weights: pretrained ones of the classifier.
        norms: a norm for each map; by default BurgerFormer has them.
        max_params: most parameters of the backbone.
        scale: longest and shortest side of the pictures at most.
        batch_size: pictures of one process.
        workers: processes that read, for each loader.
        epochs: how long to train; the rate falls after two thirds and eleven twelfths.
        iterations: steps instead of epochs, for very few pictures.
        stop_after: end after so many of them, to go on later.
        lr: learning rate for 16 pictures a step, scaled in proportion; by default the config's.
        seed: of weights, order and regions.

    Raises:
        InputError: the config, the data or the weights are not there or broken, or the backbone cannot serve.
    """
    for name, value in (("batch_size", batch_size), ("epochs", epochs), ("iterations", iterations)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: give one or more.")
    filled = load_config(detector)
    model = filled.model
    if model.get("backbone", {}).get("type") != "LSWAGBackbone" or "in_channels" not in model.get("neck", {}):
        raise InputError(f"{detector}: it needs a backbone of type LSWAGBackbone, and a neck with in_channels.")
    train, val = (check_complete(load_coco(data, split)) for split in ("train", "val"))
    spec, built = checked_backbone(backbone, max_params)
    if weights is not None:
        from lswag_hooks.detection.pretrained import load_pretrained

        load_pretrained(built, weights)  # here only to know that it can be done
    if len(model.neck.in_channels) != len(built.channels):
        raise InputError(
            f"{detector}: its neck takes {len(model.neck.in_channels)} maps, a backbone has {len(built.channels)}."
        )
    model.backbone.update(spec=spec, norms=norms, checkpoint=weights)
    model.neck.in_channels = list(built.channels)
    _set_classes(model, len(train.classes))
    _set_data(filled, train, val, scale, batch_size, workers)
    _set_schedule(filled, epochs, iterations, stop_after)
    if lr is not None:
        filled.optim_wrapper.optimizer.lr = lr
    filled.work_dir = str(Path(out).expanduser())
    filled.randomness = {"seed": seed}
    return filled


def make_runner(config: Any, resume: bool = False, checkpoint: str | None = None) -> Any:
    """The Runner of a config: one process, or one of several that ``torchrun`` started."""
    from mmengine.hooks import SyncBuffersHook
    from mmengine.runner import Runner

    from recipes.burgerformer_coco.randomness import Streams

    config.resume, config.load_from = resume, checkpoint
    config.launcher = "none"  # that of a run of several processes is in its config
    config.pop("model_wrapper_cfg", None)
    if "LOCAL_RANK" in os.environ:
        import torch

        config.launcher = "pytorch"
        if not torch.cuda.is_available():  # a rehearsal on a CPU
            torch.distributed.init_process_group("gloo")
            config.model_wrapper_cfg = {"device_ids": None, "broadcast_buffers": False}
    runner = Runner.from_cfg(config)
    runner.register_hook(Streams())
    runner.register_hook(SyncBuffersHook())  # running means of norms, which each process has of its own pictures
    return runner


@contextmanager
def joined_processes() -> Iterator[None]:
    """Let processes that ``torchrun`` started take leave of each other at the end; alone it does nothing.

    mmengine leaves that to the interpreter's end, where work that gloo's threads still hold aborts a process which has
    trained well: https://github.com/pytorch/pytorch/pull/179291.
    """
    from torch import distributed

    yield
    # not where something failed: the process ends with an error anyway, and torchrun with it
    if distributed.is_initialized():
        distributed.barrier()  # nobody leaves who is still waited for
        distributed.destroy_process_group()


def _set_classes(part: Any, classes: int) -> None:
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, (dict, list, tuple)):
            _set_classes(value, classes)
    if isinstance(part, dict) and "num_classes" in part:
        part["num_classes"] = classes


def _set_data(config: Any, train: Coco, val: Coco, scale: Sequence[int], batch_size: int, workers: int) -> None:
    for name, coco in (("train", train), ("val", val), ("test", val)):
        loader = config[f"{name}_dataloader"]
        loader.num_workers, loader.persistent_workers = workers, workers > 0
        loader.dataset.update(
            data_root="",
            ann_file=str(coco.annotations),
            data_prefix={"img": str(coco.images)},
            metainfo={"classes": coco.classes},
        )
        for step in loader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = (max(scale), min(scale))
    config.train_dataloader.update(batch_size=batch_size, persistent_workers=False, worker_init_fn={"type": WORKERS})
    config.val_evaluator.ann_file = config.test_evaluator.ann_file = str(val.annotations)


def _set_schedule(config: Any, epochs: int, iterations: int | None, stop_after: int | None) -> None:
    length = epochs if iterations is None else iterations
    falls = [max(1, round(length * milestone / EPOCHS)) for milestone in MILESTONES]
    for scheduler in config.param_scheduler:
        if scheduler.type == "MultiStepLR":
            scheduler.update(by_epoch=iterations is None, end=length, milestones=falls)
    last = min(length, stop_after or length)
    config.default_hooks.checkpoint.update(by_epoch=iterations is None, interval=1, max_keep_ckpts=3)
    config.log_processor.by_epoch = iterations is None
    if iterations is None:
        config.train_cfg.update(max_epochs=last, val_interval=1)
        return
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": last, "val_interval": 10**9, "val_begin": 10**9}
    config.train_dataloader.sampler = {"type": "InfiniteSampler", "shuffle": True}
    config.default_hooks.checkpoint.interval = last
    config.default_hooks.logger.interval = max(1, min(50, length // 20))
    config.log_processor.window_size = config.default_hooks.logger.interval
