"""The only place that touches a user's model: everything it changes is put back, whatever happens in between."""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lswag_hooks.errors import InputError, UnsupportedError
from lswag_hooks.rng import preserved, seeded

Mode = Literal["score", "train", "eval"]
MODES = ("score", "train", "eval")


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm, a scripted one included."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name).startswith(("BatchNorm", "SyncBatchNorm"))
    return isinstance(module, _BatchNorm)


def joins_samples(module: nn.Module) -> bool:
    """Whether a module, in the mode in which it is, normalises with the statistics of the batch."""
    return is_batch_norm(module) and (module.training or getattr(module, "running_mean", None) is None)


class ProbeSession:
    """Context in which a model may be probed: on the way out it is bit for bit what it was.

    Parameters, buffers, gradients, ``requires_grad``, each module's own ``training`` flag and attributes, hooks and all
    random states are restored, after success, failure or interruption alike. Inside, every floating-point parameter
    requires a gradient, compiled modules run eagerly, and modules are in evaluation mode except that BatchNorm uses the
    statistics of the batch (a network at initialisation has no others).

    Args:
        model: any module.
        mode: ``"score"`` as described; ``"train"`` or ``"eval"`` put all modules in that mode.
        seed: seeds torch, NumPy and Python inside the session.

    Raises:
        UnsupportedError: the model is sharded (FSDP, DeepSpeed stage 3), lazy, or quantised.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> with ProbeSession(net):
        ...     _ = net(torch.randn(2, 3, 8, 8))
        >>> int(net[1].num_batches_tracked), net.training
        (0, True)
    """

    def __init__(self, model: nn.Module, mode: Mode = "score", seed: int | None = None) -> None:
        if mode not in MODES:
            raise InputError(f"mode={mode!r} is unknown: use one of {', '.join(map(repr, MODES))}.")
        self.modules, self.parameters, buffers = check_supported(model)
        self.tensors = [*self.parameters, *buffers]
        self._norms = [is_batch_norm(module) for module in self.modules]
        self.model, self.mode, self.seed = model, mode, seed
        self._stack = contextlib.ExitStack()
        self._kept: _Kept | None = None
        self._known = False  # what is kept is of a session before this one

    def again(self) -> ProbeSession:
        """A further session over a model that nobody touched since this one was left, and which is not copied again.

        Example:
            >>> net = nn.Linear(2, 2)
            >>> with ProbeSession(net) as session:
            ...     _ = net.weight.data.zero_()
            >>> with session.again():
            ...     bool(net.weight.any())
            True
        """
        further = copy.copy(self)
        further._known = self._kept is not None
        return further

    def __enter__(self) -> ProbeSession:
        with contextlib.ExitStack() as stack:
            stack.enter_context(preserved() if self.seed is None else seeded(self.seed))
            if self._kept is None or not self._known:
                self._kept = _Kept(
                    [_Attributes(module) for module in self.modules],
                    _Values(self.tensors),
                    [(one, one.requires_grad, one.grad) for one in self.parameters],
                )
            stack.callback(_restore_attributes, self._kept.attributes)
            stack.callback(self._kept.values.restore)
            stack.callback(_restore_gradients, self._kept.gradients)
            for parameter in self.parameters:
                if parameter.is_floating_point() or parameter.is_complex():
                    parameter.requires_grad_(True)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.enable_grad())
            self.set_mode(self.mode)
            self._stack = stack.pop_all()
        return self

    def set_mode(self, mode: Mode) -> None:
        """Switch all modules to a mode by their flags alone (no ``train()`` of the user's is called)."""
        for module, norm in zip(self.modules, self._norms, strict=True):
            wanted = mode == "train" or (mode == "score" and norm)
            if module.training != wanted:  # to set an attribute of a module takes much longer than to look at it
                module.training = wanted

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


def check_supported(model: nn.Module) -> tuple[list[nn.Module], list[Tensor], list[Tensor]]:
    """Refuse what cannot be probed without changing it; returns all modules, all parameters, and all buffers."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}: pass the network itself or a factory.")
    modules = list(model.named_modules())  # once: a walk over a deep model takes as long as a small layer
    kinds = {cls.__name__ for found in {type(module) for _, module in modules} for cls in found.__mro__}
    for name in ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"):
        if name in kinds:
            raise UnsupportedError(
                f"the model is wrapped in {name}, whose parameters are shards of the real ones: score the plain "
                "module, before the strategy wraps it (for example lh.score(model, batch) in the training script)."
            )
    for name, module in modules:
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise UnsupportedError(f"{name or 'the model'} is quantised and has no gradients: score it before that.")
    parameters = _own(modules, "_parameters")
    buffers = _own(modules, "_buffers")
    for name, tensor in (*parameters, *buffers):
        if nn.parameter.is_lazy(tensor):
            raise UnsupportedError(f"{name} is not initialised yet: run one forward pass, then score the model.")
        if hasattr(tensor, "ds_id"):
            raise UnsupportedError(
                f"{name} is partitioned by DeepSpeed stage 3: score the plain module before the strategy wraps it."
            )
        if tensor.is_inference():
            raise UnsupportedError(
                f"{name} was made under torch.inference_mode(), which rules gradients out: {_OUTSIDE}."
            )
    if torch.is_inference_mode_enabled():
        raise UnsupportedError(f"torch.inference_mode() is on, which rules gradients out: {_OUTSIDE}.")
    return [module for _, module in modules], [tensor for _, tensor in parameters], [tensor for _, tensor in buffers]


def _own(modules: Iterable[tuple[str, nn.Module]], kept: str) -> list[tuple[str, Tensor]]:
    """Parameters, or buffers, by name, each once; those of a loaded scripted module are tensors like any."""
    found: dict[int, tuple[str, Tensor]] = {}
    for path, module in modules:
        for leaf, tensor in getattr(module, kept).items():
            if tensor is not None:
                found.setdefault(id(tensor), (f"{path}.{leaf}" if path else leaf, tensor))
    return list(found.values())


_OUTSIDE = "build and score the model outside of it (torch.no_grad() is fine)"


class _Attributes:
    """A module's attributes, with the contents of its lists, dictionaries and sets: a forward pass may add to them."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kept = module, dict(module.__dict__)
        self.training = module.training  # that of a scripted module is not in its dictionary
        containers: list[Any] = [value for value in self.kept.values() if isinstance(value, (list, dict, set))]
        # most are empty, and a copy of each would be a thousand objects more for the garbage collector to look at
        self.empty = [container for container in containers if not container]
        self.filled = [(container, container.copy()) for container in containers if container]

    def restore(self) -> None:
        """Put back what is not the same."""
        if self.module.training != self.training:
            self.module.training = self.training
        current = self.module.__dict__
        if not _same_items(current, self.kept):
            for name in [name for name in current if name not in self.kept]:
                del current[name]
            for name, value in self.kept.items():
                if current.get(name, self) is not value:
                    current[name] = value
        for container in filter(None, self.empty):
            container.clear()
        for container, content in self.filled:
            if isinstance(container, list):
                container[:] = content
            elif isinstance(container, set) or not _same_items(container, content):
                container.clear()
                container.update(content)


def _same_items(current: dict[Any, Any], kept: dict[Any, Any]) -> bool:
    """Whether two dictionaries hold the very same objects in the same order: thousands are looked at after a score."""
    if len(current) != len(kept):
        return False
    return all(map(operator.is_, current, kept)) and all(map(operator.is_, current.values(), kept.values()))


def _restore_attributes(kept: Iterable[_Attributes]) -> None:
    for attributes in kept:
        attributes.restore()


class _Values:
    """Copies of tensors, put back bit for bit where they changed.

    Not by version counters: batch norm moves its statistics without raising them, and ``.data`` hides from them too.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        kept = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors]
        self.kept = [(tensor, data, value, _bits(data, value)) for tensor, data, value in kept]

    def restore(self) -> None:
        """Put back what is not the same."""
        for tensor, data, value, bits in self.kept:
            if tensor.layout is not torch.strided:  # no storage to compare
                tensor.data = data
                data.copy_(value)
                continue
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            if not torch.equal(*bits):
                data.copy_(value)


@dataclass(frozen=True)
class _Kept:
    attributes: list[_Attributes]
    values: _Values
    gradients: list[tuple[Tensor, bool, Tensor | None]]


def _bits(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as whole numbers, of which 0.0 and -0.0 differ, and NaN equals itself."""
    size = a.element_size()
    if a.layout is not torch.strided or not a.is_floating_point() or size not in _INTEGERS:
        return a, b
    if a.is_contiguous() and b.is_contiguous() and not (a.nbytes | a.storage_offset() * size) % 8:
        return a.view(-1).view(torch.int64), b.view(-1).view(torch.int64)  # four bytes take as long
    return a.view(_INTEGERS[size]), b.view(_INTEGERS[size])


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _restore_gradients(kept: Iterable[tuple[Tensor, bool, Tensor | None]]) -> None:
    for parameter, requires_grad, grad in kept:
        parameter.requires_grad_(requires_grad)
        parameter.grad = grad
