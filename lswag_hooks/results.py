"""The result of a score: a mapping from proxy to value, with everything that was seen on the way."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from lswag_hooks.coverage import Coverage
from lswag_hooks.profile import ActivationRow, LayerProfile, WeightRow
from lswag_hooks.verify import VerificationRow
from lswag_hooks.wording import jsonable

_T = TypeVar("_T")


@dataclass
class ScoreResult(Mapping[str, float]):
    """Scores of one network, by proxy, with everything that was seen on the way.

    Attributes:
        scores: value of each proxy; NaN where it cannot be had.
        reasons: why, for those.
        profile: layer by layer.
        coverage: what was covered and what was not, by name and reason.
        seconds: wall-clock time.
        samples: batch size.
        parameters: number of parameters.
        settings: what it takes to reproduce the scores.
        notes: warnings in words.
        changes: what ``init="wake"`` changed.
        memory: bytes held beside an ordinary training step, which a score spares the weights' gradients: ``copies`` of
            parameters and buffers, ``codes``, one ``tile`` of per-sample gradients, ``statistics`` kept over the
            ``parts`` of a batch that did not fit; on a GPU also the ``peak`` of all that was allocated.
        verification: with ``verify=True``, how far each layer's gradients are from autograd's.
        broken: proxies without a value because something broke down that may not do so another time.
    """

    scores: dict[str, float]
    reasons: dict[str, str]
    profile: LayerProfile
    coverage: Coverage
    seconds: float
    samples: int
    parameters: int
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    verification: list[VerificationRow] | None = None
    broken: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> float:
        if key not in self.scores:
            raise KeyError(f"{key!r} was not asked for; this result has {', '.join(self.scores)}")
        return self.scores[key]

    def __iter__(self) -> Any:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON; a score that cannot be had is None."""
        return cast("dict[str, Any]", jsonable(self._plain()))

    def to_text(self) -> str:
        """All of it as text, from which :meth:`from_text` makes it again, to the last bit of every number."""
        return json.dumps(self._plain(), default=_number, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> ScoreResult:
        """Undo :meth:`to_text`."""
        return cls.from_dict(json.loads(text))

    def _plain(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["coverage"], plain["profile"] = self.coverage.to_dict(), self.profile.to_dict()
        if self.verification is not None:
            plain["verification"] = [dataclasses.asdict(row) for row in self.verification]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ScoreResult:
        """Undo :meth:`to_dict`; fields of another version of this package are left out."""
        profile, coverage = plain["profile"], plain["coverage"]
        verification = plain.get("verification")
        return _made(
            cls,
            plain,
            scores={key: math.nan if value is None else value for key, value in plain["scores"].items()},
            profile=LayerProfile(
                [_made(WeightRow, row, shape=tuple(row["shape"])) for row in profile["weights"]],
                [_made(ActivationRow, row) for row in profile["activations"]],
            ),
            coverage=_made(
                Coverage, coverage, activations=Counter(coverage["activations"]), gates=Counter(coverage["gates"])
            ),
            verification=None if verification is None else [_made(VerificationRow, row) for row in verification],
        )

    def __str__(self) -> str:
        """Scores, then notes."""
        lines = [
            f"{name:12} {value:.6g}" + (f"  ({self.reasons[name]})" if name in self.reasons else "")
            for name, value in self.scores.items()
        ]
        return "\n".join([*lines, str(self.coverage), *(f"note: {note}" for note in self.notes)])


def _number(value: Any) -> Any:
    """What JSON has no word for: numbers of NumPy, and settings that are objects."""
    return value.item() if hasattr(value, "item") else str(value)


def _made(kind: type[_T], values: Mapping[str, Any], **others: Any) -> _T:
    """An instance from those values that are fields of its class."""
    known = {entry.name for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in {**values, **others}.items() if key in known})
