import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from lswag_hooks.engines import Failure, run
from lswag_hooks.errors import InputError, LSWAGError


def square(payload, job):
    return payload * job * job


def threads(payload, job):
    return torch.get_num_threads()


def sometimes_dies(folder, job):
    """Dies the first ``job`` times that it is called with that job."""
    marks = pathlib.Path(folder) / str(job)
    called = len(marks.read_text()) if marks.exists() else 0
    marks.write_text("x" * (called + 1))
    if called < job:
        os._exit(3)
    return job


def raises(payload, job):
    raise ValueError(f"job {job}")


def children():
    return multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once_whatever_the_number_of_workers(workers):
    found = dict(run(square, list(range(7)), payload=3, workers=workers))
    assert found == {n: 3 * n * n for n in range(7)}
    assert not children()


def test_workers_share_the_cores_or_take_what_is_asked():
    assert set(dict(run(threads, [0, 1], payload=None, workers=2, threads=1)).values()) == {1}


def test_a_worker_that_dies_is_replaced_and_its_job_tried_three_times(tmp_path):
    found = dict(run(sometimes_dies, [0, 1, 2, 3], payload=str(tmp_path), workers=2))
    assert [found[n] for n in range(3)] == [0, 1, 2]
    assert isinstance(found[3], Failure) and "died 3 times" in found[3].reason and "exit code 3" in found[3].reason
    assert not children()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_is_a_failure_with_its_reason(workers):
    found = dict(run(raises, [4, 5], payload=None, workers=workers))
    assert found == {0: Failure("ValueError: job 4"), 1: Failure("ValueError: job 5")}


def test_leaving_the_loop_ends_all_workers():
    outcomes = run(sleep_or_not, [0, 3600, 3600], payload=None, workers=2)
    assert next(outcomes) == (0, 0)
    outcomes.close()
    assert not children()  # well before an hour: the suite has a time limit


def sleep_or_not(payload, job):
    time.sleep(job)
    return job


def test_no_workers_are_refused():
    with pytest.raises(InputError, match="workers=0"):
        list(run(square, [1], payload=1, workers=0))


def lock_or_job(payload, job):
    return threading.Lock() if job == 1 else job


def test_an_outcome_that_cannot_be_sent_is_a_failure_at_once():
    found = dict(run(lock_or_job, [0, 1], payload=None, workers=2))
    assert found[0] == 0
    assert "a lock, cannot be sent" in found[1].reason and not found[1].died


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(InputError, match="workers=1"):
        list(run(lambda payload, job: job, [1, 2], payload=None, workers=2))


def test_threads_are_set_for_the_calls_alone_and_given_back():
    before = torch.get_num_threads()
    for _, number in run(threads, [0, 1], payload=None, threads=before + 1):
        assert number == before + 1
        assert torch.get_num_threads() == before


def convolve(weight, job):
    images = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(job))
    return torch.nn.functional.conv2d(images, weight).square().mean().item()


def test_outcomes_are_the_same_to_the_last_bit():
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    alone = dict(run(convolve, range(6), payload=weight, threads=1))
    assert dict(run(convolve, range(6), payload=weight, workers=2, threads=1)) == alone


SCRIPT = """
import os, signal, sys, time
from lswag_hooks.engines import run

def sleep(payload, job):
    print(os.getpid(), flush=True)
    time.sleep(3600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us with &
    try:
        list(run(sleep, [1, 2, 3], payload=None, workers=2))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.slow
def test_an_interrupt_of_the_whole_group_leaves_no_process_behind(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    started = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    pids = [int(started.stdout.readline()) for _ in range(2)]
    os.killpg(started.pid, signal.SIGINT)
    said, complained = started.communicate(timeout=200)
    assert (said, complained, started.returncode) == ("interrupted\n", "", 0)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Fatal:
    """Ends the process that unpickles it, as a script without its guard does."""

    def __reduce__(self):
        return os._exit, (7,)


def test_workers_that_cannot_start_are_an_error_and_not_tried_for_ever():
    with pytest.raises(LSWAGError, match=r"no worker process could be started: exit code 7.*__main__"):
        list(run(square, [1, 2, 3], payload=Fatal(), workers=2))
    assert not children()
