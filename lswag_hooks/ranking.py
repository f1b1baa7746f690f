"""Score many candidates the same way, keep whatever happens to each, and put them in order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lswag_hooks.attempts import Outcome, Terms, check_any, score_all
from lswag_hooks.batch import Batch, as_batch
from lswag_hooks.candidates import Candidates, drawn_seeds, listed_candidates
from lswag_hooks.engines import check_engine
from lswag_hooks.errors import InputError
from lswag_hooks.functional.lswag import Interval, check_interval
from lswag_hooks.hooks.session import MODES, Mode
from lswag_hooks.images import Size, image_shape
from lswag_hooks.intervals import curves_of
from lswag_hooks.keeping import Keeper
from lswag_hooks.memory import parse_bytes
from lswag_hooks.models import check_classes, family
from lswag_hooks.objective import Reduction, check_loss_argument
from lswag_hooks.proxies import LSWAG, Backbone, FLOPs, Missing, Observation, Proxy, resolve_proxies
from lswag_hooks.results import ScoreResult
from lswag_hooks.standings import Ranking, Row, summarise
from lswag_hooks.store import Store
from lswag_hooks.wording import named

__all__ = ["Candidates", "Ranking", "Row", "check_any", "prefilter", "rank"]


def rank(
    candidates: Candidates,
    batch: Batch | tuple[Tensor, Tensor],
    proxies: str | Proxy | Sequence[str | Proxy] = "lswag",
    seeds: int | Sequence[int] = 1,
    *,
    loss: Any = None,
    interval: Interval | Literal["auto"] | None = None,
    mode: Mode = "score",
    num_classes: int | None = None,
    image_size: Size | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    reduction: Reduction | None = None,
    init: str | None = None,
    max_memory: int | float | str | None = None,
    engine: str = "local",
    store: str | Path | None = None,
    workers: int = 1,
    address: str | None = None,
    role: str | None = None,
) -> Ranking:
    """Score candidates on one batch and put them in order.

    Each is built with the same seeds, scored, and freed before the next. One that cannot be built or scored becomes a
    row with its reason, and the rest goes on. The number of parameters, multiply-accumulates and weight layers stands
    beside every score: much of what a score ranks by is size. Ctrl-C stops the ranking and gives what is finished.

    Args:
        candidates: names with a module, a factory or a spec; None: the name is the spec, such as ``"timm/resnet18"``.
            Or a list of specs.
        batch: a :class:`~lswag_hooks.Batch`, or a pair (inputs, targets).
        proxies: names, or proxies with options. The first one decides the order.
        seeds: how many draws of the weights (seeds 0, 1, ...), or which. A module given as it is is scored once.
        loss: as for :func:`~lswag_hooks.score`.
        interval: first and last percentile of layers that L-SWAG counts; None: all layers; ``"auto"``: the spike in the
            deviation of the candidates' own gradients along the depth, see :func:`lswag_hooks.intervals.spike`.
        mode: as for :func:`~lswag_hooks.score`.
        num_classes: what to build candidates with; by default as many as the batch has.
        image_size: what to build candidates for; by default the size of the batch's images.
        device: where to score; by default where the batch lies. Modules given as they are are not moved.
        progress: show a progress bar, on stderr, where that is a terminal.
        reduction: as for :func:`~lswag_hooks.score`.
        init: ``"wake"`` scores copies whose zero gains, layer scales and heads are awake.
        max_memory: as for :func:`~lswag_hooks.score`.
        engine: ``"local"`` or ``"ray"``.
        store: an SQLite file of finished results; made where it does not exist. What is there is not scored again, so
            that the same call goes on where the last one ended. A module or factory is known again by its name and by
            what it builds; a spec by its text.
        workers: number of processes; 1: this one. Candidates and the loss must then be of modules that can be imported.
        address: of a started Ray cluster.
        role: ``"backbone"``: candidates are backbones of a detector, each as for
            :func:`lswag_hooks.detection.pyramid.build_backbone`, and the batch holds pictures with boxes. They are
            scored with a feature pyramid on them, on the loss of a region proposal network, beside their memory,
            latency, strides and channels. One that cannot serve becomes a row with its reason.

    Returns:
        The candidates, best first.

    Raises:
        InputError: an argument makes no sense; told before any work.

    Example:
        >>> from torch import nn
        >>> def net(width):
        ...     return lambda: nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 10))
        >>> batch = Batch.builtin("digits", size=8, samples=16)
        >>> ranking = rank({"narrow": net(2), "wide": net(16), "timm/resnet81": None}, batch, seeds=2)
        >>> ranking.top(3)
        ['wide', 'narrow']
        >>> ranking.to_pandas()["reason"].iloc[-1]
        "timm has no model 'resnet81'. Did you mean ...
    """
    given = listed = listed_candidates(candidates)
    wanted = resolve_proxies(proxies)
    drawn = drawn_seeds(seeds)
    _check_options(interval, mode, reduction, init, loss)
    check_classes(num_classes)
    if image_size is not None:
        image_shape(image_size)
    check_engine(engine, workers, address)
    parse_bytes(max_memory)
    batch = as_batch(batch)
    if device is not None:
        batch = batch.to(check_device(device))
    if role is not None:
        _check_role(role)
        from lswag_hooks.detection.backbones import add_facts, serving

        listed = serving(given, batch, num_classes=num_classes, image_size=image_size)
    classes = batch.num_classes if num_classes is None else num_classes
    size = images_of(batch) if image_size is None else image_size
    keys = [proxy.key for proxy in wanted]
    columns = {column.name for column in fields(Row)}
    for proxy in wanted:  # the sizes are proxies and columns, and the same
        if proxy.key in columns and proxy.key != proxy.name:
            raise InputError(f"label={proxy.key!r} is a column of the table already: choose another.")
    asked = with_size(wanted)
    if interval is not None and interval != "auto":
        asked = [replace(p, interval=interval) if isinstance(p, LSWAG) and p.interval is None else p for p in asked]
    terms = Terms(batch, tuple(asked), tuple(keys), classes, size, loss, mode, reduction, init, max_memory)
    rows: list[Row] = []
    results: dict[str, dict[int, ScoreResult]] = {}
    notes: list[str] = []
    place: dict[str, Any] = {"engine": engine, "workers": workers, "address": address}
    with contextlib.ExitStack() as stack:
        keeper = None if store is None else Keeper(stack.enter_context(Store(store)), terms)
        advance = stack.enter_context(progress_bar(len(listed) * len(drawn), progress))
        outcomes = dict(score_all(terms, listed, drawn, keeper, advance, **place))
    outcomes = {one.name: outcomes[one.name] for one in listed if one.name in outcomes}
    interrupted = any(outcome.interrupted for outcome in outcomes.values()) or len(outcomes) < len(listed)
    outcomes = {name: one for name, one in outcomes.items() if one.found or not one.interrupted}
    if interrupted:
        notes.append(f"interrupted: {len(listed) - len(outcomes)} of {len(listed)} candidates were not scored.")
    fixed = [name for name, outcome in outcomes.items() if outcome.fixed and len(drawn) > 1]
    if interval == "auto":
        interval, said = _restrict(outcomes, wanted)
        notes.append(said)
    for name, outcome in outcomes.items():
        rows.append(summarise(name, keys, outcome.found, outcome.failures, outcome.seconds))
        results[name] = outcome.found
    if fixed:
        notes.append(f"{named(fixed)}: a module as it is has one draw of its weights, and no spread. Give a factory.")
    families = list(dict.fromkeys(one for c in listed if c.name in outcomes and (one := family(c.spec)) is not None))
    if len(families) > 1 and not any(isinstance(proxy, Backbone) for proxy in wanted):
        notes.append(
            f"candidates of {len(families)} families ({named(families)}): across families parameters say more than "
            "scores. Compare within one, or rank by the proxy backbone with init wake, and see `lswag trust`."
        )
    settings = {
        "proxies": {proxy.key: {"proxy": proxy.name, **proxy.settings()} for proxy in wanted},
        "interval": interval,
        "loss": None if loss is None else getattr(loss, "__qualname__", str(loss)),
        "mode": mode,
        "reduction": reduction,
        "init": init,
        "batch": batch.fingerprint,
        "data": batch.name,
        "samples": len(batch),
        "image_size": size,
        "num_classes": classes,
        "device": str(batch.device),
        "torch": torch.__version__,
    }
    better = {proxy.key: proxy.higher_is_better for proxy in wanted}
    ranking = Ranking(rows, better, drawn, results, notes, settings, interrupted)
    if role is not None:
        add_facts(ranking, given, batch)
    return ranking


def prefilter(
    candidates: Candidates,
    batch: Batch | tuple[Tensor, Tensor],
    keep: int | float = 10,
    proxies: str | Proxy | Sequence[str | Proxy] = "lswag",
    seeds: int | Sequence[int] = 1,
    **options: Any,
) -> Any:
    """Keep the best candidates, to spend training or a costlier search on those alone.

    Args:
        candidates: as for :func:`rank`.
        batch: as for :func:`rank`.
        keep: how many; or which share, between 0 and 1, of all that were given (rounded up).
        proxies: as for :func:`rank`.
        seeds: as for :func:`rank`.
        options: the other arguments of :func:`rank`.

    Returns:
        Those kept, best first, as they were given: a dictionary of a dictionary, else a list. One that could not be
        scored is never kept, so that there may be fewer than asked for.

    Raises:
        InputError: ``keep`` makes no sense, or nothing could be scored; or as for :func:`rank`.

    Example:
        >>> batch = Batch.builtin("digits", size=16, samples=16)
        >>> prefilter(["timm/test_resnet", "timm/test_vit", "timm/nothing_of_this_name"], batch, keep=0.3)
        ['timm/test_vit']
    """
    listed = listed_candidates(candidates)
    whole, share = isinstance(keep, int) and not isinstance(keep, bool), isinstance(keep, float)
    if not (whole and keep >= 1) and not (share and 0 < keep < 1):
        raise InputError(f"keep={keep!r}: give a number of candidates (1 or more), or a share between 0 and 1.")
    count = keep if isinstance(keep, int) else math.ceil(keep * len(listed))
    given = candidates if isinstance(candidates, Mapping) else [candidate.spec for candidate in listed]
    ranking = rank(given, batch, proxies, seeds, **options)
    if ranking.interrupted:
        raise KeyboardInterrupt  # the best of a part is not the best
    kept = ranking.top(count)
    if not kept:
        raise InputError("no candidate could be scored: " + "; ".join(f"{r.name}: {r.reason}" for r in ranking.rows))
    by_name = {candidate.name: candidate for candidate in listed}
    if isinstance(candidates, Mapping):
        return {by_name[name].key: candidates[by_name[name].key] for name in kept}
    return [by_name[name].spec for name in kept]


def with_size(proxies: Sequence[Proxy]) -> list[Proxy]:
    """Proxies, and the multiply-accumulates to show beside them."""
    return [*proxies] if any(proxy.key == "flops" for proxy in proxies) else [*proxies, FLOPs()]


def check_device(device: torch.device | str) -> torch.device:
    """Tell whether there is such a device before anything is built for it."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {str(error).strip().splitlines()[0]}") from None
    return found


def images_of(batch: Batch) -> Size | None:
    """(channels, height, width) of a batch of images; None for anything else."""
    inputs = batch.inputs
    return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) and inputs.ndim == 4 else None


def _restrict(outcomes: Mapping[str, Outcome], proxies: Sequence[Proxy]) -> tuple[Interval | None, str]:
    """Let L-SWAG count the layers of the spike in the candidates' gradients alone; every term is there already."""
    profiles = {
        f"{name} {seed}": result.profile
        for name, outcome in outcomes.items()
        for seed, result in outcome.found.items()
        if any(row.mean_deviation is not None for row in result.profile.weights)
    }
    open_ones = [proxy for proxy in proxies if isinstance(proxy, LSWAG) and proxy.interval is None]
    interval = curves_of(profiles).interval if profiles and open_ones else None
    if interval is None:
        return (
            None,
            "interval: all layers; the gradients show no spike along the depth, or nothing asks for an interval.",
        )
    for outcome in outcomes.values():
        for result in outcome.found.values():
            for proxy in open_ones:
                if proxy.key in result.reasons:
                    continue
                terms = [row.terms.get(proxy.key, 0.0) for row in result.profile.weights]
                seen = Observation(result.profile, result.samples, result.parameters, {proxy.key: terms})
                value = replace(proxy, interval=interval).total(seen)
                if isinstance(value, Missing):
                    result.reasons[proxy.key], value = value.reason, math.nan
                result.scores[proxy.key] = value
    first, last = interval
    return (
        interval,
        f"interval: tenths {first} to {last} of the layers, from {len(profiles)} networks; tell it with the score.",
    )


def _check_role(role: str) -> None:
    if role != "backbone":
        raise InputError(f"role={role!r} is unknown: use 'backbone', or None for classifiers and the like.")


def _check_options(interval: Any, mode: str, reduction: str | None, init: str | None, loss: Any) -> None:
    """Refuse what would make every candidate fail, before any is built."""
    if isinstance(interval, str) and interval != "auto":
        raise InputError(f"interval={interval!r}: give two tenths, such as (7, 9), 'auto', or None for all layers.")
    if interval != "auto":
        check_interval(interval)
    check_loss_argument(loss)
    for name, value, known in (
        ("mode", mode, MODES),
        ("reduction", reduction, (None, "mean", "sum")),
        ("init", init, (None, "wake")),
    ):
        if value not in known:
            raise InputError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, known))}.")


@contextlib.contextmanager
def progress_bar(total: int, progress: bool) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on stderr where someone can see it; gives a function to call with a name and steps done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not progress or not (console.is_terminal or console.is_jupyter):
        yield lambda name, steps: None  # a bar that is disabled prints an empty line, in older versions of rich
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name, steps: bar.update(task, advance=steps, description=name)
