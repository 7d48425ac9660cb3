"""As many pushes at once as a process is meant to hold: all are answered, no thread waits, nothing is left behind."""

import asyncio
import collections
import time
from pathlib import Path

import pytest
from fakes.duo import Duo, User
from system.proxy import Proxy
from system.servers.slapd import Slapd
from system.wire import bind

from ldapmfa.wire import ldap

pytestmark = pytest.mark.xdist_group("many-pushes")

MANY = 2000
#: Seconds that each owner takes.
SECONDS = 5
#: Connections to the directory that wait for another login, by default.
SPARE = 64


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    slapd = Slapd(tmp_path_factory.mktemp("slapd"), entries=MANY)
    try:
        yield slapd.start()
    finally:
        slapd.stop()


def threads(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def sockets(pid):
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(descriptor.readlink()).startswith("socket:")
        except OSError:
            continue
    return found


async def log_in(links, users):
    """The result codes of binds that are sent at once, a connection each."""

    async def answer(reader):
        received = b""
        while isinstance(frame := ldap.read_frame(received, 0, 65536) if received else 0, int):
            octets = await reader.read(4096)
            if not octets:
                return "closed"
            received += octets
        return ldap.read_result(frame).code

    for (_, writer), user in zip(links, users, strict=True):
        writer.write(bind(1, user.dn, user.password))
    return collections.Counter(await asyncio.gather(*(answer(reader) for reader, _ in links)))


async def test_two_thousand_pushes_at_once(directory, tmp_path):
    users = [directory.user(f"bulk{number:04d}") for number in range(MANY)]
    with Duo(tmp_path) as duo:
        duo.users, duo.after = {user.name: User() for user in users}, SECONDS
        # the service, the directory and two thousand clients share a few processors with the proxy
        services = {"duo": duo.settings() | {"connect_timeout": 20, "response_timeout": 30}}
        login = 'factors = ["duo"]\ndeadline = 60'
        with Proxy(directory, tmp_path / "proxy", login=login, services=services) as proxy:
            pid, most = proxy.process.popen.pid, []
            before = sockets(pid)

            async def watch():
                while True:
                    most.append(threads(pid))
                    await asyncio.sleep(0.1)

            links = [await asyncio.open_connection(proxy.host, proxy.port) for _ in users]
            watching = asyncio.ensure_future(watch())
            began = time.monotonic()
            async with asyncio.timeout(60):
                codes = await log_in(links, users)
            assert time.monotonic() - began >= SECONDS
            watching.cancel()
            assert codes == {ldap.SUCCESS: MANY}
            assert collections.Counter(record["reason"] for record in proxy.records()) == {"approved": MANY}
            assert len(duo.asked) == MANY
            assert max(most) <= 8
            for _, writer in links:
                writer.close()
            # what is left are connections to the service and the directory that wait for the next login
            for _ in range(100):
                left = sockets(pid) - before - duo.web.connections - SPARE
                if left <= 0:
                    break
                await asyncio.sleep(0.1)
            assert left <= 0
