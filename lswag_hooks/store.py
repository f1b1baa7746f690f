"""Finished scores on disk: nothing is scored twice, and nothing that was scored is lost.

One SQLite file, which several processes on one machine may write at once (write-ahead log). What ``put`` was given is
on the disk before it returns (``synchronous=FULL``), so that a killed process, or a power cut, loses only what was in
flight. SQLite's locks do not work on network file systems: keep the file on a local disk.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lswag_hooks.errors import InputError
from lswag_hooks.records import FailedAttempt, Key, Record, canonical, score_version
from lswag_hooks.store_files import APPLICATION_ID, BUSY_SECONDS, check_store_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FailedAttempt", "Key", "Record", "Store", "canonical", "score_version"]

SCHEMA_VERSION = 2  # 2: details and failures
_SCHEMA = """
CREATE TABLE IF NOT EXISTS measures (
    id INTEGER PRIMARY KEY,
    space TEXT NOT NULL, proxy TEXT NOT NULL, batch TEXT NOT NULL, conditions TEXT NOT NULL, version TEXT NOT NULL,
    UNIQUE (space, proxy, batch, conditions, version)
);
CREATE TABLE IF NOT EXISTS scores (
    measure INTEGER NOT NULL REFERENCES measures (id), candidate TEXT NOT NULL, seed INTEGER NOT NULL,
    value REAL, reason TEXT, seconds REAL, params INTEGER, flops INTEGER, created REAL NOT NULL,
    PRIMARY KEY (measure, candidate, seed)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS details (
    measure INTEGER NOT NULL REFERENCES measures (id), candidate TEXT NOT NULL, seed INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (measure, candidate, seed)
);
CREATE TABLE IF NOT EXISTS failures (
    measure INTEGER NOT NULL REFERENCES measures (id), candidate TEXT NOT NULL, seed INTEGER NOT NULL,
    reason TEXT NOT NULL, decided INTEGER NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (measure, candidate, seed)
);
"""


class Store:
    """The scores kept in one file, which is made where there is none.

    Values come back bit for bit, except that -0.0 comes back as 0.0.

    Args:
        path: of the file; by custom it ends in ``.db``.

    Raises:
        InputError: the folder does not exist, or the file is no store, or damaged; the file is left as it is.

    Example:
        >>> import tempfile
        >>> key = Key("timm/resnet18", canonical({"proxy": "zico"}), seed=0, batch="5f1e")
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/scores.db") as store:
        ...     store.put([Record(key, 0.1)])
        ...     store.put([Record(key, 0.2)])  # what is there stays
        ...     store.get([key])[key].value
        1
        0
        0.1
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        check_store_file(self.path)
        with self._explained():
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def put(self, records: Iterable[Record], details: Iterable[tuple[Key, str]] = ()) -> int:
        """Keep scores: all of them, on the disk before this returns, or none.

        A key that is there stays as it is; what had failed under it is forgotten.

        Args:
            records: the scores.
            details: texts that belong to them, each under a key of its own.

        Returns:
            How many scores are new.
        """
        given, texts = list(records), list(details)
        with self._explained(), self._transaction():
            keys = [*(record.key for record in given), *(key for key, _ in texts)]
            numbers = {measure: self._number(measure) for measure in dict.fromkeys(map(_measure, keys))}
            before = self._connection.total_changes
            self._connection.executemany(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [_row(record, numbers[_measure(record.key)]) for record in given],
            )
            new = self._connection.total_changes - before
            self._connection.executemany(
                "DELETE FROM failures WHERE measure = ? AND candidate = ? AND seed = ?",
                [(numbers[_measure(key)], key.candidate, int(key.seed)) for key in keys],
            )
            for key, text in texts:
                place = (numbers[_measure(key)], key.candidate, int(key.seed))
                self._connection.execute(
                    "INSERT INTO details VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (*place, zlib.compress(text.encode())),
                )
            return new

    def details(self, key: Key) -> dict[str, str]:
        """The texts kept under a key, and under those that differ from it in the proxy alone, by proxy."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT proxy, content FROM details JOIN measures ON id = measure"
                " WHERE space = ? AND batch = ? AND conditions = ? AND version = ? AND candidate = ? AND seed = ?"
                " ORDER BY measure",
                (key.space, key.batch, key.conditions, key.version, key.candidate, int(key.seed)),
            )
            return {proxy: zlib.decompress(content).decode() for proxy, content in rows}

    def fail(self, failed: FailedAttempt) -> None:
        """Keep why something was not scored, instead of what was kept of an earlier attempt."""
        key = failed.key
        with self._explained(), self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self._number(_measure(key)),
                    key.candidate,
                    int(key.seed),
                    failed.reason,
                    failed.decided,
                    failed.created,
                ),
            )

    def failures(self) -> list[FailedAttempt]:
        """What could not be scored, and why."""
        with self._explained():
            rows = self._connection.execute(
                "SELECT candidate, proxy, seed, batch, space, conditions, version, reason, decided, created"
                " FROM failures JOIN measures ON id = measure ORDER BY measure, candidate, seed"
            ).fetchall()
        return [FailedAttempt(Key(*key), reason, bool(decided), at) for *key, reason, decided, at in rows]

    def get(self, keys: Iterable[Key]) -> dict[Key, Record]:
        """The scores that are there, of those that are asked for."""
        wanted = list(keys)
        found = {}
        with self._explained():
            measures = self._connection.execute("SELECT id, space, proxy, batch, conditions, version FROM measures")
            known = {tuple(measure): number for number, *measure in measures}
            for key in wanted:
                row = self._connection.execute(
                    "SELECT value, reason, seconds, params, flops, created FROM scores"
                    " WHERE measure = ? AND candidate = ? AND seed = ?",
                    (known.get(_measure(key)), key.candidate, key.seed),
                ).fetchone()
                if row is not None:
                    found[key] = _record(key, row)
        return found

    def __iter__(self) -> Iterator[Record]:
        """All scores, measure by measure, by candidate and seed."""
        with self._explained():
            for space, proxy, batch, conditions, version, candidate, seed, *row in self._connection.execute(
                "SELECT space, proxy, batch, conditions, version, candidate, seed,"
                " value, reason, seconds, params, flops, created"
                " FROM scores JOIN measures ON id = measure ORDER BY measure, candidate, seed"
            ):
                yield _record(Key(candidate, proxy, seed, batch, space, conditions, version), row)

    def __len__(self) -> int:
        with self._explained():
            return int(self._connection.execute("SELECT count(*) FROM scores").fetchone()[0])

    def __bool__(self) -> bool:
        return True  # an empty store is a store

    def to_pandas(self) -> pd.DataFrame:
        """All scores, one a row."""
        import pandas as pd

        own = [entry.name for entry in fields(Record) if entry.name != "key"]
        columns = [*(entry.name for entry in fields(Key)), *own]
        rows = [(*astuple(record.key), *(getattr(record, name) for name in own)) for record in self]
        return pd.DataFrame(rows, columns=columns)

    def close(self) -> None:
        """Close the file; doing so twice does no harm."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise InputError(f"{self.path} was written by a newer version of this package: update it.")
        if version < SCHEMA_VERSION:
            # the mark first and in the same transaction: a file is ours from its first byte, or empty
            with self._transaction():
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
        self._use_log()
        self._connection.execute("PRAGMA synchronous = FULL")

    def _use_log(self) -> None:
        """Switch to the write-ahead log; SQLite does not wait here for another process that does the same."""
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def _number(self, measure: tuple[str, ...]) -> int:
        self._connection.execute(
            "INSERT INTO measures (space, proxy, batch, conditions, version) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            measure,
        )
        row = self._connection.execute(
            "SELECT id FROM measures WHERE space = ? AND proxy = ? AND batch = ? AND conditions = ? AND version = ?",
            measure,
        ).fetchone()
        return int(row[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")  # waits for its turn here, and not half-way
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # closed, or used from another thread: a mistake of the caller's, not the file's
        except sqlite3.Error as error:
            raise InputError(f"the store {self.path} cannot be used: {error}.") from error


def _measure(key: Key) -> tuple[str, ...]:
    return key.space, key.proxy, key.batch, key.conditions, key.version


def _row(record: Record, measure: int) -> tuple[Any, ...]:
    # plain numbers: SQLite would keep those of NumPy as bytes
    key = record.key
    seconds = None if record.seconds is None else float(record.seconds)
    params, flops = (None if count is None else int(count) for count in (record.params, record.flops))
    created = float(record.created)
    return measure, key.candidate, int(key.seed), float(record.value), record.reason, seconds, params, flops, created


def _record(key: Key, row: Iterable[Any]) -> Record:
    value, *others = row
    return Record(key, math.nan if value is None else value, *others)
