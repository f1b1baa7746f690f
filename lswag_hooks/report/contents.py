"""What a report shows of a store: rankings with their sizes, fronts, profiles, failures, and how they came about."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from lswag_hooks.agreement import BASELINES
from lswag_hooks.correlation import estimate, spearman
from lswag_hooks.errors import InputError, LSWAGError, near_matches
from lswag_hooks.proxies import list_proxies, proxy_class
from lswag_hooks.results import ScoreResult
from lswag_hooks.search.pareto import pareto_front
from lswag_hooks.spaces import get_space, list_spaces
from lswag_hooks.store import FailedAttempt, Store, canonical
from lswag_hooks.trust import given_size

if TYPE_CHECKING:
    import pandas as pd

GROUP = ["space", "batch", "conditions", "version"]
SIZES = ("params", "flops")
RESAMPLES = 200
PROFILES = 30


@dataclass
class Group:
    """Scores that can be compared: of one space, on one batch, under the same conditions, by one version.

    Attributes:
        space: name of the search space; empty for candidates of none.
        batch: fingerprint of the batch.
        conditions: what else the scores depend on.
        version: of this package.
        proxies: settings of each proxy, by label.
        higher_is_better: of each.
        order: the proxy that decides.
        seeds: of the weights.
        rows: a candidate each, best first.
        agreement: how far the order by each proxy is the order by size, with its bootstrap interval.
        given: what each proxy adds to size, as far as that was measured, in a line.
        front: names of the candidates than which none has a better score and fewer parameters.
        profiles: layers of the best candidates, where the store has them.
        failures: what could not be scored, and why.
        times: of the first and the last score.
    """

    space: str
    batch: str
    conditions: dict[str, Any]
    version: str
    proxies: dict[str, dict[str, Any]]
    higher_is_better: dict[str, bool]
    order: str
    seeds: list[int]
    rows: list[dict[str, Any]]
    agreement: list[dict[str, Any]]
    given: list[str]
    front: list[str]
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    times: tuple[str, str] = ("", "")

    @property
    def spread(self) -> list[str]:
        """Proxies whose spread over seeds says something."""
        return [label for label in self.proxies if label not in BASELINES and len(self.seeds) > 1]


def groups_of(store: Store, order: str | None = None, profiles: int = PROFILES) -> list[Group]:
    """All groups of a store, the largest first.

    Args:
        store: the scores.
        order: the proxy that decides; by default ``lswag``, or the first that is no size.
        profiles: of how many candidates, the best of each group, to show the layers.

    Raises:
        InputError: there is no score, or none of that proxy.
    """
    frame = store.to_pandas()
    failures = store.failures()
    if frame.empty and not failures:
        raise InputError(f"the store {store.path} holds no scores: there is nothing to report.")
    parts = dict(iter(frame.groupby(GROUP, sort=False)))
    labels = sorted({settings["proxy"] for settings in map(json.loads, frame["proxy"].unique())})
    if order is not None and order not in labels:
        raise InputError(
            f"the store has no scores of {order!r}.{near_matches(order, labels)} It has: {', '.join(labels)}."
        )
    failed: dict[tuple[str, ...], list[FailedAttempt]] = {}
    for one in failures:
        failed.setdefault((one.key.space, one.key.batch, one.key.conditions, one.key.version), []).append(one)
    for key in failed:
        parts.setdefault(key, frame.iloc[:0])
    made = [_group(store, key, part, failed.get(key, []), order, profiles) for key, part in parts.items()]
    return sorted(made, key=lambda group: -len(group.rows))


def versions() -> dict[str, str]:
    """What made the report."""
    import torch

    from lswag_hooks import __version__

    found = {"lswag_hooks": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


def _group(
    store: Store,
    key: tuple[str, ...],
    part: pd.DataFrame,
    failed: Sequence[FailedAttempt],
    order: str | None,
    profiles: int,
) -> Group:
    space, batch, conditions, version = key
    labels = labels_of(part["proxy"].unique())
    part = part.assign(label=part["proxy"].map(labels))
    proxies = {label: json.loads(text) for text, label in labels.items()}
    better = {label: _better(settings["proxy"]) for label, settings in proxies.items()}
    first = _first(proxies, order)
    places = sorted(proxies, key=lambda label: (label != first, label in BASELINES))  # sorted keeps the others' order
    proxies = {label: proxies[label] for label in places}
    told = json.loads(conditions)
    rows = _rows(part, list(proxies), first, better, space, told)
    group = Group(
        space, batch, told, version, proxies, better, first, sorted(int(seed) for seed in part["seed"].unique()), rows,
        _agreement(rows, better), _given(rows, proxies), _front(rows, first, better),
    )  # fmt: skip
    group.failures = _failures(part, failed)
    if len(part):
        group.times = (_time(part["created"].min()), _time(part["created"].max()))
    for row in rows[:profiles] if group.seeds else ():
        layers = _profile(store, key, str(row["name"]), group.seeds[0])
        if layers is not None:
            group.profiles[str(row["name"])] = layers
    return group


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """Names of proxies, by their text in a store; with the settings that are not the usual ones.

    Example:
        >>> labels_of(['{"proxy":"params"}', '{"pairing":"total","proxy":"lswag"}']).values()
        dict_values(['params', 'lswag pairing=total'])
    """
    labels = {}
    for text in texts:
        settings = json.loads(text)
        name = settings.pop("proxy")
        usual = json.loads(canonical(proxy_class(name)().settings())) if name in list_proxies() else {}
        own = [f"{key}={value}" for key, value in settings.items() if key not in usual or usual[key] != value]
        labels[text] = " ".join([name, *own])
    return labels


def _better(name: str) -> bool:
    return proxy_class(name).higher_is_better if name in list_proxies() else name != "latency"


def _first(proxies: dict[str, dict[str, Any]], order: str | None) -> str:
    wanted = order or "lswag"
    named = [label for label, settings in proxies.items() if settings["proxy"] == wanted]
    others = [label for label, settings in proxies.items() if settings["proxy"] not in (*BASELINES, "latency")]
    return next(iter([*sorted(named, key=len), *others, *proxies]), "")


def _rows(
    part: pd.DataFrame,
    labels: list[str],
    first: str,
    better: dict[str, bool],
    space: str,
    conditions: dict[str, Any],
) -> list[dict[str, Any]]:
    if part.empty:
        return []
    cells = part.groupby(["candidate", "label"])["value"].agg(["mean", "std"]).unstack("label")
    shared = part.groupby("candidate").agg(
        {"params": "max", "flops": "max", "seconds": "max", "seed": "nunique", "reason": lambda texts: _joined(texts)}
    )
    by_seed = part[part["label"] == first].pivot_table(index="candidate", columns="seed", values="value")
    ranks = by_seed.rank(ascending=not better[first], method="min")
    rows = []
    for name, about in shared.iterrows():
        scores = {label: float(cells["mean"].get(label, {}).get(name, math.nan)) for label in labels}
        spreads = {label: float(cells["std"].get(label, {}).get(name, math.nan)) for label in labels}
        places = ranks.loc[name].dropna() if name in ranks.index else []
        row = {
            "name": name,
            "scores": scores,
            "spreads": spreads,
            "seeds": int(about["seed"]),
            "ranks": [int(min(places)), int(max(places))] if len(places) else None,
            "seconds": float(about["seconds"]),
            "reason": about["reason"],
        }
        rows.append({**row, **_sizes(str(name), row, about, space, conditions)})
    sign = -1 if better[first] else 1
    rows.sort(key=lambda row: (math.isnan(row["scores"][first]), sign * row["scores"][first], row["name"]))
    for place, row in enumerate(rows, start=1):
        missing = math.isnan(row["scores"][first])
        tied = place > 1 and row["scores"][first] == rows[place - 2]["scores"][first]
        row["rank"] = None if missing else rows[place - 2]["rank"] if tied else place
    return rows


def _sizes(name: str, row: dict[str, Any], about: Any, space: str, conditions: dict[str, Any]) -> dict[str, float]:
    """Parameters and flops: as they were scored, kept or counted now; NaN where nobody knows."""
    found = {size: row["scores"].get(size, math.nan) for size in SIZES}
    for size in SIZES:
        if math.isnan(found[size]) and about[size] == about[size]:
            found[size] = float(about[size])
    if all(map(math.isnan, found.values())) and space in list_spaces():
        try:
            cost = get_space(space).cost(
                name, conditions.get("num_classes"), task=conditions.get("task"),
                image_size=conditions.get("image_size"),
            )  # fmt: skip
            found = {"params": float(cost.params), "flops": float(cost.flops)}
        except (LSWAGError, TypeError, ValueError):
            pass  # a supernet, or of another version of the space
    return found


def _agreement(rows: Sequence[dict[str, Any]], better: dict[str, bool]) -> list[dict[str, Any]]:
    found = []
    sizes = {name: np.array([_value(row, name) for row in rows]) for name in BASELINES}
    for label in better:
        if label in BASELINES:
            continue
        scores = np.array([row["scores"][label] for row in rows]) * (1 if better[label] else -1)
        cells = {}
        for name, size in sizes.items():
            one = estimate(spearman, scores, size, resamples=RESAMPLES)
            cells[name] = None if math.isnan(one.value) else {"value": one.value, "low": one.low, "high": one.high}
        found.append({"proxy": label, "sizes": cells})
    return found


def _given(rows: Sequence[dict[str, Any]], proxies: dict[str, dict[str, Any]]) -> list[str]:
    sizes = {name: [_value(row, name) for row in rows] for name in BASELINES}
    lines = [given_size(sizes, settings["proxy"]) for settings in proxies.values()]
    return list(dict.fromkeys(f"{line[0].upper()}{line[1:]}." for line in lines if line is not None))


def _value(row: dict[str, Any], name: str) -> float:
    return float(row[name] if name in SIZES else row["scores"].get(name, math.nan))


def _front(rows: Sequence[dict[str, Any]], first: str, better: dict[str, bool]) -> list[str]:
    if not rows:
        return []
    sign = 1 if better[first] else -1
    points = np.array([[sign * row["scores"][first], -row["params"]] for row in rows])
    return [rows[place]["name"] for place in pareto_front(points)]


def _failures(part: pd.DataFrame, failed: Sequence[FailedAttempt]) -> list[dict[str, Any]]:
    """What is missing, and why: once for all seeds, and for all proxies, that it befell."""
    told: dict[tuple[str, str, bool], tuple[dict[str, None], dict[int, None]]] = {}

    def add(name: str, proxies: Sequence[str], seed: int, reason: str, again: bool) -> None:
        seen, seeds = told.setdefault((name, reason, again), ({}, {}))
        seen.update(dict.fromkeys(proxies))
        seeds[seed] = None

    for one in part[part["value"].isna()].itertuples():
        add(one.candidate, [one.label], int(one.seed), _joined([one.reason]) or "no reason was kept", False)
    for lost in failed:
        settings = json.loads(lost.key.proxy)
        proxies = [json.loads(text)["proxy"] for text in settings.get("proxies", [])] or [settings["proxy"]]
        add(lost.key.candidate, proxies, lost.key.seed, lost.reason, not lost.decided)
    return [
        {"name": name, "proxy": ", ".join(proxies), "seeds": sorted(seeds), "reason": reason, "again": again}
        for (name, reason, again), (proxies, seeds) in told.items()
    ]


def _profile(store: Store, key: tuple[str, ...], name: str, seed: int) -> dict[str, Any] | None:
    from lswag_hooks.store import Key

    space, batch, conditions, version = key
    texts = store.details(Key(name, "", seed, batch, space, conditions, version))
    for text in texts.values():
        result = ScoreResult.from_text(text)
        if result.profile.weights:
            intervals = [one.get("interval") for one in result.settings["proxies"].values() if one["proxy"] == "lswag"]
            return {
                "seed": seed,
                "interval": next(iter(intervals), None),
                "layers": [
                    {
                        "name": row.name, "kind": row.kind, "size": row.size, "tenth": row.percentile,
                        "trainability": row.trainability, "deviation": row.mean_deviation,
                        "term": next(iter(row.terms.values()), None),
                    }
                    for row in result.profile.weights
                ],
            }  # fmt: skip
    return None


def _joined(texts: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if isinstance(text, str)))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
