"""The store: that it is there, whole, of this version, not locked, on a disk with room, and fits its key.

Promised here: it is opened as it is, or not at all: nothing is made, migrated or written. Not in here: what is in it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.config.postgresql import DatabaseUrl
from ldapmfa.errors import LdapMfaError
from ldapmfa.net import service
from ldapmfa.store.database import HEAD
from ldapmfa.store.servers import Servers

if TYPE_CHECKING:
    from ldapmfa.cli.doctor.patient import Patient
    from ldapmfa.config import Config

_AREA: Final = Area("store")
#: Seconds that a lock of somebody else's is waited for.
_PATIENCE: Final = 3.0
#: Seconds by which its clock may differ.
_CLOCK: Final = 15.0
#: Octets that must be free: for the log of writes at all, and for some weeks.
_NONE, _LITTLE = 10 << 20, 200 << 20


def store(patient: Patient) -> Iterator[Finding]:
    """The database of the configuration."""
    file = patient.config.store.sqlite_file
    if file is None:
        opened = list(_opens(patient))
        yield from opened
        if all(finding.state == "ok" for finding in opened):
            yield from _postgresql(patient.config)
        return
    if not file.exists():
        yield _AREA.broken("store.url", f"{file} is not there", "`ldapmfa init` makes it, as does the first start.")
        return
    yield _room(file)
    try:
        yield from _inside(file)
    except sqlite3.OperationalError as failed:
        locked = "locked" in str(failed)
        fix = (
            "See which process holds it (fuser), and end that: logins that need the store are refused meanwhile."
            if locked
            else f"See that {file} and its directory may be read and written by whoever runs this."
        )
        yield _AREA.broken("store.url", f"{file}: {failed}", fix)
        return
    except sqlite3.DatabaseError as failed:
        yield _AREA.broken("store.url", f"{file}: {failed}", "It is damaged: put a backup back.")
        return
    yield from _opens(patient)


def _room(file: Path) -> Finding:
    found = os.statvfs(file.parent)
    free = found.f_bavail * found.f_frsize
    what = f"{free >> 20} MiB are free where {file} lies"
    if free < _NONE:
        return _AREA.broken("room", what, "Make room: without it no login that needs the store succeeds.")
    if free < _LITTLE:
        return _AREA.warning("room", what, "Make room, before logins are refused.")
    return _AREA.ok("room", what)


def _inside(file: Path) -> Iterator[Finding]:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE)) as link:
        version = link.execute("SELECT version_num FROM alembic_version").fetchone()
        if version != (HEAD,):
            said = version[0] if version else "none"
            yield _AREA.broken(
                "schema",
                f"it is of version {said}, and this program needs {HEAD}",
                "A start brings an older one up to date (store.migrate = true); a newer one needs a newer program.",
            )
        else:
            yield _AREA.ok("schema", f"version {HEAD}, as this program needs it")
        journal = link.execute("PRAGMA journal_mode").fetchone()[0]
        if journal != "wal":
            yield _AREA.warning("journal", f"the journal's mode is {journal}, not wal", "It is set at the next start.")
        whole = link.execute("PRAGMA quick_check(3)").fetchall()
        if whole == [("ok",)]:
            yield _AREA.ok("whole", "the quick check finds no damage")
        else:
            yield _AREA.broken("whole", f"damaged: {whole[0][0]}", "Put a backup back.")
        link.isolation_level = None
        link.execute("BEGIN IMMEDIATE")
        link.execute("ROLLBACK")
        yield _AREA.ok("lock", "it can be written to")


#: Settings of a server with which what it says is committed may be lost, and what is written of that.
_SAFE: Final = {"fsync": "on", "full_page_writes": "on"}
_ASKED: Final = """SELECT current_setting('server_version'), current_setting('fsync'),
current_setting('full_page_writes'), current_setting('synchronous_standby_names'),
extract(epoch FROM clock_timestamp())::float8"""


def _postgresql(config: Config) -> Iterator[Finding]:
    """The server that takes the writes: durable, with a standby or without, and by which clock."""

    async def ask() -> tuple[Any, float]:
        servers = Servers(DatabaseUrl.parse(config.store.url), config.store.password)
        try:
            server = await servers.first(_PATIENCE)
            try:
                return await server.connection.fetchrow(_ASKED, timeout=_PATIENCE), time.time()
            finally:
                server.connection.terminate()
        finally:
            await servers.close()

    try:
        (version, fsync, pages, standby, there), here = asyncio.run(ask())
    except (LdapMfaError, OSError, TimeoutError, asyncpg.PostgresError) as failed:
        yield _AREA.broken("postgresql", f"it can't be asked: {type(failed).__name__}", "See that the server runs.")
        return
    unsafe = [name for name, value in zip(_SAFE, (fsync, pages), strict=True) if value != _SAFE[name]]
    if unsafe:
        fix = f"Set {' and '.join(f'{name} = on' for name in unsafe)} in postgresql.conf."
        yield _AREA.broken("durable", f"{' and '.join(unsafe)} off: a power cut may bring used codes back", fix)
    else:
        yield _AREA.ok("durable", f"PostgreSQL {version} keeps what it has committed")
    if standby:
        yield _AREA.ok("standby", f"it commits when a standby has it too ({standby})")
    else:
        yield _AREA.warning(
            "standby",
            "it waits for no standby (synchronous_standby_names): a fail-over may lose the last used codes",
            "docs/explanation/high-availability.md says how to have one; without a standby there is no fail-over.",
        )
    off = there - here
    found = f"its clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} ours"
    if abs(off) > _CLOCK:
        yield _AREA.warning("clock", found, "Have both set by the same time servers (chrony, systemd-timesyncd).")
    else:
        yield _AREA.ok("clock", found)


def _opens(patient: Patient) -> Iterator[Finding]:
    """As the program opens it: that the key fits shows then."""

    async def open_and_close() -> None:
        await (await service.open_store(patient.config, migrate=False)).close()

    try:
        asyncio.run(open_and_close())
    except LdapMfaError as failed:
        yield _AREA.broken("opens", str(failed), "Change what is named, and look again.")
    else:
        yield _AREA.ok("opens", f"it opens, and {patient.config.store.key_file} is its key")
