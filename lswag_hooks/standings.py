"""What comes out of a ranking: a row for each candidate, its size beside its score, and what is not settled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from lswag_hooks.errors import InputError
from lswag_hooks.results import ScoreResult
from lswag_hooks.scoring import ZERO_WARNING
from lswag_hooks.wording import jsonable, named, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass
class Row:
    """One candidate.

    Attributes:
        name: what it is called.
        scores: each proxy's mean over seeds; NaN where no seed gave a value.
        spreads: each proxy's standard deviation over seeds; NaN where fewer than two gave a value.
        rank: 1 is the best by the first proxy; None without a score. Equal scores share a rank.
        params: number of parameters.
        flops: multiply-accumulates of one sample.
        depth: number of weight layers.
        log_size: sum over weight layers of the logarithm of their number of weights.
        zero_gradient_share: share of weights whose gradient is exactly zero, worst seed.
        coverage: share of the layer weights that was covered, worst seed.
        seconds: time to build and score it, all seeds.
        reason: why a score is missing; empty if none is.
        facts: what else is known of it, by the title of its column.
    """

    name: str
    scores: dict[str, float]
    spreads: dict[str, float] = field(default_factory=dict)
    rank: int | None = None
    params: float = math.nan
    flops: float = math.nan
    depth: float = math.nan
    log_size: float = math.nan
    zero_gradient_share: float = math.nan
    coverage: float = math.nan
    seconds: float = 0.0
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def summarise(
    name: str, proxies: Sequence[str], found: Mapping[int, ScoreResult], failures: Mapping[int, str], seconds: float
) -> Row:
    """Join the seeds of one candidate.

    Args:
        name: of the candidate.
        proxies: keys of those that were asked for.
        found: result of each seed that could be scored.
        failures: reason of each that could not.
        seconds: time that all of it took.
    """
    values = {key: [r[key] for r in found.values() if math.isfinite(r[key])] for key in proxies}
    row = Row(
        name,
        {key: fmean(values[key]) if values[key] else math.nan for key in proxies},
        {key: stdev(values[key]) if len(values[key]) > 1 else math.nan for key in proxies},
        seconds=seconds,
        reason=_reason(proxies, found, failures),
    )
    if found:
        any_seed = next(iter(found.values()))
        layers = any_seed.profile.weights
        row.params, row.flops = float(any_seed.parameters), any_seed.scores.get("flops", math.nan)
        if layers:  # none were looked for if only sizes were asked for
            row.depth, row.log_size = float(len(layers)), sum(math.log(layer.size) for layer in layers)
            row.coverage = min(result.coverage.weight_share for result in found.values())
        zero = [r.coverage.zero_gradient_share for r in found.values() if r.coverage.zero_gradient_share is not None]
        row.zero_gradient_share = max(zero, default=math.nan)
    return row


def _reason(proxies: Sequence[str], found: Mapping[int, ScoreResult], failures: Mapping[int, str]) -> str:
    """Every distinct reason once, with the seeds it befell unless those are all."""
    seeds: dict[str, list[int]] = {}
    for seed, reason in failures.items():
        seeds.setdefault(reason, []).append(seed)
    for seed, result in found.items():
        for key in proxies:
            if key in result.reasons:
                seeds.setdefault(f"{key}: {result.reasons[key]}", []).append(seed)
    every = len(found) + len(failures)
    return "; ".join(
        reason if len(hit) == every else f"{reason} (seed {', '.join(map(str, hit))})" for reason, hit in seeds.items()
    )


@dataclass
class Ranking:
    """Candidates, best first by the first proxy, with their sizes; those without a score last, with the reason.

    Attributes:
        rows: one a candidate.
        higher_is_better: of each proxy that was asked for, in that order; the first one decides.
        seeds: of the weights.
        results: name -> seed -> everything that was seen.
        notes: what to know before trusting the order.
        settings: what it takes to do it again.
        interrupted: whether it was stopped before all candidates were done.

    Example:
        >>> ranking = Ranking([Row("small", {"zico": 1.0}), Row("large", {"zico": 2.0})], {"zico": True})
        >>> ranking.top(1), ranking.to_pandas()["rank"].tolist()
        (['large'], [1, 2])
    """

    rows: list[Row]
    higher_is_better: dict[str, bool]
    seeds: list[int] = field(default_factory=lambda: [0])
    results: dict[str, dict[int, ScoreResult]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def __post_init__(self) -> None:
        key, sign = self.first, -1.0 if self.higher_is_better[self.first] else 1.0
        scored = sorted(
            (row for row in self.rows if math.isfinite(row.scores[key])), key=lambda r: sign * r.scores[key]
        )
        for place, row in enumerate(scored, start=1):
            tied = place > 1 and row.scores[key] == scored[place - 2].scores[key]
            row.rank = scored[place - 2].rank if tied else place
        self.rows = scored + [row for row in self.rows if not math.isfinite(row.scores[key])]
        self.notes += _size_notes(self.rows, scored) + _order_notes(scored, key)

    @property
    def proxies(self) -> list[str]:
        """Keys of the proxies that were asked for."""
        return list(self.higher_is_better)

    @property
    def first(self) -> str:
        """The proxy that decides."""
        return next(iter(self.higher_is_better))

    def top(self, n: int = 1) -> list[str]:
        """Names of the best ``n`` candidates, best first; those without a score are never among them.

        Raises:
            InputError: ``n`` is negative.
        """
        if n < 0:
            raise InputError(f"top({n}): ask for none or more.")
        return [row.name for row in self.rows if row.rank is not None][:n]

    def beside_size(self) -> dict[str, float]:
        """Spearman correlation of the order with that by size, larger first: 1 says no more than size does.

        Returns:
            For ``params``, ``flops``, ``depth`` and ``log_size``; NaN with fewer than three candidates or all alike.

        Example:
            >>> rows = [Row(str(n), {"zico": float(n)}, params=n, depth=-n) for n in range(3)]
            >>> agreement = Ranking(rows, {"zico": True}).beside_size()
            >>> round(agreement["params"], 3), round(agreement["depth"], 3)
            (1.0, -1.0)
        """
        import pandas as pd

        rows = [row for row in self.rows if row.rank is not None]
        order = pd.Series([-float(row.rank or 0) for row in rows], dtype=float)
        found = {}
        for size in ("params", "flops", "depth", "log_size"):
            values = pd.Series([getattr(row, size) for row in rows], dtype=float)
            both = values.notna()
            known = both.sum() >= 3 and min(values[both].nunique(), order[both].nunique()) > 1
            found[size] = float(order[both].corr(values[both], method="spearman")) if known else math.nan
        return found

    def given_size(self) -> str | None:
        """What the first proxy adds to the sizes, in a line: as measured on networks of about these sizes.

        None where nothing is stored of it; :func:`~lswag_hooks.trust` has the whole of it.
        """
        from lswag_hooks.trust import given_size

        named = self.settings.get("proxies", {}).get(self.first, {}).get("proxy", self.first)
        return given_size(self, named)

    def to_pandas(self) -> pd.DataFrame:
        """One row a candidate, best first; ``PROXY_std`` is the spread over seeds, and there with several seeds."""
        import pandas as pd

        columns: dict[str, list[Any]] = {"name": [row.name for row in self.rows]}
        columns["rank"] = [row.rank for row in self.rows]
        for key in self.proxies:
            columns[key] = [row.scores[key] for row in self.rows]
            if len(self.seeds) > 1:
                columns[f"{key}_std"] = [row.spreads.get(key, math.nan) for row in self.rows]
        for name in ("params", "flops", "depth", "log_size", "zero_gradient_share", "coverage", "seconds", "reason"):
            columns.setdefault(name, [getattr(row, name) for row in self.rows])
        for name in dict.fromkeys(name for row in self.rows for name in row.facts):
            columns[name] = [row.facts.get(name) for row in self.rows]
        # whole numbers, some of them missing
        return pd.DataFrame(columns).astype(dict.fromkeys(("rank", "params", "depth"), "Int64"))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON: what is NaN is None there."""
        rows = []
        for row in self.rows:
            by_seed = {seed: dict(result.scores) for seed, result in self.results.get(row.name, {}).items()}
            rows.append({**asdict(row), "by_seed": by_seed})
        made = jsonable(
            {
                "proxies": self.proxies,
                "higher_is_better": self.higher_is_better,
                "seeds": self.seeds,
                "interrupted": self.interrupted,
                "rows": rows,
                "beside_size": self.beside_size(),
                "given_size": self.given_size(),
                "notes": self.notes,
                "settings": self.settings,
            }
        )
        assert isinstance(made, dict)
        return made

    def plot(self) -> Figure:
        """A picture of the first proxy: by rank, and against size.

        Raises:
            InputError: matplotlib is missing.
        """
        from lswag_hooks.report.plots import standings

        return standings(self)

    def to_csv(self, path: str | Path) -> None:
        """Write the table of `to_pandas`."""
        self.to_pandas().to_csv(path, index=False)

    def __str__(self) -> str:
        """The table in plain text, then what is missing and what to know."""
        headers, cells = self.cells()
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        lines = []
        for row in (headers, *cells):
            padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            padded[1] = row[1].ljust(widths[1])  # the name
            lines.append("  ".join(padded))
        return "\n".join([line.rstrip() for line in lines] + self.remarks())

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headers and texts of the table; columns that would say the same of all candidates are left out."""
        rows = [row for row in self.rows if row.rank is not None]
        columns: list[tuple[str, Callable[[Row], str]]] = [
            ("#", lambda r: str(r.rank)),
            ("candidate", lambda r: r.name),
        ]
        for key in self.proxies:
            columns.append((key, lambda r, key=key: quantity(r.scores[key])))  # type: ignore[misc]
            if any(math.isfinite(row.spreads.get(key, math.nan)) for row in rows):
                columns.append(("±", lambda r, key=key: _relative(r.scores[key], r.spreads[key])))  # type: ignore[misc]
        if "params" not in self.proxies:
            columns.append(("params", lambda r: quantity(r.params)))
        if "flops" not in self.proxies:
            columns.append(("MACs", lambda r: quantity(r.flops)))
        told = list(dict.fromkeys(name for row in rows for name in row.facts))
        if "depth" not in self.proxies and not told:  # there is no room for everything
            columns.append(("layers", lambda r: f"{r.depth:.0f}" if math.isfinite(r.depth) else "-"))
        if any(row.zero_gradient_share >= 0.005 for row in rows):
            columns.append(("zero", lambda r: _share(r.zero_gradient_share)))
        if any(row.coverage < 0.995 for row in rows):
            columns.append(("seen", lambda r: _share(r.coverage)))
        for name in told:
            if len({str(row.facts.get(name)) for row in rows}) == 1 and len(rows) > 1:
                continue
            columns.append((name, lambda r, name=name: _fact(r.facts.get(name))))  # type: ignore[misc]
        columns.append(("s", lambda r: f"{r.seconds:.1f}"))
        return [title for title, _ in columns], [[text(row) for _, text in columns] for row in rows]

    def remarks(self) -> list[str]:
        """What is missing and what to know, a line each."""
        agreement = {k: v for k, v in self.beside_size().items() if math.isfinite(v) and k not in self.proxies}
        names = {"flops": "MACs", "depth": "layers", "log_size": "log size"}
        said = [f"not scored: {row.name}: {row.reason}" for row in self.rows if row.rank is None]
        said += [f"in part: {row.name}: {row.reason}" for row in self.rows if row.rank is not None and row.reason]
        if agreement:
            listed = ", ".join(f"{names.get(key, key)} {value:.2f}" for key, value in agreement.items())
            said.append(f"beside size: Spearman of this order with {listed} (1.00: the order by size alone)")
        added = self.given_size()
        said += [] if added is None else [added]
        return said + [f"note: {note}" for note in self.notes]


def _relative(value: float, spread: float) -> str:
    if not math.isfinite(spread):
        return "-"
    return f"{spread / abs(value):.1%}" if value else quantity(spread)


def _fact(value: Any) -> str:
    return quantity(value) if isinstance(value, (int, float)) else str(value or "-")


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _size_notes(rows: Sequence[Row], scored: Sequence[Row]) -> list[str]:
    notes = []
    asleep = [f"{row.name} ({row.zero_gradient_share:.0%})" for row in scored if row.zero_gradient_share > ZERO_WARNING]
    if asleep:
        notes.append(
            f"most weights have a gradient of exactly zero in {named(asleep)}: zero gains, layer scales or heads at "
            "the start, or feature maps too small for their kernels. A score of those says little; init='wake' scores "
            "copies in which nothing starts at zero."
        )
    partial = [f"{row.name} ({row.coverage:.0%})" for row in scored if row.coverage < 0.9]
    if partial:
        notes.append(f"less than 90% of the layer weights are covered in {named(partial)}: see coverage.uncovered.")
    return notes


def _order_notes(scored: Sequence[Row], key: str) -> list[str]:
    """Neighbours whose intervals, mean plus or minus one spread, overlap."""
    close = []
    for better, worse in pairwise(scored):
        difference = abs(better.scores[key] - worse.scores[key])
        if difference < better.spreads.get(key, math.nan) + worse.spreads.get(key, math.nan):
            close.append(f"{better.name} and {worse.name}")
    if not close:
        return []
    return [f"the spread over seeds is larger than the difference between {named(close)}: their order is not settled."]
