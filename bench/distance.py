"""What a distance between a node and its PostgreSQL costs logins, by the store's part of each.

    python -m bench.distance postgresql+asyncpg://ldapmfa:secret@127.0.0.1/an_empty_database

A line that holds every octet back for half a round trip lies between the store and the server, whose own distance comes
on top. For each length of the line: how long one login waits for the store, how many round trips that is, and how many
logins a second come through when all that were begun at once are done. The accounts it makes stay in that database.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import click
import pyotp

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit
from ldapmfa.factors import Credential, Match, NewCredential
from ldapmfa.factors.hotp import base32
from ldapmfa.factors.totp import Totp
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

SEED: Final = Secret(b"12345678901234567890")
PERIOD: Final = 30
#: Logins at once, and one after the other.
CROWD: Final = 32
ALONE: Final = 5
#: Milliseconds of a round trip on the line.
LENGTHS: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what is read, `delay` seconds after it came, however much is on its way."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            due, octets = await under_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not octets:
                writer.write_eof()
                return
            writer.write(octets)

    sending = asyncio.ensure_future(send())
    try:
        while octets := await reader.read(65536):
            under_way.put_nowait((loop.time() + delay, octets))
        under_way.put_nowait((loop.time() + delay, b""))
        await sending
    except ConnectionError:
        sending.cancel()
        writer.close()  # which ends the other direction, too


async def line(host: str, port: int, delay: float) -> asyncio.Server:
    """A server on loopback that leads to another one, `delay` seconds away."""

    async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        # at the end of a length the loop takes it away while something may still be on its way
        with suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, back, delay), pump(there, writer, delay))
            writer.close()
            back.close()

    return await asyncio.start_server(come, "127.0.0.1", 0)


class Logins:
    """What a login by a TOTP code asks of a store, for accounts of its own and a clock that it moves."""

    def __init__(self, url: str, seal: Seal) -> None:
        self._url = url
        self._seal = seal
        self._now = time.time()

    async def open(self, port: int | None = None) -> Store:
        """The store, through the line at `port` if that is given."""
        url = self._url
        if port is not None:
            parts = urlsplit(url)
            user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
            url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
        return await Store.open(url, self._seal, clock=lambda: self._now, normalise_dn=dn.normalise)

    async def enrol(self, store: Store, numbers: range = range(CROWD)) -> None:
        """Make the accounts of these numbers."""
        parameters = {"algorithm": "sha1", "digits": 6, "period": PERIOD}
        for number in numbers:
            owner = self._identity(number)
            change = AccountChanged(at=self._now, action="enrolled", account=owner.key, actor="bench")
            await store.enrol(owner, NewCredential("totp", SEED, parameters), "bench", change)

    def later(self) -> None:
        """When each has a new code."""
        self._now += 2 * PERIOD

    async def login(self, store: Store, number: int) -> None:
        """As the proxy asks for it."""
        name, owner, limit = f"bench{number}", self._identity(number), PasswordLimit(4, 900.0, 100, 600)
        await store.recall("bench", name)
        await store.tried("bench", name, "192.0.2.1", SEED, limit)
        code = str(pyotp.HOTP(base32(SEED)).at(int(self._now // PERIOD)))

        def match(credential: Credential) -> Match | None:
            return Totp().match(credential, code, self._now)

        success = LoginEnded(
            at=self._now, outcome="accepted", reason="code", result=0, reference="", listener="bench",
            client="192.0.2.1", name=name, directory="bench",
        )  # fmt: skip
        answer = await store.verify(owner, match, success, (name,))
        if answer.result != "accepted":
            raise click.ClickException(f"a login was not accepted: {answer.result}")

    @staticmethod
    def _identity(number: int) -> Identity:
        name = f"bench{number}"
        return Identity("bench", f"guid:{number:032x}", f"cn={name},dc=example,dc=com", (name,), f"{name}@example.com")


async def measured(url: str) -> None:
    """Print a line for each length."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 5432
    with tempfile.TemporaryDirectory() as folder:
        logins = Logins(url, Seal.create(Path(folder, "key"), entropy=os.urandom))
        store = await logins.open()
        await logins.enrol(store)
        await store.close()
        nearby = 0.0
        for length in LENGTHS:
            away = await line(host, port, length / 2000.0)
            store = await logins.open(away.sockets[0].getsockname()[1])
            times = []
            for _ in range(ALONE + 1):
                logins.later()
                began = time.perf_counter()
                await logins.login(store, 0)
                times.append(time.perf_counter() - began)
            alone = 1000.0 * median(times[1:])  # the first one connects
            logins.later()
            began = time.perf_counter()
            await asyncio.gather(*(logins.login(store, number) for number in range(CROWD)))
            rate = CROWD / (time.perf_counter() - began)
            nearby = nearby or alone
            trips = f"{(alone - nearby) / length:.1f}" if length else "-"
            told = f"one login {alone:6.1f} ms, {trips:>4} round trips; {rate:6.1f} a second"
            click.echo(f"{length:3.0f} ms away: {told}")
            await store.close()
            away.close()


@click.command()
@click.argument("url")
def main(url: str) -> None:
    """Measure at the empty PostgreSQL database of URL, which is reached by TCP without TLS."""
    asyncio.run(measured(url))


if __name__ == "__main__":
    main()
