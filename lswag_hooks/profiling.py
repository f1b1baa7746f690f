"""Deviations of gradients along the depth, over random networks of a search space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lswag_hooks.batch import Batch
from lswag_hooks.errors import InputError
from lswag_hooks.functional.lswag import BINS
from lswag_hooks.intervals import GradientCurves, tenths_of
from lswag_hooks.measuring import Work, measure_all
from lswag_hooks.proxies import Missing, Observation, Proxy, resolve_proxies
from lswag_hooks.ranking import images_of
from lswag_hooks.spaces import Space, get_space


@dataclass(frozen=True)
class TenthDeviation(Proxy):
    """Mean deviation of the gradients in one tenth of the layers, as a proxy, so that it is kept like one.

    Args:
        tenth: 0 to 9.
    """

    name: ClassVar[str] = "deviation"
    needs: ClassVar[frozenset[str]] = frozenset({"moments"})
    summary: ClassVar[str] = "mean deviation of the gradients in one tenth of the layers"
    tenth: int = 0

    def total(self, seen: Observation) -> float | Missing:
        """The mean over the layers of the tenth."""
        value = tenths_of(seen.profile)[self.tenth]
        return Missing(f"no weight layer lies in tenth {self.tenth}") if np.isnan(value) else float(value)


def gradient_curves(
    space: str | Space,
    batch: Batch,
    networks: int = 1000,
    *,
    task: str | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    store: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> GradientCurves:
    """Score random networks of a space and keep the deviations of their gradients along the depth.

    Args:
        space: a search space or its name.
        batch: images with labels; the space puts them into the form that the task wants.
        networks: how many to draw; twice the same is one.
        task: of the space; by default its first.
        seed: of the draw and of the weights.
        num_classes: number of outputs; by default the task's.
        store: an SQLite file of finished scores: the same call goes on where the last one ended.
        workers: number of processes.
        progress: show a progress bar.

    Raises:
        InputError: an argument makes no sense, or no network could be scored.

    Example:
        >>> batch = Batch.builtin("digits", size=(3, 8, 8), samples=8)
        >>> gradient_curves("nasbench201", batch, networks=3, progress=False).curves.shape
        (3, 10)
    """
    known = get_space(space) if isinstance(space, str) else space
    if networks < 1:
        raise InputError(f"networks={networks}: give one or more.")
    task = known.check_task(task)
    prepared = known.batch(batch, task, seed)
    size = images_of(prepared) or tuple(prepared.inputs.shape[-3:])
    wanted = (*(TenthDeviation(label=str(tenth), tenth=tenth) for tenth in range(BINS)), *resolve_proxies("depth"))
    work = Work(known, task, prepared, wanted, seed, num_classes, size)
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(known.sample(rng) for _ in range(networks)))
    measured, interrupted = measure_all(work, names, store=store, workers=workers, progress=progress)
    seen = {name: one for name, one in measured.items() if np.isfinite(one.scores["depth"])}
    if not seen:
        said = next(iter(next(iter(measured.values())).reasons.values())) if measured else "interrupted"
        raise InputError(f"none of {len(names)} networks could be scored: {said}")
    return GradientCurves(
        np.array([[one.scores[str(tenth)] for tenth in range(BINS)] for one in seen.values()]),
        np.array([int(one.scores["depth"]) for one in seen.values()]),
        list(seen),
        {
            "space": known.name,
            "networks": len(seen),
            "seed": seed,
            "data": batch.name,
            "samples": len(batch),
            "batch": prepared.fingerprint,
            **work.conditions(),
        },
        {name: next(iter(one.reasons.values())) for name, one in measured.items() if name not in seen},
        interrupted,
    )
