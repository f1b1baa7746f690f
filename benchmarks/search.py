"""How accurate are the architectures that a search finds, with several proxies and none, at equal evaluations?

    python benchmarks/search.py TABLE --out OUT                        # published proxies, as in the table
    python benchmarks/search.py TABLE --store OUT/nb201.db --out OUT   # those that `benchmarks/correlations.py` scored
    python benchmarks/search.py TABLE --store OUT/nb201.db --fit 200 --out OUT   # and LIBRAs fitted to 200 of those
    python benchmarks/search.py TABLE --sizes --out OUT                # the four sizes, counted now

TABLE has accuracies of a space's architectures: NAS-Bench-201's ``nasbench201_cifar10_release_proxies.csv.gz``, or
AutoFormer-tiny's ``autoformer_tiny_imagenet.csv``. No network is scored: the search is among the architectures that the
table (and the store) know. What is drawn, mutated or crossed is led to the nearest of them. For each proxy and each of
ten seeds evolution and random search spend the same number of evaluations, and the accuracy of the architecture that
each ranks first is looked up. Written are ``search.csv`` (every run), ``search.md`` and ``search.png``.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

import lswag_hooks as lh
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.ensembles import Libra, LibraChecked, list_fitted
from lswag_hooks.measuring import Measured
from lswag_hooks.proxies import Proxy
from lswag_hooks.report.contents import labels_of
from lswag_hooks.search import Evolution, RandomSearch
from lswag_hooks.search.loop import run_generations
from lswag_hooks.search.pareto import best_first
from lswag_hooks.search.problem import Objective, Problem
from lswag_hooks.spaces import Space
from lswag_hooks.store import Store

MOSTLY = 0.8  # a score that is known of fewer networks would leave few to search among
SEEDS = range(10)


@dataclass(frozen=True)
class Known(Proxy):
    """A column of scores that are known."""

    name = "known"


def among(space: Space, known: Sequence[str]) -> Space:
    """The same space with these architectures alone, whose neighbours are those that are nearest in their encoding."""
    names = list(dict.fromkeys(known))
    places = {name: row for row, name in enumerate(names)}
    codes = np.stack([space.encode(name) for name in names])
    scale = np.where(codes.std(axis=0) > 0, codes.std(axis=0), 1)
    codes = codes / scale

    class Among(type(space)):
        def sample(self, rng=None):
            return names[int(np.random.default_rng(rng).integers(len(names)))]

        def mutate(self, architecture, rng=None):
            return self.nearest(super().mutate(architecture, rng), architecture, rng)

        def crossover(self, first, second, rng=None):
            return self.nearest(super().crossover(first, second, rng), None, rng)

        def nearest(self, architecture, excluded, rng):
            if architecture in places and architecture != excluded:
                return architecture
            apart = np.abs(codes - space.encode(architecture) / scale).sum(axis=1)
            if excluded is not None:
                apart[places[excluded]] = np.inf
            return names[int(np.random.default_rng(rng).choice(np.flatnonzero(apart == apart.min())))]

    return Among()


def stored(path: pathlib.Path, space: str) -> pd.DataFrame:
    """Scores of a store, one column a proxy; L-SWAG over single tenths of the layers is left out."""
    with Store(path) as store:
        frame = store.to_pandas()
    frame = frame[(frame["space"] == space) & frame["value"].notna()]
    if frame.empty:
        raise SystemExit(f"{path} has no scores of {space}")
    for column in ("seed", "batch", "conditions", "version"):  # else one architecture would have several scores
        if frame[column].nunique() > 1:
            kept = frame[column].value_counts().index[0]
            print(f"several of {column}: taken are those with {kept}")
            frame = frame[frame[column] == kept]
    tenths = [text for text in frame["proxy"].unique() if len(set(json.loads(text).get("interval") or "ab")) == 1]
    frame = frame[~frame["proxy"].isin(tenths)]
    frame = frame.assign(name=frame["proxy"].map(labels_of(frame["proxy"].unique())))
    return frame.pivot_table(index="candidate", columns="name", values="value", aggfunc="first")


def sizes(space: Space, names: Sequence[str]) -> pd.DataFrame:
    """Parameters, flops, number of weight layers and the sum of the logarithms of their sizes."""
    rows = {}
    task = space.check_task(None)
    for name in names:
        with torch.device("meta"):
            model = space.make(name, space.tasks[task], task, space.input_shape(task))
        layers = [one.weight.numel() for one in model.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
        cost = space.cost(name)
        rows[name] = (cost.params, cost.flops, len(layers), sum(map(math.log, layers)))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["params", "flops", "depth", "log_size"]).astype(float)


def objectives(scores: pd.DataFrame, fitted: str, own: Mapping[str, Libra]) -> dict[str, Objective]:
    better = {name: lh.proxies.proxy_class(name).higher_is_better for name in lh.list_proxies()}
    found = {}
    for name in scores:
        if better.get(name.split(" ")[0], True):
            found[name] = Objective((Known(label=name),))
    known = {name: Libra.load(name) for name in list_fitted() if name == fitted or name.startswith(f"{fitted}/")}
    for name, libra in {**known, **own}.items():
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


def compare(
    space: Space,
    accuracy: pd.Series,
    scores: pd.DataFrame,
    evaluations: int,
    fitted: str = "",
    own: Mapping[str, Libra] | None = None,
) -> pd.DataFrame:
    problem = Problem(among(space, list(scores.index)))
    rows = []
    half = min(25, max(2, evaluations // 8))  # AutoFormer's population, or one that leaves a few generations
    for name, objective in objectives(scores, fitted, own or {}).items():
        for algorithm in (Evolution(2 * half, half, half), RandomSearch()):
            for seed in SEEDS:
                found = run(problem, objective, scores, algorithm, evaluations, seed)
                rows.append((name, algorithm.name, seed, accuracy[found], found))
        print(f"{name:40} {np.mean([row[3] for row in rows[-2 * len(SEEDS) : -len(SEEDS)]]):.2f}", flush=True)
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=pathlib.Path)
    parser.add_argument("--task")
    parser.add_argument("--store", type=pathlib.Path)
    parser.add_argument("--sizes", action="store_true", help="the four sizes, counted now, beside what there is")
    parser.add_argument("--fit", type=int, metavar="N", help="set N networks aside and fit LIBRAs to their scores")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)
    benchmark = Benchmark.load(options.table)
    if benchmark.space is None:
        parser.error(f"{options.table}: its architectures are of no space of this package")
    space, task = lh.get_space(benchmark.space), options.task or benchmark.tasks[0]
    accuracy = benchmark.accuracy(task)
    scores = benchmark.proxies(task) if options.store is None else stored(options.store, benchmark.space)
    scores = scores[scores.index.isin(accuracy.index)]
    scores = scores[[name for name in scores if scores[name].notna().mean() > MOSTLY]].dropna()
    if options.sizes:
        counted = sizes(space, scores.index)
        scores = scores.drop(columns=counted.columns, errors="ignore").join(counted)
    if len(scores) < 2:
        parser.error("fewer than two architectures have an accuracy and all scores")
    own: dict[str, Libra] = {}
    if options.fit:
        order = np.random.default_rng(0).permutation(len(scores))
        seen, scores = scores.iloc[order[: options.fit]], scores.iloc[order[options.fit :]]
        for name, kind in (("paper's rule", Libra), ("checked", LibraChecked)):
            own[f"of {options.fit} others, {name}"] = kind().fit(seen, accuracy[seen.index])
            print(own[f"of {options.fit} others, {name}"].selected)
    found = compare(space, accuracy, scores, options.evaluations, f"{benchmark.space}/{task}", own)
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "search.csv", index=False)
    text = markdown(found, len(scores), options.evaluations)
    (options.out / "search.md").write_text(text)
    plot(found, options.out / "search.png")
    print(text)


if __name__ == "__main__":
    main()
