"""What an interval of layers gains for L-SWAG, in rank correlation and in time, against all layers.

    python benchmarks/correlations.py DATA --out OUT --variants nb201 nb301 autoformer
    python benchmarks/intervals.py DATA --out OUT nb201 nb301 autoformer

Two ways to choose the interval: the stored one of the space, the spike of the gradients' deviation, which needs no
accuracy; and, as a bound on what any choice could gain, the best one by accuracy on a random half of the networks,
judged on the other half. Differences are paired, with 95 % bootstrap intervals over networks.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import time
import warnings

import numpy as np
import torch
from correlations import EXPERIMENTS, Experiment, proxies, run

import lswag_hooks as lh
from lswag_hooks.benchmark import Benchmark
from lswag_hooks.correlation import Estimate, estimate, spearman
from lswag_hooks.functional.lswag import BINS, Interval
from lswag_hooks.intervals import stored_intervals

INTERVALS = list(itertools.combinations_with_replacement(range(BINS), 2))


def within(tenths: np.ndarray, interval: Interval) -> np.ndarray:
    """L-SWAG over an interval: a sum over layers, so that tenths add up."""
    return tenths[:, interval[0] : interval[1] + 1].sum(1)


def gain(tenths: np.ndarray, accuracy: np.ndarray, interval: Interval) -> Estimate:
    """Correlation over the interval less that over all layers."""

    def difference(some: np.ndarray, every: np.ndarray, known: np.ndarray) -> float:
        return spearman(some, known) - spearman(every, known)

    return estimate(difference, within(tenths, interval), within(tenths, (0, BINS - 1)), accuracy)


def chosen_by_accuracy(tenths: np.ndarray, accuracy: np.ndarray, splits: int = 20) -> tuple[float, float, str]:
    """Mean gain on the other half, its standard deviation over splits, and the interval that was chosen most often."""
    gains, chosen = [], []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(accuracy))
        fit, judge = order[::2], order[1::2]
        best = max(INTERVALS, key=lambda one: spearman(within(tenths[fit], one), accuracy[fit]))
        every = spearman(within(tenths[judge], (0, BINS - 1)), accuracy[judge])
        gains.append(spearman(within(tenths[judge], best), accuracy[judge]) - every)
        chosen.append(best)
    return float(np.mean(gains)), float(np.std(gains)), str(statistics.mode(chosen))


def seconds(one: Experiment, data: pathlib.Path, interval: Interval, networks: int = 5) -> float:
    """Median ratio of the time of a score over the interval to one over all layers, measured in turns."""
    size = None if one.side is None else (3, one.side, one.side)
    batch = lh.Batch.from_npz(data / one.images, samples=one.samples, size=size)
    space = lh.get_space(one.space) if isinstance(one.space, str) else one.space
    names = Benchmark.load(data / one.table).architectures(one.task)[:networks]
    ratios = []
    for name in names:
        model = space.build(name, num_classes=one.num_classes or 10)
        taken = []
        for asked in (None, interval, None, interval, None, interval):
            start = time.perf_counter()
            lh.score(model, batch, "lswag", interval=asked)
            taken.append(time.perf_counter() - start)
        ratios.append(min(taken[3::2]) / min(taken[2::2]))
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=["nb201", "nb301", "autoformer"])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--architectures", type=int)
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| | networks | all layers | stored interval | its gain | its time | best by accuracy, other half | chosen |")
    print("|---" * 8 + "|")
    for name in options.names:
        one = EXPERIMENTS[name]
        found = run(name, options.data, options.out, proxies(variants=True), options.architectures)
        tenths = (
            found.scores[[f"lswag tenth {tenth}" for tenth in range(BINS)]].loc[found.complete].fillna(0).to_numpy()
        )
        accuracy = found.accuracy.loc[found.complete].to_numpy()
        every = spearman(within(tenths, (0, BINS - 1)), accuracy)
        stored = stored_intervals().get(one.space if isinstance(one.space, str) else one.space.name)
        spiked = None if stored is None else tuple(stored["interval"])
        told = ["-", "-", "-"]
        if spiked is not None:
            better = gain(tenths, accuracy, spiked)
            told = [f"{spiked[0]} to {spiked[1]}", str(better), f"{seconds(one, options.data, spiked):.2f}"]
        mean, spread, often = chosen_by_accuracy(tenths, accuracy)
        print(f"| {name} | {len(accuracy)} | {every:.3f} | {' | '.join(told)} | {mean:+.3f} ± {spread:.3f} | {often} |")


if __name__ == "__main__":
    main()
