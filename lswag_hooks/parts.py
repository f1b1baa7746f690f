"""Inputs and targets as trees: walk them, take samples, join mini-batches.

A part is a tensor, a tuple or dict of parts, or a plain value such as a file name. Along samples a part is one of
- a tensor whose dimension 0 counts the samples,
- a `PerSample` tuple with one entry a sample (detection targets, images of unequal sizes, file names),
- anything else: shared by all samples, and kept whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lswag_hooks.errors import InputError

_PLAIN = (str, bytes, bool, int, float, complex, type(None))


class PerSample(tuple[Any, ...]):
    """A tuple with one entry a sample, as against a few parts side by side."""

    __slots__ = ()


def normalised(part: Any, path: str) -> Any:
    """Turn lists into tuples and mappings into dicts, and refuse what is neither a tensor nor plain.

    Example:
        >>> normalised([torch.zeros(1), {"a": 1}], "inputs")
        (tensor([0.]), {'a': 1})
    """
    if isinstance(part, (Tensor, *_PLAIN)):
        return part
    if isinstance(part, Mapping):
        return {key: normalised(value, f"{path}[{key!r}]") for key, value in part.items()}
    if isinstance(part, (tuple, list)):
        return _rebuilt(part, (normalised(value, f"{path}[{i}]") for i, value in enumerate(part)))
    raise InputError(f"{path} is a {type(part).__name__}: pass tensors (torch.as_tensor), or tuples or dicts of them.")


def marked(inputs: Any, targets: Any) -> tuple[Any, Any, int]:
    """Find out how many samples there are, and mark the tuples that have one entry for each.

    Dimension 0 of the first input counts the samples. Only where the targets are a tuple of dicts, as long as a tuple
    of input tensors, are those taken for the images of a detection batch.

    Args:
        inputs: Normalised inputs.
        targets: Normalised targets, or None.

    Returns:
        Inputs, targets, number of samples.

    Raises:
        InputError: There is no tensor in the inputs, or the first one is a single number.

    Example:
        >>> boxes = ({"boxes": torch.zeros(3, 4)}, {"boxes": torch.zeros(1, 4)})
        >>> inputs, targets, samples = marked((torch.zeros(3, 8, 8), torch.zeros(3, 9, 7)), boxes)
        >>> samples, isinstance(inputs, PerSample), isinstance(targets, PerSample)
        (2, True, True)
    """
    detection = (
        isinstance(inputs, tuple)
        and isinstance(targets, tuple)
        and 0 < len(inputs) == len(targets)
        and all(isinstance(image, Tensor) for image in inputs)
        and all(isinstance(target, dict) for target in targets)
    )
    if detection:
        return PerSample(inputs), PerSample(targets), len(inputs)
    first = next(tensors(inputs, "inputs"), None)
    if first is None:
        raise InputError("the inputs hold no tensor: pass a tensor, or a tuple or dict of them.")
    if first[1].ndim == 0:
        raise InputError(f"{first[0]} is a single number: dimension 0 must count the samples.")
    samples = len(inputs) if isinstance(inputs, PerSample) else len(first[1])
    return _mark(inputs, samples, strict=False), _mark(targets, samples, strict=True), samples


def leaves(part: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every tensor and plain value with the expression that reaches it; dicts in the order of their keys' names.

    Example:
        >>> [name for name, _ in leaves({"b": 1, "a": (torch.ones(1),)}, "inputs")]
        ["inputs['a'][0]", "inputs['b']"]
    """
    if isinstance(part, dict):
        for key in sorted(part, key=str):
            yield from leaves(part[key], f"{path}[{key!r}]")
    elif isinstance(part, tuple):
        for i, value in enumerate(part):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, part


def tensors(part: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the leaves that are tensors, but in the order in which dicts were filled."""
    if isinstance(part, Tensor):
        yield path, part
    elif isinstance(part, dict):
        for key, value in part.items():
            yield from tensors(value, f"{path}[{key!r}]")
    elif isinstance(part, tuple):
        for i, value in enumerate(part):
            yield from tensors(value, f"{path}[{i}]")


def mapped(part: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor.

    Example:
        >>> mapped({"a": torch.ones(2)}, lambda t: t * 2)
        {'a': tensor([2., 2.])}
    """
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, dict):
        return {key: mapped(value, function) for key, value in part.items()}
    if isinstance(part, tuple):
        return _rebuilt(part, (mapped(value, function) for value in part))
    return part


def take(part: Any, index: slice, samples: int) -> Any:
    """Select samples; what is shared by all stays whole.

    Example:
        >>> take((torch.arange(3), torch.ones(1)), slice(0, 2), samples=3)
        (tensor([0, 1]), tensor([1.]))
    """
    if isinstance(part, PerSample):
        return PerSample(part[index])
    if isinstance(part, Tensor):
        return part[index] if part.ndim and len(part) == samples else part
    if isinstance(part, dict):
        return {key: take(value, index, samples) for key, value in part.items()}
    if isinstance(part, tuple):
        return _rebuilt(part, (take(value, index, samples) for value in part))
    return part


def joined(parts: Sequence[Any], counts: Sequence[int], path: str) -> Any:
    """Join the same part of several mini-batches.

    Args:
        parts: One a mini-batch, all marked.
        counts: The samples in each.
        path: What to call the part in an error.

    Raises:
        InputError: Shapes or structures differ from one mini-batch to the next.

    Example:
        >>> joined([torch.zeros(2, 3), torch.zeros(1, 3)], [2, 1], "inputs").shape
        torch.Size([3, 3])
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor) and all(isinstance(part, Tensor) for part in parts):
        return _concatenated(parts, counts, path)
    if isinstance(first, PerSample) and all(isinstance(part, PerSample) for part in parts):
        return PerSample(value for part in parts for value in part)
    if len({_structure(part) for part in parts}) > 1:
        raise InputError(f"{path} is built in another way from one mini-batch to the next: make them alike.")
    if isinstance(first, dict):
        return {key: joined([part[key] for part in parts], counts, f"{path}[{key!r}]") for key in first}
    if isinstance(first, tuple):
        return _rebuilt(first, (joined([p[i] for p in parts], counts, f"{path}[{i}]") for i in range(len(first))))
    if any(part != first for part in parts):
        raise InputError(f"{path} differs from one mini-batch to the next: leave it out, or make it a tensor.")
    return first


def check_lengths(part: Any, path: str, samples: int) -> None:
    """Check that every tensor and tuple of entries counts the samples.

    Raises:
        InputError: One does not.

    Example:
        >>> check_lengths({"a": torch.zeros(3)}, "targets", samples=3)
    """
    if isinstance(part, PerSample):
        if len(part) != samples:
            raise InputError(f"{path} has {len(part)} entries for {samples} samples: give one each.")
    elif isinstance(part, Tensor):
        if part.ndim == 0 or len(part) != samples:
            raise InputError(f"{path} has shape {tuple(part.shape)}: its dimension 0 must count the {samples} samples.")
    elif isinstance(part, dict):
        for key, value in part.items():
            check_lengths(value, f"{path}[{key!r}]", samples)
    elif isinstance(part, tuple):
        for i, value in enumerate(part):
            check_lengths(value, f"{path}[{i}]", samples)


def as_tensors(part: Any) -> Any:
    """Turn arrays, and lists of numbers, into tensors.

    Raises:
        InputError: A list or an array holds something else than numbers.

    Example:
        >>> as_tensors({"a": [1, 2]})
        {'a': tensor([1, 2])}
    """
    if isinstance(part, Mapping):
        return {key: as_tensors(value) for key, value in part.items()}
    if isinstance(part, (tuple, list)) and any(isinstance(v, (Tensor, Mapping)) or hasattr(v, "dtype") for v in part):
        return type(part)(as_tensors(value) for value in part)
    if isinstance(part, (tuple, list)) or (hasattr(part, "__array__") and not isinstance(part, Tensor)):
        try:
            return torch.tensor(part)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"a {type(part).__name__} cannot become a tensor ({error}): pass numbers.") from error
    return part


def class_numbers(targets: Tensor) -> Tensor:
    """Turn whole numbers of any width into the int64 that torch's losses take; leave everything else."""
    whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    return targets.long() if whole else targets


def _mark(part: Any, samples: int, *, strict: bool) -> Any:
    """Mark tuples with one entry a sample; strict: every tensor that is no such entry must count the samples."""
    if isinstance(part, dict):
        return {key: _mark(value, samples, strict=strict) for key, value in part.items()}
    if not isinstance(part, tuple) or isinstance(part, PerSample):
        return part
    found = [tensor for _, tensor in tensors(part, "")]
    # parts side by side count the samples each; entries of single samples do so only by chance
    side_by_side = all(tensor.ndim and len(tensor) == samples for tensor in found)
    entries = not found or (strict and (not side_by_side or all(isinstance(value, dict) for value in part)))
    if len(part) == samples and entries and not hasattr(part, "_fields"):
        return PerSample(part)
    return _rebuilt(part, (_mark(value, samples, strict=strict) for value in part))


def _concatenated(parts: Sequence[Tensor], counts: Sequence[int], path: str) -> Tensor:
    if all(part.ndim and len(part) == n for part, n in zip(parts, counts, strict=True)):
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise InputError(
                f"{path} has other shapes from one mini-batch to the next ({sorted(shapes)} after dimension 0): "
                "pad them to one shape, or ask for no more samples than one mini-batch holds."
            )
        return torch.cat(list(parts))
    if all(torch.equal(part, parts[0]) for part in parts):
        return parts[0]
    raise InputError(f"{path} differs from one mini-batch to the next, but its dimension 0 does not count samples.")


def _structure(part: Any) -> Any:
    if isinstance(part, dict):
        return dict, frozenset(part)
    return type(part), len(part) if isinstance(part, tuple) else None


def _rebuilt(like: Any, values: Iterable[Any]) -> Any:
    if hasattr(like, "_fields"):  # a named tuple
        return type(like)(*values)
    return PerSample(values) if isinstance(like, PerSample) else tuple(values)
