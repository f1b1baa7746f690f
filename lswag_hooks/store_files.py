"""Whether a file is a store and whole, told without touching it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from lswag_hooks.errors import InputError

APPLICATION_ID = 0x4C535741  # "LSWA", which `file` and others show too
BUSY_SECONDS = 60.0  # how long to wait for another process that is writing
_HEADER = b"SQLite format 3\0"


def check_store_file(path: Path) -> None:
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
