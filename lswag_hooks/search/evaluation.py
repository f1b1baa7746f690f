"""Score proposals: from the store what is there, the rest by an engine, each kept before it counts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from lswag_hooks.engines import Failure, check_engine, runner
from lswag_hooks.errors import InputError
from lswag_hooks.measuring import Measured, Work, keep_measured, known_scores, measure
from lswag_hooks.store import Store


class Evaluator:
    """Scores architectures, and counts what was computed and what a store had.

    Args:
        work: what it takes to score one.
        store: a file of finished scores; None: nothing is kept.
        engine: ``"local"`` or ``"ray"``.
        workers: number of processes.
        resume: refuse a store that holds nothing of this space and batch.
        address: of a started Ray cluster.

    Attributes:
        computed: how many were computed.
        reused: how many the store had.
        seconds: that scoring alone took, whoever did it.

    Raises:
        InputError: the engine is unknown, the file is no store, or there is nothing to resume.
    """

    def __init__(
        self,
        work: Work,
        store: str | Path | None = None,
        engine: str = "local",
        workers: int = 1,
        resume: bool = False,
        address: str | None = None,
    ) -> None:
        check_engine(engine, workers, address)
        self.work, self.workers = work, workers
        self.engine, self.options = engine, {} if address is None else {"address": address}
        self.computed = self.reused = 0
        self.seconds = 0.0
        _check_resume(resume, store)
        self._store = None if store is None else Store(store)
        if resume and self._store is not None and not any(map(self._ours, self._store)):
            self._store.close()
            raise InputError(
                f"{store} holds no score of {self._space} with this batch ({work.batch.name}, {len(work.batch)} "
                "samples): give the arguments of the search to resume, or leave resume out to begin another."
            )

    def __call__(self, architectures: Sequence[str], done: Callable[[Measured], None] | None = None) -> list[Measured]:
        """Score architectures; results in their order, with any number of workers.

        Args:
            architectures: each once.
            done: told of each as it is finished.

        Raises:
            Interrupted: Ctrl-C; holds what is finished.
        """
        told = done or (lambda _: None)
        measured = {} if self._store is None else known_scores(self._store, self.work, architectures)
        self.reused += len(measured)
        for one in measured.values():
            told(one)
        missing = [name for name in architectures if name not in measured]
        try:
            for index, outcome in self._run(missing):
                name = missing[index]
                if isinstance(outcome, Failure):
                    outcome = Measured.nothing(self.work, outcome.reason)
                if self._store is not None:
                    keep_measured(self._store, self.work, name, outcome)
                measured[name] = outcome
                self.computed += 1
                self.seconds += outcome.seconds
                told(outcome)
        except KeyboardInterrupt:
            raise Interrupted({name: measured[name] for name in architectures if name in measured}) from None
        return [measured[name] for name in architectures]

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            self._store.close()

    def _run(self, jobs: Sequence[str]) -> Iterator[tuple[int, Any]]:
        if not jobs:
            return iter(())
        run = runner(self.engine)
        # the same number whatever is left to do: it may change the order of sums
        threads = max(1, torch.get_num_threads() // self.workers)
        found: Iterator[tuple[int, Any]] = run(
            measure, jobs, payload=self.work, workers=self.workers, threads=threads, **self.options
        )
        return found

    def _ours(self, record: Any) -> bool:
        return bool(record.key.space == self._space and record.key.batch == self.work.batch.fingerprint)

    @property
    def _space(self) -> str:
        return "" if self.work.space is None else self.work.space.name


class Interrupted(Exception):
    """Ctrl-C, and what was finished before it."""

    def __init__(self, measured: dict[str, Measured]) -> None:
        super().__init__("interrupted")
        self.measured = measured


def _check_resume(resume: bool, store: str | Path | None) -> None:
    if not resume:
        return
    if store is None:
        raise InputError("resume=True needs the store of the search to resume: give store=FILE.")
    if not Path(store).expanduser().exists():
        raise InputError(f"there is no store {store} to resume from: check the path, or leave resume out to begin.")


class Rate:
    """A progress bar's text: the best so far and how many a second.

    Args:
        advance: of :func:`~lswag_hooks.ranking.progress_bar`.
        best: tells the best so far.
    """

    def __init__(self, advance: Callable[[str, int], None], best: Callable[[], str] = lambda: "") -> None:
        self._advance, self._best = advance, best
        self._start, self._done = time.perf_counter(), 0

    def __call__(self, _: Measured) -> None:
        """One more is done."""
        self._done += 1
        rate = self._done / max(1e-9, time.perf_counter() - self._start)
        with contextlib.suppress(ValueError):
            self._advance(" ".join(filter(None, (self._best(), f"{rate:.3g}/s"))), 1)
