"""Training of a supernet and of single networks, with AutoFormer's schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2, param_groups_weight_decay  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lswag_hooks.errors import InputError
from lswag_hooks.spaces.autoformer import PATCH
from lswag_hooks.spaces.autoformer_network import AutoFormer
from recipes.autoformer.checkpoints import start_from
from recipes.autoformer.choices import Choices, largest_subnet, plain, read_architecture, resolve_space
from recipes.autoformer.supernet import Supernet, drawn
from recipes.common import RecipeModule, seed_epoch

NO_DECAY = ("class_token", "position")  # as published, beside what has one dimension


@dataclass(frozen=True)
class Schedule:
    """How to train; the defaults are AutoFormer's for ImageNet. Epochs are the Trainer's ``max_epochs``.

    Args:
        optimizer: timm's name for it.
        lr: learning rate for a global batch of ``lr_batch``; scaled in proportion for others.
        lr_batch: images in a step, over all processes and accumulated batches.
        weight_decay: of all but biases, norms, class token and positions.
        momentum: where the optimizer has it.
        warmup_epochs: of linear warm-up.
        warmup_lr: that it starts from.
        min_lr: that the cosine ends with.
        smoothing: of labels.
        mixup: alpha; 0: none.
        cutmix: alpha; 0: none.
        mix_prob: chance that a batch is mixed.
        switch_prob: chance that it is by cutmix.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    lr_batch: int = 1024
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup_epochs: int = 20
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5


class Training(RecipeModule):
    """What training a supernet and training a single network share.

    Checkpoints of whole epochs resume to the same weights, bit for bit on a CPU: learning rate, subnets and random
    states follow from the seed, the epoch and the step.
    """

    def __init__(
        self, network: nn.Module, described: dict[str, Any], rates: dict[str, float], schedule: Schedule, seed: int
    ) -> None:
        super().__init__()
        self.network, self.described, self.schedule, self.seed = network, described, schedule, seed
        self.options = {**asdict(schedule), **rates, "seed": seed}
        self.num_classes: int = described["num_classes"]
        self.mixup: Any = None
        if schedule.mixup > 0 or schedule.cutmix > 0:
            self.mixup = Mixup(
                schedule.mixup,
                schedule.cutmix,
                prob=schedule.mix_prob,
                switch_prob=schedule.switch_prob,
                label_smoothing=schedule.smoothing,
                num_classes=self.num_classes,
            )
        accuracies = [MulticlassAccuracy(self.num_classes, average="micro") for _ in range(2)]
        self.val_acc, self.test_acc = accuracies
        self._lr: Any = None

    def setup(self, stage: str) -> None:
        """Refuse what cannot go well, before any work."""
        data: Any = getattr(self.trainer, "datamodule", None)
        classes = getattr(data, "num_classes", self.num_classes)
        if classes != self.num_classes:
            raise InputError(f"model.num_classes={self.num_classes}, and the data has {classes} classes.")
        if stage != "fit":
            return
        epochs, warm = self.trainer.max_epochs, self.schedule.warmup_epochs
        if epochs is None or epochs < 1:
            raise InputError("set trainer.max_epochs: the schedule of the learning rate depends on it.")
        if warm >= epochs > 1:
            raise InputError(f"schedule.warmup_epochs={warm} of trainer.max_epochs={epochs}: leave some to train.")
        averaged = any(getattr(one, "_use_buffers", False) for one in self.trainer.callbacks)  # type: ignore[attr-defined]
        if averaged and any(name.endswith("_index") for name, _ in self.named_buffers()):
            raise InputError(
                "the networks' tables of relative positions are buffers of whole numbers, and averages of those are "
                "others: give EMAWeightAveraging use_buffers: false."
            )
        least, lr = max(self.schedule.min_lr, self.schedule.warmup_lr), self._scaled_lr()
        if lr < least:
            raise InputError(
                f"schedule.lr={self.schedule.lr:g} is for a batch of {self.schedule.lr_batch}; for this run's of "
                f"{self.global_batch()} it is {lr:g}, below min_lr or warmup_lr, {least:g}: with fewer devices give "
                "more trainer.accumulate_grad_batches, or lower those two."
            )
        if self.mixup is not None and getattr(data, "batch_size", 2) % 2:
            raise InputError(f"data.batch_size={data.batch_size}: mixup and cutmix mix pairs; give an even number.")

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy of a mixed batch."""
        images, labels = batch
        if self.mixup is None:
            loss = F.cross_entropy(self(images), labels, label_smoothing=self.schedule.smoothing)
        else:
            even = len(images) // 2 * 2  # the only batch of a small data set may be odd
            images, labels = self.mixup(images[:even].clone(), labels[:even])  # it works in place
            loss = F.cross_entropy(self(images), labels)
        told: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(images), "sync_dist": True}
        self.log("train_loss", loss.detach(), **told)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Top-1 accuracy, and cross-entropy."""
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """The same on the test images."""
        self._evaluate(batch, "test", self.test_acc)

    def on_train_epoch_start(self) -> None:
        """Set learning rate and random states, each from the epoch alone."""
        self._lr.step(self.current_epoch)
        self.log("lr", self._lr.optimizer.param_groups[0]["lr"], rank_zero_only=True)
        seed_epoch(self.seed, self.current_epoch, self.global_rank)

    def configure_optimizers(self) -> Any:
        """timm's optimizer and cosine."""
        schedule, epochs = self.schedule, self.trainer.max_epochs or 1
        kept = [name for name, _ in self.network.named_parameters() if name.endswith(NO_DECAY)]
        optimizer = create_optimizer_v2(
            param_groups_weight_decay(self.network, schedule.weight_decay, no_weight_decay_list=kept),
            opt=schedule.optimizer,
            lr=self._scaled_lr(),
            momentum=schedule.momentum,
        )
        # not left to Lightning, whose order of checkpoints and schedulers would matter in a resume
        self._lr = CosineLRScheduler(
            optimizer,
            epochs,
            lr_min=schedule.min_lr,
            warmup_t=min(schedule.warmup_epochs, epochs - 1),
            warmup_lr_init=schedule.warmup_lr,
        )
        return optimizer

    def _scaled_lr(self) -> float:
        return self.schedule.lr * self.global_batch() / self.schedule.lr_batch

    def _evaluate(self, batch: tuple[Tensor, Tensor], name: str, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        scores = self(images)
        accuracy.update(scores, labels)
        self.log(f"{name}_acc", accuracy, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        loss = F.cross_entropy(scores, labels)
        self.log(f"{name}_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)


class SupernetTraining(Training):
    """Train or fine-tune a supernet: in each step one subnet, drawn uniformly, the same in all processes.

    Args:
        space: name of a space of AutoFormer, or choices of one's own.
        num_classes: number of outputs; LightningCLI takes it from the data.
        image_size: side of the images, as the transforms of the data make them.
        patch_size: side of a patch.
        dropout: for the widest tokens; narrower ones have proportionally less.
        attention_dropout: the same, on attention weights.
        drop_path: of the supernet's last block; it grows linearly from 0 at the first.
        weights: of a checkpoint to start from: of this recipe, or a released supernet.
        validate_with: the subnet that validation and the pre-filter see; by default the largest of the space.
        schedule: how to train.
        seed: of subnets, mixing, dropout.

    Raises:
        InputError: an argument makes no sense, or ``weights`` are of another architecture.
    """

    def __init__(
        self,
        space: str | Choices = "autoformer_small",
        num_classes: int = 1000,
        image_size: int = 224,
        patch_size: int = PATCH,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.1,
        weights: str | None = None,
        validate_with: str | None = None,
        schedule: Schedule = Schedule(),
        seed: int = 0,
    ) -> None:
        found = resolve_space(space, patch_size)
        validated = largest_subnet(found) if validate_with is None else read_architecture(validate_with, found)
        rates: dict[str, Any] = {"dropout": dropout, "attention_dropout": attention_dropout, "drop_path": drop_path}
        network = Supernet(found, num_classes, image_size, patch_size, **rates)
        described = {"kind": "supernet", **_described(space, num_classes, image_size, patch_size)}
        if weights is not None:
            start_from(network, described, weights)
        super().__init__(network, described, rates, schedule, seed)
        self.validate_with = validated

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of the step's subnet in training, else of ``validate_with``."""
        supernet: Any = self.network
        if not self.training:
            return supernet(images, self.validate_with)  # type: ignore[no-any-return]
        return supernet(images, drawn(supernet.space, self.seed, self.global_step))  # type: ignore[no-any-return]


class SubnetTraining(Training):
    """Train one network from scratch, or fine-tune it.

    Args:
        architecture: of the space, or the YAML file of a search, whose best is taken.
        space: name of a space of AutoFormer, or choices of one's own.
        num_classes: number of outputs; LightningCLI takes it from the data.
        image_size: side of the images, as the transforms of the data make them.
        patch_size: side of a patch.
        dropout: after positions, attention and MLP.
        attention_dropout: on attention weights.
        drop_path: of the last block; it grows linearly from 0 at the first.
        weights: of a checkpoint to start from: of the same network, or of a supernet, of which it is cut.
        schedule: how to train.
        seed: of mixing and dropout.

    Raises:
        InputError: the architecture does not parse, another argument makes no sense, or ``weights`` are of another
            architecture.
    """

    def __init__(
        self,
        architecture: str,
        space: str | Choices = "autoformer_small",
        num_classes: int = 1000,
        image_size: int = 224,
        patch_size: int = PATCH,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.1,
        weights: str | None = None,
        schedule: Schedule = Schedule(),
        seed: int = 0,
    ) -> None:
        found = resolve_space(space, patch_size)
        architecture = read_architecture(architecture, found)
        rates: dict[str, Any] = {"dropout": dropout, "attention_dropout": attention_dropout, "drop_path": drop_path}
        sizes = (num_classes, (image_size, image_size), patch_size)
        network = AutoFormer(found.parse(architecture), *sizes, **rates)
        described = {
            "kind": "subnet",
            "architecture": architecture,
            **_described(space, num_classes, image_size, patch_size),
        }
        if weights is not None:
            start_from(network, described, weights)
        super().__init__(network, described, rates, schedule, seed)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.network(images)  # type: ignore[no-any-return]


def finetuning(
    architecture: str | None = None,
    space: str | Choices = "autoformer_small",
    num_classes: int = 1000,
    image_size: int = 224,
    patch_size: int = PATCH,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.1,
    weights: str | None = None,
    schedule: Schedule = Schedule(),
    seed: int = 0,
) -> Training:
    """A supernet to fine-tune, as the paper does, or with ``architecture`` one network; else as their classes.

    Raises:
        InputError: there are no ``weights`` to start from; or as the classes.
    """
    if weights is None:
        raise InputError("fine-tuning starts from weights: give model.weights, a checkpoint, or use retrain.")
    sizes = (space, num_classes, image_size, patch_size, dropout, attention_dropout, drop_path, weights)
    if architecture is None:
        return SupernetTraining(*sizes, schedule=schedule, seed=seed)
    return SubnetTraining(architecture, *sizes, schedule=schedule, seed=seed)


def _described(space: str | Choices, num_classes: int, image_size: int, patch_size: int) -> dict[str, Any]:
    sizes = {"num_classes": num_classes, "image_size": image_size, "patch_size": patch_size, "channels": 3}
    return {"space": plain(space), **sizes}
