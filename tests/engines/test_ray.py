import os
import pathlib
import signal
import threading
import time

import pytest

import lswag_hooks as lh
from lswag_hooks.engines import Failure, local
from lswag_hooks.errors import InputError
from lswag_hooks.search import Evolution, search

ray = pytest.importorskip("ray")
engine = pytest.importorskip("lswag_hooks.engines.ray")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def stopped_afterwards():
    yield
    ray.shutdown()


def power(payload, job):
    if job == 3:
        raise ValueError("three")
    return payload**job


def fall(folder, job):
    """Die the first ``job`` times, then tell of which process it was."""
    tries = pathlib.Path(folder) / f"{job}.tries"
    done = int(tries.read_text()) if tries.exists() else 0
    tries.write_text(str(done + 1))
    if done < job:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def stay(folder, job):
    (pathlib.Path(folder) / f"{job}.{os.getpid()}").touch()
    time.sleep(0.3)
    return job * job


def hang_at_first(folder, job):
    """Job 5 hangs in the first process that takes it, until somebody kills that process."""
    (pathlib.Path(folder) / f"{job}.{os.getpid()}").touch()
    if job == 5 and len(list(pathlib.Path(folder).glob("5.*"))) == 1:
        time.sleep(250)
    return job * job


def kill_the_holder_of(folder, job):
    while not (begun := list(folder.glob(f"{job}.*"))):
        time.sleep(0.02)
    os.kill(int(begun[0].suffix[1:]), signal.SIGKILL)


def test_outcomes_are_those_of_the_local_engine():
    jobs = list(range(8))
    assert sorted(engine.run(power, jobs, 2, workers=2), key=lambda pair: pair[0]) == list(local.run(power, jobs, 2))


def test_a_worker_that_dies_is_replaced_and_its_job_tried_twice_more(tmp_path):
    found = dict(engine.run(fall, [3, 1, 0], str(tmp_path), workers=2))
    lost = found.pop(0)
    assert found == {1: 1, 2: 0}
    assert isinstance(lost, Failure) and lost.died and "died 3 times" in lost.reason
    assert (tmp_path / "3.tries").read_text() == "3"


def test_a_worker_killed_from_outside(tmp_path):
    killer = threading.Thread(target=kill_the_holder_of, args=(tmp_path, 5), daemon=True)
    killer.start()
    outcomes = dict(engine.run(hang_at_first, list(range(12)), str(tmp_path), workers=2))
    assert outcomes == {index: index * index for index in range(12)}
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == sorted([*range(12), 5])  # it was begun twice


def test_actors_are_kept_for_the_next_call_whatever_it_calls(tmp_path):
    pids = []
    for turn in ("one", "two", "one"):
        (tmp_path / turn).mkdir(exist_ok=True)
        assert dict(engine.run(stay, [1, 2], str(tmp_path / turn), workers=2)) == {0: 1, 1: 4}
        pids.append({path.suffix for path in (tmp_path / turn).iterdir()})
    assert pids[0] == pids[1] == pids[2]


def test_a_search_gives_the_same_as_the_local_engine(tmp_path):
    batch = lh.Batch.builtin("digits", size=(3, 8, 8), samples=8)
    options = {"algorithm": Evolution(4, 2, 2, 2), "evaluations": 8, "progress": False}
    ours = search("nasbench201", batch, "zico", engine="ray", workers=2, **options)
    theirs = search("nasbench201", batch, "zico", **options)
    assert ours.seen.architectures == theirs.seen.architectures
    assert [one.scores for one in ours.seen.measured] == [one.scores for one in theirs.seen.measured]


def test_a_ranking_gives_the_same_as_the_local_engine(tmp_path):
    batch = lh.Batch.builtin("digits", size=(3, 32, 32), samples=8)
    names = ["timm/test_resnet", "timm/test_vit", "timm/nosuchnet"]
    ours = lh.rank(names, batch, "zico", engine="ray", workers=2, store=tmp_path / "scores.db")
    theirs = lh.rank(names, batch, "zico")
    again = lh.rank(names, batch, "zico", store=tmp_path / "scores.db")  # what the one kept the other reads
    for other in (ours, again):
        assert [(row.name, row.scores, row.reason) for row in other.rows[:2]] == [
            (row.name, row.scores, row.reason) for row in theirs.rows[:2]
        ]
        assert "no model 'nosuchnet'" in other.rows[2].reason


def test_an_unreachable_address_is_told_at_once():
    ray.shutdown()
    start = time.monotonic()
    with pytest.raises(InputError, match=r"nothing answers at '127\.0\.0\.1:9'"):
        list(engine.run(power, [1], 2, address="127.0.0.1:9"))
    assert time.monotonic() - start < 10
    with pytest.raises(InputError, match="workers=0"):
        list(engine.run(power, [1], 2, workers=0))
