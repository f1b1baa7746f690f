"""What a search found: the best architectures, the front, everything that was scored, and the baseline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lswag_hooks.errors import InputError
from lswag_hooks.search.loop import Seen
from lswag_hooks.search.pareto import best_first, pareto_front
from lswag_hooks.search.problem import LATENCY
from lswag_hooks.wording import jsonable, quantity

if TYPE_CHECKING:
    import optuna
    import pandas as pd

BEST = 10  # architectures in tables and files


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        seen: all candidates, in the order in which they were proposed.
        computed: how many candidates were scored.
        reused: how many scores the store had.
        scoring_seconds: what scoring alone took, of ``seconds``.
        history: what happened step by step.
        settings: what it takes to do it again.
        spared: of how many candidates not everything was computed, because they were ruled out before.
    """

    seen: Seen
    computed: int = 0
    reused: int = 0
    scoring_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    spared: int = 0

    @property
    def evaluations(self) -> int:
        """How many candidates were scored, now or before."""
        return self.computed + self.reused

    @property
    def seconds(self) -> float:
        """What all of it took."""
        return self.seen.seconds

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it; the same call with the same store goes on."""
        return self.seen.interrupted

    @cached_property
    def values(self) -> np.ndarray:
        """All objectives of all candidates, higher is better; merged scores are ranks among all of them."""
        return self.seen.values()

    @property
    def best(self) -> str:
        """The architecture with the best score; with several objectives it is one end of the front.

        Raises:
            InputError: none could be scored; says why.
        """
        found = self.top(1)
        if not found:
            reasons = Counter(reason for one in self.seen.measured for reason in one.reasons.values())
            said = "; ".join(reason for reason, _ in reasons.most_common(3)) or "nothing was scored"
            raise InputError(f"no architecture could be scored: {said}.")
        return found[0]

    def top(self, number: int = BEST) -> list[str]:
        """The architectures with the best scores, best first."""
        return [self.seen.architectures[row] for row in best_first(self.values[:, :1], number)]

    @property
    def front(self) -> list[str]:
        """The architectures than which none is better in every objective, best score first."""
        rows = pareto_front(self.values)
        order = sorted(rows, key=lambda row: -self.values[row, 0])
        return [self.seen.architectures[row] for row in order]

    @cached_property
    def baseline(self) -> dict[str, Any]:
        """The best of the candidates that were drawn at random, and how many these were.

        They cost nothing more: evolution begins with them. Random search with as many evaluations as the search itself
        is ``search(..., algorithm="random")`` with the same store, which has these already.
        """
        drawn = [row for row, origin in enumerate(self.seen.origins) if origin == "random"]
        found = best_first(self.values[drawn, :1], 1) if drawn else []
        return {
            "evaluations": len(drawn),
            **({"architecture": None, "score": None} if not found else self._row(drawn[found[0]])),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row a candidate, best score first: scores, costs, how it came about, whether it is of the front."""
        import pandas as pd

        front = set(self.front)
        order = best_first(self.values[:, :1], len(self.seen))
        order += sorted(set(range(len(self.seen))) - set(order))
        rows = []
        for row in order:
            one = self.seen.measured[row]
            shown = self._row(row)
            scores = shown.pop("scores")
            rows.append(
                {
                    **shown,
                    **scores,
                    "front": shown["architecture"] in front,
                    "origin": self.seen.origins[row],
                    "generation": self.seen.generations[row],
                    "number": row,
                    "reason": "; ".join(dict.fromkeys(one.reasons.values())) or None,
                    "seconds": one.seconds,
                }
            )
        return pd.DataFrame(rows)

    def to_dict(self, number: int = BEST) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON.

        Args:
            number: of best architectures.
        """
        made = jsonable(
            {
                "settings": self.settings,
                "best": [self._row(row) for row in best_first(self.values[:, :1], number)],
                "front": [self._row(self.seen.architectures.index(name)) for name in self.front]
                if len(self.seen.objective.names) > 1
                else None,
                "baseline": self.baseline,
                "evaluations": {"total": self.evaluations, "done": self.computed, "reused": self.reused},
                "left_out_early": self.spared,
                "history": self.history,
                "interrupted": self.interrupted,
                "notes": self.seen.notes,
                "seconds": self.seconds,
                "scoring_seconds": self.scoring_seconds,
            }
        )
        assert isinstance(made, dict)
        return made

    def to_yaml(self, path: str | Path | None = None, number: int = BEST) -> str:
        """The best architectures (the whole front, with several objectives) as YAML, which recipes read.

        Args:
            path: of a file to write, too.
            number: of architectures.
        """
        import yaml

        several = len(self.seen.objective.names) > 1
        names = self.front if several else self.top(number)
        content = {
            "space": self.settings.get("space"),
            "task": self.settings.get("task"),
            "architectures": [jsonable(self._row(self.seen.architectures.index(name))) for name in names],
            "settings": jsonable(self.settings),
        }
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def study(self) -> optuna.Study:
        """All candidates as trials of an Optuna study, for its plots and its importances of choices.

        A trial's parameters are the choices of the space that compose its architecture; its values are the objectives,
        of which the score is to be maximised and the costs to be minimised.
        """
        from lswag_hooks.search.trials import study_of

        return study_of(self.seen, self.values)

    def cells(self, number: int = BEST) -> tuple[list[str], list[list[str]]]:
        """Headers and texts of a table of the best architectures, or of the front."""
        keys = [proxy.key for proxy in self.seen.objective.proxies]
        keys += [name for name in self.seen.objective.names if name == LATENCY]
        several = len(self.seen.objective.names) > 1
        names = self.front if several else self.top(number)
        rows = []
        for name in names[:number]:
            shown = self._row(self.seen.architectures.index(name))
            scores = [f"{shown['scores'][key]:.6g}" for key in keys]
            rows.append([name, *scores, quantity(shown["params"]), quantity(shown["flops"])])
        return ["architecture", *keys, "params", "flops"], rows

    def remarks(self) -> list[str]:
        """What to know, a line each."""
        rate = self.computed / self.scoring_seconds if self.scoring_seconds else float("nan")
        said = [
            f"{self.evaluations} evaluations: {self.computed} done, {self.reused} reused; {self.seconds:.1f} s"
            + (f", scoring {quantity(rate)}/s a worker" if self.computed else "")
        ]
        base = self.baseline
        if base["architecture"] is not None and self.settings.get("algorithm") != "random":
            scores = ", ".join(f"{key} {value:.6g}" for key, value in base["scores"].items())
            said.append(f"random, the best of {base['evaluations']}: {base['architecture']} ({scores})")
        if self.spared:
            said.append(f"left out early: of {self.spared} candidates not everything was computed")
        failed = Counter(reason for one in self.seen.measured for reason in {*one.reasons.values()})
        said += [f"not scored: {count} architectures: {reason}" for reason, count in failed.most_common(3)]
        said += self.seen.notes
        if self.interrupted:
            said.append("interrupted: what is shown is of what is scored so far; the same command goes on")
        return said

    def _row(self, row: int) -> dict[str, Any]:
        name = self.seen.architectures[row]
        cost = self.seen.problem.cost(name)
        return {
            "architecture": name,
            "score": float(self.values[row, 0]),
            "params": cost.params,
            "flops": cost.flops,
            "macs": cost.macs,
            "scores": dict(self.seen.measured[row].scores),
        }
