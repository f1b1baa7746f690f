"""Which score orders backbones of many families: timm's ImageNet-1k results, families left out.

    python benchmarks/backbones.py DATA --out OUT              # an hour on one core; stop and go on at will
    python benchmarks/backbones.py DATA --out OUT --most 60    # networks
    python benchmarks/backbones.py DATA --out OUT --save lswag_hooks/data/measured.json    # for `lswag trust`

DATA holds ``timm/timm_imagenet1k.csv`` and ``images/``. Each network is built as it would be for training, its zero
initialisations undone (``init="wake"``), and scored on eight ImageNet pictures. Forms without a free number are judged
as they stand; weighted ones are fitted to all families but one and judged on that one, family after family. The choice
between forms, and LIBRA, are made on one random half of the families and judged on the other. Intervals: bootstrap over
families. A cell: Spearman with accuracy [interval] (what is left given params, flops, depth and log size; mean over
families of five networks or more).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import timm
import torch
from scipy.stats import rankdata

import lswag_hooks as lh
from lswag_hooks.agreement import BASELINES, Agreement
from lswag_hooks.correlation import partial_spearman, spearman
from lswag_hooks.measured import figures_of
from lswag_hooks.models import family

IMAGES, SAMPLES, SIDE = "images/imagenet_224_64.npz", 8, 224
PROXIES = "lswag,lswag_robust,zico,swap,nwot,grad_norm,snip,fisher,plain,l2_norm,params,flops,depth,log_size"
LIMITS = (30.0, 60.0, 110.0)  # million parameters
LEAST = 1e-30


def collect(data: pathlib.Path, file: pathlib.Path, most: int | None) -> pd.DataFrame:
    """One row a network; those that the file has are not scored again."""
    raw = pd.read_csv(data / "timm" / "timm_imagenet1k.csv")
    raw = raw[raw["param_count"] <= LIMITS[-1]].sample(frac=1, random_state=0)[:most]
    known = {}
    if file.exists():
        known = {one["arch"]: one for one in map(json.loads, file.read_text().splitlines())}
    torch.set_num_threads(1)
    for number, row in enumerate(raw.itertuples(), 1):
        if row.arch not in known:
            known[row.arch] = {"arch": row.arch, **score(row.arch, data)}
            with file.open("a") as kept:
                kept.write(json.dumps(known[row.arch]) + "\n")
            print(f"{number}/{len(raw)} {row.arch} {known[row.arch]['seconds']:.1f} s", flush=True)
    found = pd.DataFrame([known[name] for name in raw["arch"]])
    found["accuracy"] = raw["top1_max"].to_numpy()
    found["family"] = [family(f"timm/{name}") for name in found["arch"]]
    return found[found["lswag"].notna() & found["flops"].notna()].reset_index(drop=True)


def score(name: str, data: pathlib.Path) -> dict[str, object]:
    """Everything that the forms are made of."""
    began = time.perf_counter()
    try:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=1000)
        fixed = model.default_cfg.get("fixed_input_size")
        side = model.default_cfg["input_size"][-1] if fixed else SIDE
        batch = lh.Batch.from_npz(data / IMAGES, samples=SAMPLES, size=(3, side, side))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = lh.score(model, batch, PROXIES, init="wake", seed=0)
        found: dict[str, object] = {**result, **features(result.profile)}
    except Exception as error:  # a network that cannot be scored is a row without values
        found = {"lswag": None, "reason": str(error).splitlines()[0]}
    return found | {"seconds": time.perf_counter() - began}


def features(profile: lh.LayerProfile) -> dict[str, float]:
    """What the layers show beside the proxies: means over layers, which do not grow with their number."""
    rows = [row for row in profile.weights if row.mean_deviation and row.sensitivity and row.trainability is not None]
    depth = np.linspace(0, 1, len(rows))
    sensitivity = np.log([row.sensitivity for row in rows])
    noise = [np.log(max(row.mean_gradient, LEAST) / row.mean_deviation) for row in rows]
    return {
        "trainability": float(sum(row.trainability for row in rows)),
        "mean_trainability": float(np.mean([row.trainability for row in rows])),
        "mean_inverse_deviation": float(np.mean([row.trainability - np.log(max(row.alive, 1)) for row in rows])),
        "mean_sensitivity": float(sensitivity.mean()),
        "spread_of_sensitivity": float(sensitivity.std()),
        "slope_of_sensitivity": float(np.polyfit(depth, sensitivity, 1)[0]),
        "mean_over_deviation": float(np.mean(noise)),
        "expressivity": float(np.mean([row.expressivity for row in profile.activations if row.expressivity])),
    }


def unfitted(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Sums of logarithms, which are logarithms of products."""
    log = {name: np.log(table[name].clip(lower=LEAST)) for name in ("params", "flops", "lswag", "lswag_robust", "zico")}
    log["trainability"] = np.log(table["trainability"].clip(lower=LEAST))
    p, m = log["params"], log["flops"]
    found = {"params": p, "flops": m, "params x flops": p + m}
    for name in ("lswag", "lswag_robust", "zico", "trainability"):
        found |= {name: log[name], f"params x {name}": p + log[name], f"params x flops x {name}": p + m + log[name]}
    found["params x sqrt(flops) x lswag"] = p + m / 2 + log["lswag"]
    ranks = [np.log(rankdata(log[name]) / len(table)) for name in ("params", "flops", "lswag")]
    found["sum of ln(rank/n): params, flops, lswag"] = pd.Series(sum(ranks))
    ranks[2] = np.log(rankdata(log["trainability"]) / len(table))
    found["sum of ln(rank/n): params, flops, trainability"] = pd.Series(sum(ranks))
    return found


WEIGHTED = {
    "ridge: params": ("params",),
    "ridge: params, lswag": ("params", "lswag"),
    "ridge: params, flops, lswag": ("params", "flops", "lswag"),
    "ridge: params, flops, depth, log size": ("params", "flops", "depth", "log_size"),
    "ridge: the three and mean sensitivity": ("params", "flops", "lswag", "mean_sensitivity"),
    "ridge: the three and slope of sensitivity": ("params", "flops", "lswag", "slope_of_sensitivity"),
    "ridge: all of these": (
        *("params", "flops", "depth", "log_size", "lswag", "lswag_robust", "zico", "swap", "nwot"),
        *("mean_trainability", "mean_inverse_deviation", "mean_sensitivity", "spread_of_sensitivity"),
        *("slope_of_sensitivity", "mean_over_deviation", "expressivity"),
    ),
}
POSITIVE = ("params", "flops", "depth", "log_size", "lswag", "lswag_robust", "zico", "swap")


def left_out(table: pd.DataFrame, columns: tuple[str, ...], penalty: float = 0.01) -> pd.Series:
    """Predictions for each family by a ridge regression on all others, every family of the same weight there."""
    given = table[list(columns)].astype(float).fillna(table[list(columns)].median())
    for name in set(columns) & set(POSITIVE):
        given[name] = np.log(given[name].clip(lower=LEAST))
    target, found = rankdata(table["accuracy"]) / len(table), np.zeros(len(table))
    for name in table["family"].unique():
        inside = (table["family"] == name).to_numpy()
        seen, truth = given[~inside].to_numpy(), target[~inside]
        mean, deviation = seen.mean(0), seen.std(0) + LEAST
        weight = (1 / table["family"][~inside].map(table["family"][~inside].value_counts())).to_numpy()
        x = (seen - mean) / deviation
        solved = np.linalg.solve(
            (x.T * weight) @ x + penalty * weight.sum() * np.eye(len(columns)), x.T @ (weight * (truth - truth.mean()))
        )
        found[inside] = (given[inside].to_numpy() - mean) / deviation @ solved + truth.mean()
    return pd.Series(found)


def halves(table: pd.DataFrame, kind: Callable[..., lh.Libra], splits: int = 10) -> tuple[float, float, list[str]]:
    """LIBRA chosen on half of the families and judged on the other: mean, deviation, and what it chose most often."""
    scores = table[[name for name in PROXIES.split(",") if table[name].notna().all()]].astype(float)
    names, found, chosen = table["family"].unique(), [], []
    for seed in range(splits):
        half = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2])
        inside = table["family"].isin(half).to_numpy()
        libra = kind().fit(scores[inside], table["accuracy"][inside])
        found.append(spearman(libra.score(scores[~inside]).to_numpy(), table["accuracy"][~inside].to_numpy()))
        chosen.append(", ".join(libra.selected))
    return float(np.mean(found)), float(np.std(found)), pd.Series(chosen).mode().tolist()


def chosen_form(table: pd.DataFrame, splits: int = 20) -> tuple[float, float, list[str]]:
    """The form without a free number that does best on half of the families, judged on the other."""
    forms, names, found, chosen = unfitted(table), table["family"].unique(), [], []
    for seed in range(splits):
        half = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2])
        inside, truth = table["family"].isin(half).to_numpy(), table["accuracy"].to_numpy()
        best = max(forms, key=lambda name: spearman(forms[name].to_numpy()[inside], truth[inside]))
        found.append(spearman(forms[best].to_numpy()[~inside], truth[~inside]))
        chosen.append(best)
    return float(np.mean(found)), float(np.std(found)), pd.Series(chosen).mode().tolist()


def over_families(table: pd.DataFrame, value: pd.Series, draws: int = 500) -> tuple[float, float]:
    """The 95 % bootstrap interval of Spearman's rho, whole families drawn."""
    rng, rows = np.random.default_rng(0), [np.flatnonzero(table["family"] == name) for name in table["family"].unique()]
    found = []
    for _ in range(draws):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        found.append(spearman(value.to_numpy()[drawn], table["accuracy"].to_numpy()[drawn]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def within_families(table: pd.DataFrame, value: pd.Series, least: int = 5) -> float:
    """Mean over families of at least five of Spearman's rho inside the family."""
    parts = [index for index in table.groupby("family").groups.values() if len(index) >= least]
    return float(np.nanmean([spearman(value[part].to_numpy(), table["accuracy"][part].to_numpy()) for part in parts]))


def report(table: pd.DataFrame) -> Mapping[str, list[str]]:
    """Form -> one cell a limit: Spearman, its interval, what is left given the sizes, mean within families."""
    found: dict[str, list[str]] = {}
    for limit in LIMITS:
        part = table[table["params"] <= 1e6 * limit].reset_index(drop=True)
        forms = unfitted(part) | {name: left_out(part, columns) for name, columns in WEIGHTED.items()}
        sizes = [part[name].to_numpy() for name in ("params", "flops", "depth", "log_size")]
        truth = part["accuracy"].to_numpy()
        for name, value in forms.items():
            low, high = over_families(part, value)
            partial = partial_spearman(value.to_numpy(), truth, *sizes)
            cell = f"{spearman(value.to_numpy(), truth):.3f} [{low:.2f}, {high:.2f}]"
            cell += f" ({partial:+.2f}; {within_families(part, value):.2f})"
            found.setdefault(name, []).append(cell)
        for name, (mean, deviation, chosen) in {
            "the best of these without weights": chosen_form(part),
            "LIBRA": halves(part, lh.Libra),
            "LibraChecked": halves(part, lh.LibraChecked),
        }.items():
            cell = f"{mean:.3f} ± {deviation:.3f}; most often {chosen[0]}"
            found.setdefault(f"chosen on half of the families: {name}", []).append(cell)
    return found


def save(table: pd.DataFrame, file: pathlib.Path) -> None:
    """Put the figures beside those of ``correlations.py``."""
    kept = ("lswag", "lswag_robust", "zico", "swap", "nwot", "backbone")
    scores = table.set_index("arch")[[*kept[:-1], *BASELINES]].astype(float)
    scores["backbone"] = scores["params"] * scores["lswag"]
    about = {
        "what": "timm below 110 million parameters, ImageNet-1k",
        "families": True,  # many: what candidates of several are compared with
        "batch": f"{SAMPLES} ImageNet images of {SIDE} px or the network's own size",
        "table": "timm/timm_imagenet1k.csv",
        "init": "wake",
        "version": lh.__version__,
        "command": "python benchmarks/backbones.py DATA --out OUT --save lswag_hooks/data/measured.json",
    }
    stored = json.loads(file.read_text())
    stored["timm"] = figures_of(Agreement(scores, table.set_index("arch")["accuracy"]), kept, about)
    file.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--most", type=int)
    parser.add_argument("--save", type=pathlib.Path, help="put the figures into this JSON file, beside what it has")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    networks = collect(options.data, options.out / "backbones.jsonl", options.most)
    counts = [int((networks["params"] <= 1e6 * limit).sum()) for limit in LIMITS]
    print("| | " + " | ".join(f"below {limit:.0f} M, {n}" for limit, n in zip(LIMITS, counts, strict=True)) + " |")
    print("|---" * (len(LIMITS) + 1) + "|")
    for name, cells in report(networks).items():
        print(f"| {name} | " + " | ".join(cells) + " |")
    if options.save:
        save(networks, options.save)
