"""Fit LIBRA to a benchmark of subnets, for ``search``: ``python -m recipes.autoformer.fit_libra --config FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import auto_cli

from lswag_hooks import Batch, Benchmark, Libra, LibraChecked, correlate
from lswag_hooks.errors import InputError
from lswag_hooks.rng import seeded
from lswag_hooks.spaces.autoformer import PATCH
from recipes.autoformer.choices import Choices, resolve_space
from recipes.common import finish
from recipes.data import ImageData


def fit_libra(
    benchmark: str,
    data: ImageData,
    out: str,
    task: str | None = None,
    space: str | Choices = "autoformer_small",
    image_size: int = 224,
    patch_size: int = PATCH,
    proxies: str = "lswag,zico,swap,nwot,grad_norm,snip,fisher,synflow",
    rule: Literal["paper", "checked"] = "paper",
    samples: int = 64,
    architectures: int = 0,
    seed: int = 0,
    store: str | None = None,
    workers: int = 1,
) -> Libra:
    """Score a benchmark's subnets at their initialisation, print the correlations, choose proxies, write a JSON file.

    Args:
        benchmark: the CSV file of sample_benchmark.
        data: whose training images the networks are scored on.
        out: the JSON file; search reads it.
        task: of the benchmark; by default its first.
        space: name of a space of AutoFormer, or choices of one's own.
        image_size: side of the images, as the transforms of the data make them.
        patch_size: side of a patch.
        proxies: to choose from, with commas between; the sizes of networks are always there.
        rule: the paper's, or checked: a proxy joins only where it helps on networks held back.
        samples: images to score on.
        architectures: how many of the benchmark; 0: all.
        seed: of the weights, and of the choice of architectures.
        store: a file of finished scores; the same command goes on where it was stopped.
        workers: processes.

    Raises:
        InputError: an argument makes no sense, or the benchmark or the data is not there.
    """
    if not Path(out).expanduser().absolute().parent.is_dir():
        raise InputError(f"out={out}: there is no folder {Path(out).parent}; make it first.")
    found = resolve_space(space, patch_size)
    table = Benchmark.load(benchmark, found.name)
    with seeded(seed):  # augmentations draw from the global random states
        batch = Batch.from_datamodule(data, samples=samples)
    agreement = correlate(
        found,
        batch,
        proxies,
        benchmark=table,
        task=task,
        architectures=architectures,
        seed=seed,
        num_classes=data.num_classes,
        image_size=image_size,
        store=store,
        workers=workers,
    )
    for name, estimates in agreement.estimates.items():
        print(f"{name}: Spearman {estimates['spearman'].value:.3f}")
    libra = (LibraChecked() if rule == "checked" else Libra()).fit(agreement.scores, agreement.accuracy)
    libra.save(Path(out).expanduser())
    print(f"LIBRA of {len(agreement.scores)} networks: {', '.join(libra.selected)}")
    return libra


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    auto_cli(fit_libra, as_positional=False, args=None if args is None else list(args))
    return 0


if __name__ == "__main__":
    finish(main)
