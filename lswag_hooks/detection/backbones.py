"""Rank backbones for a detector: with a feature pyramid on them, on a detector's pictures, beside what they cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lswag_hooks.batch import Batch
from lswag_hooks.candidates import Candidate
from lswag_hooks.detection.objectives import check_pictures
from lswag_hooks.detection.pyramid import build_pyramid, canvas_of
from lswag_hooks.detection.survey import FULL, survey
from lswag_hooks.errors import InputError
from lswag_hooks.standings import Ranking

NOTE = (
    "params are of the backbone alone; MACs and act_mb, what a forward pass keeps for the backward pass, of backbone "
    "and pyramid on one picture of 1333 x 800; ms, the time of a forward pass, on one of {width} x {height}, {device}."
)


def serving(candidates: Sequence[Candidate], batch: Batch, **refused: Any) -> list[Candidate]:
    """Candidates of ``rank(role="backbone")`` with a feature pyramid on them.

    One that cannot serve (no maps, other strides than 4, 8, 16 and 32, one input size only) says so when it is built.

    Args:
        candidates: each as for :func:`~lswag_hooks.detection.pyramid.build_backbone`.
        batch: pictures with boxes.
        refused: arguments of a ranking that are of classifiers.

    Raises:
        InputError: the batch has no boxes, or an argument is there that must not.
    """
    check_pictures(batch)
    for name, value in refused.items():
        if value is not None:
            raise InputError(f"{name}={value!r} is of classifiers: backbones take pictures of any size.")
    return [replace(one, spec=functools.partial(build_pyramid, one.spec, seed=None)) for one in candidates]


def add_facts(ranking: Ranking, candidates: Sequence[Candidate], batch: Batch) -> None:
    """Put beside each score what the backbone costs: ``act_mb``, ``ms``, ``strides``, ``channels``.

    Parameters become those of the backbone alone, and multiply-accumulates those of one picture of 1333 x 800.
    """
    specs = {one.name: one.spec for one in candidates}
    height, width = canvas_of(batch.inputs)
    device = batch.inputs[0].device
    for row in ranking.rows:
        if row.rank is None:
            continue
        found = survey(build_pyramid(specs[row.name], seed=ranking.seeds[0], device=device), (height, width))
        row.params = float(found["backbone_params"])
        row.flops = math.nan if found["macs"] is None else float(found["macs"])
        row.facts = {
            "act_mb": None if found["activation_bytes"] is None else found["activation_bytes"] / 1e6,
            "ms": 1e3 * found["latency"],
            "strides": "-".join(map(str, found["strides"])),
            "channels": "-".join(map(str, found["channels"])),
        }
    ranking.notes.insert(0, NOTE.format(width=width, height=height, device=device))
    ranking.settings.update(role="backbone", full_size=list(FULL), timed_size=[height, width])
