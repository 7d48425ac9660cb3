"""Attacks on the login, through the whole proxy in memory: what reaches the directory, and what the client is told."""

import asyncio
from dataclasses import replace

import pytest
from world import ALICE, BASE, BOB, PASSWORD, SEED, SERVICE, World, bind, entry, extended, frames, result, search

from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.core.session import Rules
from ldapmfa.errors import StoreDown
from ldapmfa.wire import ber, dn, ldap

CAROL = f"cn=carol,{BASE}"
WRONG = "000000"
#: For attacks that end before anything is sent to the directory, and for those on the relay alone.
once = pytest.mark.parametrize("spare_links", [0], ids=["no link"])
DELIMITER = Rules(form=CodeForm(6, b","))


def add(house, name, password=PASSWORD, unique="33333333-3333-4333-8333-333333333333"):
    house.directory.passwords[dn.normalise(name)] = password.encode()
    house.directory.uuids[dn.normalise(name)] = unique


def searches_of_clients(house):
    """What reached the directory and was not asked by ourselves."""
    ours = (ldap.BIND_REQUEST, ldap.UNBIND_REQUEST)
    return [frame for frame in house.directory.seen if frame.tag not in ours and frame.id < 1_000_000]


async def answer(house, client, name, password):
    """The octets that answer a bind, when its refusal floor is over."""
    client.send(bind(1, name, password))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    (frame,) = client.take()
    return frame


# -- A02, A06, A08: what one bind proved is worth nothing for the next


async def test_A02_a_refused_bind_leaves_nobody_behind(house):
    await house.open()
    client = house.client()
    assert await client.log_in(SERVICE, PASSWORD) == 0
    client.send(bind(2, ALICE, PASSWORD + WRONG), search(3))
    assert await client.refused() == 50
    client.send(search(4))
    assert await client.code() == 50
    assert searches_of_clients(house) == []
    assert not house.links_open


@pytest.mark.parametrize("again", [b"", b"\x00" * 8, b"short"])
async def test_A02_a_bind_refused_at_once_leaves_nobody_behind(house, again):
    """Anonymous, malformed, of another version, SASL: whatever comes, the identity is gone when it arrives."""
    await house.open()
    for number, raw in enumerate(
        (
            bind(2, b"", again or b""),
            bind(2, ALICE, b""),
            bind(2, ALICE, PASSWORD, version=2),
            ldap.message(2, ber.tlv(ldap.BIND_REQUEST, again)),
            ldap.message(2, ber.tlv(ldap.BIND_REQUEST, ber.encode_integer(3), ber.tlv(4), ber.tlv(0xA3, ber.tlv(4, b"PLAIN")))),
        )
    ):
        client = house.client(port=50_000 + number)
        assert await client.log_in() == 0
        served = house.directory.served[-1]
        client.send(raw)
        await house.idle()
        house.clock.advance(0.3)
        await house.over()
        client.take()
        client.send(search(3))
        assert await client.code() == 50
        assert served.given_up
        assert (3, ldap.SEARCH_REQUEST) not in [(frame.id, frame.tag) for frame in served.received]


async def test_A08_there_is_no_exemption_for_a_first_bind(house):
    await house.open()
    for number in range(3):
        assert await house.client(port=50_000 + number).log_in(ALICE, PASSWORD) == 49
    assert await house.client().log_in() == 0
    assert await house.client().log_in(ALICE, PASSWORD) == 49


# -- A03, A04, A05: what is sent while the answer is open


@pytest.mark.parametrize("how", ["one segment", "segments"])
@pytest.mark.parametrize("code", ["right", "wrong"])
async def test_A03_nothing_passes_while_the_bind_is_not_answered(house, how, code):
    await house.open()
    behind = [
        search(2),
        ldap.message(3, ber.tlv(ldap.MODIFY_REQUEST, ber.tlv(4, ALICE.encode()), ber.tlv(0x30))),
        ldap.message(4, ber.tlv(ldap.DELETE_REQUEST, ALICE.encode())),
        extended(5, ldap.OID_WHO_AM_I),
    ]
    house.directory.holds = lambda link, frame: frame.tag == ldap.EXTENDED_REQUEST
    client = house.client()
    bound = bind(1, ALICE, PASSWORD + (house.next_code() if code == "right" else WRONG))
    if how == "segments":
        client.send(bound)
        client.send(*behind)
    else:
        client.send(bound, *behind)
    await house.until(lambda: house.directory.held)
    assert searches_of_clients(house) == []
    assert client.came == b""
    house.directory.release()
    await house.idle()
    assert code == "right" or searches_of_clients(house) == []
    house.clock.advance(0.3)
    await house.over()
    answers = [(frame.id, ldap.read_result(frame).code) for frame in await client.answers(5)]
    if code == "right":
        assert answers == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]
        assert [frame.raw for frame in searches_of_clients(house)] == behind
    else:
        assert answers == [(1, 49), (2, 50), (3, 50), (4, 50), (5, 50)]
        assert searches_of_clients(house) == []


@pytest.mark.parametrize(
    "behind",
    [
        [search(1)],
        [ldap.message(1, ber.encode_integer(1, ldap.ABANDON_REQUEST))],
        [extended(1, ldap.OID_WHO_AM_I)],
        [extended(2, ldap.OID_START_TLS)],
        [ldap.message(2, ber.tlv(ldap.EXTENDED_REQUEST, ber.tlv(0x80, b"1.3.6.1.1.8"), ber.tlv(0x81, ber.tlv(0x30, ber.encode_integer(1)))))],
        [b"\x30"],
    ],
    ids=["same id", "abandon", "whoami", "starttls", "cancel", "a piece"],
)
async def test_A04_what_comes_behind_a_bind_does_not_change_its_answer(house, behind):
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + WRONG), *behind)
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    first = client.take()[0]
    assert (first.id, first.tag, ldap.read_result(first).code) == (1, ldap.BIND_RESPONSE, 49)
    assert client.front.session.state.name in ("ANONYMOUS", "CLOSED")
    assert searches_of_clients(house) == []


async def test_A05_a_second_bind_while_one_is_pending_ends_both(house):
    await house.open()
    house.directory.holds = lambda link, frame: True
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    client.send(bind(1, SERVICE, PASSWORD))
    notice = client.take()[-1]
    assert (notice.id, ldap.read_result(notice).code) == (0, 2)
    assert not client.pipe.open
    await house.over()
    house.directory.release()
    assert client.came == b""
    assert not house.links_open
    assert len(house.directory.binds()) <= 1
    assert house.events[-1].reason == "client-left"


async def test_A05_a_second_bind_in_the_same_segment_ends_both_and_neither_is_tried(house):
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()), bind(2, SERVICE, PASSWORD), search(3))
    await house.over()
    assert [frame.id for frame in client.take()] == [0]
    assert house.directory.binds() == []
    assert not house.links_open


@once
@pytest.mark.parametrize("message_id", [0, -1, -(2**31), 2**31, 2**32])
async def test_A05_ids_that_are_none_end_the_connection(house, message_id):
    await house.open()
    size = (message_id.bit_length() + 8) // 8
    raw = ber.tlv(0x30, ber.tlv(2, message_id.to_bytes(size, "big", signed=True)), ldap.bind_request(SERVICE.encode(), PASSWORD.encode()))
    client = house.client()
    client.send(raw)
    (notice,) = client.take()
    assert (notice.id, ldap.read_result(notice).code) == (0, 2)
    assert not client.pipe.open
    assert house.directory.binds() == []


@pytest.mark.parametrize("message_id", [1, 1_000_000, 1_000_001, 2**31 - 1])
async def test_A05_ids_of_the_clients_choice_do_not_meet_ours(house, message_id):
    """Our look-ups take ids from the same range; only one request is on the link at any time."""
    await house.open()
    client = house.client()
    for _ in range(2):
        assert await client.log_in(message_id=message_id) == 0
        client.send(search(message_id))
        assert await client.code() == 0


# -- A07


async def test_A07_a_refused_bind_changes_nothing_for_other_connections_of_that_name(house):
    await house.open()
    client, other = house.client(), house.client(port=50_001)
    assert await client.log_in() == 0
    for password in (PASSWORD + WRONG, "nonsense", PASSWORD):
        assert await other.log_in(ALICE, password) == 49
    other.leave()
    client.send(search(5))
    assert await client.code() == 0


# -- A13 to A17


def sasl(mechanism, credentials=None, name=b""):
    choice = ber.tlv(0xA3, ber.tlv(4, mechanism), *([ber.tlv(4, credentials)] if credentials is not None else []))
    return ldap.message(1, ber.tlv(ldap.BIND_REQUEST, ber.encode_integer(3), ber.tlv(4, name), choice))


@once
@pytest.mark.parametrize("mechanism", [b"GSSAPI", b"GSS-SPNEGO", b"DIGEST-MD5", b"EXTERNAL", b"PLAIN", b"SCRAM-SHA-256", b""])
@pytest.mark.parametrize("credentials", [None, b"", b"alice\0svc\0Passw0rd!1", b"NTLMSSP\0\x01"])
async def test_A13_sasl_is_refused(house, mechanism, credentials):
    house.assemble()
    client = house.client()
    for _ in range(2):  # the second step is as wrong as the first
        client.send(sasl(mechanism, credentials, ALICE.encode()))
        assert await client.code() == 7
    client.send(search(3))
    assert await client.code() == 50
    assert not house.directory.served


@once
@pytest.mark.parametrize("tag", [0x89, 0x8A, 0x8B, 0x81, 0xA0, 0xAA, 0x04])
async def test_A14_sicily_and_unknown_choices_are_refused(house, tag):
    house.assemble()
    client = house.client()
    client.send(ldap.message(1, ber.tlv(ldap.BIND_REQUEST, ber.encode_integer(3), ber.tlv(4, b"NTLM"), ber.tlv(tag, b"NTLMSSP\0"))))
    assert await client.code() in (2, 7)
    assert client.pipe.open
    assert not house.directory.served


def odd_binds():
    simple = ber.tlv(0x80, b"x")
    name, three = ber.tlv(4, ALICE.encode()), ber.encode_integer(3)
    wrap = lambda *parts: ldap.message(1, ber.tlv(ldap.BIND_REQUEST, *parts))  # noqa: E731
    return {
        "version 2": wrap(ber.encode_integer(2), name, simple),
        "version 0": wrap(ber.encode_integer(0), name, simple),
        "version 127": wrap(ber.encode_integer(127), name, simple),
        "version -1": wrap(ber.encode_integer(-1), name, simple),
        "trailing octets": wrap(three, name, simple, b"\0"),
        "a second choice": wrap(three, name, simple, simple),
        "another order": wrap(name, three, simple),
        "no choice": wrap(three, name),
        "nothing": wrap(),
        "a name that is built": wrap(three, ber.tlv(0x24, name), simple),
        "a length too long": wrap(three, b"\x04\x7fx", simple),
        "two messages": wrap(ber.encode_integer(2), name, simple) + search(2),
        "garbage behind": wrap(ber.encode_integer(2), name, simple) + b"\x16\x03\x01",
    }


@pytest.mark.parametrize("which", odd_binds())
async def test_A15_odd_binds_end_alike_however_they_are_split(house, which):
    raw = odd_binds()[which]
    told = []
    for size in (len(raw), 1, 2, 7):
        world = World(None).assemble()
        client = world.client()
        for start in range(0, len(raw), size):
            client.send(raw[start : start + size])
        told.append((client.came, client.pipe.open, client.state))
        assert not world.directory.served
    assert all(one == told[0] for one in told)
    assert ldap.read_result(frames(told[0][0])[0]).code == 2


async def test_A15_a_bind_octet_by_octet_is_a_bind(house):
    await house.open()
    client = house.client()
    for octet in bind(1, ALICE, PASSWORD + house.next_code()) + search(2):
        client.send(bytes((octet,)))
    assert [ldap.read_result(frame).code for frame in await client.answers(2)] == [0, 0]


@once
@pytest.mark.parametrize("name", [ALICE, SERVICE, "nobody", " "])
@pytest.mark.parametrize("password", [b"", b" ", b"\0", b"\0\0 \t", b"123456", b"\x00123456", b" 123456", PASSWORD.encode() + b"\0"])
async def test_A16_A17_a_password_that_is_none_is_refused_for_everybody(house, name, password):
    house.assemble()
    client = house.client()
    client.send(bind(1, name, password))
    assert await client.code() == 53
    assert not house.directory.served


@pytest.mark.parametrize("password", [b",123456", b" ,123456", b",", b",push", b"\0,123456", b",rc-aaaa-bbbb-cccc"])
async def test_A17_a_code_alone_never_becomes_an_empty_password(house, password):
    await house.open()
    house.with_(rules=DELIMITER)
    client = house.client()
    client.send(bind(1, ALICE, password))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    assert await client.code() in (49, 53)
    assert all(sent.strip(" \0") for _, sent in house.directory.binds())


# -- A18: one bind for one attempt


@pytest.mark.parametrize("rules", [Rules(), DELIMITER], ids=["suffix", "delimiter"])
@pytest.mark.parametrize("password", ["Summer202612", "a,b,c", "a,123456", "push", "123456x", ",,", "x,push", "ends,12345678"])
async def test_A18_whatever_the_password_looks_like_one_bind_reaches_the_directory(house, rules, password):
    await house.open()
    house.with_(rules=rules)
    house.directory.passwords[dn.normalise(ALICE)] = password.encode()
    delimiter = "," if rules is DELIMITER else ""
    for typed, outcome in (
        (password + delimiter + WRONG, 49),
        (password + delimiter + house.next_code(), 0),
        (password + delimiter + house.last_code(), 49),
        (password, 49),
    ):
        before = len(house.directory.binds())
        client = house.client()
        assert await client.log_in(ALICE, typed) == outcome, typed
        assert len(house.directory.binds()) == before + 1
        assert (outcome != 0) or house.directory.binds()[-1][1] == password


async def test_A18_a_wrong_code_does_not_pass_as_part_of_the_password(house):
    """The password ends in digits: cut, and only cut."""
    await house.open()
    house.directory.passwords[dn.normalise(ALICE)] = f"Summer{WRONG}".encode()
    assert await house.client().log_in(ALICE, "Summer" + WRONG) == 49
    assert house.directory.binds() == [(ALICE, "Summer")]


@pytest.mark.parametrize("password", ["Summer202612", PASSWORD])
async def test_A18_accounts_without_a_code_log_in_whatever_their_password_ends_in(house, password):
    await house.open()
    house.with_(policy=Policy((Exempt(SERVICE),), unenrolled="password-only"))
    add(house, CAROL, password)
    house.directory.passwords[dn.normalise(SERVICE)] = password.encode()
    for name in (SERVICE, CAROL):
        assert await house.client().log_in(name, password) == 0
        assert house.directory.binds()[-1] == (name, password)


# -- A19, A20


async def test_A19_a_code_is_accepted_once(house):
    await house.open()
    assert await house.client().log_in() == 0
    for name in (ALICE, ALICE.upper(), ALICE.replace(",", " , ")):
        assert await house.client().log_in(name, PASSWORD + house.last_code()) == 49
    assert house.events[-1].reason == "replayed-code"
    house.now += 30  # still within the drift window
    assert await house.client().log_in(ALICE, PASSWORD + house.last_code()) == 0


async def test_A19_the_same_code_on_many_connections_at_once_wins_once(house):
    await house.open()
    code = house.next_code()
    clients = [house.client(port=50_000 + number) for number in range(20)]
    for client in clients:
        client.send(bind(1, ALICE, PASSWORD + code))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    codes = [ldap.read_result(client.take()[0]).code for client in clients]
    assert sorted(codes) == [0] + [49] * 19
    assert len([event for event in await house.store.events() if getattr(event, "outcome", "") == "accepted"]) == 1
    assert house.links_open == 1


@pytest.mark.parametrize(
    "spell",
    [
        lambda code: " " + code,
        lambda code: code + " ",
        lambda code: code[:3] + " " + code[3:],
        lambda code: "".join(chr(0x0660 + int(digit)) for digit in code),  # Arabic-Indic
        lambda code: "".join(chr(0xFF10 + int(digit)) for digit in code),  # full width
        lambda code: code + "\0",
        lambda code: code + "\n",
    ],
)
async def test_A19_a_used_code_in_another_spelling_is_no_new_code(house, spell):
    await house.open()
    assert await house.client().log_in() == 0
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + spell(house.last_code())))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    assert await client.code() in (49, 53)
    assert client.state == "ANONYMOUS"


async def test_A20_guesses_count_across_connections_and_spellings_then_lock_then_recover(house):
    await house.open()
    names = [ALICE, ALICE.upper(), ALICE.replace("cn=", "CN = "), ALICE.replace("=alice", "=\\61lice")]
    for guess in range(10):
        assert await house.client(port=50_000 + guess).log_in(names[guess % 4], PASSWORD + WRONG) == 49
        assert house.events[-1].reason == "wrong-code"
    assert await house.client().log_in() == 49
    assert house.events[-1].reason == "locked"
    assert await house.client().log_in(BOB) == 0  # nobody else is
    house.now += 13 * 60
    assert await house.client().log_in() == 49
    house.now += 60
    assert await house.client().log_in() == 0


async def test_A20_guesses_at_the_same_moment_count_one_by_one(house):
    await house.open()
    clients = [house.client(port=50_000 + number) for number in range(30)]
    for number, client in enumerate(clients):
        client.send(bind(1, ALICE, PASSWORD + f"{number:06}"))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    reasons = [event.reason for event in house.events]
    assert reasons.count("wrong-code") == 10
    assert reasons.count("locked") == 20


async def test_A20_a_success_forgets_the_wrong_ones_and_a_right_password_alone_does_not(house):
    await house.open()
    for _ in range(9):
        assert await house.client().log_in(ALICE, PASSWORD + WRONG) == 49
    assert await house.client().log_in(ALICE, PASSWORD) == 49
    assert await house.client().log_in(ALICE, PASSWORD + WRONG) == 49
    assert await house.client().log_in() == 49
    assert house.events[-1].reason == "locked"


# -- A23


async def refusals(house):
    """Every kind of refusal that a stranger must not tell apart: its name and the answer's frame."""
    await house.open()
    add(house, CAROL)
    data = "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 773, v4563"

    def misbehave(link, frame):
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name.startswith(b"cn=must-change"):
            return [result(frame.id, frame.tag, 49, data)]
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name.startswith(b"cn=referred"):
            return [result(frame.id, frame.tag, 10, "ldap://elsewhere")]
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name.startswith(b"cn=locked"):
            return [result(frame.id, frame.tag, 19, "Exceed password retry limit.")]
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name.startswith(b"cn=unwilling"):
            return [result(frame.id, frame.tag, 53, "Account inactivated.")]
        return None

    house.directory.misbehave = misbehave
    code = house.next_code()
    found = {}
    for name, who, password in (
        ("unknown user", "cn=nobody,dc=nowhere", PASSWORD + code),
        ("no name of the directory's", "nobody@nowhere", PASSWORD + code),
        ("wrong password", ALICE, "wrong" + code),
        ("wrong password, no code", ALICE, "wrong"),
        ("wrong code", ALICE, PASSWORD + WRONG),
        ("no code", ALICE, PASSWORD),
        ("not enrolled", CAROL, PASSWORD + code),
        ("not enrolled, no code", CAROL, PASSWORD),
        ("a directory's sub-code", "cn=must-change,dc=x", PASSWORD + code),
        ("a referral", "cn=referred,dc=x", PASSWORD + code),
        ("another code of the directory's", "cn=locked,dc=x", PASSWORD + code),
        ("inactivated", "cn=unwilling,dc=x", PASSWORD + code),
        ("exempt, with a code", SERVICE, "wrong" + code),
        ("a NUL in the name", ALICE + "\0", PASSWORD + code),
        ("no name", "", PASSWORD + code),
        ("a name that is no text", b"cn=\xff\xfe", PASSWORD + code),
    ):
        found[name] = await answer(house, house.client(), who, password)
    for _ in range(10):
        await answer(house, house.client(), ALICE, PASSWORD + WRONG)
    found["locked"] = await answer(house, house.client(), ALICE, PASSWORD + house.next_code())
    found["locked, wrong"] = await answer(house, house.client(), ALICE, PASSWORD + WRONG)
    assert await answer(house, house.client(), BOB, PASSWORD + code)
    found["replayed"] = await answer(house, house.client(), BOB, PASSWORD + code)
    return found


async def test_A23_refusals_differ_in_their_reference_alone(house):
    found = await refusals(house)
    references = set()
    shapes = set()
    for frame in found.values():
        said = ldap.read_result(frame)
        reference = said.text.decode().rpartition(" ")[2]
        references.add(reference)
        shapes.add(frame.raw.replace(reference.encode(), b"*" * 8))
        assert len(reference) == 8
        assert (said.code, said.matched) == (49, b"")
    assert len(shapes) == 1, shapes
    assert len(references) == len(found)


async def test_A23_the_true_reason_is_recorded_under_the_reference(house):
    await refusals(house)
    assert {event.reason for event in house.events if event.outcome == "refused"} >= {
        "password", "wrong-code", "no-code", "not-enrolled", "locked", "no-name", "replayed-code",
    }  # fmt: skip
    assert any("data 773" in event.detail for event in house.events)
    last = house.events[-1]
    await asyncio.sleep(0)
    while not (kept := await house.store.events(reference=last.reference)):  # noqa: ASYNC110 - the writer has its own pace
        await asyncio.sleep(0)
    assert kept[0].reason == last.reason


@pytest.mark.parametrize(
    ("name", "password"),
    [(ALICE, PASSWORD + WRONG), (ALICE, PASSWORD), ("nobody", "x"), (ALICE, "x" + WRONG), (ALICE + "\0", "x"), ("", "x")],
)
async def test_A23_no_refusal_leaves_before_the_floor(house, name, password):
    await house.open()
    client = house.client()
    client.send(bind(1, name, password))
    await house.idle()
    house.clock.advance(0.249)
    for _ in range(20):
        await asyncio.sleep(0)
    assert client.came == b""
    house.clock.advance(0.002)
    assert await client.code() == 49


async def test_A23_what_took_longer_than_the_floor_waits_no_longer(house):
    await house.open()
    house.directory.holds = lambda link, frame: True
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + WRONG))
    await house.until(lambda: house.directory.held)
    house.clock.advance(5)
    house.directory.release()
    await house.idle()
    house.clock.advance(0)
    assert await client.code() == 49


# -- A26


async def test_A26_nothing_is_recorded_or_sent_before_the_codes_result(house):
    await house.open()
    gate, verify = asyncio.get_running_loop().create_future(), house.store.verify

    async def slowly(*args, **options):
        await gate
        return await verify(*args, **options)

    house.store.verify = slowly
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    for _ in range(200):
        house.serve()
        await asyncio.sleep(0)
    assert client.came == b""
    assert client.state == "BINDING"
    assert [event for event in await house.store.events() if getattr(event, "outcome", "") == "accepted"] == []
    gate.set_result(None)
    assert await client.code() == 0
    events = await house.store.events()
    assert events[0].outcome == "accepted"


@pytest.mark.parametrize("verb", ["recall", "verify", "status", "admit"])
@pytest.mark.parametrize("broken", [StoreDown("the disk is gone"), ValueError("password!"), TimeoutError()])
async def test_A26_a_store_that_breaks_is_no_success(house, verb, broken):
    await house.open()

    async def breaks(*_args, **_kwargs):
        raise broken

    setattr(house.store, verb, breaks)
    name = SERVICE if verb == "admit" else ALICE
    password = PASSWORD if verb in ("admit", "status") else PASSWORD + house.next_code()
    client = house.client()
    assert await client.log_in(name, password) == 52
    assert client.state == "ANONYMOUS"
    assert not house.links_open
    assert house.events[-1].outcome == "broken"
    assert house.events[-1].reason == ("store-down" if isinstance(broken, StoreDown) else "bug")
    assert "password!" not in repr(house.events)


# -- A30 to A32


@pytest.mark.parametrize("name", ["*", "*)(uid=*", "cn=alice)(|(cn=*", "\\2a", "alice\0", "cn=\udcff"])
async def test_A30_no_filter_is_built_from_what_was_typed(house, name):
    await house.open()
    client = house.client()
    client.send(bind(1, name.encode(errors="surrogateescape"), PASSWORD + WRONG))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    assert await client.code() == 49
    searches = [frame for frame in house.directory.seen if frame.tag == ldap.SEARCH_REQUEST]
    assert all(ldap.ANY_ENTRY in frame.raw for frame in searches)
    assert all(name.encode(errors="surrogateescape") not in frame.raw for frame in searches)


async def test_A31_the_factor_is_that_of_whom_the_directory_says_it_bound(house):
    """Bob's password under a name that he and alice could both be called by: the code must be bob's."""
    await house.open()
    await house.store.unenrol(f"default/uuid:{house.directory.uuids[dn.normalise(BOB)]}", _change())
    await house.enrol(BOB, Secret(b"another secret, of bob's"))

    def misbehave(link, frame):
        if frame.tag == ldap.EXTENDED_REQUEST:
            return [result(frame.id, frame.tag, value=f"dn:{BOB}".encode())]
        return None

    house.directory.misbehave = misbehave
    assert await house.client().log_in(ALICE) == 49  # with alice's code
    assert house.events[-1].reason == "wrong-code"
    assert house.events[-1].dn == BOB


def _change():
    from ldapmfa import audit

    return audit.AccountChanged(at=0.0, action="unenrolled", account="", actor="test")


async def test_A31_an_exemption_follows_the_directorys_word_not_the_typed_name(house):
    await house.open()

    def misbehave(link, frame):
        if frame.tag == ldap.EXTENDED_REQUEST:
            return [result(frame.id, frame.tag, value=f"dn:{ALICE}".encode())]
        return None

    house.directory.misbehave = misbehave
    assert await house.client().log_in(SERVICE, PASSWORD) == 49
    assert house.events[-1].reason == "no-code"


async def test_A31_what_a_client_searched_for_before_is_no_source_of_identity(house):
    await house.open()
    client = house.client()
    assert await client.log_in(BOB) == 0
    house.directory.misbehave = lambda link, frame: (
        [entry(frame.id, SERVICE, entryUUID=[b"x"], uid=[b"svc"]), result(frame.id, frame.tag)]
        if frame.tag == ldap.SEARCH_REQUEST and frame.id == 5
        else None
    )
    client.send(search(5, SERVICE))
    assert await client.code(2) == 0
    assert await client.log_in(BOB, PASSWORD, message_id=6) == 49
    assert house.events[-1].dn == BOB


@pytest.mark.parametrize(
    "who", ["", "u:alice", "dn:", "dn: ", "dn:\xff\0", "dn:cn=alice", f"dn:{BASE},cn=alice"], ids=repr
)
async def test_A31_a_directory_that_does_not_say_who_was_bound_lets_nobody_in(house, who):
    await house.open()
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, value=who.encode())] if frame.tag == ldap.EXTENDED_REQUEST else None
    )
    for name, password in ((ALICE, PASSWORD + house.next_code()), (SERVICE, PASSWORD)):
        client = house.client()
        assert await client.log_in(name, password) in (49, 52)
        assert client.state == "ANONYMOUS"


async def test_A32_a_recreated_account_inherits_no_factor_and_no_lock(house):
    await house.open()
    assert await house.client().log_in() == 0
    house.directory.uuids[dn.normalise(ALICE)] = "99999999-9999-4999-8999-999999999999"
    assert await house.client().log_in() == 49
    assert house.events[-1].reason == "not-enrolled"
    assert await house.client().log_in(ALICE, PASSWORD) == 49
    await house.enrol(ALICE, Secret(b"the new one's own secret"))
    assert await house.client().log_in() == 49
    assert house.events[-1].reason == "wrong-code"


async def test_A32_a_recreated_service_account_is_exempt_by_name_and_says_so(house):
    """An exemption names a DN; whoever bears it now has it. Its key in the record is the new one's."""
    await house.open()
    assert await house.client().log_in(SERVICE, PASSWORD) == 0
    before = (await house.store.events())[0].account
    house.directory.uuids[dn.normalise(SERVICE)] = "99999999-9999-4999-8999-999999999999"
    assert await house.client().log_in(SERVICE, PASSWORD) == 0
    assert (await house.store.events())[0].account != before


# -- beyond the list: hints


async def test_a_poisoned_hint_can_only_refuse(house):
    """Whatever is remembered of a name, no login succeeds without the code of the account that was bound."""
    await house.open()
    from ldapmfa.core.policy import Recall

    for unenrolled in ("refuse", "password-only"):
        for shape in (None, "cut", "whole"):
            for recall in (Recall(), Recall(codeless=True), Recall(codeless=True, enrolled=True), Recall(pending=True)):
                house.with_(policy=Policy((Exempt(SERVICE),), unenrolled=unenrolled))

                async def recalled(directory, name, recall=recall):
                    return recall

                house.store.recall = recalled
                if shape:
                    house.listener.doorway.refused.note(("default", dn.normalise_name(ALICE)), shape)
                for typed in (PASSWORD, PASSWORD + WRONG, "Summer202612"):
                    house.now += 1000
                    before = len(house.directory.binds())
                    assert await house.client().log_in(ALICE, typed) == 49
                    assert len(house.directory.binds()) == before + 1


async def test_a_password_that_is_another_ones_password_and_code_is_verified_as_it_was_cut(house):
    """Unknown name, password-only: tried whole, and the password of the enrolled one is never what passes."""
    await house.open()
    house.with_(policy=Policy((), unenrolled="password-only"))
    house.directory.passwords[dn.normalise(ALICE)] = b"Summer202612"
    client = house.client()
    assert await client.log_in(ALICE, "Summer202612") == 49
    assert house.events[-1].reason in ("no-code", "password")
    assert await house.client().log_in(ALICE, "Summer202612" + house.next_code()) in (0, 49)
    assert await house.client().log_in(ALICE, "Summer202612" + house.next_code()) == 0


async def test_an_exempt_account_that_types_a_code_is_not_let_in_by_it(house):
    """The hint says "whole"; where it does not (another spelling of the name), the code is looked at, and there is none."""
    await house.open()
    house.with_(policy=Policy((Exempt("svc"),)))
    assert await house.client().log_in(SERVICE, PASSWORD + WRONG) == 49
    assert house.events[-1].reason == "not-enrolled"
    assert await house.client().log_in(SERVICE, PASSWORD) == 0


async def test_a_pending_enrolment_is_claimed_by_the_right_code_alone(house):
    from ldapmfa.factors import NewCredential
    from ldapmfa.store import Pending

    await house.open()
    add(house, CAROL)
    house.with_(policy=Policy((), unenrolled="password-only"))
    new = NewCredential("totp", SEED, {"algorithm": "sha1", "digits": 6, "period": 30})
    await house.store.enrol(Pending("default", "dn", CAROL), new, "phone", _change())
    assert await house.client().log_in(CAROL, PASSWORD) == 49  # it waits for a code: the password alone is too little
    assert house.events[-1].reason == "no-code"
    assert await house.client().log_in(CAROL, PASSWORD + WRONG) == 49
    assert len(await house.store.pendings()) == 1
    await house.store.unenrol(f"default/uuid:{house.directory.uuids[dn.normalise(BOB)]}", _change())
    assert await house.client().log_in(BOB, PASSWORD + house.next_code()) == 49  # not his, the code is right
    assert len(await house.store.pendings()) == 1
    assert await house.client().log_in(CAROL, PASSWORD + house.next_code()) == 0
    assert await house.store.pendings() == []
    assert await house.client().log_in(CAROL, PASSWORD) == 49


@pytest.mark.parametrize("name", [b"cn=alice\0,dc=example,dc=test", b"\0", b"cn=svc,dc=example,dc=test\0"])
async def test_a_name_with_a_nul_never_reaches_the_directory(house, name):
    await house.open()
    for password in (PASSWORD, PASSWORD + house.next_code()):
        client = house.client()
        assert await client.log_in(name, password) == 49
    assert house.directory.binds() == []


async def test_a_name_that_is_not_utf8_is_nobody_elses_hint(house):
    r"""cn=\xff... as octets, and the text that stands for it in the log, are two names for the directory."""
    await house.open()

    def misbehave(link, frame):
        if frame.tag == ldap.BIND_REQUEST and b"\xff" in ldap.read_bind(frame).name:
            return [result(frame.id, frame.tag, 34, "invalid DN")]
        return None

    house.directory.misbehave = misbehave
    client = house.client()
    assert await client.log_in(b"cn=alice,dc=example,dc=test,\xff", PASSWORD + WRONG) == 49
    assert "\\xff" in house.events[-1].name


async def test_controls_on_a_bind_are_passed_on_and_those_of_its_answer_too(house):
    """As they are; but one that would act for somebody else never is."""
    await house.open()
    from world import controls

    answered = ldap.message(1, ber.tlv(ldap.BIND_RESPONSE, b"\x0a\x01\x00\x04\x00\x04\x00"), controls(b"1.3.6.1.4.1.42.2.27.8.5.1"))
    house.directory.misbehave = lambda link, frame: [answered] if frame.tag == ldap.BIND_REQUEST and _bound(link, frame) else None

    def _bound(link, frame):
        link.bound = dn.normalise(ALICE)
        return True

    asked = controls(b"1.3.6.1.4.1.42.2.27.8.5.1", critical=False)
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code(), controls=asked))
    (frame,) = await client.answers()
    assert frame.raw == answered
    assert next(frame for frame in house.directory.seen if frame.tag == ldap.BIND_REQUEST).raw.endswith(asked)
    for oid in (b"2.16.840.1.113730.3.4.18", b"2.16.840.1.113730.3.4.12"):
        client.send(bind(1, ALICE, PASSWORD + house.next_code(), controls=controls(oid, critical=False)))
        assert await client.code() == 123
    assert len(house.directory.binds()) == 1


async def test_a_success_with_the_directorys_warning_does_not_leak_when_the_code_is_wrong(house):
    """Grace logins, password expiry: the controls of the directory's success are for who has the code."""
    await house.open()
    from world import controls

    def misbehave(link, frame):
        if frame.tag != ldap.BIND_REQUEST:
            return None
        link.bound = dn.normalise(ALICE)
        return [ldap.message(frame.id, ber.tlv(ldap.BIND_RESPONSE, b"\x0a\x01\x00\x04\x00\x04\x07expires"), controls(b"1.3.6.1.4.1.42.2.27.8.5.1"))]

    house.directory.misbehave = misbehave
    frame = await answer(house, house.client(), ALICE, PASSWORD + WRONG)
    assert b"expires" not in frame.raw
    assert frame.controls == ()


async def test_bystanders_of_a_deadline(house):
    """Whoever waits too long is broken, not refused; the next is served."""
    await house.open()
    house.with_(doorway=replace(house.listener.doorway, deadline=5.0))
    house.directory.holds = lambda link, frame: frame.tag == ldap.EXTENDED_REQUEST
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    house.clock.advance(5.1)
    assert await client.code() == 52
    assert house.events[-1].reason == "deadline"
    house.directory.release()
    assert client.came == b""
    assert not house.links_open
    assert await client.log_in() == 0
