"""Tab. 8: search of AutoFormer with L-SWAG and LIBRA: ``python -m recipes.paper.tab8 DATA --out OUT``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lswag_hooks import Libra, get_space, search
from lswag_hooks.agreement import BASELINES
from lswag_hooks.ensembles import LibraChecked
from lswag_hooks.errors import InputError
from lswag_hooks.proxies import resolve_proxies
from lswag_hooks.report.table import console, table
from lswag_hooks.search import Evolution, SearchResult
from recipes.common import finish
from recipes.paper.common import command, panels, published
from recipes.paper.tasks import TASKS, Measuring, Scores, batch_of, measure, prepared, told

PICKS = 200  # draws of candidates


def run(
    data: Path,
    out: Path,
    measuring: Measuring,
    space: str,
    evaluations: int,
    population: int,
    max_params: int,
    candidates: int,
    results: list[str] | None = None,
) -> None:
    """Tab. 8: what L-SWAG and LIBRA find, beside random search and the published methods.

    First, among networks whose accuracy is known (the task of ``measuring``): the error of the best of some candidates
    by each score, and of one at random. Second, evolution in a space: what is found, its size and the time. The test
    error of that takes a trained supernet: ``recipes.autoformer``, whose ``evaluate`` writes what ``results`` reads.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured; the first of its tasks counts.
        space: that is searched.
        evaluations: of a search.
        population: of evolution.
        max_params: most parameters.
        candidates: drawn each time from the networks of known accuracy.
        results: JSON files of recipes.autoformer.evaluate, of the architectures found.
    """
    errors = read_results(results or [])
    key = measuring.tasks[0]
    ready = prepared(data, measuring, [key])
    proxies = resolve_proxies([measuring.proxies, ",".join(one for one in BASELINES if one != "params")])
    scores = measure(TASKS[key], ready[key], proxies, out / "scores.db", measuring)
    picked = pd.DataFrame(picks(scores, candidates)).T
    picked.to_csv(out / "tab8_known.csv", index_label="chosen by")
    print(f"\nTop-1 error (%) of the best of {candidates} networks of {key}, by each score; {PICKS} draws")
    rows = [[str(name), *(f"{value:.2f}" for value in row)] for name, row in picked.iterrows()]
    console().print(table(["chosen by", *picked.columns], rows, right=set(range(1, 1 + len(picked.columns)))))
    for note in told([scores]):
        print(f"- {note}")
    libra = fit(scores.frame.drop(columns=[name for name in BASELINES if name != "params"]), scores.accuracy)
    (out / "tab8_libra.json").write_text(json.dumps(libra.to_dict(), indent=1) + "\n", encoding="utf-8")
    batch = batch_of(TASKS[key], get_space(space), data, measuring)
    evolution = Evolution(population=population, mutations=population // 2, crossovers=population // 2)
    found = {}
    for name, scorer in (("L-SWAG-NAS", "lswag"), ("LIBRA-NAS", libra)):
        print(f"{name}: {evaluations} evaluations in {space}", flush=True)
        found[name] = search(
            space,
            batch,
            scorer,
            algorithm=evolution,
            evaluations=evaluations,
            seed=measuring.seed,
            max_params=max_params,
            num_classes=TASKS[key].outputs,
            image_size=batch.inputs.shape[-1],
            store=out / "scores.db",
            workers=measuring.workers,
        )
        if found[name].interrupted:
            print("stopped; the same command goes on.")
            raise KeyboardInterrupt
    write(
        out,
        found,
        libra,
        errors,
        picked,
        candidates,
        f"{space}, {evaluations} evaluations, {len(batch)} images of {batch.name}",
    )


def picks(scores: Scores, candidates: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Error of the best candidate by each score, mean and deviation over draws.

    LIBRA is fitted each time to the networks that are no candidates.

    Raises:
        InputError: there are too few networks for that.
    """
    frame = scores.turned.dropna(axis="columns", how="all").dropna()
    error = 100 - scores.accuracy[frame.index]
    if not 2 <= candidates <= len(frame) - 10:
        raise InputError(f"candidates={candidates}: there are {len(frame)} networks; LIBRA needs ten others.")
    found: dict[str, list[float]] = {}
    rng = np.random.default_rng(seed)
    for _ in range(PICKS):
        order = rng.permutation(len(frame))
        some, others = frame.iloc[order[:candidates]], frame.iloc[order[candidates:]]
        chosen = {name: some[name].idxmax() for name in some}
        for name, kind in (("LIBRA", Libra), ("LibraChecked", LibraChecked)):
            own = others.drop(columns=[one for one in BASELINES if one != "params" and one in others])
            fitted = fit(own, scores.accuracy[others.index], kind)
            chosen[name] = fitted.score(some).idxmax()
        chosen["random: one of them"] = some.index[0]
        chosen["the best there is"] = error[some.index].idxmin()
        for name, architecture in chosen.items():
            found.setdefault(name, []).append(float(error[architecture]))
    order_of = sorted(found, key=lambda name: np.mean(found[name]))
    return {name: {"mean": float(np.mean(found[name])), "std": float(np.std(found[name]))} for name in order_of}


def fit(frame: pd.DataFrame, accuracy: pd.Series, kind: type[Libra] = Libra) -> Libra:
    """LIBRA, or LibraChecked, chosen from these networks."""
    return kind().fit(frame, accuracy)


def read_results(files: Sequence[str]) -> dict[str, float]:
    """Test errors by architecture.

    Raises:
        InputError: a file is not what ``recipes.autoformer.evaluate`` writes.
    """
    found = {}
    for file in files:
        try:
            read = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
            found[str(read["architecture"])] = float(read["error"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"results: {file} cannot be read ({error}): give JSON of recipes.autoformer.evaluate."
            ) from None
    return found


def write(
    out: Path,
    found: Mapping[str, SearchResult],
    libra: Libra,
    errors: Mapping[str, float],
    picked: pd.DataFrame,
    candidates: int,
    how: str,
) -> None:
    """Print and write what was found beside the paper's table."""
    rows = []
    for name, result in found.items():
        (best,) = result.top(1)
        base = str(result.baseline["architecture"])
        days = result.seconds / 86400
        for label, architecture, time in ((name, best, days), (f"random, best by {name[:-4]}", base, float("nan"))):
            params = result.seen.problem.cost(architecture).params / 1e6
            error = errors.get(architecture, float("nan"))
            rows.append((f"ours, {label}", f"{params:.1f}", time, error, architecture))
        result.to_yaml(out / f"tab8_{name}.yaml")
    ours = pd.DataFrame(rows, columns=["approach", "params_m", "gpu_days", "test_error", "architecture"])
    paper = published("tab8").reset_index()
    both = pd.concat([paper, ours], ignore_index=True)
    both.to_csv(out / "tab8.csv", index=False)
    print(f"\nTab. 8; ours: {how}; days are of this machine")
    texts = [
        [str(row.approach), str(row.params_m), *("" if value != value else f"{value:.3g}" for value in row[3:5])]
        for row in both.itertuples()
    ]
    console().print(table(["approach", "params (M)", "GPU days", "test error (%)"], texts, right={1, 2, 3}))
    print(f"- LIBRA: {', '.join(libra.selected)}")
    if not errors:
        print(
            "- no test errors of ours: they take a trained supernet (recipes.autoformer), see recipes/paper/README.md"
        )
    figure, axes = panels(1, 2, 5.5, 4.5)
    axes[0].barh(picked.index, picked["mean"], xerr=picked["std"], capsize=2, alpha=0.6)
    axes[0].set(title=f"networks of known accuracy: best of {candidates}", xlabel="top-1 error (%)")
    reach = 2 * float(picked["std"].max())
    axes[0].set_xlim(float(picked["mean"].min()) - reach, float(picked["mean"].max()) + reach)
    known = both.dropna(subset=["test_error"]).sort_values("test_error")
    axes[1].barh(known["approach"], known["test_error"], alpha=0.6)
    axes[1].set(title="Tab. 8" + ("" if errors else ", published alone"), xlabel="test error (%)", xlim=(15, 31))
    for axis in axes:
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
    figure.savefig(out / "tab8.png", dpi=150)
    print(f"written: {out / 'tab8'}.csv, tab8_known.csv, tab8_libra.json, tab8.png")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
