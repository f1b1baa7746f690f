"""Run independent jobs on a Ray cluster, or on a Ray of this machine, each finished one handed over at once.

Does what :func:`lswag_hooks.engines.local.run` does, on actors that hold function and payload, spread over the nodes.
An actor or a node that dies is replaced and its job tried again, twice at most. Needs ``pip install lswag-hooks[ray]``;
the nodes of a cluster need this package, too.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from lswag_hooks.engines.local import RETRIES, Failure, _attempt, _pickled
from lswag_hooks.errors import InputError, LSWAGError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
Payload = TypeVar("Payload")

REACH_SECONDS = 5.0  # for a cluster's address to answer
KEPT = 8  # functions with payloads that an actor holds


def run(
    function: Callable[[Payload, Job], Outcome],
    jobs: Sequence[Job],
    payload: Payload,
    workers: int = 1,
    threads: int | None = None,
    address: str | None = None,
) -> Iterator[tuple[int, Outcome | Failure]]:
    """Call ``function(payload, job)`` for every job, and give each outcome as soon as there is one.

    Ray is started where it is not running; it and its actors are left running until this process ends, so that the next
    call need not wait for them. Outcomes are those of the local engine.

    Args:
        function: of a module, not a lambda.
        jobs: one call each.
        payload: what every call needs; sent once to each node.
        workers: number of actors.
        threads: of torch in each actor; by default this process's number of threads shared out evenly.
        address: of a started cluster, such as ``"10.0.0.1:6379"`` or ``"auto"``; None: a Ray of this machine.

    Yields:
        Position of the job and its outcome; a :class:`Failure` if it raised or its actor died three times.

    Raises:
        InputError: Ray is not installed, nothing answers at the address, or something cannot be sent to an actor.
        LSWAGError: no actor could be started.
    """
    for name, number in (("workers", workers), ("threads", 1 if threads is None else threads)):
        if number < 1:
            raise InputError(f"{name}={number}: give one or more.")
    count = min(workers, len(jobs))
    if not count:
        return
    content = _pickled((function, payload))
    ray = _started(address, workers)
    crew = _Crew(ray, content, threads or max(1, torch.get_num_threads() // workers))
    try:
        yield from crew.work(jobs, count)
    finally:
        crew.end()


_idle: list[Any] = []  # actors without work: it takes seconds to start one, and a search calls once a generation


class _Actor:
    """What lives on a node: it keeps the functions and payloads that it was called with last."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {}

    def ready(self) -> None:
        """Answer once it is there."""

    def work(self, key: str, content: list[Any], job: bytes, threads: int) -> bytes:
        torch.set_num_threads(threads)
        if key not in self.kept:
            # a reference inside a list is fetched here alone, and not with every call
            self.kept[key] = pickle.loads(importlib.import_module("ray").get(content[0]))
            while len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        outcome = _attempt(*self.kept[key], pickle.loads(job))
        try:
            return pickle.dumps(outcome)
        except Exception as error:  # pickle raises whatever an object's own methods raise
            return pickle.dumps(Failure(f"its outcome, a {type(outcome).__name__}, cannot be sent: {error}"))


class _Crew:
    def __init__(self, ray: Any, content: bytes, threads: int) -> None:
        self.ray, self.threads = ray, threads
        self.key, self.content = hashlib.sha256(content).hexdigest(), ray.put(content)
        self.kind = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Actor)
        self.pending: dict[Any, tuple[Any, int | None]] = {}  # by what is waited for: an actor, and the job it has

    def work(self, jobs: Sequence[Any], count: int) -> Iterator[tuple[int, Any]]:
        waiting, deaths, left = deque(range(len(jobs))), [0] * len(jobs), len(jobs)
        for _ in range(count):
            self._hire()
        while left:
            finished, _ = self.ray.wait(list(self.pending), num_returns=1)
            actor, index = self.pending.pop(finished[0])
            try:
                answer = self.ray.get(finished[0])
            except self.ray.exceptions.RayError as error:
                self._dismiss(actor)
                if index is None:  # it never was ready, and a successor would not be, either
                    if not self.pending:
                        raise LSWAGError(f"no Ray actor could be started: {_said(error)}") from None
                    continue
                deaths[index] += 1
                if deaths[index] > RETRIES:
                    left -= 1
                    reason = f"its Ray actor died {deaths[index]} times, the last time: {_said(error)}"
                    yield index, Failure(reason, died=True)
                else:
                    waiting.appendleft(index)
                if waiting:
                    self._hire()
                continue
            if waiting:  # before the caller is told: the actor need not wait for the caller
                job = waiting.popleft()
                answered = actor.work.remote(self.key, [self.content], _pickled(jobs[job]), self.threads)
                self.pending[answered] = actor, job
            else:
                _idle.append(actor)
            if index is not None:
                left -= 1
                yield index, pickle.loads(answer)

    def _hire(self) -> None:
        actor = _idle.pop() if _idle else self.kind.remote()
        self.pending[actor.ready.remote()] = actor, None

    def _dismiss(self, actor: Any) -> None:
        self.ray.kill(actor, no_restart=True)

    def end(self) -> None:
        """Leave no actor behind that has something to do, or never came up."""
        for actor, _ in self.pending.values():
            self._dismiss(actor)
        self.pending.clear()


def _started(address: str | None, workers: int) -> Any:
    """Ray, connected or started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody was asked
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise InputError("engine='ray' needs Ray: pip install 'lswag-hooks[ray]'.") from None
    if ray.is_initialized():
        return ray
    _idle.clear()  # of a Ray that was shut down
    _check_reachable(address)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address is None:
            own = {
                "env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}
            }  # modules that can be imported here, there, too
            cores = max(workers, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cores, include_dashboard=False, runtime_env=own, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        what = "Ray could not be started" if address is None else f"there is no Ray cluster at {address!r}"
        raise InputError(f"{what}: {_said(error)}") from None
    return ray


def _check_reachable(address: str | None) -> None:
    """Tell at once where nothing listens; Ray itself tries for a minute."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "//" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at {address!r} ({error}): start Ray there with `ray start --head`, or leave address out."
        ) from None


def _said(error: BaseException) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    told = lines if len(lines) < 3 else [lines[0], lines[-1]]  # between them stands a traceback
    return " ".join(told)[:400]
