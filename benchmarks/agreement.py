"""Our values of each proxy against the published ones, on architectures of NAS-Bench-201.

    python benchmarks/agreement.py DATA --out OUT                       # 300 architectures; stop and go on at will
    python benchmarks/agreement.py DATA --out OUT --architectures 60

    python benchmarks/agreement.py DATA --out OUT --every --save lswag_hooks/data/measured.json

DATA holds ``benchmarks/nasbench201_cifar10_release_proxies.csv.gz`` and ``images/``. Three rank correlations each:
with the published values of the same proxy, and with accuracy, ours and theirs, over the same networks. ``--every``
computes the proxies that were not published, too; OUT/agreement/scores.csv holds all values.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import warnings

import pandas as pd
import torch
from correlations import every, merged

import lswag_hooks as lh
from lswag_hooks.correlation import estimate, spearman
from lswag_hooks.measured import figures_of
from lswag_hooks.proxies import proxy_class

TABLE = "benchmarks/nasbench201_cifar10_release_proxies.csv.gz"
IMAGES = "images/cifar10_png_sample.npz"
EXACT = ("params", "flops", "l2_norm", "synflow", "zen", "nwot", "snip", "grad_norm")
DRAWN = ("jacov", "fisher", "epe_nas", "grasp", "plain")  # data order and weights of their own decide


def scored(data: pathlib.Path, out: pathlib.Path, architectures: int, samples: int, more: list[str]) -> lh.Agreement:
    """Our values and the published ones."""
    batch = lh.Batch.from_npz(data / IMAGES, samples=samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lh.correlate(
            "nasbench201",
            batch,
            list(dict.fromkeys([*EXACT, *DRAWN, *more])),
            benchmark=lh.Benchmark.load(data / TABLE),
            architectures=architectures,
            store=out / "agreement.db",
        )


def redrawn(found: lh.Agreement, data: pathlib.Path, out: pathlib.Path, networks: int, samples: int) -> pd.Series:
    """What our own values agree with those of a second draw of the weights, on the first networks: no more can."""
    names = list(found.scores.index[:networks])
    rows = {"task": "cifar10", "architecture": names, "accuracy": found.accuracy[names].to_numpy()}
    some = lh.Benchmark("redrawn", "nasbench201", pd.DataFrame(rows), TABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = lh.correlate(
            "nasbench201",
            lh.Batch.from_npz(data / IMAGES, samples=samples),
            [*EXACT, *DRAWN],
            benchmark=some,
            architectures=0,
            seed=1,
            resamples=10,
            store=out / "agreement.db",
        )
    columns = [*EXACT, *DRAWN]
    first, second = found.scores.loc[names, columns].dropna(), again.scores[columns].dropna()
    kept = first.index.intersection(second.index)
    return pd.Series({name: spearman(first.loc[kept, name], second.loc[kept, name]) for name in columns})


def compare(found: lh.Agreement) -> pd.DataFrame:
    """One row a published proxy."""
    assert found.published is not None
    rows = []
    for name in (*EXACT, *DRAWN):
        theirs = found.published[name].reindex(found.scores.index)
        both = theirs.notna() & found.scores[name].notna()
        ours, theirs, accuracy = found.scores[name][both], theirs[both], found.accuracy[both]
        sign = 1 if proxy_class(name).higher_is_better else -1
        agreement = estimate(spearman, ours.to_numpy(), theirs.to_numpy())
        row = {"proxy": name, "networks": int(both.sum()), "with_published": agreement.value}
        row |= {"low": agreement.low, "high": agreement.high}
        row |= {"ours": sign * spearman(ours, accuracy), "published": sign * spearman(theirs, accuracy)}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--architectures", type=int, default=300)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--redraw", type=int, default=0, metavar="N", help="score N of them with other weights, too")
    parser.add_argument("--every", action="store_true", help="all proxies that need no repeated passes")
    parser.add_argument("--save", type=pathlib.Path, help="put the figures into this JSON file, beside what it has")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    more = every() if options.every else []
    found = scored(options.data, options.out, options.architectures, options.samples, more)
    found.save(options.out / "agreement")
    if options.save:
        stored = json.loads(options.save.read_text())
        stored["nb201"] = merged(stored["nb201"], figures_of(found, found.proxies, {}))
        options.save.write_text(json.dumps(stored, indent=1) + "\n")
    table = compare(found)
    if options.redraw:
        second = redrawn(found, options.data, options.out, options.redraw, options.samples)
        table["redrawn"] = table["proxy"].map(second)
    table.to_csv(options.out / "agreement.csv", index=False)
    more_header = " our two draws |" if options.redraw else ""
    print(f"| | agreement with the published values |{more_header} with accuracy, ours | published |")
    print("|---|---|---|---|" + "---|" * bool(options.redraw))
    for row in table.itertuples():
        second = f" {row.redrawn:.3f} |" if options.redraw else ""
        print(
            f"| {row.proxy} | {row.with_published:.3f} [{row.low:.3f}, {row.high:.3f}] |{second} {row.ours:.3f} "
            f"| {row.published:.3f} |"
        )
