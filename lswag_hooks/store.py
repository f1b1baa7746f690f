"""Finished scores on disk: nothing is scored twice, and nothing that was scored is lost.

One SQLite file, which several processes on one machine may write at once (write-ahead log). What ``put`` was given is
on the disk before it returns (``synchronous=FULL``), so that a killed process, or a power cut, loses only what was in
flight. SQLite's locks do not work on network file systems: keep the file on a local disk.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lswag_hooks.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

APPLICATION_ID = 0x4C535741  # "LSWA", which `file` and others show too
SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0  # how long to wait for another process that is writing
_HEADER = b"SQLite format 3\0"
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
"""


def score_version() -> str:
    """The part of this package's version that scores depend on: scores of another one are not reused.

    Example:
        >>> score_version()
        '0.1'
    """
    from lswag_hooks import __version__

    return ".".join(__version__.split(".")[:2])


def canonical(settings: Mapping[str, Any]) -> str:
    """Settings as JSON text that is the same for equal settings, whatever their order.

    Raises:
        InputError: a value is no plain data, so that its text would not be the same in another process.

    Example:
        >>> canonical({"b": (1, 2), "a": None})
        '{"a":null,"b":[1,2]}'
    """

    def refuse(value: Any) -> Any:
        raise InputError(f"{value!r} in {dict(settings)!r} cannot be part of a key: give numbers, texts or lists.")

    return json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=refuse)


@dataclass(frozen=True)
class Key:
    """What a score is a score of.

    Attributes:
        candidate: the architecture, or the candidate's name.
        proxy: the proxy with its settings, from :func:`canonical`.
        seed: of the weights.
        batch: the batch's fingerprint.
        space: name of the search space; empty for candidates of none.
        conditions: whatever else the value depends on, from :func:`canonical`: mode, init, loss or task, image size,
            number of classes.
        version: from :func:`score_version`.
    """

    candidate: str
    proxy: str
    seed: int
    batch: str
    space: str = ""
    conditions: str = "{}"
    version: str = field(default_factory=score_version)


@dataclass(frozen=True)
class Record:
    """A finished score.

    Attributes:
        key: what it is a score of.
        value: the score; NaN where it cannot be had.
        reason: why not.
        seconds: what it took.
        params: the candidate's number of parameters.
        flops: its multiply-accumulates.
        created: seconds since 1970.
    """

    key: Key
    value: float
    reason: str | None = None
    seconds: float | None = None
    params: int | None = None
    flops: int | None = None
    created: float = field(default_factory=time.time)


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
        _check(self.path)
        with self._explained():
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def put(self, records: Iterable[Record]) -> int:
        """Keep scores: all of them, on the disk before this returns, or none. A key that is there stays as it is.

        Returns:
            How many are new.
        """
        given = list(records)
        with self._explained(), self._transaction():
            numbers = {measure: self._number(measure) for measure in {_measure(record.key) for record in given}}
            before = self._connection.total_changes
            self._connection.executemany(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [_row(record, numbers[_measure(record.key)]) for record in given],
            )
            return self._connection.total_changes - before

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


def _check(path: Path) -> None:
    """Refuse what is no store, without touching it: nothing is opened for writing before this."""
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} of the store {path.name} does not exist: make it first.")
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    if not path.is_file():
        raise InputError(f"the store {path} is no file: give the path of one, such as scores.db.")
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise InputError(f"the store {path} cannot be read: {error.strerror}.") from error
    if not header.startswith(_HEADER) or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise InputError(f"{path} is not a store of this package, and was left as it is: give another path.")
    faults = _faults(path)
    if faults:
        raise InputError(
            f"the store {path} is damaged ({' '.join(faults.split())}), and was left as it is: give another path."
        )


def _faults(path: Path) -> str | None:
    """What is wrong with a file, read without changing it; None if nothing is."""
    if path.with_name(f"{path.name}-journal").exists():
        return None  # its making was cut short; SQLite undoes that, and it is made again
    # where nobody has it open there is no log beside it, and a reader that takes no locks makes none
    alone = not path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("SELECT count(*) FROM measures").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok" and alone and path.with_name(f"{path.name}-wal").exists():
        return _faults(path)  # somebody opened it meanwhile, and may have changed what was being read
    return None if found == "ok" else str(found)


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
