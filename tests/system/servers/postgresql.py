"""PostgreSQL, on a port of its own on 127.0.0.1, and a standby that can take over from it.

Its durability is off unless a test is about it. No root needed; it is run as `postgres` where we are root, as it refuses
to be root. Making and starting one takes two seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from .common import Process, as_user, free_port, require, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

USER = "postgres"
NEEDS = (("/usr/lib/postgresql/*/bin/postgres", "postgresql"), ("setpriv", "util-linux"))
PASSWORD = "correct horse / battery @ staple"  # one that a URL must quote


class Postgresql:
    """A cluster with a role `ldapmfa` that may make databases, by password over TCP; `settings` are the server's."""

    def __init__(self, **settings: str) -> None:
        require(*NEEDS)
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        # pytest's own directories are for their owner alone
        self.directory = Path(tempfile.mkdtemp(prefix="ldapmfa-postgresql-"))
        self.data, self.log = self.directory / "data", self.directory / "log"
        self.port = free_port()
        self.settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", **settings}
        self.process: Process | None = None
        self._numbers = itertools.count(1)

    def make(self) -> None:
        """Its files."""
        self._give(self.directory)
        self._run("initdb", "-D", self.data, "-U", USER, "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8")
        (self.data / "pg_hba.conf").write_text(
            "local all all trust\nlocal replication all trust\n"
            "host all ldapmfa 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n"
            "host replication all 127.0.0.1/32 trust\n"
        )

    def start(self) -> Self:
        """Returns when it answers."""
        if not self.data.exists():
            self.make()
            self.run()
            self.sql(f"CREATE ROLE ldapmfa LOGIN CREATEDB PASSWORD '{PASSWORD}'")
        else:
            self.run()
        return self

    def run(self) -> None:
        """Start the server on the files that are there."""
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.directory,
            "max_connections": "200", **self.settings,
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.process = Process(
            [self.programs / "postgres", "-D", self.data, *words], self.log, cwd=self.directory, user=USER
        )
        self.process.wait_until(self.answers)

    def show(self, folder: Path) -> None:
        """Let it show the certificate in there."""
        self._give(folder)
        self._give(folder / "key.pem")
        self.settings |= {"ssl": "on", "ssl_cert_file": str(folder / "cert.pem"), "ssl_key_file": str(folder / "key.pem")}

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self.sql("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def pids(self) -> list[int]:
        """Its processes, the one that begins them first."""
        assert self.process is not None
        first = self.process.popen.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def kill(self) -> None:
        """As when the power goes."""
        assert self.process is not None
        self.process.stop(0)

    def stop(self) -> None:
        """End it, and forget its files."""
        if self.process is not None:
            self.process.stop(0)
        shutil.rmtree(self.directory, ignore_errors=True)

    def standby(self, **settings: str) -> Postgresql:
        """A copy that follows this one, running."""
        other = Postgresql(**settings)
        self._give(other.directory)
        source = f"host={self.directory} port={self.port} user={USER} application_name=standby"
        other._run(
            "pg_basebackup", "-D", other.data, "-d", source, "--write-recovery-conf", "--wal-method=stream", "--no-sync",
            "--checkpoint=fast",
        )  # fmt: skip
        other.run()
        return other

    def configure(self, name: str, value: str) -> None:
        """Change one of its settings while it runs."""
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")
        wait_for(lambda: self.sql(f"SHOW {name}") == [(value,)])

    def promote(self) -> None:
        """Let a standby take over."""
        self.sql("SELECT pg_promote(true, 30)")

    # -- databases

    def url(self, database: str, *others: Postgresql, user: str = "ldapmfa") -> str:
        """The URL of a database, on this server or on one of `others`."""
        place = f"127.0.0.1:{self.port}"
        login = f"{user}:{PASSWORD.replace(' ', '%20').replace('/', '%2F').replace('@', '%40')}"
        if not others:
            return f"postgresql+asyncpg://{login}@{place}/{database}"
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (self, *others))
        return f"postgresql+asyncpg://{login}@/{database}?{hosts}"

    def database(self, template: str = "template0") -> str:
        """A new one, its name."""
        name = f"test{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} OWNER ldapmfa TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Forget one."""
        self.sql(f"DROP DATABASE {database} WITH (FORCE)")

    def sql(self, text: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of one command, given as the cluster's owner."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await self.connect(database)
            try:
                return [tuple(row) for row in await connection.fetch(text, *values)]
            finally:
                connection.terminate()

        return aside(ask)

    async def connect(self, database: str) -> asyncpg.Connection:
        """A connection of the cluster's owner."""
        return await asyncpg.connect(
            host=str(self.directory), port=self.port, user=USER, database=database, timeout=10, statement_cache_size=0
        )

    def _run(self, program: str, *arguments: object) -> None:
        run([*as_user(USER), self.programs / program, *map(str, arguments)], self.log, cwd=self.directory)

    @staticmethod
    def _give(path: Path) -> None:
        if as_user(USER):
            shutil.chown(path, USER, USER)


def aside(work: Callable[[], Any]) -> Any:
    """What a coroutine function returns, in a loop of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


class Connection:
    """A connection used as sqlite3's are: with ? for values, and "BEGIN IMMEDIATE" for the right to write."""

    def __init__(self, cluster: Postgresql, database: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = ThreadPoolExecutor(1)
        self._raw = self._do(cluster.connect(database))

    def _do(self, work: Any) -> Any:
        return self._thread.submit(lambda: self._loop.run_until_complete(work)).result()

    def execute(self, text: str, values: Any = ()) -> Rows:
        """The rows of one command."""
        from ldapmfa.store.postgresql import LOCK

        if text == "BEGIN IMMEDIATE":
            return Rows(self._do(self._raw.execute(f"BEGIN; SELECT pg_advisory_xact_lock({LOCK})")) and [])
        numbers = itertools.count(1)
        text = "".join(f"${next(numbers)}" if character == "?" else character for character in text)
        return Rows([tuple(row) for row in self._do(self._raw.fetch(text, *values))])

    def executemany(self, text: str, rows: list[dict[str, Any]]) -> None:
        """One command for each of `rows`, whose values stand in it as :name."""
        names = re.findall(r":(\w+)", text)
        for number, name in enumerate(names, 1):
            text = re.sub(rf":{name}\b", f"${number}", text, count=1)
        self._do(self._raw.executemany(text, [[row[name] for name in names] for row in rows]))

    def commit(self) -> None:
        """End what was begun."""
        if self._raw.is_in_transaction():
            self._do(self._raw.execute("COMMIT"))

    def close(self) -> None:
        """Let go of it; what was not committed has never been."""
        self._do(self._closed())
        self._thread.shutdown()
        self._loop.close()

    async def _closed(self) -> None:
        self._raw.terminate()


class Rows(list):
    """What a command found."""

    def fetchall(self) -> list[Any]:
        """All rows."""
        return list(self)

    def fetchone(self) -> Any:
        """The first row."""
        return self[0] if self else None
