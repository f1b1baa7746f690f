"""Run independent jobs in this process or in several, each finished one handed over at once.

A worker that dies (killed for memory, a crash in native code) is replaced and its job tried again, twice at most.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lswag_hooks.errors import InputError, LSWAGError, told

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
Payload = TypeVar("Payload")

RETRIES = 2


@dataclass(frozen=True)
class Failure:
    """A job that gave no outcome, and why.

    Attributes:
        reason: what it raised, or how its process died.
        died: whether its process died: on another machine, or with more memory, it may not.
    """

    reason: str
    died: bool = False


def run(
    function: Callable[[Payload, Job], Outcome],
    jobs: Sequence[Job],
    payload: Payload,
    workers: int = 1,
    threads: int | None = None,
) -> Iterator[tuple[int, Outcome | Failure]]:
    """Call ``function(payload, job)`` for every job, and give each outcome as soon as there is one.

    With several workers function, payload, jobs and outcomes must be picklable, and the outcomes come in any order.
    They are the same with any number of workers, as long as the function depends on its arguments alone; to the last
    bit with the same number of ``threads``, which may change the order of sums. Leaving the loop, or Ctrl-C, ends all
    workers. A script that starts workers needs the guard ``if __name__ == "__main__":``.

    Args:
        function: of a module, not a lambda.
        jobs: one call each.
        payload: what every call needs; sent once to each worker.
        workers: number of processes; 1: this one.
        threads: of torch in each worker; by default this process's number of threads shared out evenly.

    Yields:
        Position of the job and its outcome; a :class:`Failure` if it raised or its worker died three times.

    Raises:
        InputError: fewer than one worker or thread, or something that cannot be sent to a worker.
        LSWAGError: no worker could be started.

    Example:
        >>> list(run(pow, [1, 2, 3], payload=2))
        [(0, 2), (1, 4), (2, 8)]
    """
    for name, number in (("workers", workers), ("threads", 1 if threads is None else threads)):
        if number < 1:
            raise InputError(f"{name}={number}: give one or more.")
    count = min(workers, len(jobs))
    if count < 2:
        for index, job in enumerate(jobs):
            with _threads(threads):
                outcome = _attempt(function, payload, job)
            yield index, outcome
        return
    crew = _Crew(_pickled((function, payload)), threads or max(1, torch.get_num_threads() // count))
    try:
        yield from crew.work(jobs, count)
    finally:
        crew.end()


class _Worker:
    """A process with a pipe, and the job that it has in hand."""

    def __init__(self, content: bytes, threads: int) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, content, threads), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.job: int | None = None


class _Crew:
    def __init__(self, content: bytes, threads: int) -> None:
        self.content, self.threads = content, threads
        self.workers: list[_Worker] = []

    def work(self, jobs: Sequence[Any], count: int) -> Iterator[tuple[int, Any]]:
        waiting, deaths, left = deque(range(len(jobs))), [0] * len(jobs), len(jobs)
        for _ in range(count):
            self._hire()
        while left:
            for pipe in wait([worker.pipe for worker in self.workers]):
                worker = next(worker for worker in self.workers if worker.pipe is pipe)
                index = worker.job
                try:
                    content = worker.pipe.recv_bytes()
                except (EOFError, OSError):  # it is dead
                    code = self._dismiss(worker)
                    if index is None:  # it died idle, most often before it was ready, and a successor would too
                        if not self.workers:
                            raise LSWAGError(_cannot_start(code)) from None
                        continue
                    deaths[index] += 1
                    if deaths[index] > RETRIES:
                        left -= 1
                        yield index, Failure(_died(deaths[index], code), died=True)
                    else:
                        waiting.appendleft(index)
                    if waiting:
                        self._hire()
                    continue
                self._hand_out(worker, waiting, jobs)  # before the caller is: the worker need not wait for the caller
                if index is not None:
                    left -= 1
                    yield index, pickle.loads(content)

    def _hire(self) -> None:
        self.workers.append(_Worker(self.content, self.threads))

    def _dismiss(self, worker: _Worker) -> int | None:
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        return worker.process.exitcode

    def _hand_out(self, worker: _Worker, waiting: deque[int], jobs: Sequence[Any]) -> None:
        worker.job = waiting.popleft() if waiting else None
        if worker.job is not None:
            content = _pickled(jobs[worker.job])
            with contextlib.suppress(OSError):  # it died meanwhile: the next wait sees the end of its pipe
                worker.pipe.send_bytes(content)

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
        return Failure(told(error))


def _serve(pipe: Connection, content: bytes, threads: int) -> None:
    """What a worker does: calls until there is nobody left to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends this process
    torch.set_num_threads(threads)
    function, payload = pickle.loads(content)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        pipe.send_bytes(b"")  # ready
        while True:
            outcome = _attempt(function, payload, pickle.loads(pipe.recv_bytes()))
            try:
                answer = pickle.dumps(outcome)
            except Exception as error:  # pickle raises whatever an object's own methods raise
                answer = pickle.dumps(Failure(f"its outcome, a {type(outcome).__name__}, cannot be sent: {error}"))
            pipe.send_bytes(answer)


def _pickled(content: Any) -> bytes:
    # plain pickle: torch's own would put tensors into shared memory, which is scarce in containers
    try:
        return pickle.dumps(content)
    except Exception as error:  # pickle raises whatever an object's own methods raise
        raise InputError(
            f"this cannot be sent to another process ({error}): use functions and classes of a module, or workers=1."
        ) from error


def _context() -> ForkServerContext | SpawnContext:
    """Processes forked from a clean one that has imported this package; where there is no fork, started anew.

    A fork of this process itself would hang where it has threads, and fail where it has used CUDA.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lswag_hooks"])
    return context


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number or before)
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: a process started meanwhile never sees one, not even while it imports."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _died(times: int, code: int | None) -> str:
    return f"its process died {times} times, the last time with exit code {code} (-9: most often for want of memory)"


def _cannot_start(code: int | None) -> str:
    return (
        f"no worker process could be started: exit code {code}, and what it said is above. A script that starts "
        'workers needs the guard `if __name__ == "__main__":`, and what it sends must be of modules that can be '
        "imported; or use workers=1."
    )
