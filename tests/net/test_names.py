"""Addresses that are kept: a DNS that hangs delays nobody who has an address, and takes one thread for a name."""

from twisted.internet.address import IPv4Address

from ldapmfa.net.names import Names


class Resolver:
    """Answers when a test says so."""

    def __init__(self):
        self.asked = []

    def resolveHostName(self, receiver, name, port, kinds, transport):
        self.asked.append((receiver, name, port))
        receiver.resolutionBegan(None)

    def answer(self, *addresses):
        receiver, _, port = self.asked.pop(0)
        for address in addresses:
            receiver.addressResolved(IPv4Address("TCP", address, port))
        receiver.resolutionComplete()


class AtOnce(Resolver):
    def resolveHostName(self, *arguments):
        super().resolveHostName(*arguments)
        self.answer("10.0.0.1")


class Receiver:
    def __init__(self):
        self.found, self.complete = [], 0

    def resolutionBegan(self, resolution):
        self.name = resolution.name

    def addressResolved(self, address):
        assert not self.complete
        self.found.append(address.host)

    def resolutionComplete(self):
        self.complete += 1


class Asking:
    def __init__(self, resolver):
        self.now = 1000.0
        self.said = []
        self.resolver = resolver
        self.names = Names(resolver, lambda: self.now, lambda name, found: self.said.append((name, found)))

    def ask(self, name="dc1.test", port=389):
        receiver = Receiver()
        self.names.resolveHostName(receiver, name, port)
        assert receiver.name == name
        return receiver


def test_many_who_want_one_name_wait_for_one_look_up():
    asking = Asking(Resolver())
    waiting = [asking.ask() for _ in range(50)]
    other = asking.ask("dc2.test")
    assert len(asking.resolver.asked) == 2
    assert not any(receiver.complete for receiver in waiting)
    asking.resolver.answer("10.0.0.1", "10.0.0.2")
    assert all((receiver.found, receiver.complete) == (["10.0.0.1", "10.0.0.2"], 1) for receiver in waiting)
    assert not other.complete


def test_a_known_address_is_given_at_once_and_looked_up_anew_behind_that():
    asking = Asking(Resolver())
    asking.ask()
    asking.resolver.answer("10.0.0.1")
    asking.now += 29
    assert asking.ask().found == ["10.0.0.1"]
    assert not asking.resolver.asked
    asking.now += 1
    assert [asking.ask().complete for _ in range(20)] == [1] * 20
    assert len(asking.resolver.asked) == 1, "a DNS that hangs takes one thread for a name"
    asking.resolver.answer("10.0.0.9")
    assert asking.ask().found == ["10.0.0.9"]


def test_the_last_known_address_is_used_on_when_the_dns_is_gone():
    asking = Asking(Resolver())
    asking.ask()
    asking.resolver.answer("10.0.0.1")
    for _ in range(3):
        asking.now += 60
        assert asking.ask().found == ["10.0.0.1"]
        asking.resolver.answer()
    assert asking.said == [("dc1.test", False)]
    asking.now += 60
    asking.ask()
    asking.resolver.answer("10.0.0.1")
    assert asking.said == [("dc1.test", False), ("dc1.test", True)]


def test_a_name_that_nobody_knows_is_asked_for_again():
    asking = Asking(Resolver())
    first = asking.ask()
    asking.resolver.answer()
    assert (first.found, first.complete) == ([], 1)
    second = asking.ask()
    asking.resolver.answer("10.0.0.1")
    assert second.found == ["10.0.0.1"]


def test_a_resolver_that_answers_at_once_tells_each_once():
    asking = Asking(AtOnce())
    assert [asking.ask().complete for _ in range(3)] == [1, 1, 1]


def test_A41_names_that_change_for_ever_are_not_kept_for_ever_and_drive_out_no_name_in_use():
    """Whoever answers for the DNS may name other hosts every few seconds."""
    asking = Asking(AtOnce())
    for number in range(5000):
        asking.ask(f"dc{number}.test")
        asking.ask("ours.test")
    assert len(asking.names._known) <= 1000
    asking.names._resolver = Resolver()
    assert asking.ask("ours.test").found == ["10.0.0.1"]
    hung = Asking(Resolver())
    first = hung.ask("first.test")
    for number in range(2000):
        hung.ask(f"dc{number}.test")
    hung.resolver.answer("10.0.0.9")
    assert first.found == ["10.0.0.9"], "who waits is told"
