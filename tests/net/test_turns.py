"""Which worker accepts the next client."""

import os

import pytest
from twisted.internet.task import Clock

from ldapmfa.net.turns import Clients, Counts, by_turns


class Port:
    """As much of Twisted's as is governed."""

    connected = True
    disconnecting = False
    reading = True

    def __init__(self):
        self.accepted = []
        self.numberAccepts = 100

    def doRead(self):
        self.accepted.append(self.numberAccepts)
        self.numberAccepts += 20

    def stopReading(self):
        self.reading = False

    def startReading(self):
        self.reading = True


@pytest.fixture
def counts():
    counts = Counts.of(2)
    yield counts
    os.close(counts.descriptor)


@pytest.fixture
def one(counts):
    clients = Clients(counts, 1)
    clients.here()
    return clients


@pytest.fixture
def other(counts):
    clients = Clients(Counts(counts.descriptor), 2)
    clients.here()
    return clients


@pytest.fixture
def port(one):
    port, clock = Port(), Clock()
    port.clock = clock
    by_turns(port, one, clock)
    return port


def come(clients, count):
    for number in range(count):
        clients.add(number)


@pytest.mark.parametrize(
    ("mine", "others", "too_many"),
    [(0, 0, False), (1, 0, True), (1, 1, False), (2, 1, True), (0, 5, False), (9, 8, False), (10, 8, True), (113, 101, False)],
)
def test_whoever_has_clearly_more_than_another_waits(one, other, mine, others, too_many):
    come(one, mine)
    come(other, others)
    assert one.too_many() is too_many


def test_clients_that_left_do_not_count(one, other):
    come(one, 3)
    come(other, 3)
    other.discard(0)
    other.discard(0)
    assert one.too_many()
    one.discard(0)
    assert not one.too_many()


def test_one_that_is_absent_is_not_waited_for(counts, one):
    come(one, 3)
    assert not one.too_many()  # the other has not come yet
    Clients(counts, 2).here()
    assert one.too_many()
    counts.absent(2)
    assert not one.too_many()


def test_a_client_at_a_time(port):
    port.doRead()
    port.doRead()
    assert port.accepted == [1, 1]


def test_a_client_that_no_other_took_is_accepted_after_five_milliseconds(port, one, other):
    come(one, 1)
    port.doRead()
    assert (port.accepted, port.reading) == ([], False)
    port.clock.advance(0.0049)
    assert port.accepted == []
    port.clock.advance(0.0001)
    assert (port.accepted, port.reading) == ([1], True)


def test_of_many_that_no_other_takes_twice_as_many_are_taken_each_time(port, one, other):
    come(one, 1)
    for _ in range(9):
        port.doRead()
        port.clock.advance(0.005)
    assert port.accepted == [1, 2, 4, 8, 16, 32, 64, 100, 100]
    one.clear()
    port.doRead()
    come(one, 1)
    port.doRead()
    port.clock.advance(0.005)
    assert port.accepted[-1] == 1


@pytest.mark.parametrize("state", [{"connected": False}, {"disconnecting": True}])
def test_a_port_that_was_closed_meanwhile_accepts_nobody(port, one, other, state):
    come(one, 1)
    port.doRead()
    vars(port).update(state)
    port.clock.advance(1)
    assert (port.accepted, port.reading) == ([], False)


def test_a_worker_that_does_not_accept_yet_is_not_waited_for():
    counts = Counts.of(2)
    one, other = Clients(counts, 1), Clients(counts, 2)
    one.here()
    one.update(range(5))
    one.add(5)
    assert not one.too_many()
    other.here()
    assert one.too_many()


def test_a_worker_takes_no_more_at_once_than_make_it_anothers_turn():
    counts = Counts.of(2)
    counts.has(1, 0)
    counts.has(2, 40)
    assert counts.room(0) == 1  # an empty worker beside a full one: the others look again after each
    counts.has(1, 32)
    assert counts.room(32) == 5
    assert counts.room(36) == 1
    assert counts.room(40) == 1
    counts.absent(2)
    assert counts.room(32) == 5
