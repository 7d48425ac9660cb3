"""RADIUS against a strict server on loopback, and against what an attacker on the way can send."""

import asyncio
import errno
import socket

import pytest
import uvloop
from fakes import radius as fake
from fakes.radius import ACCEPT, CHALLENGE, FORGERIES, REJECT, SECRET
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pyrad.packet import AuthPacket

from ldapmfa.config.values import Reading
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorResting, FactorUnreachable
from ldapmfa.factors import radius as module
from ldapmfa.factors.radius import Radius
from ldapmfa.factors.radius_client import Address, Client, NoAnswer, Server, _failure
from ldapmfa.factors.radius_table import RadiusTable
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting

ALICE = Identity("ad", "guid:" + "0" * 32, "cn=alice", ("alice",), "alice@example.com")
PASSWORD = b"Correct,Horse \xc3\xa4"
MESSAGE, STATE, SESSION_TIMEOUT = 18, 24, 27


def ask(**given):
    return Prompt(**{
        "identity": ALICE, "user": "alice", "application": "vpn", "client": "192.0.2.9",
        "password": Secret(PASSWORD), "seconds": 5.0, **given,
    })  # fmt: skip


def radius(*servers, said=None, **keys):
    names = tuple(server if isinstance(server, str) else server.server for server in servers)
    keys = {"kind": "radius", "secret": SECRET.decode(), **keys}
    return Radius(RadiusTable(servers=names, **keys), Tools(say=(said if said is not None else []).append))


def always(*answer):
    async def say(_asked):
        return answer or None

    return say


#: For tests in which the server does not answer at once; elsewhere a busy machine has time.
SOON = {"challenge_seconds": 0.02}


def nobody():
    """An address at which nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Pushed:
    """A server that asks the user: it answers when it is told."""

    def __init__(self, *answer):
        self.answer, self.pressed = answer, asyncio.Event()

    async def __call__(self, _asked):
        await self.pressed.wait()
        return self.answer


# -- what a login is


async def test_what_is_asked_of_the_server_and_an_accept():
    async with fake.Radius(always(ACCEPT, [])) as server:
        service = radius(server, called_station_id="vpn", nas_port_type=5)
        assert await service.start(ask()) == Allowed("radius")
        (asked,) = server.asked
        assert asked.password == PASSWORD
        assert dict(asked.attributes[1:]) == {
            1: b"alice", 2: asked.value(2), 30: b"vpn", 31: b"192.0.2.9", 32: b"ldapmfa", 61: b"\0\0\0\5"}  # fmt: skip
        assert asked.kinds()[0] == 80
        assert service.wants_password


async def test_a_reject_is_the_servers_no_in_its_own_words():
    async with fake.Radius(always(REJECT, [(MESSAGE, b"Not\x1b[1m today")])) as server:
        assert await radius(server).start(ask()) == Denied("denied", "Not\\x1b[1m today")


@pytest.mark.parametrize(
    ("code", "outcome"), [(ACCEPT, Allowed("radius")), (REJECT, Denied("denied"))], ids=["approved", "refused"]
)
async def test_a_push_is_waited_for(code, outcome):
    pushed = Pushed(code, [])
    async with fake.Radius(pushed) as server:
        service, prompt = radius(server, response_timeout=0.05, **SOON), ask(method="push")
        waiting = await service.start(prompt)
        assert isinstance(waiting, Waiting)
        asyncio.get_running_loop().call_later(0.1, pushed.pressed.set)
        assert await service.wait(prompt, waiting) == outcome
        assert len(server.asked) == 1
        assert service._client._sockets == 0


async def test_a_challenge_is_a_code_that_was_sent_and_the_answer_goes_with_its_state():
    async def answer(asked):
        if STATE not in asked.kinds():
            return CHALLENGE, [(STATE, b"\0state\xff"), (MESSAGE, b"Enter your code"), (SESSION_TIMEOUT, b"\0\0\0\x3c")]
        assert asked.value(STATE) == b"\0state\xff"
        return (ACCEPT if asked.password == b"123456" else REJECT), []

    async with fake.Radius(answer) as server:
        service = radius(nobody(), server)
        sent = await service.start(ask())
        assert sent == CodeSent({"state": b"\0state\xff".hex(), "server": server.server}, 60)
        # the code may come to another process
        another = radius(nobody(), server)
        assert await another.verify(ask(password=None), Secret(b"123456"), sent) == Allowed("passcode")
        assert await another.verify(ask(password=None), Secret(b"123457"), sent) == Denied("wrong-code")
        assert server.asked[0].authenticator != server.asked[1].authenticator


async def test_somebody_who_asks_for_sms_is_given_longer_for_the_challenge():
    async def answer(_asked):
        await asyncio.sleep(0.1)
        return CHALLENGE, [(STATE, b"s")]

    async with fake.Radius(answer) as server:
        service = radius(server, **SOON)
        assert isinstance(await service.start(ask(method="sms")), CodeSent)
        prompt = ask()
        waiting = await service.start(prompt)
        assert isinstance(waiting, Waiting)
        assert (await service.wait(prompt, waiting)).why == "no-method"


async def test_another_challenge_is_no_yes():
    async with fake.Radius(always(CHALLENGE, [(STATE, b"next")])) as server:
        service = radius(server)
        sent = await service.start(ask())
        assert (await service.verify(ask(), Secret(b"123456"), sent)).why == "wrong-code"
        assert (await service.verify(ask(), Secret(b"123456"), None)).why == "wrong-code"


@pytest.mark.parametrize(
    ("template", "content"),
    [("{code}", b"123456"), ("{password}{code}", PASSWORD + b"123456"), ("{password},{code}", PASSWORD + b",123456")],
    ids=["code", "together", "comma"],
)
async def test_a_code_is_sent_at_once_as_the_template_says(template, content):
    async with fake.Radius(always(ACCEPT, [])) as server:
        service = radius(server, password=template, push_password="push")
        assert service.wants_password == ("{password}" in template)
        assert await service.verify(ask(), Secret(b"123456"), None) == Allowed("passcode")
        assert server.asked[0].password == content
        await service.start(ask(password=None))
        assert server.asked[1].password == b"push"
        server.answer = always(REJECT, [])
        assert await service.verify(ask(), Secret(b"123457"), None) == Denied("wrong-code")


async def test_what_stands_in_a_password_is_not_filled_in_again():
    async with fake.Radius(always(ACCEPT, [])) as server:
        await radius(server, password="{password}{code}").verify(
            ask(password=Secret(b"{code}\\1{password}")), Secret(b"1"), None
        )
        assert server.asked[0].password == b"{code}\\1{password}1"


async def test_a_password_is_written_as_the_server_reads_it():
    async with fake.Radius(always(ACCEPT, [])) as server:
        await radius(server, password_encoding="cp1252").start(ask())
        assert server.asked[0].password == PASSWORD.decode().encode("cp1252")
        for service, typed in ((radius(server, password_encoding="cp1252"), "Ω".encode()), (radius(server), b"\xe4")):
            assert (await service.start(ask(password=Secret(typed)))).why == "no-method"
        assert len(server.asked) == 1


async def test_A25_a_code_that_the_server_does_not_ask_for_is_a_wrong_one():
    """With the default, the code answers a challenge: an accept of the password alone says nothing about it."""
    async with fake.Radius(always(ACCEPT, [])) as server:
        assert (await radius(server).verify(ask(), Secret(b"123456"), None)).why == "wrong-code"
        server.answer = always(REJECT, [(MESSAGE, b"unknown")])
        assert await radius(server).verify(ask(), Secret(b"123456"), None) == Denied("denied", "unknown")


async def test_by_default_a_code_answers_the_challenge_within_one_bind():
    async def answer(asked):
        if asked.password == PASSWORD:
            return CHALLENGE, [(STATE, b"s")]
        return (ACCEPT if (asked.password, asked.value(STATE)) == (b"123456", b"s") else REJECT), []

    async with fake.Radius(answer) as server:
        assert await radius(server).verify(ask(), Secret(b"123456"), None) == Allowed("passcode")
        assert await radius(server).verify(ask(), Secret(b"123457"), None) == Denied("wrong-code")


async def test_a_password_or_name_that_radius_cannot_carry_is_refused_without_asking():
    async with fake.Radius(always(ACCEPT, [])) as server:
        service = radius(server)
        assert (await service.start(ask(password=Secret(b"x" * 129)))).why == "no-method"
        assert (await service.start(ask(user="x" * 254))).why == "not-enrolled"
        assert (await service.start(ask(user=""))).why == "not-enrolled"
        assert (await service.verify(ask(user=""), Secret(b"123456"), None)).why == "not-enrolled"
        assert (await service.verify(ask(), Secret(b"1" * 129), CodeSent({"state": "00", "server": ""}))).why == "no-method"
        assert not server.asked
        await service.start(ask(password=Secret(b"x" * 128)))
        assert server.asked[0].password == b"x" * 128
        with pytest.raises(FactorDown):
            await service.start(ask(password=None))


def test_a_password_is_hidden_as_rfc_2865_section_7_1_shows():
    authenticator = bytes.fromhex("0f403f9473978057bd83d5cb98f4227a")
    packet = AuthPacket(secret=b"xyzzy5461", authenticator=authenticator)
    hidden = bytes.fromhex("0dbe708d93d413ce3196e43f782a0aee")
    assert packet.PwCrypt(b"arctangent") == hidden
    assert fake.shown(hidden, authenticator, b"xyzzy5461") == b"arctangent"


# -- answers that are none


@pytest.mark.parametrize("forge", FORGERIES)
async def test_A25_a_forged_answer_does_not_count_and_the_true_one_does(forge):
    forged = asyncio.Event()

    async def answer(asked):
        if len(server.asked) > 1:
            server.send(asked, ACCEPT, forge=forge)
            server.send(asked, ACCEPT, forge=forge)
            forged.set()
            await true.wait()
        return (ACCEPT if len(server.asked) == 1 else REJECT), []

    true = asyncio.Event()
    async with fake.Radius(answer) as server:
        service, prompt = radius(server, challenge_seconds=0.1), ask()
        assert await service.start(prompt) == Allowed("radius")  # something to replay
        waiting = await service.start(prompt)
        assert forged.is_set()
        assert isinstance(waiting, Waiting)
        true.set()
        assert await service.wait(prompt, waiting) == Denied("denied")


@pytest.mark.parametrize("forge", FORGERIES)
async def test_A25_forged_answers_alone_are_no_answer_and_are_named(forge):
    async with fake.Radius(always(ACCEPT, [])) as server:
        service = radius(server, said=(said := []), retries=0)
        await service.start(ask())
        server.forge = forge
        with pytest.raises(NoAnswer) as raised:
            await service.start(ask(seconds=0.1))
        assert not isinstance(raised.value, FactorUnreachable)
        assert "ignored:" in str(raised.value)
        assert any(line.startswith("ignored:") for line in said)


async def test_A25_an_answer_from_elsewhere_does_not_count():
    """A right answer, but from another port: the socket is connected, so nobody else is heard."""

    async def answer(asked):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            octets = fake.signed(ACCEPT, asked.identifier, asked.authenticator, [], SECRET, SECRET)
            other.sendto(octets, asked.source)

    async with fake.Radius(answer) as server:
        with pytest.raises(NoAnswer):
            await radius(server).start(ask(seconds=0.05))


async def test_A25_an_accept_for_one_user_is_none_for_another():
    held = {}

    async def answer(asked):
        held[asked.value(1)] = asked
        if len(held) == 2:
            # both wait; bob's yes is sent to alice's socket
            bob, alice = held[b"bob"], held[b"alice"]
            octets = fake.signed(ACCEPT, bob.identifier, bob.authenticator, [], SECRET, SECRET)
            server.transport.sendto(octets, alice.source)
            server.send(bob, ACCEPT)

    async with fake.Radius(answer) as server:
        service = radius(server, challenge_seconds=0.1)
        alice, bob = ask(seconds=0.3), ask(user="bob", seconds=0.3)
        asked = [await service.start(alice), await service.start(bob)]
        assert asked[1] == Allowed("radius")
        with pytest.raises(FactorDown):
            await service.wait(alice, asked[0])


async def test_A25_an_accept_that_comes_late_counts_for_nothing():
    async def answer(asked):
        return (ACCEPT, []) if asked.value(1) == b"bob" else None

    async with fake.Radius(answer) as server:
        service = radius(server, **SOON)
        prompt = ask(seconds=0.1)
        waiting = await service.start(prompt)
        await service.start(ask(user="bob"))  # the server is there: it is alice who says nothing
        assert (await service.wait(prompt, waiting)).why == "no-answer"
        server.send(server.asked[0], ACCEPT)
        await asyncio.sleep(0.01)
        assert service._client._sockets == 0
        assert (await service.wait(prompt, waiting)).why == "no-answer"


async def test_answers_without_message_authenticator_count_only_where_that_is_allowed():
    async with fake.Radius(always(ACCEPT, [])) as server:
        server.forge = "no-ma"
        weak = radius(server, require_message_authenticator=False)
        assert await weak.start(ask()) == Allowed("radius")
        server.forge = "wrong-ma"
        with pytest.raises(NoAnswer):
            await weak.start(ask(seconds=0.03))


@given(st.binary(max_size=200))
def test_A25_no_octets_are_an_answer_by_chance(octets):
    client = Client(RadiusTable(kind="radius", servers=("127.0.0.1",), secret="x"), Secret(b"x"), Tools())
    packet = AuthPacket(id=1, secret=b"x", authenticator=bytes(16), message_authenticator=True)
    packet.RequestPacket()
    for reply in (octets, b"\x02\x01" + (20 + len(octets)).to_bytes(2, "big") + bytes(16) + octets):
        assert client._read(packet, reply)[1]


@pytest.mark.parametrize("states", [[], [b"one", b"two"], [b""]], ids=["none", "two", "empty"])
async def test_A25_a_challenge_without_one_state_is_broken(states):
    async with fake.Radius(always(CHALLENGE, [(STATE, state) for state in states])) as server:
        with pytest.raises(FactorDown):
            await radius(server).start(ask())
        with pytest.raises(FactorDown):
            await radius(server).verify(ask(), Secret(b"123456"), None)


@pytest.mark.parametrize(
    "handle", [{}, {"state": "zz", "server": "127.0.0.1:1812"}, {"state": "00", "server": "192.0.2.1:1812"}]
)
async def test_A25_a_challenge_of_no_server_of_ours_is_not_answered(handle):
    async with fake.Radius(always(ACCEPT, [])) as server:
        with pytest.raises(FactorDown) as raised:
            await radius(server).verify(ask(), Secret(b"123456"), CodeSent(handle))
        assert not isinstance(raised.value, FactorUnreachable)
        assert not server.asked


# -- failures


async def test_A24_a_port_where_nobody_listens_is_unreachable_before_and_down_after():
    service, prompt = radius(nobody()), ask()
    with pytest.raises(FactorUnreachable):
        await service.start(prompt)
    for sent in (None, CodeSent({"state": "00", "server": service._table.servers[0]})):
        with pytest.raises(FactorDown) as raised:
            await service.verify(prompt, Secret(b"123456"), sent)
        assert not isinstance(raised.value, FactorUnreachable)


async def test_A24_silence_opens_nothing():
    async with fake.Radius(always()) as server:
        service, prompt = radius(server, **SOON), ask(seconds=0.1)
        waiting = await service.start(prompt)
        for outcome in (service.wait(prompt, waiting), service.verify(prompt, Secret(b"1"), None)):
            with pytest.raises(NoAnswer) as raised:
                await outcome
            assert not isinstance(raised.value, FactorUnreachable)
        assert service._client._sockets == 0


async def test_A24_a_server_that_goes_after_the_first_request_may_have_asked():
    """It got the request, and ICMP is about the second one."""

    async def answer(_asked):
        await server.gone()

    async with fake.Radius(answer) as server:
        service, prompt = radius(server, nobody(), response_timeout=0.02), ask()
        with pytest.raises(FactorDown) as raised:
            await service.start(prompt)
        assert not isinstance(raised.value, FactorUnreachable)


async def test_A24_what_icmp_says_after_the_prompt_has_begun_is_down():
    service, prompt = radius(nobody()), ask()
    asked = asyncio.ensure_future(service._client.ask(service._request(prompt, Secret(b"x")), 1))
    with pytest.raises(FactorDown) as raised:
        await service.wait(prompt, Waiting(asked))
    assert not isinstance(raised.value, FactorUnreachable)


async def test_A24_too_many_at_once_is_no_outage():
    async with fake.Radius(always()) as server:
        service = radius(server, connections=2, **SOON)
        waiting = [await service.start(ask()) for _ in range(2)]
        with pytest.raises(FactorDown) as raised:
            await service.start(ask())
        assert not isinstance(raised.value, FactorUnreachable)
        await service.cancel(ask(), waiting[0])
        await asyncio.sleep(0.01)
        assert isinstance(await service.start(ask()), Waiting)
        await service.close()


async def test_A24_no_socket_left_is_no_outage(monkeypatch):
    def full(*_args):
        raise OSError(24, "Too many open files")

    service = radius("127.0.0.1:1812")
    monkeypatch.setattr(socket, "socket", full)
    with pytest.raises(FactorDown) as raised:
        await service.start(ask())
    assert not isinstance(raised.value, FactorUnreachable)


@pytest.mark.parametrize(
    "number", [errno.EAGAIN, errno.EMFILE, errno.ENOBUFS, errno.EPERM, errno.EACCES, errno.EADDRNOTAVAIL]
)
def test_A24_what_the_system_lacks_is_no_outage(number):
    address = Address(socket.AF_INET, ("192.0.2.1", 1812))
    assert not isinstance(_failure(address, OSError(number, "no"), first=True), FactorUnreachable)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH])
def test_A24_nobody_there_is_an_outage_only_of_the_first_transmission(number):
    address = Address(socket.AF_INET, ("192.0.2.1", 1812))
    assert isinstance(_failure(address, OSError(number, "no"), first=True), FactorUnreachable)
    assert not isinstance(_failure(address, OSError(number, "no"), first=False), FactorUnreachable)


async def test_A24_a_destination_that_is_not_allowed_is_no_outage():
    with pytest.raises(FactorDown) as raised:  # a broadcast: connecting the socket fails already
        await radius("255.255.255.255").start(ask())
    assert not isinstance(raised.value, FactorUnreachable)


async def test_whoever_waits_for_less_than_was_asked_gets_an_answer_then():
    async def answer(asked):
        return (ACCEPT, []) if asked.value(1) == b"bob" else None

    async with fake.Radius(answer) as server:
        service = radius(server, challenge_seconds=0.1)
        waiting = await service.start(ask())
        with pytest.raises(NoAnswer):
            await service.wait(ask(seconds=0.02), waiting)
        # a server that answers others meanwhile is there
        alice = asyncio.ensure_future(service.start(ask(seconds=0.05)))
        await service.start(ask(user="bob", client=""))
        assert (await alice).why == "no-answer"
        assert [31 in asked.kinds() for asked in server.asked if asked.value(1) == b"bob"] == [False]


async def test_a_request_is_repeated_octet_for_octet_from_the_same_port():
    pushed = Pushed(ACCEPT, [])
    async with fake.Radius(pushed) as server:
        service = radius(server, response_timeout=0.02, retries=2, challenge_seconds=0.1)
        waiting = await service.start(ask())
        assert server.duplicates == [server.asked[0].octets] * 2
        assert len(server.asked) == 1
        pushed.pressed.set()
        assert await service.wait(ask(), waiting) == Allowed("radius")


async def test_the_next_server_is_asked_only_if_nobody_is_at_the_first():
    async with fake.Radius(always(ACCEPT, [])) as second, fake.Radius(always()) as silent:
        assert await radius(nobody(), second).start(ask()) == Allowed("radius")
        assert len(second.asked) == 1
        with pytest.raises(NoAnswer):
            await radius(silent, second).start(ask(seconds=0.03))
        assert len(second.asked) == 1


async def test_names_are_resolved_once_and_what_was_found_is_kept(monkeypatch):
    asked = []

    async def resolve(host, port, **_):
        asked.append(host)
        await asyncio.sleep(0)
        if host != "radius.example.com" or len(asked) > 1:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    async with fake.Radius(always(ACCEPT, [])) as server:
        service = radius(f"radius.example.com:{server.port}")
        assert await asyncio.gather(*(service.start(ask()) for _ in range(3))) == [Allowed("radius")] * 3
        assert await service.start(ask()) == Allowed("radius")
        assert asked == ["radius.example.com"]
        monkeypatch.setattr("ldapmfa.factors.radius_client.FRESH", 0)
        assert await service.start(ask()) == Allowed("radius")
        assert len(asked) == 2
        with pytest.raises(FactorUnreachable, match="resolved"):
            await radius("nobody.example.com").start(ask())
        assert await radius("nobody.example.com", server).start(ask()) == Allowed("radius")


async def test_A24_a_resolver_that_is_silent_is_given_up_and_our_own_lack_opens_nothing(monkeypatch):
    async def silent(*_, **__):
        await asyncio.sleep(60)

    async def poor(*_, **__):
        raise socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", silent, raising=False)
    service = radius("radius.example.com", connect_timeout=0.02)
    with pytest.raises(FactorUnreachable):
        await service.start(ask())
    await service.close()
    monkeypatch.setattr(loop, "getaddrinfo", poor, raising=False)
    with pytest.raises(FactorDown) as raised:
        await radius("radius.example.com").start(ask())
    assert not isinstance(raised.value, FactorUnreachable)


# -- leaving


async def test_whoever_leaves_is_not_listened_for():
    async with fake.Radius(always()) as server:
        service = radius(server, challenge_seconds=5)
        starting = asyncio.ensure_future(service.start(ask()))
        await asyncio.sleep(0.02)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        service._table = service._table.model_copy(update={"challenge_seconds": 0.01})
        waiting = await service.start(ask())
        going = asyncio.ensure_future(service.wait(ask(), waiting))
        await asyncio.sleep(0)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        taken_back = await service.start(ask())
        await service.cancel(ask(), taken_back)
        await asyncio.sleep(0.01)
        assert service._client._sockets == 0
        assert not service._asked


async def test_closing_ends_what_is_waited_for():
    async with fake.Radius(always()) as server:
        service = radius(server, **SOON)
        waiting = await service.start(ask())
        going = asyncio.ensure_future(service.wait(ask(), waiting))
        await asyncio.sleep(0)
        await service.close()
        with pytest.raises(FactorDown):
            await going
        assert service._client._sockets == 0


async def test_two_thousand_users_are_asked_at_once():
    pushed = Pushed(ACCEPT, [])
    async with fake.Radius(pushed) as server:
        service, prompt = radius(server, challenge_seconds=0.01, response_timeout=60), ask(seconds=30)
        starting = []
        for _ in range(100):  # as many at a time as the fake's socket holds
            starting += [asyncio.ensure_future(service.start(prompt)) for _ in range(20)]
            await server.has_asked(len(starting))
        waiting = await asyncio.gather(*starting)
        assert {type(started) for started in waiting} == {Waiting}
        assert service._client._sockets == 2000
        pushed.pressed.set()
        assert set(await asyncio.gather(*(service.wait(prompt, one) for one in waiting))) == {Allowed("radius")}
        assert service._client._sockets == 0


async def test_it_works_on_uvloop():
    """Which reads sockets, and errors, by other ways."""

    async def play():
        pushed = Pushed(ACCEPT, [])
        async with fake.Radius(pushed) as server:
            prompt = ask()
            service = radius(server, **SOON)
            waiting = await service.start(prompt)
            pushed.pressed.set()
            yes = await service.wait(prompt, waiting)
        with pytest.raises(FactorUnreachable):
            await radius(nobody()).start(prompt)
        return yes

    def run():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(play())

    assert await asyncio.to_thread(run) == Allowed("radius")


# -- health


async def test_health_by_status_server():
    async with fake.Radius(always(ACCEPT, [])) as server:
        assert "answers Status-Server" in await radius(server, status_server=True).health()
        assert [asked.code for asked in server.asked] == [12]
        server.answer = always()
        with pytest.raises(NoAnswer):
            await radius(server, status_server=True, response_timeout=0.05).health()


async def test_health_by_a_name_that_must_be_refused():
    async with fake.Radius(always(REJECT, [])) as server:
        service = radius(server, probe_user="ldapmfa-probe")
        assert "refuses ldapmfa-probe" in await service.health()
        assert server.asked[0].value(1) == b"ldapmfa-probe"
        assert len(server.asked[0].password) == 24
        server.answer = always(ACCEPT, [])
        with pytest.raises(FactorDown, match="lets everybody in"):
            await service.health()


async def test_after_questions_without_answer_a_server_that_can_be_probed_is_and_costs_no_user_more():
    answers = []

    async def answer(asked):
        return (ACCEPT, []) if asked.code in answers else None

    async with fake.Radius(answer) as server:
        service = radius(server, status_server=True, failures=2, response_timeout=0.1, retries=0, challenge_seconds=0.005)
        prompt = ask(seconds=0.02)
        for _ in range(2):
            with pytest.raises(NoAnswer):
                await service.wait(prompt, await service.start(prompt))
        assert [asked.code for asked in server.asked] == [1, 1]
        with pytest.raises(FactorResting) as raised:  # the circuit breaker opens at that
            await service.start(prompt)
        assert raised.value.retry_after == 0
        answers.append(12)  # it is there: they were users who did not answer
        assert isinstance(await service.start(prompt), Waiting)
        assert [asked.code for asked in server.asked] == [1, 1, 12, 12, 1]
        await service.close()
        await server.gone()
        service._unanswered = 2
        with pytest.raises(FactorUnreachable):
            await service.start(prompt)


async def test_health_says_what_it_has_not_tried(monkeypatch):
    monkeypatch.setattr(module, "LISTEN", 0.05)
    async with fake.Radius(always()) as server:
        assert "was not tried" in await radius(server).health()
        server.answer = always(ACCEPT, [])
        assert "answers, signed" in await radius(server).health()
        server.forge = "other-secret"
        with pytest.raises(FactorDown, match="not signed with our secret"):
            await radius(server).health()
    with pytest.raises(FactorUnreachable):
        await radius(nobody()).health()


# -- settings


async def test_nothing_secret_is_said_or_raised():
    async with fake.Radius(always(CHALLENGE, [(STATE, b"bearer-state")])) as server:
        said = []
        service = radius(server, said=said)
        sent = await service.start(ask())
        said.append(str(await service.verify(ask(), Secret(b"271828"), sent)))
        server.forge = "other-secret"
        with pytest.raises(FactorDown) as raised:
            await service.verify(ask(seconds=0.05), Secret(b"271828"), sent)
        everything = " ".join([*said, str(raised.value), repr(service._table)])
        for secret in (PASSWORD.decode(), "271828", SECRET.decode(), "bearer-state", b"bearer-state".hex()):
            assert secret not in everything


def test_a_server_is_a_host_and_a_port():
    assert Server.parse("radius.example.com") == Server("radius.example.com", 1812)
    assert Server.parse("192.0.2.1:1645") == Server("192.0.2.1", 1645)
    assert Server.parse("[2001:db8::7]:1645") == Server("2001:db8::7", 1645)
    assert Server.parse("[2001:db8::7]") == Server("2001:db8::7", 1812)


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": ()}, {"servers": ("radius://x",)}, {"servers": ("x:0",)}, {"servers": ("x:65536",)},
        {"servers": ("2001:db8::7",)}, {"password": "{user}"}, {"password": ""}, {"password": "{password"},
        {"push_password": "{code}"}, {"password_encoding": "klingon"}, {"nas_identifier": ""}, {"nas_identifier": "x" * 254}, {"retries": -1},
        {"proxy": "http://proxy.example.com"}, {"ca_file": "/ca.pem"}, {"nas_port_type": 1 << 32}, {"retry": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_what_is_wrong_in_the_table_is_said(wrong):
    with pytest.raises(ValidationError):
        RadiusTable(**{"kind": "radius", "servers": ("radius.example.com",), "secret": "x", **wrong})


def test_one_secret_is_given_and_only_one(tmp_path):
    file = tmp_path / "radius.secret"
    file.write_text("secret")
    reading = Reading(tmp_path, check_files=True, directories={})
    both = {"secret_file": str(file), "secret": "x"}
    for some, message in (({}, "give one"), (both, "keep one")):
        with pytest.raises(ValidationError, match=message):
            RadiusTable.model_validate({"kind": "radius", "servers": ("x",), **some}, context=reading)
    for name, value in both.items():
        RadiusTable.model_validate({"kind": "radius", "servers": ("x",), name: value}, context=reading)


def test_a_secret_may_be_in_a_file_and_is_never_empty(tmp_path):
    file = tmp_path / "radius.secret"
    file.write_text("from a file\n")
    service = Radius(RadiusTable(kind="radius", servers=("x",), secret_file=file), Tools())
    assert service._client._secret == Secret(b"from a file")
    with pytest.raises(ValueError, match="empty"):
        Radius(RadiusTable(kind="radius", servers=("x",), secret=""), Tools())
