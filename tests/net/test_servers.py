"""Which server is asked next, whatever was found out about it and the others."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldapmfa.net.link import Server
from ldapmfa.net.servers import Place, Servers

ONE, TWO, THREE = (Server(f"dc{number}.test", 389, ldaps=False) for number in (1, 2, 3))


class Time:
    now = 100.0

    def __call__(self):
        return self.now


def listed(*places, chance=lambda: 0.0, told=None):
    time = Time()
    places = [place if isinstance(place, Place) else Place(place, at) for at, place in enumerate(places)]
    changed = (lambda state, before: told.append((state.server, before, state.condition))) if told is not None else (lambda *_: None)
    return Servers(places, clock=time, chance=chance, changed=changed), time


def order(servers, **options):
    """Who is tried one after the other, while everybody fails."""
    tried = []
    while server := servers.choose(set(tried), **options):
        tried.append(server)
    return tried


def test_in_the_order_of_the_list():
    servers, _ = listed(ONE, TWO, THREE)
    assert order(servers) == [ONE, TWO, THREE]
    servers.connected(ONE)
    assert servers.choose() == ONE
    assert [servers.is_best(server) for server in (ONE, TWO, THREE)] == [True, False, False]


def test_who_is_down_is_not_chosen_unless_nobody_looks_after_it():
    servers, _ = listed(ONE, TWO)
    servers.down(ONE, "refused")
    assert order(servers) == [TWO]
    assert order(servers, desperate=True) == [TWO, ONE]
    servers.down(TWO, "hung")
    assert order(servers) == []
    assert servers.complaint() == "refused; hung"
    assert not servers.is_best(ONE)
    servers.well(ONE)
    assert order(servers) == [ONE]


def test_who_is_not_synchronised_comes_behind_all_that_may_serve():
    servers, _ = listed(ONE, TWO, THREE)
    servers.well(ONE, synchronised=False)
    servers.suspect(TWO, "slow")
    assert order(servers) == [THREE, TWO, ONE]
    servers.down(TWO, "hung")
    servers.down(THREE, "refused")
    assert order(servers) == [ONE]
    servers.well(ONE)
    servers.well(THREE)
    assert order(servers) == [ONE, THREE]


def test_suspicion_makes_nobody_of_those_who_are_down_better():
    servers, _ = listed(ONE)
    servers.down(ONE, "refused")
    servers.suspect(ONE, "slow")
    assert servers.choose() is None
    servers.well(ONE)
    servers.suspect(ONE, "slow")
    assert servers.choose() == ONE, "the only one is asked on, until it is known to be down"


def test_the_load_is_spread_over_those_of_the_same_turn():
    servers, _ = listed(Place(ONE), Place(TWO), Place(THREE, 1), chance=lambda: 0.6)
    assert servers.choose() == TWO
    servers.connected(TWO)
    assert servers.choose() == ONE
    servers.connected(ONE)
    servers.connected(ONE)
    assert servers.choose() == TWO
    for _ in range(5):
        servers.disconnected(ONE)
    assert servers.choose() == ONE
    servers.down(ONE, "x")
    servers.down(TWO, "x")
    assert servers.choose() == THREE


def test_by_weight_as_SRV_records_have_it():
    chances = iter([number / 1000 for number in range(1000)])
    servers, _ = listed(Place(ONE, 0, 60), Place(TWO, 0, 30), Place(THREE, 0, 10), chance=lambda: next(chances))
    chosen = Counter(servers.choose() for _ in range(1000))
    assert chosen == {ONE: 600, TWO: 300, THREE: 100}
    servers, _ = listed(Place(ONE, 0, 60), Place(TWO, 0, 30))
    for _ in range(90):
        servers.connected(servers.choose())
    assert [state.links for state in servers.states()] == [60, 30]
    servers, _ = listed(Place(ONE, 0, 0), Place(TWO, 0, 1), chance=lambda: 0.999)
    assert order(servers) == [TWO, ONE]
    servers, _ = listed(Place(ONE, 0, 0), Place(TWO, 0, 0), chance=lambda: 0.999)
    assert order(servers) == [TWO, ONE]


def test_every_change_is_told_once_with_since_when_and_why():
    told = []
    servers, time = listed(ONE, TWO, told=told)
    servers.down(ONE, "refused")
    time.now += 5
    servers.down(ONE, "timed out")
    servers.well(TWO)
    servers.well(ONE, synchronised=False)
    servers.suspect(TWO, "slow")
    servers.suspect(TWO, "slower")
    assert told == [(ONE, "unknown", "down"), (TWO, "unknown", "up"), (ONE, "down", "unsynchronised"), (TWO, "up", "suspected")]
    time.now += 7
    one, two = servers.states()
    assert (one.server, one.condition, one.seconds) == (ONE, "unsynchronised", 7)
    assert "isSynchronized" in one.reason
    assert (two.condition, two.reason) == ("suspected", "slow")


def test_what_is_known_of_a_server_stays_when_the_list_changes():
    servers, _ = listed(ONE, TWO)
    servers.down(ONE, "refused")
    servers.connected(TWO)
    servers.replace([Place(TWO, 5), Place(THREE, 1), Place(ONE, 0)])
    assert order(servers) == [THREE, TWO]
    assert [(state.server, state.condition, state.links) for state in servers.states()] == [
        (ONE, "down", 0), (THREE, "unknown", 0), (TWO, "unknown", 1),
    ]
    servers.replace([])
    for act in (servers.well, servers.connected, servers.disconnected):
        act(ONE)
    servers.down(ONE, "x")
    servers.suspect(ONE, "x")
    assert servers.choose() is None
    assert servers.complaint() == "no server is known"
    assert not servers.is_best(ONE)
    assert len(servers) == 0


HAPPENINGS = st.lists(
    st.tuples(st.sampled_from([ONE, TWO, THREE]), st.sampled_from(["well", "unsynchronised", "down", "suspect", "connected", "disconnected"])),
    max_size=30,
)


@given(HAPPENINGS, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 100)), min_size=3, max_size=3), st.floats(0, 0.999))
def test_nobody_who_is_down_or_behind_is_asked_while_another_is_well(happenings, turns, luck):
    places = [Place(server, *turn) for server, turn in zip((ONE, TWO, THREE), turns, strict=True)]
    servers, _ = listed(*places, chance=lambda: luck)
    for server, what in happenings:
        if what in {"down", "suspect"}:
            getattr(servers, what)(server, "x")
        elif what == "unsynchronised":
            servers.well(server, synchronised=False)
        else:
            getattr(servers, what)(server)
    states = {state.server: state.condition for state in servers.states()}
    tried = order(servers)
    assert set(tried) == {server for server, condition in states.items() if condition != "down"}
    rank = [["unknown up", "suspected", "unsynchronised"].index(next(words for words in ("unknown up", "suspected", "unsynchronised") if states[server] in words.split())) for server in tried]
    assert rank == sorted(rank)
    if tried:
        assert servers.is_best(tried[0])
    assert not any(servers.is_best(server) for server, condition in states.items() if condition == "down")


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999999999])
def test_whatever_the_luck_somebody_is_chosen(luck):
    servers, _ = listed(Place(ONE, 0, 3), Place(TWO, 0, 3), chance=lambda: luck)
    assert servers.choose() in {ONE, TWO}
