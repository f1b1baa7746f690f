"""Draws the pictures of ``docs/concepts.md`` when the pages are built: each from a score of this package, none by hand.

They go to ``docs/reference/pictures``, which is not kept in git.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import nn

import lswag_hooks as lh
from lswag_hooks.hooks import ActivationHooks, GradientHooks
from lswag_hooks.measured import measured

BLUE, ORANGE, GREY = "#3b6fb6", "#d9822b", "#9aa0a8"


def network(width: int = 8) -> nn.Sequential:
    """A small network for digits."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * width, 10),
    )  # fmt: skip


def digits(samples: int) -> lh.Batch:
    """Digits of 8 x 8 pixels."""
    return lh.Batch.builtin("digits", size=(1, 8, 8), samples=samples)


def gradients() -> Figure:
    """Absolute gradients of twelve weights over sixteen samples, and the deviation of each."""
    model, batch = lh.build(network, seed=0).eval(), digits(16)
    with GradientHooks(model) as hooks:
        loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        found = {name: one.flatten(1) for name, one in hooks.per_sample(loss, samples=len(batch))}
    sizes = found["2"].abs()
    order = sizes.std(0, correction=0).argsort()
    shown = sizes[:, order[:: len(order) // 12][:12]].double().numpy()
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    drawn = above.imshow(shown, aspect="auto", cmap="Blues")
    figure.colorbar(drawn, ax=above, label="|gradient|")
    above.set(
        ylabel="sample", yticks=range(0, len(shown), 5), title="Each sample's gradient of twelve weights of one layer"
    )
    below.bar(range(shown.shape[1]), 1 / shown.std(0), color=BLUE)
    below.set(xlabel="weight, from the steadiest to the least steady", ylabel="1 / deviation", yscale="log")
    return figure


def codes() -> Figure:
    """Codes of some units over eight samples: units whose pattern others have, too, in orange."""
    model, batch = lh.build(network, seed=0).eval(), digits(8)
    with ActivationHooks(model) as hooks:
        model(batch.inputs)
        units = {name: one.flatten(1) for name, one in hooks}["1"].numpy()[:, :64]
    patterns = [units[:, place].tobytes() for place in range(units.shape[1])]
    numbers = {pattern: number for number, pattern in enumerate(dict.fromkeys(patterns))}
    order = sorted(range(units.shape[1]), key=lambda place: numbers[patterns[place]])
    often = {pattern for pattern in numbers if patterns.count(pattern) > 1}
    shown = np.ones((*units.T[order].T.shape, 3))
    for column, place in enumerate(order):
        colour = (0.85, 0.51, 0.17) if patterns[place] in often else (0.23, 0.44, 0.71)
        shown[units[:, place], column] = colour
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown, aspect="auto", interpolation="nearest")
    axes.set(xlabel="unit", ylabel="sample", yticks=range(len(units)))
    axes.set_title(
        f"Codes of {len(patterns)} units: {len(numbers)} patterns; in orange, those that several units share"
    )
    return figure


def profile() -> Figure:
    """The layers of a small transformer, with an interval."""
    batch = lh.Batch.builtin("digits", size=(3, 32, 32), samples=16)
    return lh.score("timm/test_vit", batch).profile.plot((5, 9))


def asleep() -> Figure:
    """Weights with a gradient of exactly zero, layer by layer, as built and awake."""
    batch = lh.Batch.builtin("digits", size=(3, 96, 96), samples=8)
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for number, (init, colour) in enumerate(((None, ORANGE), ("wake", BLUE))):
        rows = lh.score("timm/test_resnet", batch, init=init).profile.weights
        shares = [(row.zero or 0) / row.size for row in rows]
        places = np.arange(len(rows)) + 0.4 * number - 0.2
        axes.bar(places, shares, 0.4, color=colour, label="awake" if init else "as built")
    axes.set(xlabel="weight layer, in order of the depth", ylabel="share", ylim=(0, 1.05))
    axes.set_title("Weights of timm/test_resnet whose gradient is exactly zero")
    axes.legend()
    return figure


def size() -> Figure:
    """Scores of one network in several widths: by rank and against size."""
    widths = (2, 3, 4, 6, 8, 12, 16, 24, 32)
    candidates = {f"width {width}": lambda width=width: network(width) for width in widths}
    return lh.rank(candidates, digits(32), seeds=3, progress=False).plot()


def given_size() -> Figure:
    """L-SWAG's correlation with accuracy on each measured set, parameters' beside it, and what is left given sizes."""
    found = [(name, one) for name, one in measured().items() if "lswag" in one.partial]
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    shown = (
        ("parameters alone", GREY, [one.spearman["params"] for _, one in found]),
        ("L-SWAG", BLUE, [one.spearman["lswag"] for _, one in found]),
        ("L-SWAG given the sizes", ORANGE, [one.partial["lswag"] for _, one in found]),
    )
    for number, (label, colour, figures) in enumerate(shown):
        values = np.array([one.value for one in figures])
        reach = np.array([[one.value - one.low for one in figures], [one.high - one.value for one in figures]])
        places = np.arange(len(found)) + 0.27 * (number - 1)
        axes.bar(places, values, 0.27, yerr=np.maximum(reach, 0), color=colour, label=label, error_kw={"lw": 0.8})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(found)), [name for name, _ in found], rotation=40, ha="right")
    axes.set(ylabel="Spearman with accuracy")
    axes.legend(loc="lower left", fontsize="small")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    one.__name__: one for one in (gradients, codes, profile, asleep, size, given_size)
}


def draw(folder: Path) -> None:
    """Draw all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "lswag_hooks", "font.size": 9}):
        warnings.simplefilter("ignore")  # the notes of the networks that are drawn
        for name, make in PICTURES.items():
            make().savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: draw(Path(app.srcdir) / "reference" / "pictures"))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
