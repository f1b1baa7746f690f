"""Run independent jobs in this process or in several, each finished one handed over at once.

A worker that dies (killed for memory, a crash in native code) is replaced and its job tried again, twice at most.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from lswag_hooks.errors import InputError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
Payload = TypeVar("Payload")

RETRIES = 2


@dataclass(frozen=True)
class Failure:
    """A job that gave no outcome, and why."""

    reason: str


def run(
    function: Callable[[Payload, Job], Outcome],
    jobs: Sequence[Job],
    payload: Payload,
    workers: int = 1,
    threads: int | None = None,
) -> Iterator[tuple[int, Outcome | Failure]]:
    """Call ``function(payload, job)`` for every job, and give each outcome as soon as there is one.

    With several workers function, payload, jobs and outcomes must be picklable, and the outcomes come in any order.
    They are the same with any number of workers, as long as the function depends on its arguments alone. Leaving the
    loop, or Ctrl-C, ends all workers. A script that starts workers needs the guard ``if __name__ == "__main__":``.

    Args:
        function: of a module, not a lambda.
        jobs: one call each.
        payload: what every call needs; sent once to each worker.
        workers: number of processes; 1: this one.
        threads: of torch in each worker; by default the machine's cores shared out evenly.

    Yields:
        Position of the job and its outcome; a :class:`Failure` if it raised or its worker died three times.

    Raises:
        InputError: fewer than one worker.

    Example:
        >>> list(run(pow, [1, 2, 3], payload=2))
        [(0, 2), (1, 4), (2, 8)]
    """
    if workers < 1:
        raise InputError(f"workers={workers}: give one or more.")
    if workers == 1 or len(jobs) < 2:
        for index, job in enumerate(jobs):
            yield index, _attempt(function, payload, job)
        return
    count = min(workers, len(jobs))
    crew = _Crew(pickle.dumps((function, payload)), threads or max(1, (os.cpu_count() or 1) // count))
    try:
        yield from crew.work(jobs, count)
    finally:
        crew.end()


class _Worker:
    """A process with a pipe, and the job that it has in hand."""

    def __init__(self, content: bytes, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, content, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.job: int | None = None


class _Crew:
    def __init__(self, content: bytes, threads: int) -> None:
        self.content, self.threads = content, threads
        self.workers: list[_Worker] = []

    def work(self, jobs: Sequence[Any], count: int) -> Iterator[tuple[int, Any]]:
        waiting, deaths, left = deque(range(len(jobs))), [0] * len(jobs), len(jobs)
        self.workers = [_Worker(self.content, self.threads) for _ in range(count)]
        for worker in self.workers:
            self._hand_out(worker, waiting, jobs)
        while left:
            for pipe in wait([worker.pipe for worker in self.workers]):
                worker = next(worker for worker in self.workers if worker.pipe is pipe)
                index = worker.job
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, OSError):  # it is dead
                    worker.process.join()
                    self.workers.remove(worker)
                    if index is not None:
                        deaths[index] += 1
                        if deaths[index] <= RETRIES:
                            waiting.appendleft(index)
                        else:
                            left -= 1
                            yield (
                                index,
                                Failure(
                                    f"its process died {deaths[index]} times, the last time with exit code "
                                    f"{worker.process.exitcode} (-9: most often for want of memory)"
                                ),
                            )
                    if waiting:
                        worker = _Worker(self.content, self.threads)
                        self.workers.append(worker)
                        self._hand_out(worker, waiting, jobs)
                    continue
                self._hand_out(worker, waiting, jobs)
                if index is not None:
                    left -= 1
                    yield index, outcome

    def _hand_out(self, worker: _Worker, waiting: deque[int], jobs: Sequence[Any]) -> None:
        worker.job = waiting.popleft() if waiting else None
        if worker.job is not None:
            with contextlib.suppress(OSError):  # it died idle: the next wait sees the end of its pipe
                worker.pipe.send(jobs[worker.job])

    def end(self) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            worker.process.kill()  # it holds nothing that is not also here
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()


def _attempt(function: Callable[[Any, Any], Any], payload: Any, job: Any) -> Any:
    try:
        return function(payload, job)
    except Exception as error:  # the other jobs are worth their outcomes
        return Failure(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _serve(pipe: Connection, content: bytes, threads: int) -> None:
    """What a worker does: calls until there is nobody left to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends this process
    torch.set_num_threads(threads)
    function, payload = pickle.loads(content)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_attempt(function, payload, job))
