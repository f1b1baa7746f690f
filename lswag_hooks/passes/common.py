"""What several passes need: predictions, layer weights, inputs of another kind, watched modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lswag_hooks import parts
from lswag_hooks.hooks.calls import clean_name
from lswag_hooks.hooks.inventory import Parameters, layer_name
from lswag_hooks.objective import find_logits, forward
from lswag_hooks.passes.base import Undefined

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
WHOLE = "the inputs are whole numbers: images or other real numbers are needed"


def predict(model: nn.Module, inputs: Any) -> Tensor:
    """The model's prediction."""
    return find_logits(forward(model, inputs))


def layer_weights(model: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    """Names of the layers and their weights, in the order of registration.

    Raises:
        Undefined: there are none.
    """
    parameters = Parameters(model)
    names = [name for name in parameters.of_layers() if parameters.by_name[name].requires_grad]
    if not names:
        raise Undefined("no weight of a convolution or of a matrix product")
    return [layer_name(name) for name in names], [parameters.by_name[name] for name in names]


def gradients(value: Tensor, weights: Sequence[Tensor], graph: bool = False) -> list[Tensor]:
    """Gradients of a number; zeros for weights that it does not reach.

    Raises:
        Undefined: it reaches none.
    """
    found = torch.autograd.grad(value, weights, create_graph=graph, allow_unused=True)
    if all(one is None for one in found):
        raise Undefined("the output depends on no weight of a convolution or of a matrix product")
    return [torch.zeros_like(weight) if one is None else one for one, weight in zip(found, weights, strict=True)]


def real_inputs(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The inputs with every tensor of real numbers replaced.

    Raises:
        Undefined: there is none, as in a model of token numbers.
    """
    tensors = [tensor for _, tensor in parts.tensors(inputs, "inputs")]
    if not any(tensor.is_floating_point() for tensor in tensors):
        raise Undefined(WHOLE)
    return parts.mapped(inputs, lambda tensor: change(tensor) if tensor.is_floating_point() else tensor)


def differentiable_attention() -> contextlib.AbstractContextManager[Any]:
    """Attention by the plain formula: the fused one has no second derivative on a CPU."""
    return sdpa_kernel(SDPBackend.MATH)


@contextlib.contextmanager
def watched(
    model: nn.Module, see: Callable[[str, nn.Module, Any, Any], None], only: tuple[type[nn.Module], ...] = (nn.Module,)
) -> Iterator[None]:
    """While open, every call of a module inside the model is shown: its path, itself, its first input, its output."""

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: see(path, module, args[0] if args else None, output)

    handles = [
        module.register_forward_hook(hook(clean_name(path)))
        for path, module in model.named_modules()
        if module is not model and isinstance(module, only) and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
