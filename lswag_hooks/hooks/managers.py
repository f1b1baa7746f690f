"""The parts by themselves: per-sample gradients and binarised activations for your own code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lswag_hooks.devices import no_autocast
from lswag_hooks.errors import InputError
from lswag_hooks.hooks.activations import ActivationCall, ActivationCapture
from lswag_hooks.hooks.calls import CallStack
from lswag_hooks.hooks.forward import Watcher, mark
from lswag_hooks.hooks.graph import Graph, read_graph
from lswag_hooks.hooks.inventory import WeightLayer, take_inventory
from lswag_hooks.hooks.placing import settle
from lswag_hooks.hooks.rules import blocks
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.hooks.weights import GradientCapture, LayerGradients


class GradientHooks:
    """Per-sample gradients of every weight layer, from one backward pass of your own loss.

    The model is left in the mode in which it is, nothing is accumulated in ``.grad``, and hooks are gone afterwards.

    Args:
        model: any module.

    Attributes:
        uncovered: after ``per_sample``: weights without per-sample gradients, with the reason.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> x, y = torch.randn(5, 2, 4), torch.tensor([0, 1, 1, 0, 1])
        >>> with GradientHooks(net) as hooks:
        ...     loss = nn.functional.cross_entropy(net(x), y)
        ...     for layer, gradients in hooks.per_sample(loss, samples=5):
        ...         print(layer, tuple(gradients.shape))
        3 (5, 2, 4)
        1 (5, 4, 8)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.uncovered: dict[str, str] = {}
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._marked = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> GradientHooks:
        for parameter in self.model.parameters():
            if parameter.is_floating_point() and not parameter.requires_grad:
                self._stack.callback(parameter.requires_grad_, False)
                parameter.requires_grad_(True)
        self._stack.callback(self.model.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._inputs = None

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._inputs = args, kwargs
        (marked, by_name), self._marked = mark((args, kwargs))
        return marked, by_name

    def per_sample(self, loss: Tensor, samples: int, reduction: str = "mean") -> Iterator[tuple[str, Tensor]]:
        r"""Backpropagate and yield each layer with its per-sample gradients, last layer first.

        Args:
            loss: a scalar computed from the model's output inside the context.
            samples: batch size.
            reduction: how the loss joins samples; with ``"mean"`` gradients are scaled by ``samples``, so that they are
                those of each sample's own loss.

        Yields:
            The layer's name and a tensor of shape (samples, \*weight shape).

        Raises:
            InputError: the model did not run inside the context, the loss is not one number, or an unknown reduction.
        """
        if reduction not in ("mean", "sum"):
            raise InputError(f"reduction={reduction!r} is unknown: use 'mean' or 'sum'.")
        if loss.numel() != 1:
            raise InputError(f"the loss must be one number, got {tuple(loss.shape)}: reduce it over the batch.")
        if self._inputs is None:
            raise InputError("run the model inside `with GradientHooks(model) as hooks:` before asking for gradients.")
        watcher = Watcher(self.model, samples)
        graph = read_graph([loss], watcher.parameters.names, self._marked)
        settle(graph, watcher.parameters, samples, self._experiment(samples))
        inventory = take_inventory(graph, watcher.parameters)
        self.uncovered = dict(inventory.uncovered)
        found: list[tuple[WeightLayer, LayerGradients]] = []
        capture = GradientCapture(graph, watcher.parameters, samples)
        scale = float(samples) if reduction == "mean" else 1.0
        capture.run(
            loss, inventory.layers, lambda layer, gradients: found.append((layer, gradients)), scale, retain_graph=True
        )
        while found:
            layer, gradients = found.pop(0)
            source = gradients.source
            if source is None:
                self.uncovered[layer.parameter] = "the loss does not reach it"
                continue
            with torch.no_grad(), no_autocast(loss.device):
                tiles = [torch.cat([source.block(part, rows) for part in parts]) for rows, parts in blocks(source)]
                whole = source.restore(torch.cat(tiles, 1))
            yield layer.name, whole

    def _experiment(self, samples: int) -> Any:
        """The pass (a, a, b) over the inputs that the model was called with."""
        assert self._inputs is not None
        kept = self._inputs, self._marked
        args, kwargs = self._inputs

        def three(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() and len(value) == samples:
                return value[[0, 0, 1]]
            return value

        def run() -> tuple[Graph, dict[str, Tensor]]:
            inputs = tuple(map(three, args)), {key: three(value) for key, value in kwargs.items()}
            try:
                with ProbeSession(self.model, "eval"):
                    return Watcher(self.model, 3).outputs(
                        inputs, lambda marked: _total(self.model(*marked[0], **marked[1]))
                    )
            finally:  # the experiment's inputs are not the caller's
                self._inputs, self._marked = kept

        return run


def _total(outputs: Any) -> Tensor:
    """A scalar that every tensor of an output enters."""
    if isinstance(outputs, Tensor):
        return outputs.sum()
    values = outputs.values() if hasattr(outputs, "values") else outputs
    total = torch.zeros(())
    for value in values:
        if isinstance(value, (Tensor, tuple, list, dict)):
            total = total + _total(value)
    return total


class ActivationHooks:
    """Binarised activations of every activation layer, as the model runs.

    Args:
        model: any module.
        samples: batch size; by default the first dimension of each activation is taken for it.

    Attributes:
        codes: layer -> boolean tensor (samples, units), code = output > 0; a layer that runs again gets a number.
        skipped: gates and clamps, which have no code, and activations whose first dimension is not the sample.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> with ActivationHooks(net) as hooks:
        ...     _ = net(torch.randn(6, 4))
        >>> {layer: tuple(codes.shape) for layer, codes in hooks}
        {'1': (6, 3)}
    """

    def __init__(self, model: nn.Module, samples: int | None = None) -> None:
        self.model, self.samples = model, samples
        self.codes: dict[str, Tensor] = {}
        self.skipped: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ActivationHooks:
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        calls = self._stack.enter_context(CallStack(self.model))
        self._capture = self._stack.enter_context(ActivationCapture(calls, self._record))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self.skipped += [f"{call.name or 'the top level'} ({call.function})" for call in self._capture.others]

    def _record(self, call: ActivationCall, output: Tensor) -> None:
        if not output.dim() or (self.samples is not None and len(output) != self.samples):
            self.skipped.append(f"{call.name}: shape {tuple(output.shape)}, first dimension is not the sample")
            return
        self.codes[call.name or call.function] = output.detach().reshape(len(output), -1) > 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.codes.items())
