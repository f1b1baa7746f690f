"""Fig. 5: Theorem 1 on MNIST, a linear regressor: ``python -m recipes.paper.fig5 DATA --out OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lswag_hooks.correlation import pearson, spearman
from lswag_hooks.errors import InputError
from recipes.common import finish
from recipes.paper.common import command, panels
from recipes.paper.theorem import INITS, Runs, experiment, normalised

FILES = ("images/mnist.npz", "images/mnist_t10k_2000.npz")


def run(
    data: Path, out: Path, rates: list[float], images: int = 1000, repeats: int = 1000, seed: int = 0
) -> list[Runs]:
    """Fig. 5: squared sum of the mean gradients against the total loss, from starts by four schemes.

    The bound is checked on every run, for the theorem's step and for an epoch of steps of one sample each.

    Args:
        data: folder of the data; images/mnist.npz or images/mnist_t10k_2000.npz counts.
        out: folder of results.
        rates: learning rates; the paper's three are not in its text.
        images: how many.
        repeats: starts.
        seed: of the choice of images and of the starts.
    """
    samples, labels = digits(data, images, seed)
    found = [experiment(samples, labels, rate, repeats, seed) for rate in rates]
    figure, axes = panels(2, len(rates))
    rows = []
    for column, one in enumerate(found):
        for axis, name in ((axes[column], "epoch"), (axes[len(rates) + column], "step")):
            after = getattr(one, name)
            rho, r = spearman(one.mean, after), pearson(one.mean, after)
            held = one.held(after)
            rows.append((one.rate, name, rho, r, held, float((after / one.bound).max()), len(after)))
            for init in INITS:
                chosen = one.inits == init
                axis.scatter(one.mean[chosen], after[chosen], s=6, alpha=0.5, label=init)
            axis.set_title(f"rate {one.rate:g}, after {name}: Spearman {rho:.2f}", fontsize=8)
            axis.set(xlabel="sum of squared mean gradients", ylabel="total loss")
    axes[0].legend(fontsize=6)
    columns = ["rate", "after", "spearman", "pearson", "bound_held", "largest_share_of_bound", "runs"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(out / "fig5.csv", index=False)
    points = [
        pd.DataFrame({name: getattr(one, name) for name in ("mean", "variance", "bound", "step", "epoch", "inits")})
        for one in found
    ]
    pd.concat(points, keys=rates, names=["rate"]).droplevel(1).to_csv(out / "fig5_runs.csv")
    figure.savefig(out / "fig5.png", dpi=150)
    print(f"Fig. 5: {len(samples)} images, {repeats} starts; the paper: a clear positive correlation at three rates")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    broken = [one.rate for one in found if one.held(one.step) < 1]
    print(f"Theorem 1, its step: {'the bound holds in every run' if not broken else f'BROKEN at rates {broken}'}")
    print(f"written: {out / 'fig5'}.csv, fig5_runs.csv, fig5.png")
    return found


def digits(data: Path, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of norm 1 and their labels, drawn without replacement.

    Raises:
        InputError: there are none, or not so many.
    """
    file = next((data / name for name in FILES if (data / name).is_file()), None)
    if file is None:
        raise InputError(
            f"{data} has no {' or '.join(FILES)}: get MNIST, for example from https://yann.lecun.com/exdb/mnist or by "
            "torchvision.datasets.MNIST, and save its images (N, 28, 28) and labels (N,) with numpy.savez."
        )
    with np.load(file) as read:
        pictures, labels = read["images"], read["labels"]
    if not 1 <= images <= len(pictures):
        raise InputError(f"images={images}: {file} has {len(pictures)}.")
    chosen = np.random.default_rng(seed).permutation(len(pictures))[:images]
    if not pictures[chosen].reshape(images, -1).any(axis=1).all():
        raise InputError(f"{file}: an image is black, and has no direction.")
    return normalised(pictures[chosen]), labels[chosen].astype(np.float64)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return command(run, args)


if __name__ == "__main__":
    finish(main)
