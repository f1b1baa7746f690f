"""How far to trust a ranking: which measured benchmark the candidates resemble, and what correlation to expect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scipy import stats

from lswag_hooks.errors import InputError
from lswag_hooks.measured import Figure, Measured, measured, summary_of_sizes
from lswag_hooks.models import family
from lswag_hooks.standings import Ranking
from lswag_hooks.wording import jsonable

if TYPE_CHECKING:
    import pandas as pd

SIZES = ("params", "flops", "depth", "log_size")
FAR = 1.5  # in logarithms, about a factor of 4.5 in every size: unlike anything that was measured


@dataclass(frozen=True)
class Trust:
    """What was measured on networks of about these sizes, and what to expect of so few.

    Attributes:
        candidates: how many there are.
        distances: benchmark -> how far its networks' sizes are from the candidates', in natural logarithms.
        benchmark: the nearest one.
        expected: proxy -> correlation with accuracy to expect, with a 95 % interval for so many candidates.
        partial: proxy -> what was left of it given the sizes, on the benchmark.
    """

    candidates: int
    distances: Mapping[str, float]
    benchmark: Measured
    expected: Mapping[str, Figure]
    partial: Mapping[str, Figure]

    @property
    def distance(self) -> float:
        """Of the nearest benchmark."""
        return self.distances[self.benchmark.name]

    def to_pandas(self) -> pd.DataFrame:
        """One row a proxy, the best first."""
        import pandas as pd

        rows = []
        for name, one in sorted(self.expected.items(), key=lambda item: -item[1].value):
            left = self.partial.get(name)
            given = math.nan if left is None else left.value
            rows.append({"proxy": name, "expected": one.value, "low": one.low, "high": one.high, "given_size": given})
        return pd.DataFrame(rows, columns=["proxy", "expected", "low", "high", "given_size"])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        made = jsonable(
            {
                "candidates": self.candidates,
                "benchmark": self.benchmark.name,
                "about": dict(self.benchmark.about),
                "networks": self.benchmark.networks,
                "distances": dict(self.distances),
                "proxies": self.to_pandas().to_dict("records"),
                "notes": self.remarks(),
            }
        )
        assert isinstance(made, dict)
        return made

    def remarks(self) -> list[str]:
        """What it means, a line each."""
        about = self.benchmark.about
        awake = ", init wake" if about.get("init") == "wake" else ""
        among = " among sets of several families" if about.get("families") else ""
        said = [
            f"nearest in size{among}: {self.benchmark.name} ({about.get('what', '')}; {self.benchmark.networks} "
            f"networks, {about.get('batch', '')}{awake}), {math.exp(self.distance):.1f} times away"
        ]
        if self.distance > FAR:
            said.append(
                "note: these candidates are unlike every benchmark that was measured: expect nothing from its figures."
            )
        sizes = {name: one.value for name, one in self.expected.items() if name in SIZES}
        others = {name: one for name, one in self.expected.items() if name not in SIZES}
        if sizes and others:
            size, best = max(sizes, key=lambda n: sizes[n]), max(others, key=lambda n: others[n].value)
            left = self.partial.get(best)
            if others[best].value <= sizes[size]:
                said.append(f"note: no proxy did better there than {size} ({sizes[size]:.2f}) does alone.")
            elif left is not None and left.low <= 0:
                said.append(f"note: given the sizes, nothing of {best}'s correlation is certain to be left there.")
        if self.candidates < 10:
            said.append(
                f"note: with {self.candidates} candidates chance alone moves a correlation by "
                f"{1 / math.sqrt(max(1, self.candidates - 1)):.1f}: train several, not the first alone."
            )
        said.append("Resemblance is one of sizes only: other data, training or kinds of layers can change all of it.")
        return said


def trust(candidates: Ranking | Mapping[str, Iterable[float]]) -> Trust:
    r"""Which measured benchmark some candidates resemble, and how well proxies order networks there.

    Resemblance is the mean difference of the logarithms of parameters, multiply-accumulates, weight layers and log
    size, and of their spread; candidates of several families (by name, such as timm's) are compared with sets of
    several families alone. The interval is the benchmark's own, widened for the number of candidates: Fisher's
    :math:`z = \operatorname{artanh} \rho` has a standard error of about :math:`\sqrt{1.06 / (n - 3)}` for Spearman's
    :math:`\rho` of :math:`n` pairs (Fieller, Hartley and Pearson, 1957), to which that of the benchmark's estimate is
    added in squares.

    Args:
        candidates: a ranking, or the sizes themselves: ``{"params": [...], "flops": [...], ...}``.

    Raises:
        InputError: no size is known, or of fewer than two candidates.

    Example:
        >>> found = trust({"params": [0.3e6, 0.6e6, 0.9e6], "flops": [40e6, 80e6, 120e6], "depth": [25, 40, 55]})
        >>> found.benchmark.name, found.candidates
        ('nb201', 3)
    """
    known = measured()
    if isinstance(candidates, Ranking):
        if len({family(row.name) for row in candidates.rows} - {None}) > 1:
            known = {name: one for name, one in known.items() if one.about.get("families")} or known
        rows = [row for row in candidates.rows if row.rank is not None]
        candidates = {name: [getattr(row, name) for row in rows] for name in SIZES}
    sizes = {name: list(values) for name, values in candidates.items()}
    count = max((len(values) for values in sizes.values()), default=0)
    unknown = sorted(set(sizes) - set(SIZES))
    if unknown:
        raise InputError(f"trust: {', '.join(unknown)} is no size: give some of {', '.join(SIZES)}.")
    mine = summary_of_sizes(sizes)
    if count < 2 or not mine:
        raise InputError("trust: give two candidates or more, with at least one size of each.")
    distances = {name: _distance(mine, one.sizes) for name, one in known.items()}
    nearest = known[min(distances, key=lambda name: distances[name])]
    expected = {name: _widened(figure, nearest.networks_of(name), count) for name, figure in nearest.spearman.items()}
    return Trust(count, distances, nearest, expected, nearest.partial)


def given_size(candidates: Ranking | Mapping[str, Iterable[float]], proxy: str) -> str | None:
    """What a proxy adds to the sizes of such candidates, in a line, as far as that was measured.

    Args:
        candidates: as for :func:`trust`.
        proxy: its name.

    Returns:
        None for a size, for a proxy of which nothing is stored, and where no sizes are known.

    Example:
        >>> given_size({"params": [0.3e6, 0.6e6], "flops": [40e6, 80e6]}, "zico")
        'given size: on nb201, the nearest that was measured, zico had +0.46 [+0.39, +0.51] left of its correlation ...
    """
    try:
        found = trust(candidates)
    except InputError:
        return None
    left = found.partial.get(proxy)
    if left is None or proxy in SIZES:
        return None
    if found.distance > FAR:
        return f"given size: nothing that was measured is of about these sizes, so that what {proxy} adds is not known"
    return (
        f"given size: on {found.benchmark.name}, the nearest that was measured, {proxy} had {left.value:+.2f} "
        f"[{left.low:+.2f}, {left.high:+.2f}] left of its correlation with accuracy (0: it adds nothing)"
    )


def _distance(mine: Mapping[str, tuple[float, float]], theirs: Mapping[str, tuple[float, float]]) -> float:
    shared = [name for name in mine if name in theirs]
    if not shared:
        return math.inf
    steps = [abs(a - b) for name in shared for a, b in zip(mine[name], theirs[name], strict=True)]
    return sum(steps) / len(shared)


def _widened(figure: Figure, networks: int, count: int) -> Figure:
    center = math.atanh(max(-0.999, min(0.999, figure.value)))
    half = stats.norm.ppf(0.975) * math.sqrt(1.06 / max(1, count - 3) + 1.06 / max(1, networks - 3))
    return Figure(figure.value, math.tanh(center - half), math.tanh(center + half))
