import multiprocessing
import os
import pathlib
import time

import pytest
import torch

from lswag_hooks.engines import Failure, run
from lswag_hooks.errors import InputError


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
