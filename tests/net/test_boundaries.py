"""Our own answers inside the directory's stream: at a boundary, or not at all. No store, no login: the relay alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, bind, controls, entry, extended, frames, result, root_dse, search

from ldapmfa.core.session import Rules
from ldapmfa.wire import ber, ldap

PROXIED = controls(b"2.16.840.1.113730.3.4.18")
NOTICE = ldap.notice_of_disconnection(51, "the directory says good-bye")


def house():
    return World(None).assemble()


def big(message_id, size):
    return entry(message_id, "cn=x", a=[b"x" * size])


#: What a directory sends: headers of every length, so that a cut may fall into one.
MESSAGES = st.lists(
    st.one_of(
        st.builds(big, st.sampled_from((1, 127, 128, 70_000, 2**31 - 1)), st.sampled_from((0, 1, 90, 200, 300, 70_000))),
        st.builds(lambda number: result(number, ldap.SEARCH_REQUEST), st.integers(1, 2**31 - 1)),
        st.just(ldap.message(3, ber.tlv(ldap.INTERMEDIATE_RESPONSE))),
    ),
    min_size=1,
    max_size=8,
)


def cut(data, stream, ends=()):
    """`stream` in pieces, cut anywhere, and most often close to where a message ends."""
    near = st.builds(lambda end, off: end + off, st.sampled_from((0, *ends, len(stream))), st.integers(-8, 12))
    cuts = data.draw(st.lists(st.one_of(near, st.integers(0, len(stream))), max_size=20))
    cuts = sorted({0, len(stream), *(min(max(cut, 0), len(stream)) for cut in cuts)})
    return [stream[start:stop] for start, stop in itertools.pairwise(cuts)]


def ends(messages):
    return list(itertools.accumulate(map(len, messages)))


@given(MESSAGES, st.data())
def test_local_refusals_go_in_at_boundaries_whatever_the_split(messages, data):
    world = house()
    client, link = world.bound_client()
    refused = 0
    for piece in cut(data, b"".join(messages), ends(messages)):
        link.send(piece)
        if refused < 50 and data.draw(st.booleans()):
            refused += 1
            client.send(search(refused, controls=PROXIED))
    came = client.take()
    ours = [frame for frame in came if frame.tag == ldap.SEARCH_DONE and ldap.read_result(frame).code == 123]
    assert [frame.id for frame in ours] == list(range(1, refused + 1))
    assert b"".join(frame.raw for frame in came if frame not in ours) == b"".join(messages)
    assert not client.front._unsent


@given(MESSAGES, st.data())
def test_a_link_dropped_in_a_message_carries_that_one_to_its_end_and_nothing_after_it(messages, data):
    world = house()
    client, link = world.bound_client()
    stream = b"".join(messages)
    near = st.builds(lambda end, off: min(max(end + off, 0), len(stream)), st.sampled_from(ends(messages)), st.integers(-20, 12))
    dropped = data.draw(st.one_of(near, st.integers(0, len(stream))))
    link.send(stream[:dropped])
    client.send(bind(77, b"cn=x", b"y", version=2))  # refused at once: nothing of the old link any more
    for piece in cut(data, stream[dropped:], [end - dropped for end in ends(messages)]):
        link.send(piece)
    kept, size = [], 0
    while size < dropped:
        kept.append(messages[len(kept)])
        size += len(kept[-1])
    came = client.take()
    assert [frame.raw for frame in came[:-1]] == kept
    assert (came[-1].id, came[-1].tag, ldap.read_result(came[-1]).code) == (77, ldap.BIND_RESPONSE, 2)
    assert not link.pipe.open
    assert not world.clock.getDelayedCalls() or "drain" not in client.front._timers
    client.send(search(78))
    assert [ldap.read_result(frame).code for frame in client.take()] == [50]


@given(MESSAGES, st.data())
def test_a_link_lost_at_a_boundary_is_announced_and_one_lost_in_a_message_is_not(messages, data):
    world = house()
    client, link = world.bound_client()
    stream = b"".join(messages)
    lost = data.draw(st.integers(0, len(stream)))
    link.send(stream[:lost])
    link.pipe.cut()
    whole, size = [], 0
    for message in messages:
        if size + len(message) <= lost:
            whole.append(message)
            size += len(message)
        else:
            break
    assert not client.pipe.open
    if size == lost:
        came = client.take()
        assert b"".join(frame.raw for frame in came[:-1]) == stream[:lost]
        assert (came[-1].id, ldap.read_result(came[-1]).code) == (0, 52)
        assert not client.pipe.aborted
    else:
        assert client.came == stream[:lost]
        assert client.pipe.aborted


@given(MESSAGES, st.sampled_from((b"\x31", b"\x30\x80", b"\x30\x85", b"\x30\x03\x02\x01", b"0\x06\x04\x01\x01e\x00\x00")), st.data())
def test_octets_that_are_no_ldap_end_the_client_without_a_word_in_a_message(messages, garbage, data):
    world = house()
    client, link = world.bound_client()
    stream = b"".join(messages)
    for piece in cut(data, stream + garbage + bytes(9), ends(messages)):
        link.send(piece)
    assert not link.pipe.open
    assert not client.pipe.open
    told = bytes(client.pipe.written)
    if client.pipe.aborted:
        assert (stream + garbage + bytes(9)).startswith(told)
    else:
        assert frames(told)[-1].id == 0
        assert stream.startswith(b"".join(frame.raw for frame in frames(told)[:-1]))


@given(MESSAGES, MESSAGES, st.data())
def test_the_directorys_notice_is_relayed_then_both_sides_close(before, after, data):
    world = house()
    client, link = world.bound_client()
    for piece in cut(data, b"".join((*before, NOTICE)), ends(before)):
        link.send(piece)
    assert bytes(client.pipe.written) == b"".join((*before, NOTICE))
    assert not client.pipe.open
    assert not client.pipe.aborted
    assert not link.pipe.open
    link.send(b"".join(after))
    assert not world.clients


def test_behind_the_directorys_notice_nothing_is_relayed():
    world = house()
    client, link = world.bound_client()
    link.send(NOTICE[:20])
    link.send(NOTICE[20:] + result(5, ldap.SEARCH_REQUEST))
    assert bytes(client.pipe.written) == NOTICE
    assert not client.pipe.open


def test_requests_of_one_segment_reach_the_directory_in_one_write():
    world = house()
    client, link = world.bound_client()
    writes = []
    link.pipe.write = writes.append
    client.front.dataReceived(search(1) + search(2) + search(3))
    assert writes == [search(1) + search(2) + search(3)]


@pytest.mark.parametrize("lasts", [search(9), bind(9, b"", b""), extended(9, ldap.OID_WHO_AM_I)], ids=["search", "bind", "whoami"])
def test_requests_are_performed_in_the_order_in_which_they_came(lasts):
    """A refusal between two relayed requests splits the run, and none overtakes another."""
    world = house()
    client, link = world.bound_client()
    client.send(search(1), search(2, controls=PROXIED), lasts)
    tags = [(frame.id, frame.tag) for frame in link.received if frame.tag != ldap.UNBIND_REQUEST]
    assert tags[0] == (1, ldap.SEARCH_REQUEST)
    assert (2, ldap.SEARCH_REQUEST) not in tags
    assert (2, 123) in [(frame.id, ldap.read_result(frame).code) for frame in client.take()]


def test_answers_of_ours_do_not_pile_up_behind_a_message_that_never_ends():
    """A41: while the directory is in the middle of a message our refusals wait; the client is not read meanwhile."""
    world = house()
    client, link = world.bound_client()
    link.send(big(1, 500)[:100])
    sent = 0
    while not client.pipe.paused and sent < 8_000:
        sent += 1
        client.send(search(sent, controls=PROXIED))
    assert client.pipe.paused, "the client was read for ever"
    assert len(client.front._unsent) <= 2 * world.rules.held_octets
    assert client.front._unsent
    assert world.budget.octets_used >= len(client.front._unsent)
    link.send(big(1, 500)[100:])
    assert not client.pipe.paused
    assert len(client.take()) == 1 + sent
    assert world.budget.octets_used == 0


def test_a_link_dropped_in_a_message_that_never_ends_is_cut_after_a_while():
    world = house()
    client, link = world.bound_client()
    link.send(big(1, 500)[:100])
    client.send(bind(2, b"cn=x", b"y", version=2))
    world.clock.advance(9.9)
    assert client.pipe.open
    world.clock.advance(0.2)
    assert client.pipe.aborted
    assert client.came == big(1, 500)[:100]
    assert not link.pipe.open
    assert not world.clients


def test_the_client_leaves_while_a_message_is_carried_to_its_end():
    world = house()
    client, link = world.bound_client()
    link.send(big(1, 500)[:100])
    client.send(bind(2, b"cn=x", b"y", version=2))
    client.leave()
    assert not link.pipe.open
    assert not world.clients
    world.clock.advance(60)
    assert not world.clock.getDelayedCalls()


def test_the_link_is_lost_while_a_message_is_carried_to_its_end():
    world = house()
    client, link = world.bound_client()
    link.send(big(1, 500)[:100])
    client.send(bind(2, b"cn=x", b"y", version=2))
    link.pipe.cut()
    assert client.pipe.aborted
    assert client.came == big(1, 500)[:100]


def test_unbind_in_the_middle_of_a_message_closes_behind_it():
    world = house()
    client, link = world.bound_client()
    link.send(big(1, 500)[:100])
    client.send(ldap.message(2, ldap.UNBIND))
    assert client.pipe.open
    link.send(big(1, 500)[100:] + result(1, ldap.SEARCH_REQUEST))
    assert bytes(client.pipe.written) == big(1, 500)
    assert not client.pipe.open
    assert not link.pipe.open


def test_A38_start_tls_is_refused_while_a_message_is_carried_to_its_end():
    """Its agreement would wait for the boundary and leave inside the encryption; the rest of the message, too."""
    world = World(None, rules=Rules(starttls=True)).assemble().with_(tls=object())
    client, link = world.bound_client()
    link.send(big(1, 500)[:100])
    client.send(bind(2, b"cn=x", b"y", version=2))
    client.send(extended(3, ldap.OID_START_TLS))
    assert client.pipe.tls is None
    link.send(big(1, 500)[100:])
    assert [(frame.id, frame.tag) for frame in client.take()] == [(1, 0x64), (2, 0x61), (3, 0x78)]
    assert client.pipe.tls is None
    client.send(extended(4, ldap.OID_START_TLS))
    assert await_code(client) == 0
    assert client.pipe.tls is not None


def await_code(client):
    return ldap.read_result(client.take()[-1]).code


def test_an_anonymous_client_is_told_when_the_directory_leaves_in_debt():
    world = house()
    client, link = world.bound_client()
    client.send(bind(1, b"", b""))
    assert await_code(client) == 0
    assert not link.pipe.open  # who becomes anonymous leaves the link behind
    assert client.pipe.open
    client.send(root_dse(2), b"")
    assert client.pipe.open
