"""Copies of a SQLite file: one made while the service writes, and one put in the file's place.

Promised here: a copy is of one moment, for its owner alone, and nothing that exists is overwritten; what is put in
place is whole or not there, and what was there is kept beside it. Not in here: what a copy holds
(`ldapmfa.store.Store`), and what must be taken as used afterwards (`restoring`).
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from ldapmfa.errors import StoreDown

if TYPE_CHECKING:
    from pathlib import Path

#: What SQLite keeps beside a file, and what belongs to no other.
JOURNALS: Final = ("-wal", "-shm", "-journal")
#: Seconds to wait for another process's transaction.
BUSY: Final = 5.0


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, whoever writes to it. FileExistsError; StoreDown: `source` is none."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        # rw: the last one to close it must be able to put its journal away
        with closing(_connect(source)) as old, closing(_connect(target)) as new:
            old.backup(new)
            ((found, *_),) = new.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        remove(target)
        raise StoreDown(f"{source} can't be copied: {error}") from None
    except BaseException:
        remove(target)
        raise
    if found != "ok":
        remove(target)
        raise StoreDown(f"{source} is damaged: {found}")
    _sync(target)


def in_use(path: Path) -> bool:
    """Whether another process has the database open; what is no database, nobody can."""
    try:
        with closing(_connect(path)) as connection:
            # SQLite leaves the journal mode WAL only for who has the file alone
            connection.execute("PRAGMA busy_timeout=0")
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    return False


def put_in_place(new: Path, place: Path, aside: Path) -> None:
    """Let `new` be at `place`, in the same folder; what was there, journals too, is `aside` then. FileExistsError."""
    if os.path.lexists(place):
        os.link(place, aside)
    for journal in JOURNALS:
        # SQLite would take one that is left for the new file's
        beside = place.with_name(place.name + journal)
        if os.path.lexists(beside):
            beside.rename(aside.with_name(aside.name + journal))
    new.replace(place)
    _sync(place)


def remove(path: Path) -> None:
    """Forget a copy that is of no use, with its journals."""
    for suffix in ("", *JOURNALS):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY, isolation_level=None)


def _sync(path: Path) -> None:
    """Make a file and its entry durable."""
    for each, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(each, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
