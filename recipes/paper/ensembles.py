"""Several proxies into one ranking, each ensemble of Tab. 1, from scores that are there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from lswag_hooks.correlation import spearman
from lswag_hooks.ensembles import Libra, LibraChecked, merge_ranks
from lswag_hooks.ensembles.baselines import BASELINES
from lswag_hooks.ensembles.evidence import gather
from lswag_hooks.ensembles.tables import Given
from lswag_hooks.errors import InputError
from recipes.paper.tasks import Scores

AZ_NAS = ("az_expressivity", "az_progressivity", "az_trainability", "az_complexity")
TE_NAS = ("te_nas_kappa", "te_nas_regions")
HALVES = 10
RANDOM = {"2 random", "best + random", "... + random third"}
DRAWS = 10


def aggregated(scores: Scores) -> dict[str, float]:
    """Spearman of the ensembles that choose nothing: TE-NAS, T-CET, AZ-NAS."""
    found = {}
    listed: list[tuple[str, tuple[str, ...], str]] = [
        ("TE-NAS", TE_NAS, "rank"),
        ("T-CET", ("t_cet",), "rank"),
        ("AZ-NAS", AZ_NAS, "log"),
    ]
    for name, members, rule in listed:
        members = tuple(one for one in members if one in scores.frame and scores.frame[one].notna().any())
        if members:
            found[name] = scores.rho(merge_ranks(scores.turned[list(members)], rule))
    return found


def fitted(scores: Scores, size: str | None = "params") -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """Spearman of LIBRA and LibraChecked on the networks that they are fitted to, and what they chose.

    With nothing within 0.1 LIBRA's tolerance is 0.2, as the paper does. Fewer than 10 networks give nothing.
    """
    found, chosen = {}, {}
    for name, kinds in _kinds(size).items():
        libra = _fit(kinds, scores.turned, scores.accuracy)
        if libra is not None:
            found[name], chosen[name] = scores.rho(libra.score(scores.turned)), libra.selected
    return found, chosen


def held_out(scores: Scores, size: str | None = "params") -> dict[str, float]:
    """Spearman on the half of the networks that they are not fitted to, the mean over ten halves."""
    found: dict[str, list[float]] = {}
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(scores.frame))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        for name, kinds in _kinds(size).items():
            libra = _fit(kinds, scores.turned.iloc[first], scores.accuracy.iloc[first])
            if libra is None:
                continue
            values = libra.score(scores.turned.iloc[second])
            both = values.notna()
            if both.sum() >= 5:
                rho = spearman(values[both].to_numpy(), scores.accuracy.iloc[second][both].to_numpy())
                found.setdefault(name, []).append(rho)
    return {f"{name}, other half": float(np.nanmean(values)) for name, values in found.items()}


def choices(scores: Scores, size: str | None = "params") -> dict[str, float]:
    """Tab. 4 for a task: Spearman of each way to choose proxies, on the networks on which they are chosen.

    What is random is the mean over ten draws. Empty where there are fewer than 10 networks.
    """
    try:
        evidence = gather(Given(scores.turned, scores.accuracy, {}), size=size)
    except InputError:
        return {}
    truth = evidence.accuracy.to_numpy()

    def judged(members: Iterable[str]) -> float:
        return spearman(merge_ranks(evidence.scores[list(members)]).to_numpy(), truth)

    found = {}
    for name, way in BASELINES.items():
        if name == "best + random":  # no column of the paper's
            continue
        try:
            draws: list[Callable[[], tuple[str, ...]]] = (
                [lambda way=way, seed=seed: way(evidence, seed=seed) for seed in range(DRAWS)]  # type: ignore[misc]
                if name in RANDOM
                else [lambda way=way: way(evidence)]  # type: ignore[misc]
            )
            found[name] = float(np.mean([judged(draw()) for draw in draws]))
        except InputError:  # no proxy of that kind
            continue
    libra = _fit([Libra(size=size), Libra(0.2, size=size)], scores.turned, scores.accuracy)
    if libra is not None:
        found["LIBRA"] = judged(libra.selected)
    return found


def biases(scores: Scores, ranks: bool) -> pd.Series:
    """Tab. 6 for a task: Pearson of each proxy and of the accuracy with the parameters, of values or of their ranks."""
    columns = scores.frame.assign(accuracy=scores.accuracy)
    table = columns.rank() if ranks else columns
    return table.corrwith(scores.frame["params"].rank() if ranks else scores.frame["params"]).rename(scores.task.key)


def _kinds(size: str | None) -> dict[str, list[Libra]]:
    return {"LIBRA": [Libra(size=size), Libra(0.2, size=size)], "LibraChecked": [LibraChecked(size=size)]}


def _fit(kinds: list[Libra], table: pd.DataFrame, accuracy: pd.Series) -> Libra | None:
    """The first of several that has more than one member, or the last; None where nothing can be fitted."""
    found = None
    for libra in kinds:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = libra.fit(table, accuracy)
        except InputError:
            return None
        if len(found.selected) > 1:
            break
    return found
