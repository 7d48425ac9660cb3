"""Our reactor on real sockets: connections that write at once, their end, TLS on them, and timers by the real clock.

A process has one reactor, and pytest's is another: each scenario runs in a process of its own, this very file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


@pytest.mark.parametrize(
    "name",
    [
        "in_order_under_back_pressure",
        "a_producer_is_paused",
        "close_behind_what_waits",
        "write_after_close",
        "write_after_abort",
        "write_after_an_error",
        "a_failed_write_is_a_lost_connection",
        "octets_and_a_reset_at_once",
        "half_closed",
        "starttls",
        "tls_from_the_start",
        "connections_that_fail",
        "inherited_sockets",
        "timers",
        "seconds_do_not_jump",
    ],
)
def test_reactor(name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests", "PYTHONDEVMODE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, name, tmp_path], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.endswith("done\n")


# -- in the process


class Conversation:
    """A protocol that remembers."""

    def __init__(self, made=lambda transport: None):
        from twisted.internet.protocol import Protocol

        us = self
        loop = asyncio.get_running_loop()
        self.came, self.made, self.lost = bytearray(), loop.create_future(), loop.create_future()
        self.changed = asyncio.Event()

        class Remembers(Protocol):
            def connectionMade(self):
                us.transport = self.transport
                made(self.transport)
                us.made.set_result(None)

            def dataReceived(self, data):
                us.came += data
                us.changed.set()

            def connectionLost(self, reason):
                us.lost.set_result(reason)
                us.changed.set()

        self.protocol = Remembers()

    async def until(self, size):
        async with asyncio.timeout(20):
            while len(self.came) < size:
                self.changed.clear()
                await self.changed.wait()


def factory_of(conversation):
    from twisted.internet.protocol import Factory

    return Factory.forProtocol(lambda: conversation.protocol)


def client_factory_of(conversation):
    from twisted.internet.protocol import ClientFactory

    factory = ClientFactory()
    factory.noisy = False
    factory.buildProtocol = lambda _address: conversation.protocol
    return factory


@contextlib.asynccontextmanager
async def accepted(small=True, **options):
    """A connection that our reactor has accepted, and the client's plain socket."""
    from twisted.internet import reactor

    here = Conversation(**options)
    port = reactor.listenTCP(0, factory_of(here), interface="127.0.0.1")
    far = socket.socket()
    if small:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    far.connect(("127.0.0.1", port.getHost().port))
    await here.made
    if small:
        here.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    try:
        yield here, far
    finally:
        far.close()
        async with asyncio.timeout(10):
            await here.lost
        await asyncio.ensure_future(stopped(port))


async def stopped(port):
    waited = port.stopListening()
    if waited is not None:
        await waited.asFuture(asyncio.get_running_loop())


async def slowly(far, octets=None, delay=0.0005):
    """What a client reads that takes its time: so many octets, or all there are."""
    found = bytearray()

    def read():
        with contextlib.suppress(ConnectionResetError):
            while octets is None or len(found) < octets:
                data = far.recv(5000)
                if not data:
                    return
                found.extend(data)
                time.sleep(delay)

    async with asyncio.timeout(30):
        await asyncio.to_thread(read)
    return bytes(found)


def pieces(seed=1, count=1500):
    chance = random.Random(seed)
    return [chance.randbytes(chance.choice((1, 10, 100, 1000, 5000))) for _ in range(count)]


@scenario
async def in_order_under_back_pressure(_path):
    """Written in many turns, while the socket takes some, all, or nothing."""
    async with accepted() as (here, far):
        sent = pieces()
        reading = asyncio.ensure_future(slowly(far, sum(map(len, sent))))
        for number, piece in enumerate(sent):
            if number % 50 == 0:
                here.transport.writeSequence([piece[:1], piece[1:]])
            else:
                here.transport.write(piece)
            if number % 7 == 0:
                await asyncio.sleep(0 if number % 3 else 0.002)
        assert await reading == b"".join(sent)
        here.transport.write(b"at once")
        assert await slowly(far, 7) == b"at once"
        here.transport.write(b"")
        assert not here.lost.done()


@scenario
async def a_producer_is_paused(_path):
    """A streaming producer is paused while octets wait, and resumed when they are gone; order is kept."""
    from twisted.internet.interfaces import IPushProducer
    from zope.interface import implementer

    @implementer(IPushProducer)
    class Producer:
        paused = resumed = 0

        def __init__(self):
            self.runs = asyncio.Event()
            self.runs.set()

        def pauseProducing(self):
            self.paused += 1
            self.runs.clear()

        def resumeProducing(self):
            self.resumed += 1
            self.runs.set()

        def stopProducing(self):
            self.runs.clear()

    async with accepted() as (here, far):
        producer = Producer()
        here.transport.registerProducer(producer, True)
        sent = [random.Random(2).randbytes(30_000) for _ in range(60)]
        reading = asyncio.ensure_future(slowly(far, sum(map(len, sent))))
        for piece in sent:
            async with asyncio.timeout(20):
                await producer.runs.wait()
            here.transport.write(piece)
        assert await reading == b"".join(sent)
        await asyncio.sleep(0.05)
        assert producer.paused == producer.resumed > 0
        here.transport.write(b"last")
        here.transport.unregisterProducer()
        here.transport.loseConnection()
        assert await slowly(far) == b"last"


@scenario
async def close_behind_what_waits(_path):
    for size in (0, 10, 3_000_000):
        async with accepted() as (here, far):
            sent = random.Random(size).randbytes(size)
            here.transport.write(sent)
            here.transport.loseConnection()
            assert await slowly(far, delay=0) == sent
            async with asyncio.timeout(10):
                reason = await here.lost
            from twisted.internet.error import ConnectionDone

            assert reason.check(ConnectionDone)


@scenario
async def write_after_close(_path):
    """As Twisted has it: what is written after loseConnection follows what waits, if it is sent at all."""
    for size in (0, 3_000_000):
        async with accepted() as (here, far):
            sent = random.Random(size).randbytes(size)
            here.transport.write(sent)
            here.transport.loseConnection()
            here.transport.write(b"late")
            here.transport.loseConnection()
            got = await slowly(far, delay=0)
            assert got in (sent, sent + b"late")
            here.transport.write(b"much later")
            async with asyncio.timeout(10):
                await here.lost
            here.transport.write(b"much later")


@scenario
async def write_after_abort(_path):
    """What waits is dropped, so nothing may be sent behind it: the client would take it for what comes next."""
    async with accepted() as (here, far):
        here.transport.write(b"a" * 3_000_000)
        await asyncio.sleep(0.05)
        here.transport.abortConnection()
        taken = []
        real = here.transport.socket

        class Watched:
            def __getattr__(self, name):
                return getattr(real, name)

            def send(self, data):
                taken.append(data)
                return len(data)

        here.transport.socket = Watched()
        here.transport.write(b"z" * 10)
        here.transport.socket = real
        assert taken == []
        assert b"z" not in await slowly(far, delay=0)


@scenario
async def write_after_an_error(_path):
    """The socket failed and would take the next octets again: they must not go out, for some are missing before them."""
    import errno

    async with accepted(small=False) as (here, far):
        real = here.transport.socket

        class Fails:
            def __init__(self):
                self.failures = [errno.ENOMEM]

            def __getattr__(self, name):
                return getattr(real, name)

            def send(self, data):
                if self.failures:
                    raise OSError(self.failures.pop(), "no room")
                return real.send(data)

        here.transport.socket = Fails()
        here.transport.write(b"first")
        here.transport.write(b"second")
        await asyncio.sleep(0)
        here.transport.socket = real
        assert await slowly(far) in (b"", b"firstsecond")


@scenario
async def a_failed_write_is_a_lost_connection(_path):
    """Seen as connectionLost, later; whoever writes is told nothing."""
    from twisted.internet import reactor

    for _ in range(20):
        async with accepted(small=False) as (here, far):
            here.transport.stopReading()  # the reset must show in writing
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()
            await asyncio.sleep(0.01)
            for _ in range(5):
                here.transport.write(b"x" * 1000)
                assert not here.lost.done(), "not within write"
            async with asyncio.timeout(5):
                await here.lost
            here.transport.write(b"x")
    assert reactor.running


@scenario
async def octets_and_a_reset_at_once(_path):
    """The last octets are read and the end is seen, though it is reported once."""


    async def once(*, reset):
        async with accepted(small=False) as (here, far):
            if reset:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.sendall(b"octets")
            far.close()
            async with asyncio.timeout(10):
                await here.lost
            assert reset or here.came == b"octets"

    await asyncio.gather(*(once(reset=number % 2 == 0) for number in range(100)))


@scenario
async def half_closed(_path):
    """A client that has said all it says is still answered, where the protocol wants that; else the end is an end."""
    async with accepted(small=False) as (here, far):
        far.sendall(b"question")
        await here.until(8)
        here.transport.write(b"answer")
        here.transport.loseWriteConnection()
        assert await slowly(far) == b"answer"
        far.sendall(b"more")
        await here.until(12)


async def both_ends(listen, connect):
    """Two ends on our reactor."""
    server, client = Conversation(), Conversation()
    port = listen(factory_of(server))
    connect(port.getHost().port, client_factory_of(client))
    async with asyncio.timeout(10):
        await asyncio.gather(server.made, client.made)
    return port, server, client


def contexts(path):
    from system.servers.common import make_certificates
    from twisted.internet import ssl

    make_certificates(path / "tls")
    certificate = ssl.PrivateCertificate.loadPEM(
        (path / "tls" / "cert.pem").read_bytes() + (path / "tls" / "key.pem").read_bytes()
    )
    authority = ssl.Certificate.loadPEM((path / "tls" / "ca.pem").read_bytes())
    return certificate.options(), ssl.optionsForClientTLS("localhost", trustRoot=authority)


async def exchange(server, client):
    for one, other in ((server, client), (client, server)):
        sent = pieces(3, 400)
        before = len(other.came)
        for number, piece in enumerate(sent):
            one.transport.write(piece)
            if number % 20 == 0:
                await asyncio.sleep(0)
        await other.until(before + sum(map(len, sent)))
        assert other.came[before:] == b"".join(sent)


@scenario
async def starttls(path):
    from twisted.internet import reactor

    served, asking = contexts(path)
    port, server, client = await both_ends(
        lambda factory: reactor.listenTCP(0, factory, interface="127.0.0.1"),
        lambda number, factory: reactor.connectTCP("127.0.0.1", number, factory),
    )
    client.transport.write(b"StartTLS")
    await server.until(8)
    server.transport.write(b"agreed")  # in clear text, and before the handshake
    server.transport.startTLS(served)
    await client.until(6)
    assert client.came == b"agreed"
    client.transport.startTLS(asking)
    await exchange(server, client)
    client.transport.write(b"bye")
    client.transport.loseConnection()
    async with asyncio.timeout(10):
        await asyncio.gather(server.lost, client.lost)
    assert server.came.endswith(b"bye")
    await stopped(port)


@scenario
async def tls_from_the_start(path):
    from twisted.internet import reactor

    served, asking = contexts(path)
    port, server, client = await both_ends(
        lambda factory: reactor.listenSSL(0, factory, served, interface="127.0.0.1"),
        lambda number, factory: reactor.connectSSL("127.0.0.1", number, factory, asking),
    )
    await exchange(server, client)
    server.transport.write(b"bye" * 500_000)
    server.transport.loseConnection()
    async with asyncio.timeout(20):
        await asyncio.gather(server.lost, client.lost)
    assert client.came.endswith(b"bye" * 500_000)
    await stopped(port)


@scenario
async def connections_that_fail(_path):
    from twisted.internet import reactor
    from twisted.internet.endpoints import HostnameEndpoint
    from twisted.internet.error import ConnectError, UserError
    from twisted.internet.protocol import Factory, Protocol

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = HostnameEndpoint(reactor, "127.0.0.1", closed.getsockname()[1], timeout=5)
        try:
            await endpoint.connect(Factory.forProtocol(Protocol)).asFuture(asyncio.get_running_loop())
        except ConnectError:
            pass
        else:
            raise AssertionError("connected to nobody")
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    crowd = []
    for _ in range(5):  # its queue is full: whoever comes now waits
        waiting = socket.socket()
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
        crowd.append(waiting)
    endpoint = HostnameEndpoint(reactor, "127.0.0.1", full.getsockname()[1], timeout=0.3)
    began = time.monotonic()
    try:
        await endpoint.connect(Factory.forProtocol(Protocol)).asFuture(asyncio.get_running_loop())
    except (ConnectError, UserError):
        assert time.monotonic() - began < 5
    for waiting in (*crowd, full):
        waiting.close()


@scenario
async def inherited_sockets(path):
    from twisted.internet import reactor

    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, str(path / "socket"))):
        here = Conversation()
        with socket.socket(family) as bound:
            bound.bind(address)
            bound.listen()
            bound.setblocking(False)
            port = reactor.adoptStreamPort(bound.fileno(), family, factory_of(here))
            where = bound.getsockname()
        with socket.socket(family) as far:
            far.connect(where)
            await here.made
            sent = pieces(4, 300)
            reading = asyncio.ensure_future(slowly(far, sum(map(len, sent)), delay=0))
            for piece in sent:
                here.transport.write(piece)
            assert await reading == b"".join(sent)
        async with asyncio.timeout(5):
            await here.lost
        await stopped(port)


@scenario
async def timers(_path):
    """Never early, by the clock that everybody has; in order; what is cancelled does not happen."""
    from twisted.internet import reactor

    chance, loop = random.Random(5), asyncio.get_running_loop()
    early, calls, expected = [], [], 0
    for number in range(300):
        seconds = chance.choice((0, 0.0004, 0.001, 0.0123, 0.05, chance.random() / 5))
        began = time.monotonic()

        def act(due, number=number):
            calls.append(number)
            early.append(due - time.monotonic())

        timer = reactor.callLater(seconds, act, began + seconds)
        if number % 3 == 0:
            timer.cancel()
        else:
            expected += 1
        if number % 50 == 0:
            await asyncio.sleep(0.003)
    await asyncio.sleep(0.5)
    assert len(calls) == expected
    # the loop's clock counts in milliseconds
    assert max(early) <= 0.0011, max(early)
    done = loop.create_future()
    threading.Thread(target=lambda: reactor.callFromThread(done.set_result, True)).start()
    async with asyncio.timeout(5):
        assert await done


@scenario
async def seconds_do_not_jump(_path):
    """Deadlines and ages are differences of seconds(): the same clock as the timers', whatever is done to the wall's."""
    from twisted.internet import reactor

    timer = reactor.callLater(100, lambda: None)
    try:
        assert abs(timer.getTime() - reactor.seconds() - 100) < 1
        before, wall = reactor.seconds(), time.time
        time.time = lambda: wall() + 3600
        assert reactor.seconds() - before < 5
    finally:
        timer.cancel()


def main(name, path):
    from ldapmfa.net import reactor as ours

    ours.install()
    from twisted.internet import reactor

    failed = []

    async def run():
        try:
            async with asyncio.timeout(50):
                await SCENARIOS[name](Path(path))
        except BaseException as error:  # noqa: BLE001 - shown, and the process fails
            import traceback

            failed.append(error)
            traceback.print_exc()
        finally:
            reactor.stop()

    reactor.callLater(0, lambda: failed.append(asyncio.ensure_future(run())))
    reactor.run()
    if len(failed) == 1:
        print("done")
    return len(failed) - 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
