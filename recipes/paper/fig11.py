"""Fig. 11: size of the batch, and initialisation: ``python -m recipes.paper.fig11 DATA --out OUT``."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lswag_hooks.errors import InputError, near_matches
from lswag_hooks.proxies import resolve_proxies
from lswag_hooks.spaces import Space
from recipes.common import finish
from recipes.paper.common import command, panels, report, side_by_side
from recipes.paper.tasks import TASKS, Measuring, Scores, batch_of, measure, prepared, told

DRAWS = {
    "xavier": nn.init.xavier_normal_,
    "kaiming": functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "gaussian": nn.init.normal_,  # N(0, 1), as SWAP's and ZenNAS's code draws
}


def run(data: Path, out: Path, measuring: Measuring, sizes: list[int], inits: list[str], at: int = 64) -> None:
    """Fig. 11: Spearman against the size of the batch, and its spread over initialisations (App. F).

    Proxies that hardly change over sizes (by less than 0.01) are not drawn, as in the paper.

    Args:
        data: folder of the data.
        out: folder of results.
        measuring: what is measured.
        sizes: of the batch.
        inits: xavier, kaiming, gaussian.
        at: size of the batch for these.
    """
    unknown = [name for name in inits if name not in DRAWS]
    if unknown:
        raise InputError(f"inits: {unknown[0]!r}{near_matches(unknown[0], DRAWS)}; there are {', '.join(DRAWS)}.")
    ready, proxies = prepared(data, measuring), resolve_proxies(measuring.proxies)
    by_size, by_init, scores = {}, {}, []

    def spearmans(key: str, space: Space, samples: int) -> pd.Series:
        benchmark, known, _ = ready[key]
        batch = batch_of(TASKS[key], known, data, measuring, samples)
        found = measure(
            TASKS[key], (replace(benchmark, space=space.name), space, batch), proxies, out / "scores.db", measuring
        )
        scores.append(found)
        return found.correlations()

    for key in measuring.tasks:
        space = ready[key][1]
        by_size[key] = pd.DataFrame({size: spearmans(key, space, size) for size in sizes})
        by_init[key] = pd.DataFrame({name: spearmans(key, drawn(space, name), at) for name in inits})
    write(out, by_size, by_init, scores)


def write(
    out: Path, by_size: dict[str, pd.DataFrame], by_init: dict[str, pd.DataFrame], scores: Sequence[Scores]
) -> None:
    """Print, draw and write both parts."""
    figure, axes = panels(1, len(by_size), 4.2, 3.4)
    for axis, (key, table) in zip(axes, by_size.items(), strict=True):
        for name, row in table.iterrows():
            if np.ptp(row.to_numpy()) > 0.01:
                axis.plot([str(size) for size in table], row, "o-", markersize=3, label=name)
        axis.set(title=key, xlabel="samples of the batch", ylabel="Spearman with accuracy")
        axis.legend(fontsize=6)
    for key, table in by_size.items():
        both = side_by_side(table.T, table.T.iloc[:0]).rename(columns={"what": "task", "task": "what"})
        report(out, f"fig11_{key}", f"Fig. 11, {key}, by size of the batch", both, figure, told(scores[:1]))
    drawing, axes = panels(1, len(by_init), 4.2, 3.4)
    for axis, (key, table) in zip(axes, by_init.items(), strict=True):
        for scheme in table:
            axis.plot(table[scheme], [str(name) for name in table.index], "o", markersize=4, alpha=0.7, label=scheme)
        axis.set(title=key, xlabel="Spearman with accuracy")
        axis.legend(fontsize=6)
    for key, table in by_init.items():
        spread = table.assign(std=table.std(axis=1))
        paper = pd.DataFrame(index=["lswag"], columns=[], dtype=float)
        both = side_by_side(spread, paper).rename(columns={"what": "task", "task": "what"})
        report(out, f"fig11_{key}_inits", f"App. F, {key}, by initialisation", both, drawing)


def drawn(space: Space, scheme: str) -> Space:
    """The space, its networks' weights of convolutions and linear layers drawn anew and their biases zero.

    It has a name of its own, so that a store keeps its scores apart.
    """
    made = copy.copy(space)
    vars(made).update(name=f"{space.name} {scheme}", make=functools.partial(_make, space, scheme))
    return made


def _make(space: Space, scheme: str, *asked: Any) -> nn.Module:
    model = space.make(*asked)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                DRAWS[scheme](module.weight)  # type: ignore[operator]
                if module.bias is not None:
                    module.bias.zero_()
    return model


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
