"""Accuracies of many subnets in one pass through the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.autoformer_network import AutoFormer
from recipes.autoformer.checkpoints import Saved
from recipes.autoformer.supernet import Supernet
from recipes.common import check_one_process

Network: TypeAlias = Supernet | AutoFormer


class Accuracies(L.LightningModule):
    """Top-1 accuracies of the subnets of one supernet, or of several, or of one network.

    Args:
        networks: supernets of one space; or one single network, with its name alone.
        architectures: of the subnets.
        num_classes: of all.
    """

    def __init__(self, networks: Sequence[Network], architectures: Sequence[str], num_classes: int) -> None:
        super().__init__()
        self.networks: Any = nn.ModuleList(networks)
        self.architectures = list(architectures)
        number = len(networks) * len(architectures)
        self.metrics: Any = nn.ModuleList(MulticlassAccuracy(num_classes, average="micro") for _ in range(number))

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Run a batch through all."""
        images, labels = batch
        runs = [(network, name) for network in self.networks for name in self.architectures]
        for (network, name), metric in zip(runs, self.metrics, strict=True):
            scores = network(images, name) if isinstance(network, Supernet) else network(images)
            metric.update(scores, labels)

    def on_test_epoch_end(self) -> None:
        """Put the processes' counts together."""
        values = torch.stack([metric.compute() for metric in self.metrics])
        self.found = values.view(len(self.networks), len(self.architectures)).tolist()


def measured(
    networks: Sequence[Network],
    architectures: Sequence[str],
    data: L.LightningDataModule,
    trainer: L.Trainer,
) -> list[list[float]]:
    """Accuracies on the test images, between 0 and 1: a list for each network, of one value for each architecture.

    Raises:
        InputError: the Trainer has several processes.
    """
    check_one_process(trainer)
    counted: Any = data
    module = Accuracies(networks, architectures, counted.num_classes)
    trainer.test(module, datamodule=data, verbose=False)
    return module.found


def quiet_trainer(trainer: L.Trainer | None) -> L.Trainer:
    """The Trainer given, or one that writes nothing."""
    if trainer is not None:
        return trainer
    return L.Trainer(
        devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )


def check_fits(saved: Saved, data: Any) -> None:
    """Refuse data of another number of classes.

    Raises:
        InputError: it has.
    """
    there = saved.network["num_classes"]
    if there != data.num_classes:
        raise InputError(
            f"{saved.path} tells {there} classes apart, and {type(data).__name__} has {data.num_classes}: fine-tune it "
            "on this data first."
        )
