"""How many bytes autograd holds for going back."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lswag_hooks.hooks.calls import OverBudget


class Held:
    """Context that knows what autograd holds for backward passes, each piece of memory once, without the model's own.

    Args:
        model: its parameters and buffers are there anyway and do not count.
        budget: bytes at which whatever runs is broken off; None: never.

    Raises:
        OverBudget: from within a forward pass, or a backward pass that is to be gone back through.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh())
        >>> with Held(net) as held:
        ...     outputs = net(torch.zeros(2, 4))
        ...     held.bytes  # the inputs, for the weight's gradient, and what tanh gave
        96
    """

    def __init__(self, model: nn.Module, budget: int | None = None) -> None:
        self.budget, self.bytes = budget, 0
        self._users = Counter(_place(tensor) for tensor in (*model.parameters(), *model.buffers()))
        self._hooks = saved_tensors_hooks(lambda tensor: _Kept(self, tensor), _Kept.back)

    def __enter__(self) -> Held:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def take(self, place: int | None, size: int) -> None:
        """Something is held in a place, which has ``size`` bytes."""
        self._users[place] += 1
        if place is not None and self._users[place] == 1:
            self.bytes += size
        if self.budget is not None and self.bytes > self.budget:
            raise OverBudget(self.bytes)

    def release(self, place: int | None, size: int) -> None:
        """One of its holders is gone."""
        self._users[place] -= 1
        if place is not None and not self._users[place]:
            self.bytes -= size


def kept_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, each piece of memory once, without the model's own.

    Example:
        >>> with torch.device("meta"):  # nothing is computed
        ...     kept_bytes(nn.Sequential(nn.Linear(10, 20), nn.ReLU()), torch.empty(4, 10))  # (10 + 20) * 4 samples * 4
        480
    """
    with torch.enable_grad(), Held(model) as held:
        outputs = model(inputs)
        found = held.bytes
    del outputs  # held until all is counted
    return found


class _Kept:
    """A tensor that autograd saved, and what it would have noted about it."""

    __slots__ = ("held", "place", "size", "tensor", "version")

    def __init__(self, held: Held, tensor: Tensor) -> None:
        self.held, self.version = held, tensor._version
        self.tensor = tensor.detach()  # an output that held on to its own graph would never be freed
        self.place = _place(tensor)
        self.size = 0 if self.place is None else tensor.untyped_storage().nbytes()
        held.take(self.place, self.size)

    def back(self) -> Tensor:
        if self.tensor._version != self.version:  # which autograd checks only of what it keeps itself
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation"
            )
        return self.tensor

    def __del__(self) -> None:
        self.held.release(self.place, self.size)


def _place(tensor: Tensor) -> int | None:
    """Which memory a tensor lies in; None for sparse and other tensors that have no storage."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None
