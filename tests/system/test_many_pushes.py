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
        login = 'factors = ["duo"]\ndeadline = 60'
        with Proxy(directory, tmp_path / "proxy", login=login, services={"duo": duo.settings()}) as proxy:
            pid = proxy.process.popen.pid
            before = sockets(pid)
            most = []

            async def watch():
                while True:
                    most.append(threads(pid))
                    await asyncio.sleep(0.1)

            async def play():
                links = [await asyncio.open_connection(proxy.host, proxy.port) for _ in users]
                watching = asyncio.ensure_future(watch())
                began = time.monotonic()
                codes = await log_in(links, users)
                took = time.monotonic() - began
                watching.cancel()
                for _, writer in links:
                    writer.close()
                return codes, took

            codes, took = await play()
            print(codes, took, max(most), collections.Counter(r["reason"] + str(r.get("detail")) for r in proxy.records()), duo.web.most_connections)
            assert codes == {ldap.SUCCESS: MANY}
            assert {record["reason"] for record in proxy.records()} == {"approved"}
            assert len(duo.asked) == MANY
            assert took < 45
            assert max(most) <= 8
            print("CPU", Path(f"/proc/{pid}/stat").read_text().split()[13:15])
