"""Score one network at initialisation."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lswag_hooks import parts
from lswag_hooks.batch import Batch, as_batch
from lswag_hooks.errors import InputError, LSWAGError
from lswag_hooks.functional.lswag import Interval, check_interval
from lswag_hooks.hooks.session import Mode, check_supported
from lswag_hooks.memory import budget, parse_bytes
from lswag_hooks.models import build
from lswag_hooks.objective import Reduction, resolve_objective
from lswag_hooks.observe import Settings, observe
from lswag_hooks.proxies import LSWAG, Missing, Proxy, resolve_proxies
from lswag_hooks.results import ScoreResult
from lswag_hooks.verify import verify_gradients
from lswag_hooks.wake import wake

ZERO_WARNING = 0.5


def score(
    model: nn.Module | str,
    batch: Batch | tuple[Tensor, Tensor],
    proxies: str | Proxy | Sequence[str | Proxy] = "lswag",
    loss: Any = None,
    interval: Interval | None = None,
    seed: int | None = None,
    *,
    mode: Mode = "score",
    reduction: Reduction | None = None,
    init: str | None = None,
    max_memory: int | float | str | None = None,
    verify: bool = False,
    sync: bool = False,
) -> ScoreResult:
    """Say how good a network will be before it is trained.

    One forward and one backward pass serve all proxies that can share them. Afterwards the model is bit for bit what it
    was: parameters, buffers, gradients, modes, hooks, random states.

    Args:
        model: any module, on the device of the batch. Score it untrained: that is what the proxies are made for. Or
            the name of one, or the config file of a detector, as for :func:`~lswag_hooks.build`.
        batch: a :class:`~lswag_hooks.Batch`, or a pair (inputs, targets).
        proxies: names, or proxies with options; ``"all"`` for every one.
        loss: None (cross-entropy, a LightningModule's own training_step, a detector's losses), a callable of (outputs,
            targets), or ``"training_step"``.
        interval: first and last percentile of layers that L-SWAG counts; None: all layers.
        seed: for whatever the forward pass draws.
        mode: ``"score"``: evaluation mode, except that BatchNorm uses batch statistics; ``"train"`` or ``"eval"``.
        reduction: how the loss joins samples, where it does not say so itself: ``"mean"`` (default) or ``"sum"``.
        init: ``"wake"`` scores a copy in which zero norm gains and layer scales are one and zero heads are drawn anew;
            ``result.changes`` lists what was changed.
        max_memory: bytes (or "4GB") that the outputs held by a forward pass may take; by default a share of what is
            free. A batch that does not fit is scored in parts, to the same result, or refused where its samples are
            joined: by BatchNorm on batch statistics, or in a detector's losses. Of passes that proxies have of their
            own, one that would hold more is broken off: its proxies have no value, and a reason.
        verify: reconcile every layer with autograd, on a few more passes in evaluation mode: ``result.verification``.
        sync: merge the statistics of all processes of ``torch.distributed``, each with its share of the batch.

    Returns:
        A mapping from proxy to value, with ``profile``, ``coverage`` and ``seconds``.

    Raises:
        InputError: an argument makes no sense, or nothing that was asked for can be had.
        UnsupportedError: the model cannot be probed (sharded, lazy, checkpointed).

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        >>> _ = net(torch.zeros(1, 3, 8, 8))
        >>> result = score(net, Batch.builtin("digits", size=(3, 8, 8), samples=16))
        >>> result["lswag"] > 0, len(result.profile.weights)
        (True, 2)
    """
    start = time.perf_counter()
    wanted = resolve_proxies(proxies)
    if interval is not None:
        check_interval(interval)
        wanted = [replace(p, interval=interval) if isinstance(p, LSWAG) and p.interval is None else p for p in wanted]
    batch = as_batch(batch)
    if isinstance(model, str):
        images = isinstance(batch.inputs, Tensor) and batch.inputs.ndim == 4
        size = tuple(batch.inputs.shape[1:]) if images else None
        model = build(model, num_classes=batch.num_classes, seed=seed or 0, image_size=size, device=batch.device)
    objective = resolve_objective(model, loss, reduction)
    if hasattr(objective, "over"):  # what depends on the whole batch, although it may be scored in parts
        objective = objective.over(batch)
    check_devices(model, batch)
    if init not in (None, "wake"):
        raise InputError(f"init={init!r} is unknown: use 'wake', or None for the model as it is.")
    if sync and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise InputError("sync=True needs an initialised torch.distributed process group.")
    changes: list[str] = []
    if init == "wake":
        model, changes = wake(model, seed or 0)
    most = parse_bytes(max_memory)
    settings = Settings(mode, seed, budget=budget(batch.device, most), max_memory=most, sync=sync)
    seen, coverage = observe(model, batch, objective, wanted, settings)
    result = ScoreResult(
        {},
        {},
        seen.profile,
        coverage,
        0.0,
        seen.samples,
        seen.parameters,
        changes=changes,
        memory=seen.memory,
        settings={
            "proxies": {p.key: {"proxy": p.name, **p.settings()} for p in wanted},
            "mode": mode,
            "init": init,
            "seed": seed,
            "reduction": objective.reduction,
            "batch": batch.fingerprint,
            "torch": str(torch.__version__),
        },
    )
    for proxy in wanted:
        value = seen.totals[proxy.key]
        if isinstance(value, Missing):
            result.reasons[proxy.key] = value.reason
            if value.broken:
                result.broken.append(proxy.key)
        elif not math.isfinite(value):
            result.reasons[proxy.key] = f"the value is {value}"
        result.scores[proxy.key] = math.nan if proxy.key in result.reasons else float(value)  # type: ignore[arg-type]
    if len(result.reasons) == len(wanted):
        said = "; ".join(f"{key}: {reason}" for key, reason in result.reasons.items())
        raise InputError(said) from (LSWAGError("a pass broke down") if result.broken else None)
    if verify:
        result.verification = verify_gradients(model, batch, objective, seed=seed or 0)
    _note(result)
    result.seconds = time.perf_counter() - start
    return result


def check_devices(model: nn.Module, batch: Batch) -> None:
    """Refuse a model that cannot be probed, a batch on another device, and one without gradients."""
    _, parameters, _ = check_supported(model)
    devices = {str(device) for device in {parameter.device for parameter in parameters}}
    if "meta" in devices:
        raise InputError("the model lies on the meta device and has no values: build it on a real device.")
    if devices and str(batch.device) not in devices:
        raise InputError(
            f"the model is on {', '.join(sorted(devices))}, the batch on {batch.device}: move one, for example "
            f"batch.to('{sorted(devices)[0]}')."
        )
    if any(tensor.is_inference() for part in (batch.inputs, batch.targets) for _, tensor in parts.tensors(part, "")):
        raise InputError(
            "the batch was made under torch.inference_mode(), which rules gradients out: clone it outside."
        )


def _note(result: ScoreResult) -> None:
    share = result.coverage.zero_gradient_share
    if share is not None and share > ZERO_WARNING:
        why = (
            "kernels that see only padding on small feature maps, or units off for every sample: try larger inputs."
            if result.settings["init"] == "wake"
            else "zero gains, layer scales or a zero head at the start, most often, so that a score of the network as "
            "built says little. init='wake' scores a copy in which they are awake."
        )
        result.notes.append(f"{share:.0%} of the weights have a gradient of exactly zero: {why}")
    failed = [row.layer for row in result.verification or () if not row.passed]
    if failed:
        result.notes.append(
            f"{len(failed)} layers fail verification ({', '.join(failed[:3])}): do not trust this score, and please "
            "report the model."
        )
    if result.coverage.unplaced:
        result.notes.append(
            f"{len(result.coverage.unplaced)} activation layers could not be assigned to samples and do not count: see "
            "result.coverage.unplaced."
        )
    if result.coverage.uncovered and result.coverage.weight_share < 0.9:
        result.notes.append(
            f"only {result.coverage.weight_share:.0%} of the layer weights are covered: see result.coverage.uncovered."
        )
    for note in result.notes:
        warnings.warn(note, stacklevel=3)
