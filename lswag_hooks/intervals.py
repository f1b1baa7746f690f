"""Which layers count: the deviation of gradients along the depth of many networks, and the spike in it.

The paper averages the deviation of the gradients over 1,000 random networks of a space, tenth of the depth by tenth of
the depth, and lets L-SWAG count the layers of the spike (Sec. 3.1, Fig. 2 and 9).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import signal

from lswag_hooks.errors import InputError
from lswag_hooks.functional.lswag import BINS, Interval
from lswag_hooks.profile import LayerProfile
from lswag_hooks.wording import jsonable

if TYPE_CHECKING:
    import pandas as pd

STORED = "intervals.json"


def tenths_of(profile: LayerProfile) -> np.ndarray:
    """Mean deviation of the layers of each tenth of the depth, shape (10,); NaN where none was looked at."""
    values: list[list[float]] = [[] for _ in range(BINS)]
    for row in profile.weights:
        if row.mean_deviation is not None:
            values[row.percentile].append(row.mean_deviation)
    return np.array([np.mean(tenth) if tenth else np.nan for tenth in values])


def spike(curve: Sequence[float]) -> Interval | None:
    """First and last tenth of the most prominent peak, at half its prominence.

    A peak may stand at either end. The curve is that of a population, without gaps.

    Args:
        curve: ten mean deviations along the depth.

    Returns:
        The interval; None for a flat curve, which has no peak.

    Raises:
        InputError: there are not ten finite numbers.

    Example:
        >>> spike([1, 1, 1, 1, 1, 2, 8, 9, 2, 1])
        (6, 7)
        >>> spike([5, 1, 1, 1, 1, 1, 1, 1, 1, 1])
        (0, 0)
    """
    values = np.asarray(curve, dtype=float)
    if values.shape != (BINS,) or not np.isfinite(values).all():
        raise InputError(f"a curve has {BINS} finite numbers, one a tenth of the depth: got {values.tolist()}.")
    # a margin at both ends, no lower than the curve: what rises to the end is a peak there
    padded = np.concatenate([[values.min()], values, [values.min()]])
    peaks, found = signal.find_peaks(padded, prominence=0)
    if not len(peaks):
        return None
    best = peaks[np.argmax(found["prominences"])]
    _, _, left, right = signal.peak_widths(padded, [best], rel_height=0.5)
    first, last = int(np.ceil(left[0])) - 1, int(np.floor(right[0])) - 1
    return max(0, first), min(BINS - 1, last)


@dataclass
class GradientCurves:
    """Deviations of gradients along the depth of many networks, and what they say about the interval.

    Attributes:
        curves: shape (networks, 10); NaN where a network has no layer in a tenth.
        depths: number of weight layers of each network.
        names: of the networks.
        settings: what it takes to do it again.
        reasons: why networks are missing, by name.
        interrupted: whether it was stopped early.

    Example:
        >>> curves = GradientCurves(np.tile([1.0, 1, 1, 1, 1, 1, 1, 6, 9, 6], (20, 1)), np.full(20, 30))
        >>> curves.interval
        (7, 9)
    """

    curves: np.ndarray
    depths: np.ndarray
    names: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def mean(self) -> np.ndarray:
        """Mean over networks, shape (10,); a tenth where no network has a layer takes its neighbours' value."""
        return self._filled(np.nanmean)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over networks, shape (10,)."""
        return self._filled(np.nanstd)

    @property
    def interval(self) -> Interval | None:
        """First and last tenth of the spike of the mean."""
        return spike(self.mean.tolist())

    def by_depth(self, groups: int = 3) -> dict[str, GradientCurves]:
        """The same for networks of like depth (Fig. 10): equal shares, by their number of weight layers.

        Returns:
            Curves by a range of depths, shallow first; fewer than asked for where many depths are equal.
        """
        edges = np.unique(np.quantile(self.depths, np.linspace(0, 1, groups + 1)))
        place = np.clip(np.searchsorted(edges, self.depths, side="right") - 1, 0, max(0, len(edges) - 2))
        found = {}
        for group in np.unique(place):
            chosen = place == group
            low, high = int(self.depths[chosen].min()), int(self.depths[chosen].max())
            found[f"{low} to {high} layers"] = GradientCurves(self.curves[chosen], self.depths[chosen])
        return found

    def to_pandas(self) -> pd.DataFrame:
        """One row a network: its number of weight layers, and ten deviations."""
        import pandas as pd

        table = pd.DataFrame(self.curves, index=pd.Index(self.names, name="architecture"), columns=range(BINS))
        table.insert(0, "depth", self.depths)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON."""
        made = jsonable(
            {
                "interval": self.interval,
                "networks": len(self.curves),
                "mean": self.mean.tolist(),
                "std": self.std.tolist(),
                "by_depth": {name: group.interval for name, group in self.by_depth().items()},
                "settings": self.settings,
                "missing": self.reasons,
                "interrupted": self.interrupted,
            }
        )
        assert isinstance(made, dict)
        return made

    def _filled(self, reduce: Any) -> np.ndarray:
        present = ~np.isnan(self.curves).all(0)
        if not present.any():
            raise InputError("no network has a layer whose gradients were seen: there is no curve.")
        tenths = np.arange(BINS)
        filled: np.ndarray = np.interp(tenths, tenths[present], reduce(self.curves[:, present], axis=0))
        return filled


def curves_of(profiles: dict[str, LayerProfile]) -> GradientCurves:
    """Curves of networks that were scored already, by name."""
    rows = [tenths_of(profile) for profile in profiles.values()]
    depths = np.array([len(profile.weights) for profile in profiles.values()])
    return GradientCurves(np.array(rows).reshape(-1, BINS), depths, list(profiles))


def stored_intervals() -> dict[str, dict[str, Any]]:
    """Intervals that come with this package, by space, each with the curve that it is from and how that was made.

    Example:
        >>> stored = stored_intervals()
        >>> {"interval", "mean", "settings"} <= set(stored["nasbench201"])
        True
    """
    text = (resources.files("lswag_hooks") / "data" / STORED).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found
