"""Which module call is running: a stack kept by forward hooks."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")  # of torch.compile, of activation checkpointing
_WRAPPED = re.compile("|".join(WRAPPERS))


def clean_name(name: str) -> str:
    """A module's or parameter's path without what wrappers put into it."""
    if not _WRAPPED.search(name):
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


class OverBudget(Exception):
    """The forward pass would hold more memory than it may."""

    def __init__(self, seen: int) -> None:
        super().__init__(f"more than {seen} bytes of outputs")
        self.seen = seen


class CallStack:
    """Context that knows, while a model runs, the path and class of the innermost module call.

    Args:
        model: any module; scripted submodules accept no hooks and are listed in ``opaque``.
        budget: bytes of outputs of innermost modules that may be kept for a backward pass.
        each: the budget is that of each forward pass, not of all of them together.

    Raises:
        OverBudget: from within the forward pass that would keep more, and at the end, if the model caught it.
    """

    def __init__(self, model: nn.Module, budget: int | None = None, each: bool = False) -> None:
        self.budget, self.each, self.bytes, self.over = budget, each, 0, 0
        self.modules = list(model.named_modules())
        self.stack: list[tuple[str, nn.Module]] = []
        self.opaque: list[str] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> CallStack:
        for name, module in self.modules:
            name = clean_name(name)
            if isinstance(module, torch.jit.ScriptModule):
                self.opaque.append(name)
                continue
            self._handles.append(module.register_forward_pre_hook(self._entering(name)))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.stack.clear()
        if self.over and (kind is None or issubclass(kind, Exception)):
            raise OverBudget(self.over) from None

    def _entering(self, name: str) -> Any:
        def enter(module: nn.Module, inputs: object) -> None:
            if self.each and not name:
                self.bytes = 0
            self.stack.append((name, module))

        return enter

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        while self.stack and self.stack.pop()[1] is not module:
            pass
        if self.budget is None or not torch.is_grad_enabled():
            return
        if isinstance(output, Tensor) and not module._modules and _is_new(output, inputs):
            self.bytes += output.numel() * output.element_size()
            if self.bytes > self.budget:
                self.over = self.bytes
                raise OverBudget(self.over)

    @property
    def path(self) -> str:
        """Path of the innermost module call, empty at the top."""
        return self.stack[-1][0] if self.stack else ""

    def number(self, path: str) -> int:
        """How often a key was seen before: the call index of a reused module."""
        self._counts[path] += 1
        return self._counts[path] - 1


def _is_new(output: Tensor, inputs: Any) -> bool:
    """Whether an output has memory of its own: those of modules in place, and of views, have not."""
    given = [one for one in (inputs if isinstance(inputs, tuple) else (inputs,)) if isinstance(one, Tensor)]
    owner = output if output._base is None else output._base
    return not any(owner is one or owner is one._base for one in given)
