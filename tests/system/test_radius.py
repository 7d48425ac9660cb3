"""The RADIUS service against Debian's FreeRADIUS."""

import asyncio
import subprocess
import time

import pytest
from system.proxy import Proxy
from system.servers import freeradius_upstream as upstream
from system.servers.freeradius_upstream import CODE, PASSWORD, SECRET, FreeRadiusUpstream

from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.radius import Radius
from ldapmfa.factors.radius_client import NoAnswer
from ldapmfa.factors.radius_table import RadiusTable
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting
from ldapmfa.wire import ldap

ANYBODY = Identity("ad", "guid:" + "0" * 32, "cn=anybody")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    freeradius = FreeRadiusUpstream(tmp_path_factory.mktemp("freeradius"))
    try:
        yield freeradius.start()
    finally:
        freeradius.stop()


def radius(server, **keys):
    keys = {"kind": "radius", "servers": (server.server,), "secret": SECRET, "challenge_seconds": 0.3, **keys}
    return Radius(RadiusTable(**keys), Tools())


def ask(user, password=PASSWORD, **given):
    return Prompt(**{
        "identity": ANYBODY, "user": user, "application": "vpn", "client": "192.0.2.9", "seconds": 10.0,
        "password": Secret(password.encode()), **given,
    })  # fmt: skip


async def test_accept_and_reject(server):
    assert await radius(server).start(ask("accept")) == Allowed("radius")
    assert await radius(server).start(ask("mallory")) == Denied("denied", "Nobody of that name")


async def test_a_push_is_waited_for_and_repetitions_are_one_prompt(server):
    service, prompt, before = radius(server, response_timeout=0.25, retries=2), ask("push"), server.log.stat().st_size
    waiting = await service.start(prompt)
    assert isinstance(waiting, Waiting)
    assert await service.wait(prompt, waiting) == Allowed("radius")
    said = server.log.read_bytes()[before:].decode(errors="replace")
    assert said.count(f"Executing: /bin/sleep {upstream.PUSH_SECONDS}") == 1
    assert "duplicate" in said


async def test_pushes_of_many_users_at_once(server):
    service, prompt = radius(server), ask("push")
    waiting = await asyncio.gather(*(service.start(prompt) for _ in range(20)))
    assert await asyncio.gather(*(service.wait(prompt, one) for one in waiting)) == [Allowed("radius")] * 20


async def test_A24_a_push_that_is_ignored_opens_nothing(server):
    service, prompt = radius(server, challenge_seconds=0.05), ask("ignored", seconds=0.2)
    waiting = await service.start(prompt)
    with pytest.raises(FactorDown) as raised:
        await service.wait(prompt, waiting)
    assert not isinstance(raised.value, FactorUnreachable)
    waiting = await service.start(prompt)
    await service.start(ask("accept"))
    assert (await service.wait(prompt, waiting)).why == "no-answer"


async def test_a_challenge_is_answered_with_a_second_bind(server):
    service = radius(server)
    sent = await service.start(ask("challenge"))
    assert isinstance(sent, CodeSent)
    assert await radius(server).verify(ask("challenge", password=""), Secret(b"271829"), sent) == Denied("wrong-code")
    sent = await service.start(ask("challenge"))
    assert await radius(server).verify(ask("challenge", password=""), Secret(CODE.encode()), sent) == Allowed("passcode")
    # the server forgets a State that was answered
    assert (await service.verify(ask("challenge"), Secret(CODE.encode()), sent)).why == "wrong-code"


async def test_a_challenge_is_answered_within_one_bind(server):
    assert await radius(server).verify(ask("challenge"), Secret(CODE.encode()), None) == Allowed("passcode")
    assert await radius(server).verify(ask("challenge"), Secret(b"271829"), None) == Denied("wrong-code")
    assert (await radius(server).verify(ask("challenge", "wrong"), Secret(CODE.encode()), None)).why == "denied"


async def test_A25_an_accept_without_message_authenticator_is_no_answer(server):
    with pytest.raises(NoAnswer, match="without Message-Authenticator"):
        await radius(server).start(ask("unsigned", seconds=0.2))
    weak = radius(server, require_message_authenticator=False)
    assert await weak.start(ask("unsigned")) == Allowed("radius")


async def test_A25_a_server_with_another_secret_is_not_believed(server):
    with pytest.raises(NoAnswer):
        await radius(server, secret="another").start(ask("accept", seconds=0.2))


async def test_health(server):
    assert "answers Status-Server" in await radius(server, status_server=True).health()
    assert "refuses nobody" in await radius(server, probe_user="nobody").health()
    with pytest.raises(FactorDown, match="lets everybody in"):
        await radius(server, probe_user="accept").health()
    assert "status_server = true" in await radius(server).health()


async def test_A24_a_server_that_is_stopped_is_unreachable_and_heals(server):
    service = radius(server, status_server=True)
    assert await service.start(ask("accept")) == Allowed("radius")
    server.stop()
    try:
        with pytest.raises(FactorUnreachable):
            await service.start(ask("accept"))
        with pytest.raises(FactorUnreachable):
            await service.health()
    finally:
        server.restart()
    assert await service.start(ask("accept")) == Allowed("radius")


# -- a real client program, before a real directory


@pytest.fixture(scope="module")
def proxy(server, slapd, tmp_path_factory):
    extra = "\n".join([
        "[factors.radius]", f'servers = ["{server.server}"]', f'secret = "{SECRET}"', "status_server = true",
        "challenge_seconds = 0.5",
    ])  # fmt: skip
    login = 'factors = ["radius"]\ncode = "delimiter"'
    with Proxy(slapd, tmp_path_factory.mktemp("proxy"), login=login, extra=extra) as running:
        yield running


def who_am_i(proxy, name, password=PASSWORD):
    """The exit code of ldapwhoami, and how long it took."""
    began = time.monotonic()
    words = ["ldapwhoami", "-x", "-H", proxy.uri, "-D", proxy.directory.user(name).dn, "-w", password]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, time.monotonic() - began


def test_a_client_program_waits_for_a_push_and_obeys_it(proxy, server):
    before = server.log.read_text(errors="replace").count("Executing: /bin/sleep")
    code, seconds = who_am_i(proxy, "alice")
    assert code == 0
    assert seconds >= upstream.PUSH_SECONDS
    assert server.log.read_text(errors="replace").count("Executing: /bin/sleep") == before + 1
    assert who_am_i(proxy, "alice", "wrong")[0] == ldap.INVALID_CREDENTIALS
    assert server.log.read_text(errors="replace").count("Executing: /bin/sleep") == before + 1
    assert who_am_i(proxy, "carol")[0] == ldap.INVALID_CREDENTIALS


def test_a_client_program_brings_the_code_with_its_second_bind(proxy):
    assert who_am_i(proxy, "bob")[0] == ldap.INVALID_CREDENTIALS
    assert who_am_i(proxy, "bob", f"{PASSWORD},{CODE}")[0] == 0
    assert who_am_i(proxy, "bob", f"{PASSWORD},271829")[0] == ldap.INVALID_CREDENTIALS
    assert who_am_i(proxy, "bob", f"{PASSWORD},{CODE}")[0] == 0  # which answers a challenge within one bind
