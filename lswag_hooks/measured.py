"""How well each proxy put the networks of public benchmarks in order, as measured with this package: stored figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from lswag_hooks.agreement import BASELINES, Agreement

FILE = "measured.json"


@dataclass(frozen=True)
class Figure:
    """A correlation with accuracy and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """One benchmark, and how the proxies did on it.

    Attributes:
        name: short name.
        networks: how many it is from.
        sizes: of each of ``params``, ``flops``, ``depth``, ``log_size``: mean and standard deviation over the networks
            of the natural logarithm.
        spearman: proxy -> rank correlation with accuracy.
        partial: proxy -> what is left of it given the sizes.
        about: space, task, batch, version.
        fewer: proxy -> how many networks its figures are from, where those are not all.
    """

    name: str
    networks: int
    sizes: Mapping[str, tuple[float, float]]
    spearman: Mapping[str, Figure]
    partial: Mapping[str, Figure]
    about: Mapping[str, Any]
    fewer: Mapping[str, int] = field(default_factory=dict)

    def networks_of(self, proxy: str) -> int:
        """How many networks the figures of a proxy are from."""
        return self.fewer.get(proxy, self.networks)


@cache
def measured() -> dict[str, Measured]:
    """The stored figures, by benchmark.

    They come from ``benchmarks/correlations.py``, ``agreement.py`` and ``backbones.py``, and say what was measured, on
    how many networks and on which batch.

    Example:
        >>> "nb201" in measured()
        True
    """
    text = (resources.files("lswag_hooks") / "data" / FILE).read_text(encoding="utf-8")
    return {name: _read(name, one) for name, one in json.loads(text).items()}


def _read(name: str, stored: Mapping[str, Any]) -> Measured:
    def figures(key: str) -> dict[str, Figure]:
        return {proxy: Figure(*found[key]) for proxy, found in stored["proxies"].items() if key in found}

    sizes = {size: (float(mean), float(spread)) for size, (mean, spread) in stored["sizes"].items()}
    fewer = {proxy: found["networks"] for proxy, found in stored["proxies"].items() if "networks" in found}
    return Measured(name, stored["networks"], sizes, figures("spearman"), figures("partial"), stored["about"], fewer)


def summary_of_sizes(sizes: Mapping[str, Iterable[float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the logarithm of each size; sizes that are not known are left out.

    Example:
        >>> summary_of_sizes({"params": [1.0, math.e**2], "flops": [math.nan]})
        {'params': (1.0, 1.0)}
    """
    found = {}
    for name, values in sizes.items():
        known = np.asarray([value for value in values if value is not None], dtype=float)
        known = np.log(known[np.isfinite(known) & (known > 0)])
        if len(known):
            found[name] = (round(float(known.mean()), 4), round(float(known.std()), 4))
    return found


def figures_of(agreement: Agreement, proxies: Iterable[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of a comparison.

    Args:
        agreement: of :func:`lswag_hooks.correlate`.
        proxies: those whose figures are kept, beside the sizes, if they have a value on all networks compared.
        about: where it comes from.
    """
    chosen = agreement.scores.loc[agreement.complete]
    kept: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys([*proxies, *BASELINES]):
        for key in ("spearman", "partial"):
            one = agreement.estimates.get(name, {}).get(key)
            if one is not None and math.isfinite(one.value) and one.pairs == len(chosen):
                kept.setdefault(name, {})[key] = [round(number, 3) for number in (one.value, one.low, one.high)]
    sizes = summary_of_sizes({name: chosen[name] for name in BASELINES if name in chosen})
    return {"networks": len(chosen), "sizes": sizes, "proxies": kept, "about": dict(about)}
