"""Which of a URL's PostgreSQL servers takes the writes, and whether any does.

Promised here: all are asked at once, so that one that is dead costs nobody time; a server that was left behind by a
fail-over, and takes writes still, is not used once its successor was seen; while none is there nobody waits for one.
Not in here: what is asked of it (`postgresql`).
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from ldapmfa.errors import ConfigError, StoreDown

if TYPE_CHECKING:
    from collections.abc import Callable

    from ldapmfa.config.postgresql import DatabaseUrl
    from ldapmfa.core.secret import Secret

#: Seconds for a connection, TLS and authentication included.
CONNECT: Final = 2.0
#: Seconds for which the others may still answer when one has: there may be a successor among them.
GRACE: Final = 0.25
#: Seconds between two tries while there is none.
PROBE: Final = 0.5
#: How many numbers a sequence is ahead in what a standby is told, and so may give again at most.
NUMBERS: Final = 64

#: What the driver raises: InternalClientError, too, where a server dies in the middle of a message. TimeoutError is an
#: OSError.
DRIVER: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

_AWAY: Final = "the database is away"
#: Its timeline, which each promotion raises; none if it takes no writes. Some services hide it.
_TIMELINE: Final = """SELECT CASE WHEN pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'
THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"""
_WRITES: Final = "SELECT NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off'"
#: Whoever commits must wait for the disk, and for the standby where there is a synchronous one.
_DURABLE: Final = """SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"""


@dataclass(frozen=True, slots=True)
class Server:
    """A connection to one that takes writes; its successor after a fail-over has a higher `timeline`."""

    connection: asyncpg.Connection[Any]
    timeline: int


class Servers:
    """The servers of one URL; `timeline` is the highest that was seen. `doubted` is called when there may be none."""

    def __init__(
        self,
        url: DatabaseUrl,
        password: Callable[[], Secret | None],
        doubted: Callable[[], None] = lambda: None,
    ) -> None:
        self.timeline = 0
        self.numbers_lost = 0
        self._url = url
        self._password = password
        self._doubted = doubted
        self._tls = _tls(url)
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def several(self) -> bool:
        """Whether the URL names more than one."""
        return len(self._url.hosts) > 1

    @property
    def away(self) -> bool:
        """Whether there is none, as far as is known."""
        return self._probing is not None

    async def connect(self, limit: float) -> Server:
        """A new connection, on which a statement takes `limit` seconds at most. StoreDown: there is none."""
        if self.away or self._closed:
            raise StoreDown(_AWAY)
        try:
            return await self._reach(limit)
        except ConfigError as error:
            self.suspect()
            raise StoreDown(str(error)) from None
        except StoreDown:
            self.suspect()
            raise

    async def first(self, limit: float) -> Server:
        """The same, when opening. ConfigError: what is configured can't work."""
        return await self._reach(limit)

    def suspect(self) -> None:
        """There may be none: nobody waits until one was seen."""
        if self._probing is None and not self._closed:
            self._probing = asyncio.get_running_loop().create_task(self._probe())
            self._doubted()

    async def look(self) -> None:
        """See whether there is a successor, where there may be one: `timeline` is its then."""
        if self.several:
            with suppress(StoreDown, ConfigError):
                (await self._reach(CONNECT)).connection.terminate()

    async def close(self) -> None:
        """Look for none any more."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _probe(self) -> None:
        while True:
            with suppress(StoreDown, ConfigError):
                (await self._reach(CONNECT)).connection.terminate()
                break
            await asyncio.sleep(PROBE)
        self._probing = None

    async def _reach(self, limit: float) -> Server:
        trying = [asyncio.ensure_future(self._one(host, port, limit)) for host, port in self._url.hosts]
        found: list[Server] = []
        try:
            pending = set(trying)
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=GRACE if found else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                found += [one.result() for one in trying if one in done and not one.exception()]
        finally:
            for one in trying:
                one.cancel()
            ended = await asyncio.gather(*trying, return_exceptions=True)
            best = max(found, key=lambda server: server.timeline, default=None)
            for server in ended:
                if isinstance(server, Server) and server is not best:
                    server.connection.terminate()
        if best is None:
            mistake = next((error for error in ended if isinstance(error, ConfigError)), None)
            if mistake is not None:
                raise mistake
            raise StoreDown("the database can't be reached: " + "; ".join(str(error) for error in ended))
        if best.timeline < self.timeline:
            best.connection.terminate()
            raise StoreDown("the database that answers was left behind by a fail-over")
        if best.timeline > self.timeline:
            if self.timeline:
                self.numbers_lost = NUMBERS
            self.timeline = best.timeline
        return best

    async def _one(self, host: str, port: int, limit: float) -> Server:
        """The server there. StoreDown: it does not answer, or takes no writes; ConfigError: it does not let us in."""
        try:
            connection: asyncpg.Connection[Any] = await asyncpg.connect(
                host=host,
                port=port,
                user=self._url.user,
                password=self._revealed,
                database=self._url.database,
                ssl=self._tls if not host.startswith("/") else False,
                timeout=CONNECT,
                command_timeout=limit,
                server_settings={
                    "application_name": "ldapmfa",
                    "jit": "off",
                    "lock_timeout": "5s",
                    # one that ended while a COMMIT waits for a standby would look like a success
                    "statement_timeout": "0",
                    "idle_in_transaction_session_timeout": "5s",
                    "tcp_user_timeout": "10s",
                },
            )
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise ConfigError([f"store.url: {host}:{port}: {error}"]) from None
        except ssl.SSLCertVerificationError as error:
            fix = "name its authority with sslrootcert=FILE, or ask for less with ssl=require"
            raise ConfigError([f"store.url: {host}:{port}: {error.verify_message}: {fix}"]) from None
        except DRIVER as error:
            raise StoreDown(f"{host}:{port}: {_why(error)}") from None
        try:
            return Server(connection, await self._timeline(connection))
        except DRIVER as error:
            connection.terminate()
            raise StoreDown(f"{host}:{port}: {_why(error)}") from None
        except StoreDown as error:
            connection.terminate()
            raise StoreDown(f"{host}:{port}: {error}") from None
        except BaseException:
            connection.terminate()
            raise

    async def _timeline(self, connection: asyncpg.Connection[Any]) -> int:
        await connection.execute(_DURABLE, timeout=CONNECT)
        try:
            timeline = await connection.fetchval(_TIMELINE, timeout=CONNECT)
        except (asyncpg.UndefinedFunctionError, asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
            timeline = "0" if await connection.fetchval(_WRITES, timeout=CONNECT) else None
        if timeline is None:
            raise StoreDown("takes no writes")
        return int(timeline, 16)

    def _revealed(self) -> str | None:
        secret = self._password()
        return None if secret is None else secret.reveal().decode("utf-8", "surrogateescape")


def _tls(url: DatabaseUrl) -> ssl.SSLContext | bool:
    if url.tls == "disable":
        return False
    try:
        context = ssl.create_default_context(cafile=url.ca_file)
        context.check_hostname = url.tls == "verify-full"
        if url.tls == "require":
            context.verify_mode = ssl.CERT_NONE
        if url.certificate:
            context.load_cert_chain(url.certificate, url.key)
    except OSError as error:  # SSLError is one
        raise ConfigError([f"store.url: sslrootcert, sslcert or sslkey can't be used: {error}"]) from None
    return context


def _why(error: BaseException) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return str(error).partition("\n")[0]
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
