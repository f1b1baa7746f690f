"""Samples out of DataLoaders and LightningDataModules, and mini-batches as they came out of them."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lswag_hooks import parts
from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.rng import preserved

_TARGET_KEYS = ("labels", "label", "targets", "target", "y")
_STAGES = {"fit": "train_dataloader", "validate": "val_dataloader", "test": "test_dataloader"}


def first_samples(loader: Iterable[Any], samples: int) -> tuple[Any, Any, str]:
    """Join mini-batches until there are enough samples; every random state is given back as it was.

    Returns:
        Inputs, targets, and the layout of a mini-batch for `rebuilt`.

    Raises:
        InputError: The loader yields nothing, or mini-batches that cannot be read or joined.

    Example:
        >>> inputs, targets, layout = first_samples([[torch.rand(2, 5), torch.zeros(2)]] * 3, samples=3)
        >>> inputs.shape, targets.shape, layout
        (torch.Size([3, 5]), torch.Size([3]), 'pair')
    """
    if not isinstance(samples, int) or samples < 2:
        raise InputError(f"samples={samples}: ask for two or more.")
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, Mapping, str)):
        raise InputError(
            f"the loader is a {type(loader).__name__}: pass one DataLoader, or an iterable of mini-batches."
        )
    inputs: list[Any] = []
    targets: list[Any] = []
    counts: list[int] = []
    layout = "pair"
    with preserved(*_generators(loader)):
        for mini_batch in _untouched(loader):
            x, y, layout = unpacked(mini_batch)
            x, y, n = parts.marked(parts.normalised(x, "inputs"), parts.normalised(y, "targets"))
            inputs.append(x)
            targets.append(y)
            counts.append(n)
            if sum(counts) >= samples:
                break
    if not counts:
        raise InputError("the loader yields no mini-batch: check its dataset and batch_size.")
    keep, total = slice(samples), sum(counts)
    x, y = parts.joined(inputs, counts, "inputs"), parts.joined(targets, counts, "targets")
    return parts.take(x, keep, total), parts.take(y, keep, total), layout


def unpacked(mini_batch: Any) -> tuple[Any, Any, str]:
    """Split a mini-batch into inputs, targets and the name of its layout.

    Raises:
        InputError: It is no tensor, tuple, list or mapping.

    Example:
        >>> unpacked({"pixels": 1, "labels": 2})
        ({'pixels': 1}, 2, 'key:labels')
    """
    if isinstance(mini_batch, Tensor):
        return mini_batch, None, "inputs"
    if isinstance(mini_batch, Mapping):
        key = next((key for key in _TARGET_KEYS if key in mini_batch), None)
        if key is None:
            return mini_batch, None, "inputs"
        return {k: v for k, v in mini_batch.items() if k != key}, mini_batch[key], f"key:{key}"
    if isinstance(mini_batch, (tuple, list)) and mini_batch:
        first, *rest = mini_batch
        if len(rest) < 2:
            return first, rest[0] if rest else None, "pair" if rest else "single"
        return first, tuple(rest), "flat"
    raise InputError(
        f"the loader yields a {type(mini_batch).__name__}: mini-batches must be a tensor, (inputs, targets) or a dict; "
        "or build the Batch yourself: Batch(inputs, targets)."
    )


def rebuilt(inputs: Any, targets: Any, layout: str) -> Any:
    """Undo `unpacked`.

    Example:
        >>> rebuilt({"pixels": 1}, 2, "key:labels")
        {'pixels': 1, 'labels': 2}
    """
    if layout.startswith("key:"):
        return {**inputs, layout.removeprefix("key:"): targets}
    if layout == "single":
        return (inputs,)
    if layout == "flat":
        return (inputs, *targets)
    return inputs if targets is None else (inputs, targets)


def of_datamodule(datamodule: Any, stage: str) -> Iterable[Any]:
    """Prepare a LightningDataModule, set it up once, and return its loader of a stage.

    Raises:
        InputError: The stage is unknown, it is no datamodule, or there is no loader or more than one.
    """
    if stage not in _STAGES:
        raise InputError(f"stage={stage!r} does not exist.{near_matches(stage, _STAGES)} There are {list(_STAGES)}.")
    missing = [name for name in ("prepare_data", "setup", _STAGES[stage]) if not hasattr(datamodule, name)]
    if missing:
        raise InputError(f"{type(datamodule).__name__} has no {', '.join(missing)}: pass a LightningDataModule.")
    datamodule.prepare_data()
    datamodule.setup(stage=stage)
    loader: Any = getattr(datamodule, _STAGES[stage])()
    # Lightning takes several loaders at once, as a list, a dict or its CombinedLoader (which has .iterables)
    if loader is None or isinstance(loader, (list, tuple, Mapping)) or hasattr(loader, "iterables"):
        raise InputError(
            f"{type(datamodule).__name__}.{_STAGES[stage]}() gives a {type(loader).__name__}, not one loader: "
            "pass the loader to score on to Batch.from_dataloader."
        )
    return loader  # type: ignore[no-any-return]


def _generators(loader: Any) -> list[torch.Generator]:
    """Find the generators that going through a DataLoader draws from."""
    samplers = [getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
    owned = [getattr(owner, "generator", None) for owner in (loader, *samplers)]
    return list({id(g): g for g in owned if isinstance(g, torch.Generator)}.values())


def _untouched(loader: Iterable[Any]) -> Iterable[Any]:
    """Copy a loader that would keep its workers, and with them a seed and a place, for the training that follows."""
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        fresh: Any = copy.copy(loader)
        fresh._iterator = None
        return fresh  # type: ignore[no-any-return]
    return loader
