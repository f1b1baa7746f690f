"""How many bytes autograd keeps of a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def kept_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, each piece of memory once, without the model's own.

    Example:
        >>> with torch.device("meta"):  # nothing is computed
        ...     kept_bytes(nn.Sequential(nn.Linear(10, 20), nn.ReLU()), torch.empty(4, 10))  # (10 + 20) * 4 samples * 4
        480
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.detach()  # held, so that no other gets its address
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(inputs)  # held until all is counted
        found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    del outputs
    return found
