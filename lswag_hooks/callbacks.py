"""The Lightning shell over `score`: a training run says how good its network is before the first step."""

from __future__ import annotations

import dataclasses
import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from lswag_hooks import loaders
from lswag_hooks.batch import Batch, as_batch
from lswag_hooks.errors import InputError, LSWAGError, UnsupportedError, near_matches
from lswag_hooks.functional.lswag import Interval, check_interval
from lswag_hooks.hooks.session import MODES, Mode
from lswag_hooks.objective import Objective, Reduction, resolve_objective
from lswag_hooks.proxies import Proxy, resolve_proxies
from lswag_hooks.results import ScoreResult
from lswag_hooks.rng import check_seed, preserved
from lswag_hooks.scoring import score

ON_REJECT = ("stop", "raise", "warn")
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_T = TypeVar("_T")
_SHARDED = {"FSDPStrategy", "ModelParallelStrategy", "XLAFSDPStrategy"}


def _callback_classes() -> tuple[type, ...]:
    """Find the Callback class of every Lightning package that is installed and works; each accepts only its own."""
    found: list[type] = []
    failure: Exception | None = None
    for package in _PACKAGES:
        try:
            found.append(importlib.import_module(package).Callback)
        except Exception as error:  # an old release may be installed and fail in any way on a newer torch
            failure = error
    if not found:
        raise ImportError(f"LSWAGCallback needs Lightning ({failure}): pip install lightning") from failure
    return tuple(dict.fromkeys(found))


if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Callback
else:
    _Callback = type("_Callback", _callback_classes(), {})


class CandidateRejected(LSWAGError):
    """A network scored below ``min_score`` in a run with ``on_reject="raise"``."""


class LSWAGCallback(_Callback):
    """Scores the network of a training run in ``on_train_start``, and ends the run if the score is too low.

    Works with the Trainers of ``lightning.pytorch`` and ``pytorch_lightning``. Training after it is bit for bit the
    training without it. The numbers go to every logger, to those of TensorBoard, W&B and MLflow also a picture and a
    table of the layers (a logger that fails is warned of), and into the checkpoint: a run that resumes from one gets
    them back instead of scoring a network that is no longer at its initialisation.

    Mini-batches come from a fresh iterator over the train dataloader and pass the precision plugin and the batch
    transfer hooks, as in training. Under DDP every process scores its own share of the samples, the statistics are
    merged, and all processes take the same decision.

    Args:
        proxies: As for `score`: names, or proxies with options.
        samples: How many samples to score on, over all processes.
        batch: What to score on instead: a Batch or a pair (inputs, targets), as ``training_step`` takes it, or what
            `Batch.load` reads ("digits", "noise", an .npz file, a folder of images). Needed for several train
            dataloaders at once, and for data that can be read only once, or that would not be the same afterwards (a
            dataset that keeps a place or a random generator of its own in the main process).
        loss: As for `score`; by default the loss of the LightningModule's own ``training_step``.
        interval: First and last percentile of layers that L-SWAG counts; None: all.
        mode: As for `score`.
        min_score: Reject networks that score less: a number for the first proxy, or a number for each of some proxies,
            by name. A score that cannot be had is less than any.
        on_reject: "stop" ends the fit before the first optimizer step, whatever ``min_epochs`` and ``min_steps`` say,
            "raise" raises `CandidateRejected`, "warn" goes on training.
        seed: As for `score`.
        reduction: How ``training_step``'s loss joins the samples, "mean" or "sum".
        init: As for `score`: "wake" scores a copy in which what starts at zero is awake.
        max_memory: As for `score`.
        size: What to resize a named ``batch`` to; by default the size of ``example_input_array``, or 3 x 224 x 224.
        prefix: Metrics are called ``prefix/proxy``, in loggers and in ``trainer.callback_metrics``. Two such callbacks
            in one Trainer need two prefixes.

    Attributes:
        result: The `ScoreResult`, None before training starts. With ``strategy="ddp_spawn"`` it stays in the processes
            that trained: the checkpoint and ``trainer.callback_metrics`` have the numbers.
        rejected: Whether the network was rejected.

    Raises:
        InputError: At construction: an unknown proxy or option. In ``on_train_start``: there is no single train
            dataloader, or it cannot be read twice; or as for `score`.
        UnsupportedError: The strategy shards the parameters (FSDP, DeepSpeed stage 3).
        CandidateRejected: With ``on_reject="raise"``.

    Example:
        >>> callback = LSWAGCallback(proxies=["lswag", "zico"], min_score={"zico": 10.0}, on_reject="stop")
        >>> callback.result is None, callback.rejected
        (True, False)
    """

    def __init__(
        self,
        proxies: str | Proxy | Sequence[str | Proxy] = "lswag",
        samples: int = 64,
        batch: str | Batch | tuple[Any, Any] | None = None,
        loss: Literal["training_step"] | Callable[..., Any] | None = None,
        interval: Interval | None = None,
        mode: Mode = "score",
        min_score: float | dict[str, float] | None = None,
        on_reject: Literal["stop", "raise", "warn"] = "stop",
        *,
        seed: int | None = None,
        reduction: Reduction | None = None,
        init: Literal["wake"] | None = None,
        max_memory: int | float | str | None = None,
        size: int | tuple[int, ...] | None = None,
        prefix: str = "lswag",
    ) -> None:
        super().__init__()
        self.proxies = resolve_proxies(proxies)
        if not isinstance(samples, int) or samples < 2:
            raise InputError(f"samples={samples}: ask for two or more.")
        for name, value, choices in (("mode", mode, MODES), ("on_reject", on_reject, ON_REJECT)):
            if value not in choices:
                near = near_matches(str(value), choices)
                raise InputError(f"{name}={value!r} is unknown.{near} There are {', '.join(choices)}.")
        self.samples = samples
        self.batch = _given(batch)
        self.loss = loss
        self.interval = None if interval is None else check_interval(interval)
        self.mode = mode
        self.min_score = _floors(min_score, self.proxies)
        self.on_reject = on_reject
        self.seed = None if seed is None else check_seed(seed)
        self.reduction = reduction
        self.init = init
        self.max_memory = max_memory
        self.size = size
        self.prefix = prefix
        self.result: ScoreResult | None = None
        self.rejected = False
        self._restored = False
        self._minima: tuple[Any, Any] | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Value of each proxy; empty before training starts."""
        return {} if self.result is None else dict(self.result.scores)

    @property
    def state_key(self) -> str:
        """Key of the scores in the checkpoint."""
        return self._generate_state_key(prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """Scores, profile and coverage as plain numbers and names, which ``torch.load(weights_only=True)`` accepts."""
        return {} if self.result is None else {"result": self.result.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the scores of the run that wrote the checkpoint."""
        self.result = ScoreResult.from_dict(state_dict["result"])
        self._restored = True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies that shard the parameters, before any work, and forget another network's scores."""
        if stage != "fit":
            return
        strategy = trainer.strategy
        names = {cls.__name__ for cls in type(strategy).__mro__}
        if names & _SHARDED or getattr(strategy, "zero_stage_3", False):
            raise UnsupportedError(
                f"{type(strategy).__name__} keeps only a shard of each parameter in a process, and a shard cannot be "
                "scored: score the plain module before training, lswag_hooks.score(model, batch), and leave out the "
                "callback; or train with 'ddp'."
            )
        self._restored = False  # checkpoints are loaded after this hook
        if trainer.global_step == 0:  # no second fit of the same Trainer
            self.result = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Score, log and decide."""
        self.rejected = False
        # not in a second fit, nor in one resumed from a checkpoint: what counts is the network at its initialisation
        if not self._restored and trainer.global_step == 0:
            self.result = self._score(trainer, pl_module)
        if self.result is None:
            if trainer.is_global_zero:
                warnings.warn(
                    f"the network has been trained for {trainer.global_step} steps and the checkpoint holds no scores "
                    f"under {self.state_key}: it is not scored, for scores tell something of a network at "
                    "initialisation. Call lswag_hooks.score(model, batch) if you want one of this network.",
                    stacklevel=2,
                )
            return
        self._log(trainer, self.result)
        self._decide(trainer, self.result)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the Trainer its own limits back."""
        self._give_minima_back(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the Trainer its own limits back."""
        self._give_minima_back(trainer)

    def _score(self, trainer: Any, module: nn.Module) -> ScoreResult:
        batch = self._agreed_batch(trainer)
        return score(
            module,
            batch,
            self.proxies,
            _AsTrained(resolve_objective(module, self.loss, self.reduction), trainer),
            self.interval,
            self.seed,
            mode=self.mode,
            init=self.init,
            max_memory=self.max_memory,
            sync=trainer.world_size > 1,
        )

    def _agreed_batch(self, trainer: Any) -> Batch:
        """Make this process's share of the batch, or fail in all: one that fails alone leaves the others waiting."""
        batch: Batch | None = None
        failure: Exception | None = None
        try:
            batch = self._batch(trainer)
        except Exception as error:
            failure = error
        failed = trainer.strategy.reduce_boolean_decision(failure is not None, all=False)
        if failure is not None:
            raise failure
        if failed or batch is None:
            raise LSWAGError("another process could not make its share of the batch: its own error says why.")
        return batch

    def _batch(self, trainer: Any) -> Batch:
        world = trainer.world_size
        if self.batch is None:
            loader = _single_loader(trainer.train_dataloader)
            name = type(getattr(loader, "dataset", loader)).__name__
            return Batch.from_dataloader(_Transferred(loader, trainer), max(2, math.ceil(self.samples / world)), name)
        batch = self.batch
        if isinstance(batch, str):
            batch = Batch.load(batch, self.size or _input_size(trainer.lightning_module), self.samples)
        if len(batch) < 2 * world:
            raise InputError(f"the batch has {len(batch)} samples for {world} processes: give two or more to each.")
        if world > 1:
            batch = batch[trainer.global_rank :: world]
        batch = batch.to(trainer.strategy.root_device)
        convert = trainer.precision_plugin.convert_input
        return dataclasses.replace(batch, inputs=convert(batch.inputs), targets=convert(batch.targets))

    def _log(self, trainer: Any, result: ScoreResult) -> None:
        metrics = {f"{self.prefix}/{key}": value for key, value in result.scores.items() if math.isfinite(value)}
        from lswag_hooks.report.loggers import log_report

        # a table or an image of W&B draws a name for its file
        with preserved():
            for logger in trainer.loggers:
                try:
                    logger.log_metrics(metrics, step=trainer.global_step)
                except Exception as error:  # the score is known, and training must not end over a failing client
                    warnings.warn(f"{type(logger).__name__} did not take the scores: {error!r}.", stacklevel=4)
                if trainer.is_global_zero:
                    log_report(logger, result, trainer.global_step, self.prefix)
        # checkpoint names, tuners and other callbacks read these. Not self.log: on every process the numbers are final,
        # and a run that is stopped here never comes to the end of an epoch, where logged numbers are reduced
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})

    def _decide(self, trainer: Any, result: ScoreResult) -> None:
        low = []
        for key, floor in self.min_score.items():
            value = result.scores.get(key)
            if value is None:  # the checkpoint of a run with other proxies, and it is too late to score
                warnings.warn(f"the scores in the checkpoint have no {key!r}: min_score ignores it.", stacklevel=3)
            elif not value >= floor:
                low.append(f"{key} is {result.reasons.get(key, f'{value:.6g}')}, min_score {floor:g}")
        # equal on all processes by the sync; this makes certain that none is left waiting for the others
        self.rejected = trainer.strategy.reduce_boolean_decision(bool(low), all=False)
        if not self.rejected:
            return
        said = f"the network is rejected: {'; '.join(low) or 'by another process'}."
        if self.on_reject == "raise":
            raise CandidateRejected(said)
        if trainer.is_global_zero:
            ending = "fit ends before the first step." if self.on_reject == "stop" else "training goes on."
            warnings.warn(f"{said} {ending}", stacklevel=3)
        if self.on_reject == "stop":
            loop = trainer.fit_loop
            minima = loop.min_epochs, loop.epoch_loop.min_steps
            if any(minima):  # Lightning does not stop early before these are reached
                self._minima = minima
                loop.min_epochs, loop.epoch_loop.min_steps = 0, None
            trainer.should_stop = True

    def _give_minima_back(self, trainer: Any) -> None:
        if self._minima is not None:
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = self._minima
            self._minima = None


class _AsTrained:
    """An objective inside the precision plugin's context, which in training too spans the forward pass alone."""

    is_objective = True

    def __init__(self, objective: Objective, trainer: Any) -> None:
        self.objective, self.trainer = objective, trainer
        self.reduction: Reduction = objective.reduction

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if getattr(model, "_trainer", self.trainer) is None:
            model.trainer = self.trainer  # the copy that init="wake" scores has lost it
        with self.trainer.precision_plugin.train_step_context():
            return self.objective(model, batch)


class _Transferred:
    """A loader whose mini-batches went through what the Trainer does to them in front of ``training_step``."""

    def __init__(self, loader: Any, trainer: Any) -> None:
        self.loader, self.trainer = loader, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # the samplers, whose generators Batch.from_dataloader gives back

    def __iter__(self) -> Iterator[Any]:
        trainer = self.trainer
        for mini_batch in loaders._untouched(self.loader):
            converted = trainer.precision_plugin.convert_input(mini_batch)
            hooked = trainer.lightning_module._on_before_batch_transfer(converted, dataloader_idx=0)
            yield trainer.strategy.batch_to_device(hooked, dataloader_idx=0)


def _given(batch: Any) -> str | Batch | None:
    """Read ``batch``; a pair (inputs, targets) will do, as for `score`.

    Raises:
        InputError: It is of another type.
    """
    return batch if batch is None or isinstance(batch, str) else as_batch(batch)


def _floors(min_score: float | dict[str, float] | None, proxies: Sequence[Proxy]) -> dict[str, float]:
    """Read ``min_score``.

    Raises:
        InputError: A proxy that is not asked for, a value that is no number, or a proxy that is better when lower.
    """
    if min_score is None:
        return {}
    by_key = {proxy.key: proxy for proxy in proxies}
    floors = dict(min_score) if isinstance(min_score, Mapping) else {proxies[0].key: min_score}
    for key, floor in floors.items():
        if key not in by_key:
            near = near_matches(key, by_key)
            raise InputError(f"min_score names {key!r}, which is not among the proxies {list(by_key)}.{near}")
        if isinstance(floor, bool) or not isinstance(floor, (int, float)) or math.isnan(floor):
            raise InputError(f"min_score={floor!r} for {key!r}: give a number.")
        if not by_key[key].higher_is_better:
            raise InputError(f"lower is better for {key!r}: min_score would keep the worst networks.")
    return floors


def _single_loader(loader: Any) -> Any:
    """Refuse several loaders, and what cannot be read a second time."""
    if loader is None or isinstance(loader, (list, tuple, Mapping)):
        raise InputError(
            f"the train dataloader is a {type(loader).__name__}, not one loader: pass batch=, a Batch in the form that "
            "training_step takes."
        )
    dataset = getattr(loader, "dataset", None)
    in_process = not getattr(loader, "num_workers", 0)
    for name, part in (("train dataloader", loader), ("train dataset", dataset if in_process else None)):
        if isinstance(part, Iterator):
            raise InputError(
                f"the {name} ({type(part).__name__}) can be read only once, and what is scored would be lost to "
                "training: pass batch=, a Batch of its own for the score."
            )
    return loader


def _input_size(module: nn.Module) -> tuple[int, ...] | None:
    """The size of the images that a LightningModule takes, where it says so."""
    example = getattr(module, "example_input_array", None)
    return tuple(example.shape[1:]) if isinstance(example, Tensor) and example.ndim == 4 else None
