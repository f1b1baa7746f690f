"""What a Lightning Trainer does to mini-batches and to a training step, done for a score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lswag_hooks import loaders
from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.objective import Objective, Reduction


class AsTrained:
    """An objective inside the precision plugin's context, which in training too spans the forward pass alone."""

    is_objective = True

    def __init__(self, objective: Objective, trainer: Any) -> None:
        self.objective, self.trainer = objective, trainer
        self.reduction: Reduction = objective.reduction

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        if getattr(model, "_trainer", self.trainer) is None:
            model.trainer = self.trainer  # the copy that init="wake" scores has lost it
        with self.trainer.precision_plugin.train_step_context():
            return self.objective(model, batch)


class Transferred:
    """A loader whose mini-batches went through what the Trainer does to them in front of ``training_step``."""

    def __init__(self, loader: Any, trainer: Any) -> None:
        self.loader, self.trainer = loader, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # the samplers, whose generators Batch.from_dataloader gives back

    def __iter__(self) -> Iterator[Any]:
        trainer = self.trainer
        for mini_batch in loaders.untouched(self.loader):
            converted = trainer.precision_plugin.convert_input(mini_batch)
            hooked = trainer.lightning_module._on_before_batch_transfer(converted, dataloader_idx=0)
            yield trainer.strategy.batch_to_device(hooked, dataloader_idx=0)


def single_loader(loader: Any) -> Any:
    """Refuse several loaders, and what cannot be read a second time."""
    if loader is None or isinstance(loader, (list, tuple, Mapping)):
        raise InputError(
            f"the train dataloader is a {type(loader).__name__}, not one loader: pass batch=, a Batch in the form that "
            "training_step takes."
        )
    dataset = getattr(loader, "dataset", None)
    in_process = not getattr(loader, "num_workers", 0)
    for name, part in (("train dataloader", loader), ("train dataset", dataset if in_process else None)):
        if isinstance(part, Iterator):
            raise InputError(
                f"the {name} ({type(part).__name__}) can be read only once, and what is scored would be lost to "
                "training: pass batch=, a Batch of its own for the score."
            )
    return loader


def input_size(module: nn.Module) -> tuple[int, ...] | None:
    """The size of the images that a LightningModule takes, where it says so."""
    example = getattr(module, "example_input_array", None)
    return tuple(example.shape[1:]) if isinstance(example, Tensor) and example.ndim == 4 else None
