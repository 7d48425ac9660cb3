"""A whole proxy in memory: real session, login, driver, link, front and store; a scripted directory; no socket.

`World` is the proxy with a clock that moves only when a test moves it; `Client` one client on it, `ScriptedDirectory`
the directory behind it, which behaves like OpenLDAP until a test tells it otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import time
import uuid
from contextlib import closing
from dataclasses import dataclass, field, replace

import pyotp
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from ldapmfa import audit
from ldapmfa.config import ServiceTable
from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.rules import Moment
from ldapmfa.core.secret import Secret
from ldapmfa.core.session import Rules, State
from ldapmfa.core.throttle import PasswordLimit
from ldapmfa.errors import DirectoryDown
from ldapmfa.factors import NewCredential
from ldapmfa.factors.breaker import Guarded
from ldapmfa.factors.hotp import base32
from ldapmfa.factors.service import Allowed, Denied, Waiting
from ldapmfa.factors.totp import Totp
from ldapmfa.net.asking import Terms
from ldapmfa.net.budget import Budget
from ldapmfa.net.cuts import Cuts
from ldapmfa.net.directory import Directory, DirectorySettings
from ldapmfa.net.driver import Doorway, RefusedShapes
from ldapmfa.net.ldap_front import LdapFront, Listener
from ldapmfa.net.link import Link, Server
from ldapmfa.net.tries import Tries
from ldapmfa.net.waiting import within
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import ber, dn, ldap

BASE = "dc=example,dc=test"
ALICE = f"cn=alice,{BASE}"
BOB = f"cn=bob,{BASE}"
SERVICE = f"cn=svc,{BASE}"
PASSWORD = "Passw0rd!1"
SEED = Secret(b"12345678901234567890")
#: Requests of our own have message ids from here on, clients' mostly lower ones.
FIRST_ID = 1_000_000
# a test's loop never rests while it waits, and the store's threads want the interpreter, too: take turns quickly
sys.setswitchinterval(0.0002)


def bind(message_id, name, password, *, version=3, controls=b""):
    """A BindRequest."""
    operation = ber.tlv(
        ldap.BIND_REQUEST,
        ber.encode_integer(version),
        ber.tlv(ber.OCTET_STRING, name if isinstance(name, bytes) else name.encode()),
        ber.tlv(ldap.SIMPLE, password if isinstance(password, bytes) else password.encode()),
    )
    return ldap.message(message_id, operation, controls)


def search(message_id, base=BASE, *, scope=ldap.SUBTREE, attributes=("cn",), where=ldap.ANY_ENTRY, controls=b""):
    """A SearchRequest."""
    return ldap.message(
        message_id, ldap.search_request(base.encode(), attributes, scope=scope, where=where), controls
    )


def root_dse(message_id, attributes=()):
    """The one search an anonymous client may send."""
    return search(message_id, "", scope=ldap.BASE, attributes=attributes)


def extended(message_id, oid):
    """An ExtendedRequest without a value."""
    return ldap.message(message_id, ldap.extended_request(oid))


def unbind(message_id):
    """An UnbindRequest."""
    return ldap.message(message_id, ldap.UNBIND)


def abandon(message_id, other):
    """An AbandonRequest for the message id `other`."""
    return ldap.message(message_id, ber.encode_integer(other, ldap.ABANDON_REQUEST))


def controls(*oids, critical=True):
    """Encoded controls of these types."""
    criticality = ber.tlv(ber.BOOLEAN, b"\xff") if critical else b""
    each = (ber.tlv(ber.SEQUENCE, ber.tlv(ber.OCTET_STRING, oid), criticality) for oid in oids)
    return ber.tlv(0xA0, *each)


def entry(message_id, name, **attributes):
    """A SearchResultEntry."""
    lists = (
        ber.tlv(
            ber.SEQUENCE,
            ber.tlv(ber.OCTET_STRING, key.encode()),
            ber.tlv(0x31, *(ber.tlv(ber.OCTET_STRING, value) for value in values)),
        )
        for key, values in attributes.items()
    )
    operation = ber.tlv(ldap.SEARCH_ENTRY, ber.tlv(ber.OCTET_STRING, name.encode()), ber.tlv(ber.SEQUENCE, *lists))
    return ldap.message(message_id, operation)


def result(message_id, request_tag, code=0, text="", value=None):
    """A final answer; `value` is an extended response's."""
    raw = ldap.result(message_id, request_tag, code, text)
    if value is None:
        return raw
    operation = ber.tlv(
        ldap.EXTENDED_RESPONSE,
        ber.encode_integer(code, ber.ENUMERATED),
        ber.tlv(ber.OCTET_STRING),
        ber.tlv(ber.OCTET_STRING, text.encode()),
        ber.tlv(0x8B, value),
    )
    return ldap.message(message_id, operation)


def frames(data, limit=1 << 26):
    """All messages of `data`, which must end with a whole one."""
    found, pos = [], 0
    while pos < len(data):
        frame = ldap.read_frame(data, pos, limit)
        assert isinstance(frame, ldap.Frame), f"{len(data) - pos} octets behind the last whole message"
        found.append(frame)
        pos += len(frame.raw)
    return found


class Notebook(list):
    """A store for tests in which nobody logs in: it keeps what it is told."""

    note = list.append

    async def close(self):
        pass


class Pipe:
    """One direction of a connection: a transport whose octets a test hands over."""

    disconnecting = False

    def __init__(self, protocol, peer=None):
        self.protocol = protocol
        self.written = bytearray()
        self.producer = None
        self.paused = False
        self.open = True
        self.aborted = False
        self.tls = None
        self.certificate = None  # as pyOpenSSL has it
        self.shakes_hands = True  # at once; else the test says when
        self._peer = peer

    def write(self, data):
        if self.open:
            self.written += data

    def getPeer(self):
        return self._peer

    def registerProducer(self, producer, streaming):
        assert streaming
        assert self.producer is None, "a second producer"
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False

    def startTLS(self, context):
        self.tls = context
        if isinstance(self.protocol, Link):
            asyncio.get_running_loop().call_soon(self.protocol.handshakeCompleted)
        elif self.shakes_hands:
            self.protocol.handshakeCompleted()

    def getPeerCertificate(self):
        return self.certificate

    def loseConnection(self):
        self._end(ConnectionDone())

    def abortConnection(self):
        self.aborted = True
        self._end(ConnectionAborted())

    def cut(self):
        """The other side, or the network, ends the connection."""
        self._end(ConnectionLost())

    def _end(self, reason):
        if self.open:
            self.open = False
            self.protocol.connectionLost(Failure(reason))


class ServedLink:
    """The directory's end of one link: what came, as frames; who is bound; and a hand to send with."""

    def __init__(self, directory, link):
        self.directory = directory
        self.link = link
        self.pipe = Pipe(link)
        self.received = []
        self.bound = None
        self._read = 0
        link.makeConnection(self.pipe)

    def send(self, raw):
        if self.pipe.open:
            self.link.dataReceived(raw)

    @property
    def given_up(self):
        """Whether nothing can be done on it as anybody: closed, or the last that came was a bind as nobody, granted."""
        return not self.pipe.open or (self.bound is None and bool(self.received) and is_bind_as_nobody(self.received[-1]))

    def serve(self):
        """Answer what has come; whether anything had."""
        data = bytes(self.pipe.written[self._read :])
        self._read += len(data)
        for frame in frames(data):
            self.received.append(frame)
            self.directory.seen.append(frame)
            answers = self.directory.reply(self, frame)
            for raw in answers:
                self.send(raw)
        return bool(data)


def is_bind_as_nobody(frame):
    """Whether this is the bind by which we make sure that a link is nobody's."""
    if frame.tag != ldap.BIND_REQUEST or frame.id < FIRST_ID:
        return False
    asked = ldap.read_bind(frame)
    return not asked.name and not asked.password


def _spelled(name):
    """One spelling for a DN's spellings; what is no DN names nobody, and stays as it is."""
    try:
        return dn.normalise(name)
    except dn.DnError:
        return name


class ScriptedDirectory(Directory):
    """Behaves like OpenLDAP with a few accounts; `misbehave(link, frame)` may return other answers (None: as usual).

    What `holds(link, frame)` is true of waits for `release`.
    """

    def __init__(self, settings, clock):
        ids = iter(range(FIRST_ID, 2 * FIRST_ID))
        super().__init__(settings, clock, lambda: next(ids))
        self.passwords = {
            dn.normalise(name): PASSWORD.encode() for name in (ALICE, BOB, SERVICE, f"cn=admin,{BASE}")
        }
        self.uuids = {dn.normalise(name): str(uuid.uuid4()) for name in (ALICE, BOB, SERVICE)}
        self.served = []
        self.seen = []
        self.down = False
        self.misbehave = lambda link, frame: None
        self.holds = lambda link, frame: False
        self.held = []

    async def _connect_to(self, server):
        if self.down:
            raise DirectoryDown("the directory is down, says the test")
        return self.serve(server)

    def serve(self, server):
        """A link to `server`, and its other end."""
        link = Link(server, self._reactor, self._chance, self.settings.response_timeout, self)
        self.served.append(ServedLink(self, link))
        return link

    def release(self):
        """Answer what was held, and hold nothing any more."""
        self.holds = lambda link, frame: False
        held, self.held = self.held, []
        for link, frame in held:
            for raw in self.reply(link, frame):
                link.send(raw)

    def reply(self, link, frame):
        if self.holds(link, frame):
            self.held.append((link, frame))
            return []
        scripted = self.misbehave(link, frame)
        if scripted is not None:
            return scripted
        if frame.tag == ldap.BIND_REQUEST:
            asked = ldap.read_bind(frame)
            if not asked.name and not asked.password:  # RFC 4513 section 5.1.1
                link.bound = None
                return [result(frame.id, frame.tag)]
            name = _spelled(asked.name.decode(errors="replace"))
            right = asked.password and self.passwords.get(name) == asked.password
            link.bound = name if right else None
            return [result(frame.id, frame.tag, 0 if right else 49)]
        if frame.tag == ldap.SEARCH_REQUEST:
            return [*self.entries(link, frame), result(frame.id, frame.tag)]
        if frame.tag == ldap.EXTENDED_REQUEST:
            who = f"dn:{link.bound}" if link.bound else ""
            return [result(frame.id, frame.tag, value=who.encode())]
        if frame.tag in ldap.RESPONSE_TO:
            return [result(frame.id, frame.tag)]
        return []

    def entries(self, link, frame):
        start, stop = ber.expect(frame.raw, frame.start, frame.stop, ber.OCTET_STRING)
        base = frame.raw[start:stop].decode(errors="replace")
        if not base:
            root = {"objectClass": [b"top", b"OpenLDAProotDSE"], "supportedExtension": [ldap.OID_WHO_AM_I]}
            return [entry(frame.id, "", **root)]
        name = _spelled(base)
        if name in self.uuids:
            uid = name.partition(",")[0].partition("=")[2]
            return [entry(frame.id, base, entryUUID=[self.uuids[name].encode()], uid=[uid.encode()])]
        return []

    def binds(self):
        """The names and passwords that reached the directory; not the binds as nobody, which are our own doing."""
        binds = [frame for frame in self.seen if frame.tag == ldap.BIND_REQUEST and not is_bind_as_nobody(frame)]
        asked = [ldap.read_bind(frame) for frame in binds]
        return [(bind.name.decode(errors="replace"), bind.password.decode(errors="replace")) for bind in asked]


def people(house, count):
    """So many more accounts, by DN, without a factor."""
    names = [f"cn=person{number},{BASE}" for number in range(count)]
    for name in names:
        house.directory.passwords[dn.normalise(name)] = PASSWORD.encode()
        house.directory.uuids[dn.normalise(name)] = str(uuid.uuid4())
    return names


def passwords_in_memory(password):
    """Every secret that holds it, wherever the collector can reach."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, Secret) and password.encode() in found.reveal()]


class Owner:
    """A service: whoever is asked answers when the test says so.

    `begins` is what `start` does instead, if it is a value or an exception; `knows` the codes that it takes; `gate` a
    future that `start` and `verify` wait for, if there is one. What they are shown of the password is not kept.
    """

    Table = ServiceTable
    methods = ("push", "phone", "sms")
    takes_codes = True
    wants_password = False

    def __init__(self):
        self.prompts = []
        self.cancelled = 0
        self.begins = None
        self.knows = {}
        self.verified = []
        self.shown = 0  # passwords
        self.healthy = True
        self.gate = None
        self._waiting = []

    async def start(self, prompt):
        self.shown += prompt.password is not None
        self.prompts.append(replace(prompt, password=None))
        if self.gate:
            await self.gate
        if isinstance(self.begins, BaseException):
            raise self.begins
        if self.begins is not None:
            return self.begins
        return Waiting(asyncio.get_running_loop().create_future())

    async def wait(self, prompt, waiting):
        assert prompt.password is None, "whoever waits knows the password"
        said = waiting.handle
        self._waiting.append(said)
        try:
            answer = await said
        finally:
            self._waiting.remove(said)
        if isinstance(answer, bool):
            return Allowed("push") if answer else Denied("denied")
        return answer

    async def verify(self, prompt, code, sent):
        self.shown += prompt.password is not None
        self.verified.append((prompt.user, sent))
        if self.gate:
            await self.gate
        if isinstance(self.begins, BaseException):
            raise self.begins
        right = self.knows.pop(prompt.user, None) == code.reveal()
        return Allowed("passcode") if right else Denied("wrong-code")

    async def cancel(self, prompt, waiting):
        self.cancelled += 1

    async def health(self):
        if self.healthy is not True:
            raise self.healthy
        return "well"

    async def close(self):
        pass

    @property
    def pending(self):
        """How many owners have not answered yet."""
        return len(self._waiting)

    def say(self, answer, number=0):
        """The answer of the one who has waited longest, or of another; an exception is raised."""
        said = self._waiting[number]
        said.set_exception(answer) if isinstance(answer, BaseException) else said.set_result(answer)


@dataclass
class Client:
    """One client's connection to the proxy."""

    world: World
    pipe: Pipe
    front: LdapFront
    _read: int = 0

    def send(self, *raw):
        """Send in one segment."""
        self.front.dataReceived(b"".join(raw))
        self.world.serve()

    @property
    def came(self):
        """The octets that came since the last time."""
        return bytes(self.pipe.written[self._read :])

    def take(self):
        """The frames that came since the last time."""
        data = bytes(self.pipe.written[self._read :])
        self._read += len(data)
        return frames(data)

    async def answers(self, count=1):
        """The next `count` frames, when they are there; time stands still."""
        await self.world.until(lambda: len(frames(bytes(self.pipe.written[self._read :]))) >= count)
        return self.take()

    async def code(self, count=1):
        """The result code of the last of the next `count` frames."""
        return ldap.read_result((await self.answers(count))[-1]).code

    async def refused(self):
        """As `code`, when the refusal floor is over."""
        await self.world.idle()
        self.world.clock.advance(0.3)
        return await self.code()

    async def log_in(self, name=ALICE, password=None, message_id=1):
        """Bind with password and the current code, or with `password`; the result code."""
        self.send(bind(message_id, name, password or PASSWORD + self.world.next_code()))
        await self.world.until(lambda: len(self.pipe.written) > self._read or self.front._login is None or self._waits())
        if self._waits():
            return await self.refused()
        return await self.code()

    def _waits(self):
        return self.front._login is not None and self.world.waiting

    @property
    def state(self):
        return self.front.session.state.name

    def leave(self):
        self.pipe.cut()
        self.world.serve()


def directory_settings(**changes):
    """One server; `changes` as DirectorySettings names them."""
    return DirectorySettings("default", "default", (Server("directory.test", 389, ldaps=False),), **changes)


@dataclass
class World:
    """The proxy: make clients with `client`, move time with `clock.advance`."""

    path: object
    rules: Rules = field(default_factory=Rules)
    policy: Policy = field(default_factory=lambda: Policy((Exempt(SERVICE),)))
    budget: Budget = field(default_factory=Budget)
    settings: DirectorySettings = field(default_factory=directory_settings)
    store: Store | Notebook = field(default_factory=Notebook)
    now: float = 1_700_000_000.0
    events: list = field(default_factory=list)
    logged: list = field(default_factory=list)
    tasks: set = field(default_factory=set)
    owner: Owner = field(default_factory=Owner)
    others: dict = field(default_factory=dict)  #: further services, by name
    table: ServiceTable = field(default_factory=lambda: ServiceTable(kind="owner"))
    terms: Terms = field(default_factory=lambda: Terms("app"))
    alarms: list = field(default_factory=list)
    deadline: float = 30.0
    guards: dict = field(default_factory=dict)  #: the services behind their breakers
    tries: PasswordLimit | None = None
    gateways: tuple = ()
    processes: int = 1
    workers: list = field(default_factory=list)  #: further processes on the same store

    def __post_init__(self):
        self.clock = Clock()
        self.directory = ScriptedDirectory(self.settings, self.clock)
        self.clients = set()
        self.cuts = Cuts(self.clock)

    async def open(self, **options):
        """Open the store, enrol alice and bob; everything else is there already."""
        self.store = await self._opened(Seal.create(self.path / "key", entropy=bytes), **options)
        for name in (ALICE, BOB):
            await self.enrol(name)
        return self.assemble()

    async def _opened(self, seal, **options):
        url = f"sqlite:///{self.path}/state.db"
        return await Store.open(url, seal, clock=lambda: self.now, normalise_dn=dn.normalise, **options)

    async def worker(self, **changes):
        """Another process of this proxy: the same accounts, clock, services and file, a store of its own."""
        names = ("rules", "policy", "settings", "owner", "others", "table", "terms", "tries", "gateways", "processes")
        same = {name: getattr(self, name) for name in names}
        other = World(self.path, **{**same, "deadline": self.deadline, **changes})
        other.clock = other.directory._reactor = self.clock
        other.cuts = Cuts(self.clock)
        other.directory.passwords, other.directory.uuids = self.directory.passwords, self.directory.uuids
        other.store = await self._opened(Seal(self.path / "key", entropy=bytes))
        self.workers.append(other)
        return other.assemble()

    def rows(self, table):
        """How many rows there are: what the store has written, seen by another process."""
        with closing(sqlite3.connect(self.path / "state.db")) as connection:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

    def advance(self, seconds):
        """Time passes, for the store too."""
        self.now += seconds
        self.clock.advance(seconds)

    def assemble(self):
        """The listener, with the store that there is."""
        references = (f"REF{number:05}" for number in range(100_000))
        doorway = Doorway(
            store=self.store,
            factors={"totp": Totp()},
            clock=self.clock,
            now=lambda: self.now,
            reference=lambda: next(references),
            record=self.events.append,
            refused=RefusedShapes(self.clock),
            services={name: self.guarded(name, owner) for name, owner in {"push": self.owner, **self.others}.items()},
            terms=self.terms,
            keep=self._kept,
            alarm=self.alarms.append,
            moment=lambda: Moment(self.now),
            deadline=self.deadline,
            tries=self.tries
            and Tries(self.tries, self.store, keep=self._kept, gateways=self.gateways, workers=self.processes),
        )
        self.listener = Listener(
            name="test",
            rules=self.rules,
            policy=self.policy,
            directory=self.directory,
            doorway=doorway,
            budget=self.budget,
            log=self,
            clients=self.clients,
            started=self._keep,
            cuts=self.cuts,
        )
        return self

    async def enrol(self, name, seed=SEED):
        identity = Identity("default", f"uuid:{self.directory.uuids[dn.normalise(name)]}", name)
        new = NewCredential("totp", seed, {"algorithm": "sha1", "digits": 6, "period": 30})
        change = audit.AccountChanged(at=self.now, action="enrolled", account=identity.key, actor="test")
        return await self.store.enrol(identity, new, "phone", change)

    def with_(self, **changes):
        """The listener, changed."""
        self.listener = replace(self.listener, **changes)
        return self

    def client(self, address="192.0.2.7", port=40_000):
        front = LdapFront(self.listener)
        pipe = Pipe(front, IPv4Address("TCP", address, port))
        front.makeConnection(pipe)
        return Client(self, pipe, front)

    def bound_client(self, **where):
        """A client that is bound already, and the directory's end of its link: to look at the relay alone."""
        client = self.client(**where)
        link = self.directory.serve(self.settings.servers[0])
        client.front.session.state = State.BOUND
        client.front._attach(link)
        client.front._disarm("bind")
        return client, self.directory.served[-1]

    @property
    def links_open(self):
        """How many links to the directory stand on which somebody is bound, or may be."""
        return sum(not link.given_up for link in self.directory.served)

    def next_code(self):
        """A code that was not used before: thirty seconds pass."""
        self.now += 30
        return pyotp.HOTP(base32(SEED)).at(int(self.now // 30))

    def last_code(self):
        return pyotp.HOTP(base32(SEED)).at(int(self.now // 30))

    def serve(self):
        """Let the directory answer until it has nothing left to answer."""
        while sum(link.serve() for link in self.directory.served):
            pass

    async def until(self, condition, seconds=30.0):
        """Let everything run, but the clock, until `condition`."""
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "it never came about"
            self.serve()
            await asyncio.sleep(0)

    async def over(self):
        """Let everything run, but the clock, until no task is left."""
        await self.until(lambda: not self.tasks)
        self.serve()

    async def idle(self):
        """Let everything run, but the clock, until every login waits for the clock or has ended."""
        await self.until(lambda: self.waiting >= sum(front._login is not None for front in self.clients))
        self.serve()

    @property
    def waiting(self):
        """How many logins wait for their refusal floor."""
        return sum(call.func.__name__ == "cancel" for call in self.clock.getDelayedCalls())

    def _keep(self, task):
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _kept(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self._keep(task)
        return task

    def guarded(self, name, service):
        async def sleep(seconds):
            await within(self.clock, seconds, asyncio.get_running_loop().create_future())

        told = lambda *what: self.logged.append(what)  # noqa: E731
        self.guards[name] = Guarded(
            name, service, self.table, clock=self.clock.seconds, sleep=sleep, keep=self._kept, says=told
        )
        return self.guards[name]

    # a log that remembers

    def warning(self, event, **fields):
        self.logged.append((event, fields))

    error = info = warning

    async def close(self):
        for front in tuple(self.clients):
            front.transport.cut()
        for _ in range(10):  # whoever leaves takes questions back
            await asyncio.sleep(0)
        while self.tasks:
            for task in tuple(self.tasks):
                task.cancel()
            await asyncio.wait(set(self.tasks))
        for worker in self.workers:
            await worker.close()
        await self.store.close()
