"""What a pass of its own is, and how several are run without seeing each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.hooks.session import Mode, ProbeSession
from lswag_hooks.objective import Objective


class Undefined(Exception):
    """What a pass would show does not exist for this model; the message says why."""


@dataclass(frozen=True)
class Pass:
    """A pass beside the main one: other inputs, other weights, other modes, or another derivative.

    Its options are its fields: two proxies whose passes are equal share one.

    Class attributes: ``need``, the key of :data:`lswag_hooks.proxies.base.NEEDS` that it serves; ``reads_batch``: its
    result depends on the samples, and not on their shape alone.
    """

    need: ClassVar[str]
    reads_batch: ClassVar[bool] = True

    def run(self, session: ProbeSession, batch: Batch, objective: Objective) -> Any:
        """What the pass shows, free of any graph.

        Args:
            session: open on the model, in the mode that was asked for; whatever changes within is put back after it.
            batch: the samples.
            objective: forward pass and loss.

        Raises:
            Undefined: it shows nothing for this model.
        """
        raise NotImplementedError


@dataclass
class Passed:
    """What the passes showed, why some showed nothing, and which of these broke down and may not do so again."""

    found: dict[Pass, Any] = field(default_factory=dict)
    reasons: dict[Pass, str] = field(default_factory=dict)
    broken: set[Pass] = field(default_factory=set)


def run_passes(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    passes: Iterable[Pass],
    mode: Mode = "score",
    seed: int | None = None,
    refused: str = "",
) -> Passed:
    """Run each pass once, in a session of its own, so that none sees what another one changed or drew.

    A pass that fails takes only its own proxies with it; an interruption gets through.

    Args:
        model: is put back after each pass.
        batch: the samples.
        objective: forward pass and loss.
        passes: equal ones run once.
        mode: of the sessions.
        seed: of the sessions.
        refused: why passes that read the whole batch cannot be run, if so.
    """
    result = Passed()
    for wanted in dict.fromkeys(passes):
        if refused and wanted.reads_batch:
            result.reasons[wanted] = f"the pass {wanted.need!r} {refused}"
            continue
        try:
            with ProbeSession(model, mode, seed) as session:
                result.found[wanted] = wanted.run(session, batch, objective)
        except (Undefined, InputError) as error:
            result.reasons[wanted] = str(error)
        except Exception as error:  # a model may refuse any input, weight or mode that is not its usual one
            first = (str(error).splitlines() or [""])[0]
            result.reasons[wanted] = f"the pass {wanted.need!r} failed with {type(error).__name__}: {first}"
            result.broken.add(wanted)
    return result
