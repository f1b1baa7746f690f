"""Does a gate at initialisation save trials? Optuna on a table of NAS-Bench-201, with and without one.

    python benchmarks/optuna_gate.py --out OUT

No network is scored or trained: scores and accuracies (CIFAR-10, validation) are those published, of the 500 rows that
come with this package, where every proxy is known. A study suggests the six operations of a cell; the architecture is
the nearest of the table. One that is trained costs 200 epochs, as published; one that is turned away costs none.
Cells that cannot work (disconnected) are no trials, in any study.
For each sampler, proxy and seed there are three studies: without a gate, `BUDGET` trials; with it, as many *trials*;
with it, as many *trained*. ``coin`` is a gate that turns away by a random score. Written are ``optuna_gate.csv`` (every
study) and ``optuna_gate.md``.
"""

from __future__ import annotations

import argparse
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
import optuna
import pandas as pd

import lswag_hooks as lh
from lswag_hooks.integrations import check_score

SEEDS = range(10)
BUDGET = 40
EPOCHS = 200  # of one training of NAS-Bench-201
PROXIES = ("params", "flops", "synflow", "nwot", "zen", "jacov", "l2_norm", "snip", "grad_norm", "fisher")
SAMPLERS = {"random": optuna.samplers.RandomSampler, "TPE": optuna.samplers.TPESampler}


class Table:
    """Architectures with known scores and accuracies, and the nearest one to any of the space."""

    def __init__(self) -> None:
        benchmark = lh.Benchmark.load("nasbench201")
        self.space = lh.get_space("nasbench201")
        self.scores = benchmark.proxies("cifar10").dropna()
        self.accuracy = benchmark.accuracy("cifar10")[self.scores.index]
        self.names = list(self.scores.index)
        self.codes = np.stack([self.space.encode(name) for name in self.names])

    def nearest(self, architecture: str) -> str:
        apart = np.abs(self.codes - self.space.encode(architecture)).sum(axis=1)
        tied = np.flatnonzero(apart == apart.min())
        return self.names[tied[zlib.crc32(architecture.encode()) % len(tied)]]  # the same for the same


def study_of(
    table: Table, sampler: str, seed: int, proxy: str | None, trials: int, trained: int, quantile: float
) -> dict[str, float]:
    """Run one study until it had so many trials, or has trained so many."""
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler](seed=seed))
    coin = np.random.default_rng([seed, 1])
    accuracies: list[float] = []
    seen = 0
    while seen < trials and len(accuracies) < trained:
        trial = study.ask()
        try:
            name = table.nearest(table.space.as_optuna(trial))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        seen += 1
        try:
            if proxy is not None:
                score = float(coin.random()) if proxy == "coin" else float(table.scores.at[name, proxy])
                check_score(trial, score, proxy, quantile)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        accuracies.append(float(table.accuracy[name]))
        study.tell(trial, accuracies[-1])
    return {"best": max(accuracies), "trained": len(accuracies), "trials": seen}


def compare(table: Table, quantile: float) -> pd.DataFrame:
    rows = []
    for sampler in SAMPLERS:
        for proxy in (None, "coin", *PROXIES):
            for seed in SEEDS:
                limits = {"same trials": (BUDGET, BUDGET)}
                if proxy is not None:
                    limits["same training"] = (20 * BUDGET, BUDGET)
                for what, (trials, trained) in limits.items():
                    found = study_of(table, sampler, seed, proxy, trials, trained, quantile)
                    rows.append({"sampler": sampler, "gate": proxy or "none", "seed": seed, "what": what, **found})
            print(f"{sampler} {proxy}: {rows[-1]}", flush=True)
    return pd.DataFrame(rows)


def markdown(found: pd.DataFrame) -> str:
    lines = []
    for sampler, of_sampler in found.groupby("sampler", sort=False):
        plain = of_sampler[of_sampler["gate"] == "none"].set_index("seed")
        lines += [
            f"{sampler} sampler. Without a gate: {BUDGET} trials, {BUDGET * EPOCHS:,} epochs, best "
            f"{plain['best'].mean():.2f} ± {plain['best'].std():.2f}.",
            "",
            "| gate | same trials: epochs spent | best | to none | same training: trials | best | to none |",
            "|---|---|---|---|---|---|---|",
        ]
        for gate, of_gate in of_sampler[of_sampler["gate"] != "none"].groupby("gate", sort=False):
            cells = [gate]
            for what in ("same trials", "same training"):
                rows = of_gate[of_gate["what"] == what].set_index("seed")
                spent = rows["trained"].mean() * EPOCHS if what == "same trials" else rows["trials"].mean()
                gain = rows["best"] - plain["best"]
                low, high = interval(gain.to_numpy())
                cells += [f"{spent:,.0f}", f"{rows['best'].mean():.2f} ± {rows['best'].std():.2f}"]
                cells += [f"{gain.mean():+.2f} [{low:+.2f}, {high:+.2f}]"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over seeds."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantile", type=float, default=0.5, help="share of candidates to turn away")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table()
    print(f"{len(table.names)} architectures, best accuracy {table.accuracy.max():.2f}")
    found = compare(table, options.quantile)
    found.to_csv(options.out / "optuna_gate.csv", index=False)
    text = markdown(found)
    (options.out / "optuna_gate.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
