"""What a search measures of a candidate: first what may rule it out, then the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from lswag_hooks.errors import InputError, told
from lswag_hooks.latency import Latency
from lswag_hooks.measuring import Measured, Work
from lswag_hooks.proxies import Proxy, resolve_proxies
from lswag_hooks.search.problem import Objective


@dataclass(frozen=True)
class SearchWork(Work):
    """What it takes to measure candidates of a search.

    A candidate that misses what is required is out, whatever else it would score: with ``early`` the rest is not
    computed, without it is, for nothing. What comes of it is the same.

    Attributes:
        latency: how it is measured; None: it is not.
        required: what is measured that must be at least as good as a value, and that value.
        early: whether to leave a candidate at what rules it out.
    """

    latency: Latency | None = None
    required: tuple[tuple[str, float], ...] = ()
    early: bool = True

    @property
    def kept(self) -> tuple[Proxy, ...]:
        """The proxies, and the latency."""
        return self.proxies if self.latency is None else (*self.proxies, self.latency)

    def measured(self, architecture: str) -> Measured:
        """Measure an architecture: what is required of it first.

        Raises:
            Exception: whatever building and scoring raises.
        """
        names = {name for name, _ in self.required}
        first = tuple(proxy for proxy in self.kept if proxy.key in names) if self.early else self.kept
        rest = tuple(proxy for proxy in self.kept if proxy not in first)
        network = self.network(architecture)
        found = self._part(architecture, network, first)
        out = self.ruled_out(found)
        if out is not None or not rest:
            return found if out is None else out
        more = self._part(architecture, network, rest)
        every = {**found.scores, **more.scores}
        scores = {proxy.key: every[proxy.key] for proxy in self.kept}
        return Measured(scores, {**found.reasons, **more.reasons}, broken=found.broken | more.broken)

    def ruled_out(self, measured: Measured) -> Measured | None:
        """The same with what is required alone, if something of that is there and is not good enough."""
        better = {proxy.key: proxy.higher_is_better for proxy in self.kept}
        for name, bound in self.required:
            value = measured.scores.get(name)
            if value is None or name in measured.broken:
                continue
            if math.isnan(value) or (value < bound if better[name] else value > bound):
                said = f"left out: {name} is {'below' if better[name] else 'above'} {bound:g}"
                break
        else:
            return None
        names = {name for name, _ in self.required}
        scores = {key: measured.scores.get(key, math.nan) if key in names else math.nan for key in better}
        reasons = {key: measured.reasons.get(key, said) for key, value in scores.items() if math.isnan(value)}
        others = frozenset(key for key in better if key not in names or key not in measured.scores)
        return replace(measured, scores=scores, reasons=reasons, left_out=others, ruled_out=said)

    def _part(self, architecture: str, network: tuple[nn.Module, Any], proxies: tuple[Proxy, ...]) -> Measured:
        """Some of what is to be measured; where nothing of it can be had, that is no error yet."""
        scored = tuple(proxy for proxy in proxies if proxy != self.latency)
        found = Measured({})
        if scored:
            try:
                found = self.scored(*network, scored)
            except InputError as error:
                if error.__cause__ is not None or len(scored) == len(self.proxies):
                    raise
                keys = [proxy.key for proxy in scored]
                found = Measured(dict.fromkeys(keys, math.nan), dict.fromkeys(keys, told(error)))
        if self.latency is not None and self.latency in proxies and self.space is not None:
            found.scores[self.latency.key] = self.latency.measure(self.space, architecture, self.task)
        return found


def search_work(
    work: Work, goal: Objective, require: dict[str, float], latency: Latency | None = None, early: bool = True
) -> SearchWork:
    """What a search measures.

    Args:
        work: what it takes to score an architecture.
        goal: whose proxies are computed.
        require: by name, proxies (of those or others) or the latency, and the least good value.
        latency: how it is measured, if it is.
        early: whether what rules a candidate out ends its measurement.

    Raises:
        InputError: an unknown proxy, or a bound that is no number.
    """
    for name, bound in require.items():
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or math.isnan(bound):
            raise InputError(f"require={{{name!r}: {bound!r}}}: give the least good value, a number.")
    known = {proxy.key for proxy in goal.proxies} | {Latency.name}
    others = [name for name in require if name not in known]
    proxies = (*goal.proxies, *(resolve_proxies(others) if others else ()))
    own = {one.name: getattr(work, one.name) for one in fields(Work)} | {"proxies": proxies}
    required = tuple((name, float(require[name])) for name in sorted(require))
    return SearchWork(**own, latency=latency, required=required, early=early)
