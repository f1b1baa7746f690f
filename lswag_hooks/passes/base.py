"""What a pass of its own is, and how several are run without seeing each other."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from lswag_hooks import parts
from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.hooks.calls import CallStack, OverBudget
from lswag_hooks.hooks.session import ProbeSession
from lswag_hooks.objective import Objective, forward
from lswag_hooks.wording import quantity

Read: TypeAlias = Callable[[Any], Any]


class Undefined(Exception):
    """What a pass would show does not exist for this model; the message says why."""


@dataclass(frozen=True)
class Pass(abc.ABC):
    """A pass beside the main one: other inputs, other weights, other modes, or another derivative.

    Its options are its fields: two proxies whose passes are equal share one.

    Class attributes: ``need``, the key of :data:`lswag_hooks.proxies.base.NEEDS` that it serves; ``joint``: it holds
    several of the samples at once; ``holds``: how many times what a forward pass holds, 0 without
    gradients.
    """

    need: ClassVar[str]
    joint: ClassVar[bool] = True
    holds: ClassVar[int] = 1

    @property
    def reads_batch(self) -> bool:
        """Whether the result depends on the samples, and not on their shape alone."""
        return True

    @abc.abstractmethod
    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> Any:
        """What the pass shows, free of any graph.

        Args:
            session: open on the model, in the mode that was asked for; whatever changes within is put back after it.
            batch: the samples.
            objective: forward pass and loss.

        Raises:
            Undefined: it shows nothing for this model.
        """


@dataclass(frozen=True)
class Reading(Pass):
    """A pass that reads one forward pass of the whole batch: those that leave the weights as they are read the same."""

    @property
    def shares(self) -> bool:
        """Whether others may read the same forward pass."""
        return True

    @abc.abstractmethod
    def watch(self, session: ProbeSession, batch: Batch, inputs: Any, stack: contextlib.ExitStack) -> Read:
        """Make ready for the forward pass.

        Args:
            session: open on the model.
            batch: the samples.
            inputs: of the forward pass; real numbers among them require a gradient.
            stack: for what is to be open while it runs.

        Returns:
            What turns the model's outputs into what :meth:`run` returns, and keeps the graph.
        """

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> Any:
        """What a forward pass of its own shows."""
        _, (read,) = look(session, batch, [self], parts.mapped(batch.inputs, _leaf))
        return read()


def look(
    session: ProbeSession, batch: Batch, readers: Sequence[Reading], inputs: Any
) -> tuple[Any, list[Callable[[], Any]]]:
    """One forward pass under the eyes of all readers: its outputs, and for each reader what gives its result.

    Args:
        session: open on the model.
        batch: the samples.
        readers: passes that read it.
        inputs: those of the batch, real numbers requiring a gradient.

    Raises:
        Undefined: before the forward pass, one of them shows nothing for such inputs.
    """
    with contextlib.ExitStack() as stack:
        reads = [reader.watch(session, batch, inputs, stack) for reader in readers]
        outputs = forward(session.model, parts.mapped(inputs, torch.clone))  # copies: a model may work in place
    return outputs, [functools.partial(read, outputs) for read in reads]


def readers_of(passes: Iterable[Pass]) -> list[Reading]:
    """Passes that may read one and the same forward pass."""
    return [one for one in dict.fromkeys(passes) if isinstance(one, Reading) and one.shares]


def _bounded(session: ProbeSession, wanted: Pass, budget: int | None) -> contextlib.AbstractContextManager[Any]:
    if budget is None or not wanted.holds:
        return contextlib.nullcontext()
    return CallStack(session.model, budget // wanted.holds, each=True)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor


@dataclass
class Passed:
    """What the passes showed, why some showed nothing, and which of these broke down and may not do so again."""

    found: dict[Pass, Any] = field(default_factory=dict)
    reasons: dict[Pass, str] = field(default_factory=dict)
    broken: set[Pass] = field(default_factory=set)


def run_passes(
    session: ProbeSession,
    batch: Batch,
    objective: Objective,
    passes: Iterable[Pass],
    refused: str = "",
    before: Passed | None = None,
    budget: int | None = None,
) -> Passed:
    """Run each pass once, in a session of its own, so that none sees what another one changed or drew.

    Those that only read the same forward pass share that, and its session. A pass that fails takes only its own proxies
    with it; an interruption gets through.

    Args:
        session: of the model, not open; each pass opens it again, with what it copied if it was open before.
        batch: the samples.
        objective: forward pass and loss.
        passes: equal ones run once.
        refused: why passes that read the whole batch cannot be run, if so.
        before: what some of them showed already, or why they did not; the rest is written into it.
        budget: bytes of outputs that a pass may hold; one that wants more is broken off. None: no bound.
    """
    result = Passed() if before is None else before
    passes = [one for one in dict.fromkeys(passes) if one not in result.found and one not in result.reasons]
    readers = [] if refused else readers_of(passes)
    if len(readers) > 1:
        # whatever fails is tried alone below: a checkpointed segment, for one, can be gone back through only once
        with contextlib.suppress(Exception):
            shown: dict[Pass, Any] = {}
            with session.again() as opened, CallStack(session.model, budget):
                _, reads = look(opened, batch, readers, parts.mapped(batch.inputs, _leaf))
                for reader, read in zip(readers, reads, strict=True):
                    with contextlib.suppress(Exception):
                        shown[reader] = read()
            result.found.update(shown)
    for wanted in passes:
        if wanted in result.found:
            continue
        if refused and wanted.reads_batch:
            result.reasons[wanted] = f"the pass {wanted.need!r} {refused}"
            result.broken.add(wanted)  # another time there may be more memory, or one process
            continue
        try:
            with session.again() as opened, _bounded(session, wanted, budget):
                found = wanted.run(opened, batch, objective)
            result.found[wanted] = found
        except OverBudget as error:
            fewer = " or fewer samples" if wanted.joint and wanted.reads_batch else ""
            result.reasons[wanted] = (
                f"the pass {wanted.need!r} holds more than {quantity(error.seen * wanted.holds)}B of the "
                f"{quantity(budget or 0)}B of max_memory (by default 60 % of what is free): raise max_memory, or score "
                f"smaller inputs{fewer}"
            )
            result.broken.add(wanted)
        except (Undefined, InputError) as error:
            result.reasons[wanted] = str(error)
        except Exception as error:  # a model may refuse any input, weight or mode that is not its usual one
            first = (str(error).splitlines() or [""])[0]
            result.reasons[wanted] = f"the pass {wanted.need!r} failed with {type(error).__name__}: {first}"
            result.broken.add(wanted)
    return result
