"""Activations as they happen: modules or functions, in place or not, found by name in an extensible table.

A function mode sees every torch function of the forward pass, so that ``F.relu``, ``x.relu_()`` and ``nn.ReLU`` are all
one thing. Activations written out as several operations (QuickGELU, the tanh formula, StarReLU) are known by the class
of the module that computes them, whose inner operations are then not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lswag_hooks.hooks.calls import CallStack

Kind = Literal["activation", "gate", "clamp"]

NONNEGATIVE = {"relu", "relu_", "relu6", "ReLU", "ReLU6"}  # outputs never below zero: their code needs one pass less

_FUNCTIONS: dict[Any, Kind] = {}
_CLASSES: dict[str, Kind] = {}


def register_activation(target: Callable[..., Any] | type[nn.Module] | str, kind: Kind = "activation") -> None:
    """Tell the hooks about an activation of your own.

    Args:
        target: a torch function (as it is called), a module class, or a class's qualified name or bare name.
        kind: ``"activation"``: its output > 0 is a unit's code; ``"gate"``: listed, not counted (its code would be all
            ones); ``"clamp"``: the same for clamps.

    Example:
        >>> class Snake(nn.Module):
        ...     def forward(self, x):
        ...         return x + x.sin().square()
        >>> register_activation(Snake)
    """
    if isinstance(target, str):
        _CLASSES[target] = kind
    elif isinstance(target, type):
        _CLASSES[f"{target.__module__}.{target.__qualname__}"] = kind
    else:
        _FUNCTIONS[target] = kind


_ACTIVATIONS = (
    "relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ selu selu_ celu celu_ gelu silu mish "
    "hardswish softplus threshold threshold_ hardtanh hardtanh_"
)
_GATES = "sigmoid sigmoid_ tanh tanh_ hardsigmoid logsigmoid glu softsign"
for _name in _ACTIVATIONS.split():
    for _owner in (F, torch, Tensor, torch._C._nn):
        if hasattr(_owner, _name):
            register_activation(getattr(_owner, _name))
for _name in _GATES.split():
    for _owner in (F, torch, Tensor, torch._C._nn):
        if hasattr(_owner, _name):
            register_activation(getattr(_owner, _name), "gate")
for _name in ("clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_", "clip", "clip_"):
    for _owner in (torch, Tensor):
        if hasattr(_owner, _name):
            register_activation(getattr(_owner, _name), "clamp")

# Activations that timm, transformers and others compute from several operations, or through a function of their own.
for _name in [
    "QuickGELU",
    "QuickGELUActivation",
    "NewGELUActivation",
    "FastGELUActivation",
    "AccurateGELUActivation",
    "ClippedGELUActivation",
    "GELUTanh",
    "PytorchGELUTanh",
    "LaplaceActivation",
    "ReLUSquaredActivation",
    "Mish",
    "MishActivation",
    "XIELUActivation",
    "StarReLU",
    "SquaredReLU",
    "HardSwish",
    "HardMish",
    "Swish",
    "SwishMe",
    "MishMe",
    "HardSwishMe",
    "HardMishMe",
    "PReLU",
    "TeLU",
    "ReLUSquared",
    "SwishJit",
    "MishJit",
    "HardSwishJit",
    "HardMishJit",
    "MemoryEfficientSwish",
    "GammaAct",
]:
    register_activation(_name)
for _name in [
    "Sigmoid",
    "Hardsigmoid",
    "HardSigmoid",
    "HardSigmoidMe",
    "HardSigmoidJit",
    "Tanh",
    "Softmax",
    "LogSigmoid",
    "GLU",
    "QuickSigmoid",
]:
    register_activation(_name, "gate")


def _class_kind(module: nn.Module) -> Kind | None:
    for cls in type(module).__mro__:
        if cls is nn.Module:
            return None
        kind = _CLASSES.get(f"{cls.__module__}.{cls.__qualname__}") or _CLASSES.get(cls.__name__)
        if kind:
            return kind
    return None


def _function_kind(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kind | None:
    kind = _FUNCTIONS.get(function)
    if kind == "activation" and getattr(function, "__name__", "").startswith("hardtanh"):
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        return "activation" if low == 0 else "clamp"  # hardtanh(0, b) is ReLU-b; others are clamps
    return kind


@dataclass(frozen=True)
class ActivationCall:
    """One activation as it happened.

    Attributes:
        path: path of the module that computes it, or that calls the function.
        call: how many activations that module computed before.
        function: name of the function or class.
        kind: activation, gate or clamp.
    """

    path: str
    call: int
    function: str
    kind: Kind

    @property
    def name(self) -> str:
        """Path, with the call number from the second on."""
        return f"{self.path}#{self.call}" if self.call else self.path


class ActivationCapture(TorchFunctionMode):
    """Function mode that hands every activation's output to a consumer, at once (it may be overwritten later).

    Args:
        calls: the running stack of module calls.
        consume: gets the call and its output.
    """

    def __init__(self, calls: CallStack, consume: Callable[[ActivationCall, Tensor], None]) -> None:
        super().__init__()
        self.calls, self.consume = calls, consume
        self.others: list[ActivationCall] = []  # gates and clamps
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._inside: list[nn.Module] = []  # composite modules that are running

    def __enter__(self) -> ActivationCapture:
        for _, module in self.calls.modules:
            if not isinstance(module, torch.jit.ScriptModule) and _class_kind(module):
                self._handles.append(module.register_forward_pre_hook(self._enter_module))
                self._handles.append(module.register_forward_hook(self._leave_module, always_call=True, prepend=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inside.clear()

    def _enter_module(self, module: nn.Module, inputs: object) -> None:
        self._inside.append(module)

    def _leave_module(self, module: nn.Module, inputs: object, output: object) -> None:
        while self._inside and self._inside.pop() is not module:
            pass
        kind = _class_kind(module)
        if kind and isinstance(output, Tensor) and not self._inside:
            self._record(type(module).__name__, kind, output)

    def __torch_function__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if function in _FUNCTIONS and not self._inside and isinstance(output, Tensor):
            kind = _function_kind(function, args, kwargs)
            if kind and output.is_floating_point():
                self._record(getattr(function, "__name__", str(function)), kind, output)
        return output

    def _record(self, function: str, kind: Kind, output: Tensor) -> None:
        path = self.calls.path
        if kind != "activation":
            self.others.append(ActivationCall(path, 0, function, kind))
            return
        call = ActivationCall(path, self.calls.number(path), function, kind)
        with torch._C.DisableTorchFunction():
            self.consume(call, output)
