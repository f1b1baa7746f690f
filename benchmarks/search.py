"""How accurate are the architectures that a search finds, with several proxies and none, at equal evaluations?

    python benchmarks/search.py TABLE --out OUT                        # published proxies, as in the table
    python benchmarks/search.py TABLE --store OUT/nb201.db --out OUT   # those that `benchmarks/correlations.py` scored

TABLE is a table of NAS-Bench-201 with accuracies and proxies, such as ``nasbench201_cifar10_release_proxies.csv.gz``.
No network is scored: the space is what the table (and the store) know. For each proxy and each of ten seeds evolution
and random search spend the same number of evaluations, and the accuracy of the architecture that each ranks first is
looked up. Written are ``search.csv`` (every run), ``search.md`` and ``search.png``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

import lswag_hooks as lh
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.correlating import Measured
from lswag_hooks.ensembles import Libra, list_fitted
from lswag_hooks.proxies import Proxy
from lswag_hooks.search import Evolution, RandomSearch
from lswag_hooks.search.loop import run_generations
from lswag_hooks.search.pareto import best_first
from lswag_hooks.search.problem import Objective, Problem
from lswag_hooks.spaces.nasbench201 import NASBench201
from lswag_hooks.store import Store

TASK, SEEDS = "cifar10", range(10)


@dataclass(frozen=True)
class Known(Proxy):
    """A column of scores that are known."""

    name = "known"


class KnownSpace(NASBench201):
    """The architectures of NAS-Bench-201 whose scores are known."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = frozenset(known)

    def degenerate(self, architecture: str) -> str | None:
        return None if architecture in self.known else "its score is not known"


def stored(path: pathlib.Path, batch: str | None = None) -> pd.DataFrame:
    """Scores of a store, one column a proxy (with its settings, where there are several of one name)."""
    with Store(path) as store:
        frame = store.to_pandas()
    frame = frame[(frame["space"] == "nasbench201") & frame["value"].notna()]
    names = frame["proxy"].map(lambda text: json.loads(text)["proxy"])
    several = frame.assign(name=names).groupby("name")["proxy"].transform("nunique") > 1
    frame = frame.assign(name=np.where(several, frame["proxy"], names))
    return frame.pivot_table(index="candidate", columns="name", values="value", aggfunc="first")


def objectives(scores: pd.DataFrame) -> dict[str, Objective]:
    better = {name: lh.proxies.proxy_class(name).higher_is_better for name in lh.list_proxies()}
    found = {}
    for name in scores:
        if better.get(name, True):
            found[name] = Objective((Known(label=name),))
    for name in (name for name in list_fitted() if name.startswith(f"nasbench201/{TASK}")):
        libra = Libra.load(name)
        if set(libra.selected) <= set(scores):
            found[f"LIBRA {name}"] = Objective(tuple(Known(label=key) for key in libra.selected), libra=libra)
    return found


def run(
    problem: Problem, objective: Objective, scores: pd.DataFrame, algorithm: object, evaluations: int, seed: int
) -> str:
    rows = scores.to_dict("index")
    seen = run_generations(
        problem, objective, algorithm, lambda names: [Measured(rows[name]) for name in names], evaluations, seed
    )
    return seen.architectures[best_first(seen.values()[:, :1], 1)[0]]


def compare(accuracy: pd.Series, scores: pd.DataFrame, evaluations: int) -> pd.DataFrame:
    scores = scores.dropna()
    scores = scores[scores.index.isin(accuracy.index)]
    problem = Problem(KnownSpace(list(scores.index)))
    rows = []
    for name, objective in objectives(scores).items():
        for algorithm in (Evolution(), RandomSearch()):
            for seed in SEEDS:
                found = run(problem, objective, scores, algorithm, evaluations, seed)
                rows.append((name, algorithm.name, seed, accuracy[found], found))
        print(f"{name:40} {np.mean([row[3] for row in rows[-20:-10]]):.2f}", flush=True)
    for seed in SEEDS:
        drawn = problem.draw(np.random.default_rng([seed, 0]), set())
        rows.append(("no proxy: one at random", "random", seed, accuracy[drawn], drawn))
    best = accuracy[scores.index].idxmax()
    rows.append(("the best there is", "", 0, accuracy[best], best))
    return pd.DataFrame(rows, columns=["proxy", "algorithm", "seed", "accuracy", "architecture"])


def markdown(found: pd.DataFrame, architectures: int, evaluations: int) -> str:
    table = found.groupby(["proxy", "algorithm"])["accuracy"].agg(["mean", "std"]).reset_index()
    cells = {
        (row.proxy, row.algorithm): f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.std == row.std else "")
        for row in table.rename(columns={"mean": "mean"}).itertuples(index=False)
    }
    order = table.groupby("proxy")["mean"].max().sort_values(ascending=False).index
    lines = [
        f"Accuracy (%) of what a search over {architectures:,} architectures finds with {evaluations} evaluations,",
        f"mean and deviation over {len(SEEDS)} seeds.",
        "",
        "| proxy | evolution | random search |",
        "|---|---|---|",
    ]
    for name in order:
        single = cells.get((name, ""), "")
        lines.append(f"| {name} | {cells.get((name, 'evolution'), single)} | {cells.get((name, 'random'), single)} |")
    return "\n".join(lines) + "\n"


def plot(found: pd.DataFrame, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    table = found.pivot_table(index="proxy", columns="algorithm", values="accuracy", aggfunc=["mean", "std"])
    table = table.loc[found.groupby("proxy")["accuracy"].mean().sort_values().index]
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(table) + 1.2), layout="constrained")
    places = np.arange(len(table))
    for shift, algorithm in ((0.15, "evolution"), (-0.15, "random")):
        mean, deviation = (table[what].get(algorithm) for what in ("mean", "std"))
        axes.errorbar(mean, places + shift, xerr=deviation, fmt="o", label=algorithm, capsize=2)
    axes.axvline(found["accuracy"].max(), color="black", linewidth=1, linestyle=":", label="the best there is")
    axes.set_yticks(places, table.index)
    axes.set_xlabel("accuracy of what was found (%)")
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=pathlib.Path)
    parser.add_argument("--store", type=pathlib.Path)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    benchmark = Benchmark.load(options.table)
    scores = benchmark.proxies(TASK) if options.store is None else stored(options.store)
    accuracy = benchmark.accuracy(TASK)
    found = compare(accuracy, scores, options.evaluations)
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "search.csv", index=False)
    known = scores.dropna().index.isin(accuracy.index).sum()
    text = markdown(found, int(known), options.evaluations)
    (options.out / "search.md").write_text(text)
    plot(found, options.out / "search.png")
    print(text)


if __name__ == "__main__":
    main()
