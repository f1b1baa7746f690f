"""What is differentiated: a forward pass and the scalar loss of a task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.parts import PerSample

Reduction = Literal["mean", "sum"]
OUTPUT_KEYS = ("logits", "out", "output", "outputs", "pred", "prediction", "last_hidden_state")


class Objective(Protocol):
    """Anything that turns a model and a batch into a scalar loss.

    Attributes:
        reduction: how the loss joins the samples: with ``"mean"`` a sample's own gradient is the batch size times its
            share of the loss's gradient, with ``"sum"`` it is the share itself.
    """

    reduction: Reduction

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        ...


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call a model with inputs as they come: a tensor, a tuple of arguments, a dictionary of keyword arguments.

    Pictures of different sizes, one a sample, are a single argument: a list, as detectors take them.
    """
    if isinstance(inputs, PerSample):
        return model(list(inputs))
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def find_logits(outputs: Any) -> Tensor:
    """The prediction in whatever a model returns: tensor, tuple, dictionary, or a model-output object.

    Example:
        >>> find_logits({"aux": torch.zeros(1), "logits": torch.ones(2, 3)}).shape
        torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    for key in OUTPUT_KEYS:
        value = outputs.get(key) if isinstance(outputs, Mapping) else getattr(outputs, key, None)
        if isinstance(value, Tensor):
            return value
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    if isinstance(values, (tuple, list)) or isinstance(outputs, Mapping):
        for value in values:
            if isinstance(value, (Tensor, tuple, list, Mapping)):
                return find_logits(value)
    raise InputError(
        f"found no prediction in the model's output of type {type(outputs).__name__}: pass loss=, a function of "
        "(outputs, targets) that returns a scalar."
    )


class SupervisedObjective:
    """A loss of (outputs, targets); cross-entropy where none is given.

    Args:
        loss: any callable of (prediction, targets) returning a scalar; gets the whole output of the model if the
            prediction cannot be told from it. Default: cross-entropy.
        reduction: how it joins samples; read off ``loss.reduction`` where there is one.
    """

    def __init__(self, loss: Callable[..., Tensor] | None = None, reduction: Reduction | None = None) -> None:
        found = getattr(loss, "reduction", None)
        self.loss = loss
        self.reduction: Reduction = cast(Reduction, reduction or (found if found in ("mean", "sum") else "mean"))

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        return self.of(forward(model, batch.inputs), batch)

    def of(self, outputs: Any, batch: Batch) -> Tensor:
        """Loss of what the model returned."""
        if self.loss is None:
            logits = find_logits(outputs)
            return cross_entropy(logits, batch.targets)
        try:
            prediction: Any = find_logits(outputs)
        except InputError:
            prediction = outputs
        return self.loss(prediction, batch.targets)


def cross_entropy(logits: Tensor, targets: Any) -> Tensor:
    """Mean cross-entropy over samples (and positions), with errors that say what does not fit."""
    if not isinstance(targets, Tensor):
        raise InputError(
            "the batch has no tensor of targets, which cross-entropy needs: give Batch(inputs, targets) class numbers, "
            "or pass loss=, a function of (outputs, targets)."
        )
    if logits.dim() < 2:
        raise InputError(
            f"cross-entropy needs logits of shape (samples, classes, ...), the model gave {tuple(logits.shape)}."
        )
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise InputError(
                f"targets are {targets.dtype} of shape {tuple(targets.shape)}, logits {tuple(logits.shape)}: "
                "cross-entropy wants class numbers (int64), or one probability a class."
            )
        return F.cross_entropy(logits, targets)
    if logits.dim() == 3 and targets.dim() == 2 and logits.shape[:2] == targets.shape:
        logits, targets = logits.flatten(0, 1), targets.flatten()  # (samples, positions, classes): a language model
    elif targets.shape != (logits.shape[0], *logits.shape[2:]):
        raise InputError(
            f"targets of shape {tuple(targets.shape)} do not fit logits of shape {tuple(logits.shape)}: cross-entropy "
            "wants one class number a sample (a model that returns feature maps wants a loss of its own: loss=...)."
        )
    classes = logits.shape[1]
    if int(targets.max()) >= classes or int(targets.min()) < 0:
        raise InputError(
            f"targets run from {int(targets.min())} to {int(targets.max())}, the model has {classes} outputs: build "
            "the model with as many classes as the data has, or map the labels to 0..classes-1."
        )
    return F.cross_entropy(logits, targets.long())


class TrainingStepObjective:
    """The loss of a LightningModule's own ``training_step``; what it logs goes nowhere.

    The batch is handed over in the form in which its loader gave it.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        self.reduction: Reduction = reduction

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training step's loss."""
        if not getattr(model, "automatic_optimization", True):
            raise InputError(
                f"{type(model).__name__} optimises by hand inside training_step, so that it cannot be asked for a loss "
                "alone: pass loss=, a function of (outputs, targets)."
            )
        silent: Any = _silent(model)
        step = type(silent).training_step  # of the class: a compiled instance holds one that is bound to the original
        arguments = inspect.signature(step).parameters
        if "dataloader_iter" in arguments:
            raise InputError(
                f"{type(model).__name__}.training_step takes an iterator over mini-batches, not a batch: pass loss=, a "
                "function of (outputs, targets)."
            )
        numbered = len(arguments) > 2  # Lightning allows training_step(self, batch) too
        result = step(silent, batch.as_loaded(), 0) if numbered else step(silent, batch.as_loaded())
        if isinstance(result, Mapping):
            result = result.get("loss")
        if not isinstance(result, Tensor):
            raise InputError(
                f"{type(model).__name__}.training_step returned no loss: return a scalar tensor or {{'loss': tensor}}."
            )
        return result


def _silent(model: nn.Module) -> Any:
    """The same module (one shared ``__dict__``) whose log calls do nothing: no method of the user's is replaced."""

    def ignore(*args: object, **kwargs: object) -> None:
        return None

    kind = type(
        type(model).__name__, (type(model),), {"log": ignore, "log_dict": ignore, "__module__": type(model).__module__}
    )
    silent: Any = object.__new__(kind)
    object.__setattr__(silent, "__dict__", model.__dict__)
    return silent


def is_lightning(model: nn.Module) -> bool:
    """Whether a module is a LightningModule of either package."""
    return any(cls.__name__ == "LightningModule" for cls in type(model).__mro__) and hasattr(model, "training_step")


def resolve_objective(model: nn.Module, loss: Any = None, reduction: Reduction | None = None) -> Objective:
    """The objective for a ``loss=`` argument.

    Args:
        model: decides the default: a LightningModule's training_step if it has overridden it, a detector's own losses,
            else cross-entropy.
        loss: None, a callable of (outputs, targets), the string ``"training_step"``, or an objective.
        reduction: overrides what is known of the loss.
    """
    if reduction not in (None, "mean", "sum"):
        raise InputError(f"reduction={reduction!r} is unknown: use 'mean' or 'sum'.")
    step = getattr(type(model), "training_step", None)
    overridden = is_lightning(model) and getattr(step, "__module__", "").split(".")[0] not in (
        "lightning",
        "pytorch_lightning",
    )
    if loss == "training_step" or (loss is None and overridden):
        if not overridden:
            raise InputError(
                f"loss='training_step' needs a LightningModule with a training_step, got {type(model).__name__}."
            )
        return TrainingStepObjective(reduction or "mean")
    if isinstance(loss, (SupervisedObjective, TrainingStepObjective)) or _is_objective(loss):
        return cast(Objective, loss)
    if loss is None and (own := _detection(model)) is not None:
        return own
    check_loss_argument(loss)
    return SupervisedObjective(loss, reduction)


def check_loss_argument(loss: Any) -> None:
    """Refuse what is no ``loss=`` for any model."""
    if loss is not None and loss != "training_step" and not callable(loss):
        raise InputError(f"loss={loss!r} is neither a callable of (outputs, targets) nor 'training_step'.")


def _detection(model: nn.Module) -> Objective | None:
    """The objective of a detector, or of a detector's backbone with its pyramid."""
    from lswag_hooks.detection import objectives, pyramid

    library = objectives.detector_library(model)
    if library is not None:
        return objectives.TorchvisionObjective() if library == "torchvision" else objectives.MMDetObjective()
    return pyramid.PyramidObjective() if isinstance(model, pyramid.Pyramid) else None


def _is_objective(loss: Any) -> bool:
    return bool(getattr(loss, "is_objective", False))


def check_loss(loss: Any) -> Tensor:
    """Refuse what cannot be differentiated into a score."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"the loss must be one number, got {shape}: reduce it over the batch (mean or sum).")
    if loss.is_complex():
        raise InputError("the loss is a complex number: return a real one, such as its absolute value.")
    if not torch.isfinite(loss).all():
        raise InputError(
            f"the loss is {float(loss.detach())}: the inputs or the initialisation overflow. Check the input "
            "normalisation, and look at the model's output on this batch."
        )
    if not loss.requires_grad:
        raise InputError("the loss does not depend on any parameter of the model: check the loss and detach() calls.")
    return loss
