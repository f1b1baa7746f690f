"""The store: exact, durable, shared by processes, and careful with files that are not its own."""

import hashlib
import itertools
import math
import os
import signal
import sqlite3
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lswag_hooks.errors import InputError
from lswag_hooks.store import Key, Record, Store, canonical, score_version

KEY = Key(
    "net", canonical({"proxy": "lswag", "interval": (7, 9)}), 3, "5f1e", "nasbench201", canonical({"mode": "score"})
)


def record(number: int, value: float = 0.5) -> Record:
    return Record(replace(KEY, candidate=f"net {number}"), value)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


# ---------------------------------------------------------------- keys and values


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    put = Record(KEY, 0.1 + 0.2, None, 1.25, 858426, 124126912, 1.7e9)
    with Store(tmp_path / "scores.db") as store:
        assert store.put([put]) == 1
    with Store(tmp_path / "scores.db") as store:
        assert store.get([KEY]) == {KEY: put}
        assert list(store) == [put]


def test_every_part_of_a_key_counts(tmp_path: Path) -> None:
    other = {
        "candidate": "other",
        "proxy": canonical({"proxy": "zico"}),
        "seed": 4,
        "batch": "0000",
        "space": "",
        "conditions": canonical({"mode": "train"}),
        "version": "0.0",
    }
    keys = [KEY, *(replace(KEY, **{name: value}) for name, value in other.items())]
    with Store(tmp_path / "scores.db") as store:
        store.put([Record(KEY, 0.0)])
        assert set(store.get(keys)) == {KEY}
        assert store.put([Record(key, float(number)) for number, key in enumerate(keys)]) == len(other)
        assert {key: found.value for key, found in store.get(keys).items()} == {k: i for i, k in enumerate(keys)}
        assert len(store) == len(keys)


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [struct.unpack("<d", rng.bytes(8))[0] for _ in range(2000)]
    values = [value for value in values if not math.isnan(value)]
    values += [0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 3.0, 2.0**53 + 2, 1 / 3]
    with Store(tmp_path / "scores.db") as store:
        store.put([record(number, value) for number, value in enumerate(values)])
    with Store(tmp_path / "scores.db") as store:
        found = store.get([record(number).key for number in range(len(values))])
    assert [bits(found[record(number).key].value) for number in range(len(values))] == [bits(v) for v in values]


def test_a_missing_value_is_nan_with_its_reason(tmp_path: Path) -> None:
    with Store(tmp_path / "scores.db") as store:
        store.put([Record(KEY, math.nan, "no layer")])
        found = store.get([KEY])[KEY]
        assert math.isnan(found.value)
        assert found.reason == "no layer"


def test_numpy_numbers_are_kept_as_numbers(tmp_path: Path) -> None:
    with Store(tmp_path / "scores.db") as store:
        store.put([Record(replace(KEY, seed=np.int64(3)), np.float32(0.5), None, np.float64(2), np.int64(7))])
        found = store.get([KEY])[KEY]
        assert (found.value, found.seconds, found.params) == (0.5, 2.0, 7)


def test_what_is_there_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "scores.db") as store:
        assert store.put([record(0, 1.0), record(1, 1.0)]) == 2
        assert store.put([record(1, 2.0), record(2, 2.0)]) == 1
        assert {entry.key.candidate: entry.value for entry in store} == {"net 0": 1.0, "net 1": 1.0, "net 2": 2.0}


def test_records_are_put_all_or_none(tmp_path: Path) -> None:
    with Store(tmp_path / "scores.db") as store:
        with pytest.raises(InputError):
            store.put([record(0), Record(replace(KEY, candidate=None), 1.0)])  # type: ignore[arg-type]
        assert len(store) == 0
        assert store.put([record(0)]) == 1  # and it can still be used


def test_table(tmp_path: Path) -> None:
    with Store(tmp_path / "scores.db") as store:
        assert store.to_pandas().empty
        store.put([record(1, 0.25), record(0, 0.5)])
        table = store.to_pandas()
    assert list(table["candidate"]) == ["net 0", "net 1"]
    assert list(table["value"]) == [0.5, 0.25]
    assert set(table["version"]) == {score_version()}


def test_equal_settings_have_equal_texts() -> None:
    settings = {"b": [1, 2.5], "a": {"y": None, "x": True}}
    texts = {canonical(dict(order)) for order in itertools.permutations(settings.items())}
    assert texts == {'{"a":{"x":true,"y":null},"b":[1,2.5]}'}
    assert canonical({"a": (7, 9)}) == canonical({"a": [7, 9]})
    assert canonical({"a": 1}) != canonical({"a": 1.5})
    with pytest.raises(InputError, match="cannot be part of a key"):
        canonical({"loss": object()})


# ---------------------------------------------------------------- several processes


def write(path: str, worker: int, batches: int) -> None:
    with Store(path) as store:
        for batch in range(batches):
            # a record of its own, and one that all workers write
            store.put([record(1000 * worker + batch, worker), Record(replace(KEY, seed=batch), worker)])


def forked(work) -> int:
    """A process that does some work with SQLite and nothing else, which a fork may."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_processes_write_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "scores.db")
    children = [forked(lambda worker=worker: write(path, worker, 30)) for worker in (1, 2, 3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    with Store(path) as store:
        assert len(store) == 3 * 30 + 30
        for worker, batch in itertools.product((1, 2, 3), range(30)):
            key = record(1000 * worker + batch).key
            assert store.get([key])[key].value == worker


def test_a_killed_writer_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "scores.db"
    told, tell = os.pipe()

    def endless() -> None:
        with Store(path) as store:
            for number in itertools.count():
                store.put([replace(record(number, number + seed / 8), key=key(number, seed)) for seed in range(3)])
                os.write(tell, b".")

    def key(number: int, seed: int) -> Key:
        return replace(record(number).key, seed=seed)

    child = forked(endless)
    os.close(tell)
    done = sum(len(os.read(told, 1)) for _ in range(50))
    os.kill(child, signal.SIGKILL)
    while more := os.read(told, 1000):
        done += len(more)
    os.close(told)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with Store(path) as store:
        names = {entry.key.candidate for entry in store}
        assert {f"net {number}" for number in range(done)} <= names
        assert len(names) <= done + 1
        assert len(store) == 3 * len(names)  # no transaction is there in part
        assert all(entry.value == int(entry.key.candidate[4:]) + entry.key.seed / 8 for entry in store)
        assert store.put([record(0)]) == 1  # and it can still be used


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.003, 0.01])
def test_a_store_whose_making_was_killed_can_be_used(tmp_path: Path, pause: float) -> None:
    path = tmp_path / "scores.db"

    def make() -> None:
        with Store(path) as store:
            store.put([record(0)])

    child = forked(make)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Store(path) as store:
        assert store.put([record(1)]) == 1
        assert len(store) in (1, 2)


# ---------------------------------------------------------------- files that are no stores


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE scores (measure)")
    connection.close()


def cut(path: Path) -> None:
    filled(path)
    path.write_bytes(path.read_bytes()[:-5000])


def overwritten(path: Path) -> None:
    filled(path)
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)


def without_tables(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {0x4C535741}")
        connection.execute("CREATE TABLE other (x)")
    connection.close()


def filled(path: Path) -> None:
    with Store(path) as store:
        store.put([record(number) for number in range(500)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign_database, "not a store"),
        (lambda path: path.write_text("scores that matter to someone\n"), "not a store"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "not a store"),
        (cut, "damaged"),
        (overwritten, "damaged"),
        (without_tables, "damaged"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "file.db"
    make(path)
    before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
    with pytest.raises(InputError, match=message) as caught:
        Store(path)
    assert str(path) in str(caught.value)
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before
    assert [file.name for file in tmp_path.iterdir()] == ["file.db"]


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.db"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="newer version"):
        Store(path)


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*missing.* does not exist"):
        Store(tmp_path / "missing" / "scores.db")
    with pytest.raises(InputError, match="is no file"):
        Store(tmp_path)


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "scores.db"
    path.touch()
    filled(path)
    assert path.read_bytes()[68:72] == b"LSWA"
    with Store(path) as store:
        assert len(store) == 500
        assert store  # also an empty one is true, so that `if store` asks whether there is one
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
