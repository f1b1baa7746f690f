"""What comes out of a comparison of proxies with known accuracies: the table, its pictures, what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lswag_hooks.correlation import Estimate, correlations
from lswag_hooks.wording import jsonable

if TYPE_CHECKING:
    import pandas as pd

BASELINES = ("params", "flops", "depth", "log_size")
TENTHS = tuple(f"lswag tenth {tenth}" for tenth in range(10))


@dataclass
class Agreement:
    """Scores of networks beside their known accuracies, and how well they agree.

    Correlations are taken over the networks for which *every* proxy gave a value, so that they can be compared. A proxy
    that has none on more than half of the networks, being defined on some families alone, takes no network from the
    others: its correlation is over those of them where it has a value.

    Attributes:
        scores: one row an architecture, one column a proxy; NaN where there is none.
        accuracy: of each architecture.
        reasons: why scores of an architecture are missing, by architecture.
        higher_is_better: of each proxy.
        settings: what it takes to do it again.
        seconds: of scoring alone, by architecture.
        published: the benchmark's own values of proxies, where it has some.
        interrupted: whether it was stopped before all architectures were scored.
        resamples: of the bootstrap.
    """

    scores: pd.DataFrame
    accuracy: pd.Series
    reasons: dict[str, str] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    published: pd.DataFrame | None = None
    interrupted: bool = False
    resamples: int = 1000

    @property
    def proxies(self) -> list[str]:
        """Columns that are proxies of their own, not tenths of one."""
        return [name for name in self.scores if name not in TENTHS]

    @property
    def answered(self) -> list[str]:
        """Proxies that gave a value on at least half of the networks with any: these decide which are compared."""
        there = self.scores[self.proxies].dropna(how="all").notna()
        return [name for name in self.proxies if len(there) and there[name].mean() >= 0.5]

    @cached_property
    def complete(self) -> pd.Index:
        """Architectures for which every proxy of ``answered`` gave a value."""
        return self.scores[self.answered].dropna().index if self.answered else self.scores.index[:0]

    @cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Correlations of each proxy: ``spearman``, ``kendall``, ``pearson``, and ``partial``, given the sizes."""
        chosen = self.scores.loc[self.complete, self.proxies]
        given = [name for name in BASELINES if name in chosen and chosen[name].nunique() > 1]
        return correlations(
            {name: chosen[name].to_numpy() for name in chosen},
            self.accuracy.loc[self.complete].to_numpy(),
            given,
            self.higher_is_better,
            resamples=self.resamples,
        )

    @cached_property
    def tenths(self) -> dict[int, Estimate]:
        """Spearman of L-SWAG over one tenth of the layers alone, by tenth; empty where that was not asked for."""
        columns = {tenth: self.scores[name] for tenth, name in enumerate(TENTHS) if name in self.scores}
        found = {}
        for tenth, column in columns.items():
            both = column.dropna().index
            table = correlations({"tenth": column[both]}, self.accuracy[both], resamples=self.resamples)
            found[tenth] = table["tenth"]["spearman"]
        return found

    def to_pandas(self) -> pd.DataFrame:
        """One row a proxy: each correlation with the ends of its interval, and the number of networks."""
        import pandas as pd

        rows = []
        for name, found in self.estimates.items():
            row: dict[str, Any] = {"proxy": name, "networks": next(iter(found.values())).pairs}
            for key, one in found.items():
                row |= {key: one.value, f"{key}_low": one.low, f"{key}_high": one.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON: what is NaN is None there."""
        made = jsonable(
            {
                "settings": self.settings,
                "networks": len(self.complete),
                "interrupted": self.interrupted,
                "correlations": {n: {k: asdict(e) for k, e in found.items()} for n, found in self.estimates.items()},
                "tenths": {str(tenth): asdict(e) for tenth, e in self.tenths.items()},
                "missing": self.reasons,
                "seconds": sum(self.seconds.values()),
            }
        )
        assert isinstance(made, dict)
        return made

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headers and texts of the table, best first; a star marks the sizes, the baselines of all others."""
        headers = ["proxy", "Spearman", "Kendall", "Pearson", "given size"]
        keys = ["spearman", "kendall", "pearson", "partial"]
        order = sorted(self.estimates.items(), key=lambda item: -_or_least(item[1]["spearman"].value))
        rows = []
        for name, found in order:
            shown = [_short(found[key]) if key in found else "-" for key in keys]
            rows.append([f"{name}*" if name in BASELINES else name, *shown])
        return headers, rows

    def remarks(self) -> list[str]:
        """What was left out, and what to know, a line each."""
        total = len(self.scores)
        said = [f"over the {len(self.complete)} of {total} networks for which every proxy gave a value"]
        for name in self.proxies:
            if name not in self.answered:
                has = int(self.scores.loc[self.complete, name].notna().sum())
                said.append(
                    f"{name}: over {has} of these alone, where it has a value"
                    if has
                    else f"no value on any of these: {name}"
                )
        counted: dict[str, int] = {}
        for name, reason in self.reasons.items():
            if name not in self.complete:
                counted[reason] = counted.get(reason, 0) + 1
        said += [f"left out: {number} networks: {reason}" for reason, number in counted.items()]
        if self.interrupted:
            said.append("interrupted: what is shown is of the networks scored so far; the same command goes on")
        return said

    def save(self, folder: str | Path, plots: bool = True) -> list[Path]:
        """Write ``correlations.csv``, ``scores.csv``, ``summary.json`` and, with ``plots``, pictures.

        Args:
            folder: made where it does not exist.
            plots: score against accuracy, rank against rank, and correlation by tenth of the layers where it was asked.

        Returns:
            The files.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.to_pandas().to_csv(target / "correlations.csv", index=False)
        self.scores.assign(accuracy=self.accuracy).to_csv(target / "scores.csv", index_label="architecture")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (target / "summary.json").write_text(text + "\n", encoding="utf-8")
        files = [target / name for name in ("correlations.csv", "scores.csv", "summary.json")]
        if plots and len(self.complete):
            from lswag_hooks.report import plots as pictures

            chosen = self.scores.loc[self.complete, self.answered]
            columns = {
                name: (chosen[name] if self.higher_is_better.get(name, True) else -chosen[name]).tolist()
                for name in chosen
            }
            truth = self.accuracy.loc[self.complete].tolist()
            drawn = {
                "scores.png": pictures.scores_against_accuracy(columns, truth),
                "ranks.png": pictures.ranks_against_ranks(columns, truth),
            }
            if self.tenths:
                whole = self.estimates["lswag"]["spearman"] if "lswag" in self.estimates else None
                drawn["tenths.png"] = pictures.correlation_by_percentile(self.tenths, whole)
            for name, figure in drawn.items():
                figure.savefig(target / name, dpi=150)
                files.append(target / name)
        return files


def _short(estimate: Estimate) -> str:
    """Two decimals, no leading zero: four of these stand side by side in 80 columns."""
    if estimate.value != estimate.value:
        return "-"
    value, low, high = (f"{n:.2f}".replace("0.", ".", 1) for n in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low},{high}]"


def _or_least(value: float) -> float:
    return value if value == value else float("-inf")
