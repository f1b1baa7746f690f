"""Training of a DARTS network from scratch, with the published schedules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.darts import network
from lswag_hooks.spaces.darts_network import Stem
from recipes.common import RecipeModule, seed_epoch
from recipes.darts.genotypes import read_genotype
from recipes.darts.schedule import Shape, check_schedule, learning_rate


class DARTSTraining(RecipeModule):
    """Train the network of a genotype; the defaults are DARTS's for CIFAR-10. Epochs are the Trainer's ``max_epochs``.

    Checkpoints of whole epochs resume to the same weights, bit for bit on a CPU: learning rate, drop path and random
    states follow from the seed and the epoch.

    Args:
        genotype: its string, the YAML file of a search, or the name of a published one.
        channels: of the first cells' nodes.
        layers: number of cells.
        num_classes: number of outputs; the command line takes it from the data.
        stem: ``"cifar"`` or ``"imagenet"``.
        auxiliary: weight of the auxiliary head's loss; 0: there is no such head.
        drop_path: chance that an edge is dropped in the last epoch; it grows linearly from 0.
        smoothing: of labels.
        lr: learning rate for a global batch of ``lr_batch``; scaled in proportion for others.
        lr_batch: images in a step, over all processes and accumulated batches.
        momentum: of SGD.
        weight_decay: of all weights.
        schedule: cosine, decay or linear: :func:`~recipes.darts.schedule.learning_rate`.
        warmup_epochs: of linear warm-up.
        seed: of drop path and of augmentation in this process.

    Raises:
        InputError: the genotype does not parse, or another argument makes no sense.
    """

    def __init__(
        self,
        genotype: str,
        channels: int = 36,
        layers: int = 20,
        num_classes: int = 10,
        stem: Stem = "cifar",
        auxiliary: float = 0.4,
        drop_path: float = 0.2,
        smoothing: float = 0.0,
        lr: float = 0.025,
        lr_batch: int = 96,
        momentum: float = 0.9,
        weight_decay: float = 3e-4,
        schedule: Shape = "cosine",
        warmup_epochs: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if auxiliary < 0 or not 0 <= drop_path < 1 or not 0 <= smoothing < 1 or lr <= 0 or lr_batch < 1:
            raise InputError(
                f"model: auxiliary={auxiliary} must be at least 0; drop_path={drop_path} and smoothing={smoothing} at "
                f"least 0 and below 1; lr={lr} and lr_batch={lr_batch} above 0."
            )
        self.described = {
            "genotype": read_genotype(genotype),
            "channels": channels,
            "layers": layers,
            "num_classes": num_classes,
            "stem": stem,
            "auxiliary": auxiliary > 0,
        }
        self.options = {
            "auxiliary_weight": auxiliary,
            "drop_path": drop_path,
            "smoothing": smoothing,
            "lr": lr,
            "lr_batch": lr_batch,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "warmup_epochs": warmup_epochs,
            "seed": seed,
        }
        self.auxiliary, self.drop_path, self.smoothing, self.seed = auxiliary, drop_path, smoothing, seed
        self.network = built(self.described)
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; in training also the auxiliary head's."""
        return self.network(images)  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Refuse what cannot go well, before any work."""
        data: Any = getattr(self.trainer, "datamodule", None)
        classes = getattr(data, "num_classes", self.described["num_classes"])
        if classes != self.described["num_classes"]:
            raise InputError(f"the network has {self.described['num_classes']} classes, and the data {classes}.")
        if stage != "fit":
            return
        options = self.options
        check_schedule(options["schedule"], self.trainer.max_epochs, options["warmup_epochs"])

    def on_train_epoch_start(self) -> None:
        """Set learning rate, drop path and random states, each from the epoch alone."""
        epoch, epochs = self.current_epoch, int(self.trainer.max_epochs or 1)
        options = self.options
        lr = options["lr"] * self.global_batch() / options["lr_batch"]
        # not left to a scheduler of Lightning, whose order with checkpoints would matter in a resume
        lr = learning_rate(options["schedule"], lr, epoch, epochs, options["warmup_epochs"])
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr
        self.network.drop_path_rate = self.drop_path * epoch / epochs
        seed_epoch(self.seed, epoch, self.global_rank)
        self.log("lr", lr, rank_zero_only=True)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy, with the auxiliary head's."""
        images, labels = batch
        logits = self(images)
        extra = None
        if isinstance(logits, tuple):
            logits, extra = logits
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if extra is not None:
            loss = loss + self.auxiliary * F.cross_entropy(extra, labels, label_smoothing=self.smoothing)
        told: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(images), "sync_dist": True}
        self.log("train_loss", loss.detach(), prog_bar=True, **told)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Top-1 accuracy, and cross-entropy."""
        images, labels = batch
        logits = self(images)
        self.val_acc.update(logits, labels)
        self.log("val_acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        loss = F.cross_entropy(logits, labels)
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Top-1 and top-5 accuracy."""
        images, labels = batch
        logits = self(images)
        for name in ("test_acc", "test_acc5"):
            metric = getattr(self, name)
            metric.update(logits, labels)
            self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        options = self.options
        return torch.optim.SGD(
            self.parameters(), options["lr"], momentum=options["momentum"], weight_decay=options["weight_decay"]
        )


def built(described: dict[str, Any]) -> Any:
    """The network that a description stands for."""
    options = dict(described)
    return network(options.pop("genotype"), **options)
