"""Which channels of a convolution answer to which channels before it: for NASGraph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lswag_hooks.batch import Batch
from lswag_hooks.hooks.graph import CHECKPOINTED, Node, shape_of
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective
from lswag_hooks.passes.base import Pass, Undefined
from lswag_hooks.passes.common import predict, watched
from lswag_hooks.passes.draws import Init, generator, redraw

INPUT = -1  # the number of the input among the layers


@dataclass
class _Call:
    """One call of a convolution: the node it made, what went in, and the BatchNorm right behind it."""

    module: nn.Module
    node: Node
    before: Node
    shape: tuple[int, ...]
    output: Tensor
    norm: nn.Module | None = None
    parents: dict[int, int] = field(default_factory=dict)  # layer -> its first channel in what went in


@dataclass(frozen=True)
class ChannelEdges:
    """Edges from the channels of one layer to those of another; boolean, shape (channels, channels)."""

    parent: int
    child: int
    edges: Tensor


@dataclass(frozen=True)
class ChannelGraph(Pass):
    """One forward pass to see which convolution feeds which, then each convolution on one map of ones a channel.

    Args:
        init: draw the weights anew, ``"normal"`` as published; None: as they are.
        norms: the BatchNorm right behind a convolution belongs to it, with the statistics of those maps.
        seed: of the draws.
    """

    need: ClassVar[str] = "graph"
    init: Init | None = "normal"
    norms: bool = True
    seed: int = 0

    @property
    def reads_batch(self) -> bool:
        """Their shape alone."""
        return False

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> list[ChannelEdges]:
        """Edges between layers, the last of which is the identity behind those that nothing but the head follows."""
        model, images = session.model, batch.inputs
        if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
            raise Undefined("the inputs are no images")
        if self.init:
            redraw(model, self.init, generator((session.seed or 0) + self.seed))
        calls: list[_Call] = []

        def see(path: str, module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(module, nn.Conv2d) and isinstance(given, Tensor) and given.dim() == 4:
                calls.append(_Call(module, output.grad_fn, given.grad_fn, tuple(given.shape), output))
            elif isinstance(module, _BatchNorm) and calls and given is calls[-1].output:
                calls[-1].norm = module

        session.set_mode("score")
        start = images[:2].detach().clone().requires_grad_().clone()
        with watched(model, see, (nn.Conv2d, _BatchNorm)):
            outputs = predict(model, start)
        if not calls:
            raise Undefined("no convolution")
        known = {call.node: number for number, call in enumerate(calls)}
        known[start.grad_fn] = INPUT
        widths = {number: call.output.shape[1] for number, call in enumerate(calls)} | {INPUT: images.shape[1]}
        found: list[ChannelEdges] = []
        with torch.no_grad():
            for number, call in enumerate(calls):
                answers = self._answers(call)
                for parent, first in _parents(call.before, known).items():
                    rows = answers[first : first + widths[parent]]
                    if len(rows) != widths[parent]:
                        raise Undefined("channels are split or rearranged between convolutions")
                    found.append(ChannelEdges(parent, number, rows))
        last = _parents(outputs.grad_fn, known)
        width = max((first + widths[parent] for parent, first in last.items()), default=0)
        for parent, first in last.items():
            behind = torch.eye(width, dtype=torch.bool, device="cpu")[first : first + widths[parent]]
            found.append(ChannelEdges(parent, len(calls), behind))
        return found

    def _answers(self, call: _Call) -> Tensor:
        """Whether each output channel answers to each input channel."""
        channels, height, width = call.shape[1:]
        weight = next(call.module.parameters())
        ones = torch.eye(channels, dtype=weight.dtype, device=weight.device)[:, :, None, None]
        answer = call.module(ones.expand(-1, -1, height, width))
        if self.norms and call.norm is not None:
            answer = call.norm(answer)
        return answer.relu().sum((2, 3)).ne(0).cpu()  # type: ignore[no-any-return]


def _parents(node: Node, known: dict[Node, int]) -> dict[int, int]:
    """Layers from which a path leads to a node without another layer on the way, each with its channel offset."""
    found: dict[int, int] = {}
    seen: set[tuple[Node, int]] = set()
    stack: list[tuple[Node, int]] = [(node, 0)]
    while stack:
        current, offset = stack.pop()
        if current is None or (current, offset) in seen:
            continue
        seen.add((current, offset))
        if current in known:
            found.setdefault(known[current], offset)
            continue
        if current.name() == "CheckpointFunctionBackward":
            raise Undefined(CHECKPOINTED)
        joins = current.name() == "CatBackward0" and len(shape_of(current.next_functions[0]) or ()) == 4
        for edge in current.next_functions:
            stack.append((edge[0], offset))
            if joins and current._saved_dim in (1, 1 - 4, 2**64 - 3):
                offset += (shape_of(edge) or (0, 0))[1]
    return found
