"""Multiply-accumulates of a forward pass, by torch's own formulas."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lswag_hooks.batch import Batch
from lswag_hooks.objective import Objective, forward


def count_macs(model: nn.Module, batch: Batch, objective: Objective | None = None) -> float | None:
    """Multiply-accumulates of one sample: convolutions, linear layers, attention products."""
    one = batch[:1]
    for kept in (forgetting, contextlib.nullcontext):  # a model that goes back within needs what is kept
        counter = _Counter()
        try:
            # attention that is one operation is not counted, the plain formula is; without gradients MPS and
            # nn.MultiheadAttention would take the former in any case
            with torch.enable_grad(), kept(), sdpa_kernel(SDPBackend.MATH), counter:
                # a detector of mmdet is not called with its inputs alone
                predict = getattr(objective, "predict", None)
                forward(model, one.inputs) if predict is None else predict(model, one)
        except Exception:  # any model may refuse a batch of one
            continue
        return counter.flops / 2
    return None


class _Counter(TorchDispatchMode):
    """Adds up torch's own formulas; ``FlopCounterMode`` follows modules too, which takes longer than the operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        return output


def forgetting() -> saved_tensors_hooks:
    """While open, a forward pass keeps nothing for a backward pass, which must not be asked for."""
    return saved_tensors_hooks(lambda tensor: None, lambda kept: kept)
