"""The client: a process of its own that keeps a server busy with hand-made bytes and costs little itself.

It is told what to do as JSON: its one argument says which kind of load, then each line on standard input how many
operations to do now, and each line on standard output how that went. Between two lines it is idle, with its
connections open, so that the processor time of a server read before and after belongs to just these operations.

No LDAP library and no event loop stands in between: non-blocking sockets and one epoll. A search counts as done when
a SearchResultDone with success went by; any other result lets the load stall, and a stall is a failure.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import hmac
import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.programs.approval import APPROVED, ASKED
from ldapmfa.wire import ber, ldap

#: The end of a SearchResultDone with success, no matched name and no text.
DONE: Final = bytes.fromhex("6507 0a0100 0400 0400")
#: Seconds without any answer after which the rest has failed.
STALL: Final = 20
_UNBIND: Final = ldap.message(2, ldap.UNBIND)
_READ: Final = 1 << 18
_PERIOD: Final = 30
#: Message ids of one octet, so that no request is longer than another.
_IDS: Final = range(2, 122)


def connected(spec: dict[str, Any]) -> socket.socket:
    """A connection, over verified TLS if the load says whom to trust."""
    made = socket.socket()
    if "receive_buffer" in spec:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, spec["receive_buffer"])
    made.connect(("127.0.0.1", spec["port"]))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if spec.get("ca"):
        return ssl.create_default_context(cafile=spec["ca"]).wrap_socket(made, server_hostname="localhost")
    return made


def bound(spec: dict[str, Any]) -> socket.socket:
    """A connection whose bind was answered with success."""
    made = connected(spec)
    made.settimeout(STALL)
    made.sendall(ldap.message(1, ldap.bind_request(spec["dn"].encode(), spec["password"].encode())))
    code = bind_code(made.recv(4096))
    if code:
        raise SystemExit(f"the bind of {spec['dn']} was answered with {code}")
    return made


def bind_code(answer: bytes) -> int:
    """The result code of a BindResponse, -1 for anything else; it comes in one piece, being short."""
    at = answer.find(b"\x0a\x01")
    return answer[at + 2] if at > 0 and b"\x61" in answer[:at] and at + 2 < len(answer) else -1


def heard(one: socket.socket) -> int | None:
    """The result code of the bind that a connection has become readable for, below 0 if it failed; None: not yet."""
    try:
        return bind_code(one.recv(4096))
    except ssl.SSLWantReadError:
        return None  # it was TLS's own, such as a session ticket
    except OSError as error:
        return -(error.errno or errno.EIO)


class Searches:
    """Searches over connections that stay: `connections` of them with `in_flight` requests each.

    Each request is a write of its own, as client libraries do it, even where several are due.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._sockets = [bound(spec) for _ in range(spec["connections"])]
        self._in_flight = spec["in_flight"]
        self._encrypted = bool(spec.get("ca"))
        self._requests = [self._endless(spec, number) for number in range(len(self._sockets))]
        self._epoll = select.epoll()
        self._numbers = {}
        for number, one in enumerate(self._sockets):
            one.settimeout(0)
            self._numbers[one.fileno()] = number
            self._epoll.register(one, select.EPOLLIN)

    @staticmethod
    def _endless(spec: dict[str, Any], number: int) -> Iterator[bytes]:
        """Requests, round and round; with `uid` in the load they ask for other entries each time."""
        base = spec["base"].encode()
        ring = []
        for message_id in _IDS:
            where = ldap.ANY_ENTRY
            if "uid" in spec:
                uid = spec["uid"].format((number * 2503 + message_id * 73) % spec["uids"])
                where = ldap.equals("uid", uid.encode())
            operation = ldap.search_request(base, (), scope=ldap.SUBTREE, where=where)
            ring.append(ldap.message(message_id, operation))
        while True:
            yield from ring

    def run(self, operations: int) -> dict[str, Any]:
        """That many searches; gives how many were answered and how many octets came."""
        unsent, octets, tails = operations, 0, [b""] * len(self._sockets)
        pending = 0
        started = time.perf_counter()
        for number, one in enumerate(self._sockets):
            for _ in range(min(self._in_flight, unsent)):
                one.send(next(self._requests[number]))
                unsent -= 1
                pending += 1
        while pending:
            ready = self._epoll.poll(STALL)
            if not ready:
                break
            for descriptor, _event in ready:
                number = self._numbers[descriptor]
                one = self._sockets[number]
                data = self._read(one)
                if not data:
                    return {"failed": pending + unsent, "why": "the connection was closed"}
                octets += len(data)
                chunk = tails[number] + data
                tails[number] = chunk[1 - len(DONE) :]
                answered = chunk.count(DONE)
                pending -= answered
                for _ in range(min(answered, unsent)):
                    one.send(next(self._requests[number]))
                    unsent -= 1
                    pending += 1
        seconds = time.perf_counter() - started
        return {"failed": pending + unsent, "why": "no answer", "seconds": seconds, "octets": octets}

    def _read(self, one: socket.socket) -> bytes:
        """What is there; from TLS all of it, for epoll knows nothing of what was decrypted already."""
        if not self._encrypted:
            return one.recv(_READ)
        found = []
        try:
            while data := one.recv(_READ):
                found.append(data)
        except ssl.SSLWantReadError:
            pass
        return b"".join(found)


class Logins:
    """Connect, bind, read the answer, unbind, close: `at_once` of them at a time.

    With `hold` the connections stay instead. With `accounts`, each is used in turn with a one-time code behind its
    password, and no code twice: the code of the current step, or of the one after the account's last. So an account can
    log in twice within 30 s; where more were needed, a run waits before it begins. With `rate` no more than so many
    begin in a second, and their times count from when they should have begun.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._used = [0] * spec.get("accounts", 0)
        self._turn = 0
        self._requests = self._codes() if self._used else self._same()
        self._held: list[socket.socket] = []

    def _same(self) -> Iterator[bytes]:
        request = ldap.message(1, ldap.bind_request(self._spec["dn"].encode(), self._spec["password"].encode()))
        while True:
            yield request

    def _codes(self) -> Iterator[bytes]:
        while True:
            number, self._turn = self._turn, (self._turn + 1) % len(self._used)
            step = self._used[number] = max(int(time.time() // _PERIOD), self._used[number] + 1)
            number += self._spec.get("first", 0)
            password = self._spec["password"] + code(secret(number), step)
            yield ldap.message(1, ldap.bind_request(self._spec["dn"].format(number).encode(), password.encode()))

    def _wait_for_codes(self, operations: int) -> None:
        """Until all accounts whose turn comes have a code that a clock may be ahead by."""
        due = [self._used[(self._turn + number) % len(self._used)] for number in range(operations)]
        time.sleep(max(0.0, max(due) * _PERIOD - time.time()))

    def run(self, operations: int) -> dict[str, Any]:
        """That many logins; gives the wall time of each from before its connect to its answer, in milliseconds."""
        if self._used:
            self._wait_for_codes(operations)
        unbegun, codes = operations, dict[int, int]()
        taken = []
        open_ones: dict[int, tuple[socket.socket, float]] = {}
        poll = select.epoll()

        def begin(began: float) -> None:
            request = next(self._requests)
            one = connected(self._spec)
            one.send(request)
            one.settimeout(0)
            open_ones[one.fileno()] = one, began
            poll.register(one, select.EPOLLIN)

        at_once, pace = self._spec["at_once"], 1 / self._spec["rate"] if "rate" in self._spec else 0.0
        started = time.perf_counter()
        while open_ones or unbegun:
            wait: float = STALL
            while unbegun and len(open_ones) < at_once:
                now = time.perf_counter()
                due = started + (operations - unbegun) * pace if pace else now
                if due > now:
                    wait = due - now
                    break
                begin(due)
                unbegun -= 1
            ready = poll.poll(wait)
            if not ready and wait == STALL:
                break
            for descriptor, _event in ready:
                one, began = open_ones[descriptor]
                answer = heard(one)
                if answer is None:
                    continue
                del open_ones[descriptor]
                poll.unregister(descriptor)
                taken.append((time.perf_counter() - began) * 1000)
                if answer:
                    codes[answer] = codes.get(answer, 0) + 1
                elif self._spec.get("hold"):
                    self._held.append(one)
                    continue
                with contextlib.suppress(OSError):
                    one.send(_UNBIND)
                one.close()
        seconds = time.perf_counter() - started
        taken.sort()
        return {
            "failed": sum(codes.values()) + len(open_ones) + unbegun,
            "why": f"result codes {codes}, {len(open_ones)} without an answer",
            "seconds": seconds,
            "p50_ms": taken[len(taken) // 2],
            "p99_ms": taken[len(taken) * 99 // 100],
        }


class Duels(Logins):
    """Each code at the same time on two connections, `at_once` pairs at a time: exactly one of the two must win."""

    def run(self, operations: int) -> dict[str, Any]:
        """That many codes; gives how many were not won once."""
        self._wait_for_codes(operations)
        ends: dict[str, int] = {}
        for begin in range(0, operations, self._spec["at_once"]):
            pairs = [
                (next(self._requests), connected(self._spec), connected(self._spec))
                for _ in range(min(self._spec["at_once"], operations - begin))
            ]
            for request, *both in pairs:
                for one in both:
                    one.settimeout(STALL)
                    one.send(request)
            for _, *both in pairs:
                end = str(sorted(bind_code(one.recv(4096)) for one in both))
                ends[end] = ends.get(end, 0) + 1
                for one in both:
                    one.close()
        return {"failed": operations - ends.get("[0, 49]", 0), "why": f"the two answers to a code were {ends}"}


class Pending:
    """Clients that bind by password alone, each as another account, and wait for the benchmark's approval.

    The folder `approvals` is that of `programs.approval`.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._place = Path(spec["approvals"])
        self._waiting: list[socket.socket] = []

    def run(self, operations: int) -> dict[str, Any]:
        """So many more, until all are asked; 0: approve of all, and each hears success, and says who it is.

        They are approved in portions of `at_once`, for who was approved has a connection to the directory.
        """
        return self._more(operations) if operations else self._approved()

    def _more(self, operations: int) -> dict[str, Any]:
        password = self._spec["password"].encode()
        for _ in range(operations):
            name = self._spec["dn"].format(len(self._waiting)).encode()
            one = connected(self._spec)
            one.send(ldap.message(1, ldap.bind_request(name, password)))
            self._waiting.append(one)
            if not self._asked(len(self._waiting) - self._spec["unasked"]):
                break
        self._asked(len(self._waiting))
        missing = len(self._waiting) - self._how_many()
        return {"failed": missing, "why": f"of {len(self._waiting)} so many are not asked"}

    def _how_many(self) -> int:
        asked = self._place / ASKED
        return asked.stat().st_size if asked.exists() else 0

    def _asked(self, enough: int) -> bool:
        """Wait until so many are; False if they don't get more."""
        since, before = time.monotonic(), -1
        while (now := self._how_many()) < enough:
            if now > before:
                since, before = time.monotonic(), now
            elif time.monotonic() - since > STALL:
                return False
            time.sleep(0.002)
        return True

    def _approved(self) -> dict[str, Any]:
        waiting = {one.fileno(): (number, one) for number, one in enumerate(self._waiting)}
        self._waiting = []
        codes: dict[int, int] = {}
        strangers = 0
        poll = select.epoll()
        for descriptor, (_, one) in waiting.items():
            one.settimeout(0)
            poll.register(descriptor, select.EPOLLIN)
        approved = os.open(self._place / APPROVED, os.O_WRONLY)
        while waiting:
            due = min(self._spec["at_once"], len(waiting))
            os.write(approved, b"." * due)
            while due:
                ready = poll.poll(STALL)
                if not ready:
                    return {"failed": len(waiting), "why": f"no answer; before, result codes {codes}"}
                for descriptor, _event in ready:
                    number, one = waiting[descriptor]
                    answer = heard(one)
                    if answer is None:
                        continue
                    del waiting[descriptor]
                    poll.unregister(descriptor)
                    due -= 1
                    codes[answer] = codes.get(answer, 0) + 1
                    strangers += not (answer or self._is(number, one))
                    one.close()
        os.close(approved)
        wrong = sum(codes.values()) - codes.get(0, 0)
        return {"failed": wrong + strangers, "why": f"result codes {codes}, {strangers} were somebody else"}

    def _is(self, number: int, one: socket.socket) -> bool:
        """Whether the directory takes a client for the account that it is."""
        one.settimeout(STALL)
        one.send(ldap.message(2, ldap.WHO_AM_I))
        return one.recv(4096).endswith(b"dn:" + self._spec["dn"].format(number).encode())


class SlowReader:
    """One search whose answer is not read for `pause` seconds, and then slowly."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec

    def run(self, operations: int) -> dict[str, Any]:
        """Read 16 KiB that many times, every 10 ms; then leave."""
        with bound(self._spec) as one:
            one.send(ldap.message(2, ldap.search_request(self._spec["base"].encode(), (), scope=ldap.SUBTREE)))
            time.sleep(self._spec["pause"])
            octets = 0
            for _ in range(operations):
                octets += len(one.recv(1 << 14))
                time.sleep(0.01)
        return {"failed": 0, "octets": octets}


def secret(number: int) -> bytes:
    """The TOTP secret of an account of the benchmark."""
    return hashlib.sha1(b"bench %d" % number, usedforsecurity=False).digest()


def code(key: bytes, step: int) -> str:
    """The six-digit code of a step (RFC 4226 section 5.3)."""
    digest = hmac.digest(key, step.to_bytes(8, "big"), "sha1")
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06d}"


def value_of(answer: bytes) -> bytes:
    """The diagnostic text of a short result, for what `programs.endless` tells about itself."""
    start, stop = ber.expect(answer, 0, len(answer), ber.SEQUENCE)
    _, start, stop = ber.children(answer, start, stop)[1]
    _, start, stop = ber.children(answer, start, stop)[2]
    return answer[start:stop]


LOADS: Final[dict[str, type[Searches | Logins | Pending | SlowReader]]] = {
    "searches": Searches,
    "logins": Logins,
    "duels": Duels,
    "pending": Pending,
    "slow-reader": SlowReader,
}


def main(words: list[str]) -> None:
    """Do as told until standard input ends."""
    spec = json.loads(words[0])
    load = LOADS[spec["load"]](spec)
    gc.freeze()
    _say({"ready": True})
    for line in sys.stdin:
        _say(load.run(int(line)))


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
