"""Assemble everything: from a configuration to a service that listens (the only importer of the reactor).

Promised here: nothing listens before the store is open; a stop answers what is pending, sends a notice of
disconnection to whoever is connected, and ends within seconds. Not in here: what any of the parts does.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import secrets
import struct
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog
from twisted.application.service import Service
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from ldapmfa import audit, factors
from ldapmfa.config import Application, Config, Listen
from ldapmfa.config import Directory as DirectoryTable
from ldapmfa.config.values import nameserver
from ldapmfa.core.application import Recognition
from ldapmfa.core.throttle import PasswordLimit
from ldapmfa.errors import ConfigError, LdapMfaError
from ldapmfa.factors.breaker import Guarded
from ldapmfa.factors.service import Tools
from ldapmfa.net.arrangement import Arrangement, stamps_of
from ldapmfa.net.asking import CANCEL, LATE, SLACK, Asking
from ldapmfa.net.assembly import (
    deadline,
    moment_of,
    policy,
    recognition,
    refusal_floor,
    session_rules,
    terms,
)
from ldapmfa.net.budget import Budget
from ldapmfa.net.certificates import Presented, Watched, watch_certificates
from ldapmfa.net.cuts import Cuts
from ldapmfa.net.descriptors import fitting
from ldapmfa.net.directory import Directory, DirectorySettings
from ldapmfa.net.discovery import Srv
from ldapmfa.net.driver import Doorway, RefusedShapes, where
from ldapmfa.net.fraud import Measures
from ldapmfa.net.ldap_front import Door, LdapFront, Listener
from ldapmfa.net.link import Server
from ldapmfa.net.log import record
from ldapmfa.net.metrics import catalogue
from ldapmfa.net.metrics.figures import Figures
from ldapmfa.net.metrics.memory import Memory
from ldapmfa.net.metrics.page import Pages, open_page
from ldapmfa.net.metrics.readings import Observed, keep_asking, keep_looking
from ldapmfa.net.names import Names
from ldapmfa.net.notify import deliver, ways_of
from ldapmfa.net.ports import close_ports, hand_over, open_ports
from ldapmfa.net.proxy_protocol import ProxyHeaderFactory, address_of
from ldapmfa.net.reloading import Reloading
from ldapmfa.net.skew import Clocks, clocks_of
from ldapmfa.net.systemd import Supervisor
from ldapmfa.net.tidy import tidy
from ldapmfa.net.tls import over_tls
from ldapmfa.net.trail import Trail, tell_changes, trail_of
from ldapmfa.net.tries import Tries
from ldapmfa.net.waiting import pause
from ldapmfa.net.watch import watch
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn, ldap

#: Objects made, less those that went, after which the youngest are looked through for cycles.
_GARBAGE: Final = 20_000
#: How long clients may take to read the notice of disconnection at a stop, in seconds.
FAREWELL: Final = 3.0
#: Letters and digits of a reference code: none that can be taken for another.
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"

WRONG_REACTOR: Final = (
    "ldapmfa needs Twisted's asyncio reactor. Type:\n"
    "    twistd --reactor=ldapmfa ldapmfa --config FILE    (asyncio on uvloop), or\n"
    "    twistd --reactor=asyncio ldapmfa --config FILE"
)


def reference_code() -> str:
    """Eight letters and digits by which a refusal is found in the audit log: 40 bits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(8))


def message_id() -> int:
    """A message id nobody can guess, for a request of ours to a directory."""
    return next(_message_ids)


def _made_of(source: Callable[[int], bytes]) -> Iterator[int]:
    """Message ids; the random source is asked for many at once, for each asking is a system call."""
    while True:
        for number in struct.unpack("<256I", source(1024)):
            yield number % ldap.MAX_MESSAGE_ID + 1


_message_ids: Final = _made_of(os.urandom)


def directory_settings(name: str, table: DirectoryTable) -> DirectorySettings:
    """A directory's table of the configuration, as net/directory wants it."""
    account = table.service_account
    catalog = table.global_catalog_server
    srv = table.srv
    return DirectorySettings(
        name=name,
        identity_name=table.identity_name or name,
        servers=tuple(Server(server.host, server.port, server.tls) for server in table.servers),
        balance=table.balance,
        srv=Srv(srv.name, table.srv_domains or (srv.domain,), srv.tls, tuple(map(nameserver, table.nameservers)))
        if srv
        else None,
        check_seconds=table.check_seconds,
        starttls=table.starttls,
        ca_file=table.ca_file,
        verify=table.verify_certificate,
        connect_timeout=table.connect_timeout,
        response_timeout=table.response_timeout,
        kind=None if table.kind == "auto" else table.kind,
        global_catalog=Server(catalog.host, catalog.port, catalog.tls) if catalog else None,
        service_dn=account.dn if account else None,
        service_password=account.secret() if account else None,
        base_dn=table.base_dn,
        spare_links=table.spare_links,
        spare_seconds=table.spare_seconds,
        spare_age=table.spare_age,
        pending_links=table.pending_links,
        group_seconds=table.group_seconds,
        phone_attribute=table.phone_attribute,
    )


def directories(
    config: Config,
    reactor: Any,
    says: Callable[[str, dict[str, str]], None] = lambda _what, _fields: None,
    left: Mapping[str, Directory] | None = None,
) -> dict[str, Directory]:
    """Every directory of the configuration, by the name that listeners call it; `says` as Directory has it.

    Those `left` are taken over.
    """
    return {
        name: (left or {}).get(name) or Directory(directory_settings(name, table), reactor, message_id, says)
        for name, table in config.every_directory.items()
    }


def _servers_fare(what: str, fields: dict[str, str]) -> None:
    """A directory's server went down or came back, or the DNS did."""
    log = structlog.get_logger()
    (log.info if what == "directory servers" else log.warning)(what, **fields)


def keep_names(reactor: Any) -> None:
    """Keep the addresses of hosts, for whoever connects by this reactor: the DNS may hang, or go."""

    def says(name: str, found: bool) -> None:  # noqa: FBT001 - as Names calls it
        structlog.get_logger().warning("name found again" if found else "name not found", name=name)

    if not isinstance(reactor.nameResolver, Names):
        reactor.installNameResolver(Names(reactor.nameResolver, reactor.seconds, says))


async def open_store(config: Config, *, migrate: bool | None = None) -> Store:
    """The store of the configuration; `migrate` overrides store.migrate. Raises ConfigError, StoreDown."""
    return await Store.open(
        config.store.url,
        Seal(config.store.key_file, entropy=os.urandom),
        clock=time.time,
        normalise_dn=dn.normalise,
        migrate=config.store.migrate if migrate is None else migrate,
        wrong_codes=config.throttle.wrong_codes,
        lock_seconds=config.throttle.lock_seconds,
        longest_lock_seconds=config.throttle.longest_lock_seconds,
        password=config.store.password,
    )


def tries(config: Config, store: Store, keep: Callable[[Coroutine[Any, Any, Any]], Any]) -> Tries | None:
    """What is let through to the directories; None: everything."""
    table = config.throttle
    if not table.wrong_passwords:
        return None
    limit = PasswordLimit(
        table.wrong_passwords,
        table.wrong_password_seconds,
        table.source_wrong_passwords,
        table.wrong_passwords_a_minute,
    )
    return Tries(limit, store, keep=keep, gateways=table.gateways, workers=config.service.workers)


def load_services(
    config: Config,
    reactor: Any,
    keep: Callable[[Coroutine[Any, Any, None]], Any],
    left: Mapping[str, Guarded] | None = None,
) -> dict[str, Guarded]:
    """The services that the configuration asks, by name, in its order; those `left` are taken over.

    ConfigError: one can't be used.
    """
    tables, left = config.factors, left or {}

    async def sleep(seconds: float) -> None:
        await pause(reactor, seconds)

    wanted = [name for name in config.every_factor if name not in left]
    loaded: dict[str, Guarded] = {
        name: Guarded(name, service, tables[name], clock=reactor.seconds, sleep=sleep, keep=keep, says=_told)
        for name, service in factors.load_services(wanted, tables, lambda _name: Tools()).items()
    }
    every = {**left, **loaded}
    return {name: every[name] for name in config.every_factor if name in every}


def limit(budget: Budget, config: Config, log: Any) -> None:
    """Let `budget` be what `config` says; what is used of it stays used."""
    limits = config.limits
    budget.octets, budget.connections, budget.logins = (
        limits.buffered_bytes, fitting(config, log), limits.pending_logins
    )  # fmt: skip
    budget.source_octets = limits.source_buffered_bytes
    budget.source_connections = limits.source_connections
    budget.source_logins = limits.source_pending_logins
    budget.gateways = tuple(config.throttle.gateways)


def _told(name: str, state: str, why: str) -> None:
    """A service's breaker opened or closed."""
    log = structlog.get_logger()
    if state == "open":
        log.error("service away", service=name, reason=why)
    else:
        log.warning("service back", service=name, reason=why)


def _alarm(event: audit.LoginEnded) -> None:
    """An outage let somebody in."""
    structlog.get_logger().critical(
        "let in without a second factor", service=event.factor, account=event.account, client=event.client
    )


def _critical(what: str, **fields: Any) -> None:
    structlog.get_logger().critical(what, **fields)


class AsyncService(Service):
    """A Twisted service that begins and ends in asyncio's coroutines. `failure` says why it could not start.

    `supervisor` is told how it goes; `stopping` is true from the first sign of the end.
    """

    name = "ldapmfa"
    _page: Any = None  # the port that figures are shown at
    stopping = False

    def __init__(self, reactor: Any) -> None:
        if not isinstance(reactor, AsyncioSelectorReactor):
            raise ConfigError([WRONG_REACTOR])
        self.failure: LdapMfaError | None = None
        self.supervisor = Supervisor()
        self.reloading: Reloading | None = None
        self.started: Deferred[None] = Deferred()
        self._reactor = reactor
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    def startService(self) -> None:
        """Begin as soon as the reactor runs."""
        Service.startService(self)
        # callLater: until the reactor runs, so does not its event loop
        self._reactor.callLater(0, lambda: self._keep(asyncio.ensure_future(self._start())))

    def stopService(self) -> Deferred[None]:
        """End; what is given fires when that is done."""
        Service.stopService(self)
        self.stopping = True
        if self.reloading:
            self.reloading.end()
        self.supervisor.stopping("Answering what is pending, and taking leave of the clients.")
        return Deferred.fromFuture(asyncio.ensure_future(self._end()))

    async def _begin(self) -> None:
        raise NotImplementedError

    async def _end(self) -> None:
        raise NotImplementedError

    def status(self) -> str:
        """How it is, in plain words."""
        raise NotImplementedError

    def well(self) -> bool:
        """Whether all of it turns, as whoever calls this does."""
        return True

    def _reloaded(self) -> tuple[bool, float] | None:
        """As `Pages` wants it."""
        return (self.reloading.successful, self.reloading.success_at) if self.reloading else None

    async def _start(self) -> None:
        try:
            await self._begin()
        except LdapMfaError as failure:
            self._give_up(failure)
        except Exception as bug:
            self._give_up(LdapMfaError(f"a bug: {type(bug).__name__}"))
            raise
        else:
            if self.reloading:
                await self.reloading.begin()
            self.supervisor.ready(self.status())
            self.supervisor.watch(self._reactor, self.well)
            self.started.callback(None)

    def _give_up(self, failure: LdapMfaError) -> None:
        self.failure = failure
        self._log.critical("not started", reason=str(failure))
        self._reactor.stop()

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done: the loop itself holds it weakly only. What it raises nobody foresaw."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            bug = None if task.cancelled() else task.exception()
            if bug:  # asyncio would show its text, and that may hold anything
                self._log.error("bug", reason=where(bug))

        self._tasks.add(task)
        task.add_done_callback(done)

    def _kept(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The task that runs `coroutine`, held until it is done."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._keep(task)
        return task

    def _vital(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run what nothing may go on without: should it end by an exception, so does the program."""

        def ended(task: asyncio.Task[None]) -> None:
            bug = None if task.cancelled() else task.exception()
            if bug:
                self.fail(bug)

        self._kept(coroutine).add_done_callback(ended)

    def fail(self, bug: BaseException) -> None:
        """End as one that failed, so that whoever supervises it starts all of it again."""
        self._log.critical("stopped for a bug", reason=where(bug))
        self.failure = LdapMfaError(f"a bug: {where(bug)}")
        if self.running:
            self._reactor.stop()

    def _cancel(self) -> None:
        """Cancel whatever is held, except who calls."""
        for task in tuple(task for task in self._tasks if task is not asyncio.current_task()):
            task.cancel()


class LdapMfa(AsyncService):
    """The proxy, in this process.

    As one of several workers it takes over listening sockets, the descriptors in `taken`, and leaves the store's schema
    to whoever opened them; it keeps its figures in `memory`, for others to show.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        doorway_options: dict[str, Any] | None = None,
        *,
        taken: Sequence[int] = (),
        memory: Memory | None = None,
    ) -> None:
        super().__init__(reactor)
        self._memory = memory
        self._figures = Figures(memory or Memory())
        self._config = config
        self._options = doorway_options or {}
        self._taken = taken
        self._clients: set[LdapFront] = set()
        self._ports: list[Any] = []
        self._store: Store | None = None
        self._directories: Mapping[str, Directory] = {}
        self._services: Mapping[str, Guarded] = {}
        self._askings: set[Asking] = set()
        self._cuts = Cuts(reactor)
        self._budget = Budget()
        self._arranged: Arrangement | None = None
        self._observed: Observed | None = None
        self._prepared: tuple[Arrangement, dict[str, Any]] | None = None  # and the ports that are new
        self._retired: list[Guarded] = []  # services that no login begins with any more
        self._delivering: asyncio.Task[None] | None = None
        self._first = True  # of several processes on a machine: one is enough to watch the machine's clock
        self.trail: Trail | None = None
        self._record: Callable[[audit.Event], None] = record
        self.clocks: Clocks | None = None
        self._watching_clocks: asyncio.Task[None] | None = None
        self._tells_of_certificates = True  # of several processes one is enough

    async def _begin(self) -> None:
        self._store = await open_store(self._config, migrate=False if self._taken else None)
        await self._listen(self._store)

    @property
    def config(self) -> Config:
        """The configuration that counts."""
        return self._config

    def status(self) -> str:
        """Where it listens."""
        return f"Listening: {', '.join(listen.name for listen in self._config.listen)}."

    async def _listen(self, store: Store) -> None:
        config = self._config
        self.trail = trail_of(config.audit, clock=self._reactor, says=self._log)
        self._record = self.trail.record
        keep_names(self._reactor)
        limit(self._budget, config, self._log)
        made = self._arrange(config, store)
        self._put(made)
        # from before anybody can log in: no block made since is missed
        self._vital(watch(store, await store.last_cut(), self._cut, self._reactor))
        self._deliver(store)
        self._kept(tell_changes(store, self._record, self._reactor))
        chance = secrets.SystemRandom().random
        self._kept(tidy(store, config.audit.keep_days, clock=self._reactor, now=time.time, chance=chance))
        self._watch_clocks(store)
        self._kept(self._watch_certificates())
        self._ports = await open_ports(self._reactor, config.listen, made.factories, self._taken)
        await self._show(store)
        # what was made so far stays; logins leave hardly any cycles, so that looking for them may wait
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE, 20, 20)
        with suppress(OSError, AttributeError):  # where the C library has it: what only starting needed goes back
            ctypes.CDLL(None).malloc_trim(0)
        for listen, port in zip(config.listen, self._ports, strict=True):
            self._log.info("listening", listener=listen.name, at=str(port.getHost()), tls=listen.tls)

    def _arrange(self, config: Config, store: Store, before: Arrangement | None = None) -> Arrangement:
        """What `config` comes to, none of which counts yet. ConfigError: it is not to be had."""
        now = stamps_of(config)
        services = load_services(
            config, self._reactor, self._kept, before.services_left(config, now) if before else None
        )
        shared = {"askings": before.doorway.askings, "sharing": before.doorway.sharing} if before else {}
        trying = tries(config, store, self._kept)
        if trying and before and before.doorway.tries:
            trying.under_way = before.doorway.tries.under_way  # what is at the directory stays there
        doorway = Doorway(
            **{
                "store": store,
                "factors": factors.load(config.code_factors),
                "services": services,
                "clock": self._reactor,
                "now": time.time,
                "moment": lambda: moment_of(config, time.time()),
                "reference": reference_code,
                "record": self._recorded,
                "stopwatch": time.perf_counter,
                "stored": self._figures.stored,
                "refused": RefusedShapes(self._reactor),
                "keep": self._kept,
                "alarm": _alarm,
                "measures": Measures(config.fraud.block_days, config.fraud.ways, self._cut, _critical),
                "tries": trying,
                "refusal_floor": refusal_floor(config),
                **shared,
                **self._options,
            }
        )
        left = before.directories_left(config, now) if before else None
        known = directories(config, self._reactor, _servers_fare, left)
        tallies = {listener.name: listener.tally for listener in before.listeners} if before else {}
        made = [
            replace(listener, tally=tallies.get(listener.name, listener.tally))
            for listener in (
                self._listener(config, listen, doorway, known[listen.directory]) for listen in config.listen
            )
        ]
        return Arrangement(
            config=config,
            services=dict(doorway.services),
            directories=known,
            stamps=now,
            doorway=doorway,
            listeners=tuple(made),
            factories=tuple(map(self._factory, config.listen, made)),
            presented=tuple(listener.tls for listener in made if listener.tls),
            trusted=tuple(
                Watched(f"directory {name}", [directory.settings.ca_file], directory.renew_trust)
                for name, directory in known.items()
                if directory.settings.ca_file
            ),
        )

    def _put(self, made: Arrangement) -> None:
        """Let `made` be what counts."""
        for name, directory in made.directories.items():
            if self._directories.get(name) is not directory:
                directory.begin(self._kept)
        self._arranged, self._config = made, made.config
        self._services, self._directories, self._askings = made.services, made.directories, made.doorway.askings

    def _deliver(self, store: Store) -> None:
        """See that notices of fraud go where the configuration sends them."""
        fraud = self._config.fraud
        if self._delivering:
            self._delivering.cancel()  # what it had begun to send is sent again
            self._delivering = None
        if fraud.ways:
            self._delivering = self._kept(
                deliver(store, ways_of(fraud), clock=self._reactor, now=time.time, log=self._log)
            )

    def _watch_clocks(self, store: Store) -> None:
        """Compare ours with those of the directories that there are now, and the database's."""
        if self._watching_clocks:
            self._watching_clocks.cancel()
        known, skew = self._directories, self._config.service.clock_skew_seconds
        self.clocks = clocks_of(store, known, limit=skew, clock=self._reactor, now=time.time, says=self._log)
        if self._first:
            self._watching_clocks = self._kept(self.clocks.watch())

    # -- another configuration

    async def prepare(self, config: Config, taken: Sequence[int] = ()) -> None:
        """Make what `config` comes to, and listen where nobody did, so that `commit` can't fail. Nothing counts yet.

        `taken` as for a worker, of what is new; they stay the caller's to close. ConfigError: it is not to be had, and
        nothing has changed.
        """
        self.abort()  # what somebody forgot to give up
        if self._store is None or self._arranged is None:
            raise AssertionError
        made = self._arrange(config, self._store, self._arranged)
        old = {listen.endpoint for listen in self._config.listen}
        new = [number for number, listen in enumerate(config.listen) if listen.endpoint not in old]
        try:
            own = [os.dup(descriptor) for descriptor in taken]
            opened = await open_ports(self._reactor, config.listen, made.factories, own, waiting=True, only=new)
        except BaseException:
            self._discard(made)
            raise
        self._prepared = made, {config.listen[number].endpoint: port for number, port in zip(new, opened, strict=True)}

    def abort(self) -> None:
        """Let go of what was prepared."""
        if self._prepared:
            made, opened = self._prepared
            self._prepared = None
            self._discard(made)
            self._kept(close_ports(list(opened.values())))

    def commit(self) -> None:
        """Put what was prepared in the place of what was; at once, for nothing happens between two of these lines.

        Clients whose listener is gone are taken leave of; the others go by the new one from their next request on.
        """
        if self._prepared is None or self._arranged is None:
            raise AssertionError
        before, (made, opened) = self._arranged, self._prepared
        self._prepared = None
        ports = dict(zip((listen.endpoint for listen in before.config.listen), self._ports, strict=True))
        listeners = {}
        for listen, listener, factory in zip(made.config.listen, made.listeners, made.factories, strict=True):
            listeners[listen.endpoint] = listener
            if listen.endpoint in ports:
                hand_over(ports[listen.endpoint], factory)
        for listen, listener in zip(before.config.listen, before.listeners, strict=True):
            listener.successors.append(listeners.get(listen.endpoint))
        self._put(made)
        limit(self._budget, made.config, self._log)
        every = ports | opened
        self._ports = [every.pop(listen.endpoint) for listen in made.config.listen]
        for client in tuple(self._clients):
            try:
                client.succeed(client.listener.successors[-1])
            except Exception as bug:  # noqa: BLE001 - one client's trouble must not be the others'
                client.abort()
                self._log.error("bug", reason=where(bug))
        for port in opened.values():
            self._accept(port)
        self._kept(close_ports(list(every.values())))  # those of listeners that are no more
        if before.config.fraud != made.config.fraud and self._store:
            self._deliver(self._store)
        if self._store and before.directories != made.directories:
            self._watch_clocks(self._store)
        self._observe(made)
        self._retire(before, made)

    async def make_ready(self, config: Config) -> None:
        """As `Reloadable`: this is the only process."""
        await self.prepare(config)

    async def put(self, *, forget: bool) -> None:
        """As `Reloadable`."""
        self.commit()
        if forget:
            await self.forget_remembered()

    async def give_up(self) -> None:
        """As `Reloadable`."""
        self.abort()

    async def forget_remembered(self) -> None:
        """Let no login that succeeded under other rules count again (A33)."""
        if self._store:
            change = audit.AccountChanged(at=time.time(), action="remembered-forgotten", account="*", actor="reload")
            await self._store.forget_remembered(None, change)

    def _accept(self, port: Any) -> None:
        """Let a port that waited accept clients."""
        port.startReading()

    def _discard(self, made: Arrangement) -> None:
        """None of it was ever used."""
        kept = self._arranged
        for name, guarded in made.services.items():
            if kept is None or kept.services.get(name) is not guarded:
                self._kept(guarded.close())
        for name, directory in made.directories.items():
            if kept is None or kept.directories.get(name) is not directory:
                directory.close()

    def _retire(self, before: Arrangement, made: Arrangement) -> None:
        """Let go of what no login begins with any more, when the last that did has ended."""
        services = [guarded for name, guarded in before.services.items() if made.services.get(name) is not guarded]
        for name, directory in before.directories.items():
            if made.directories.get(name) is not directory:
                directory.close()
        if services:
            config = before.config
            longest = max(deadline(config, listen, application) for listen in config.listen
                          for application in (None, *config.application))  # fmt: skip
            self._retired += services
            self._kept(self._let_go(services, longest + LATE + SLACK + CANCEL))

    async def _let_go(self, services: Sequence[Guarded], seconds: float) -> None:
        await pause(self._reactor, seconds)
        for guarded in services:
            self._retired.remove(guarded)
            await guarded.close()

    async def _show(self, store: Store) -> None:
        """Keep the figures that somebody is to see, and show them, unless somebody else does."""
        config, figures, made = self._config, self._figures, self._arranged
        if config.metrics.endpoint is None or made is None:
            return
        figures.expect(config, self._services)
        observed = self._observed = Observed(
            store=store,
            budget=self._budget,
            clients=self._clients,
            askings=self._askings,
            services=self._services,
            directories=self._directories,
            ports={},
            tallies={},
            presented={},
            trail=self.trail,
        )
        self._observe(made)
        self._kept(keep_looking(observed, figures, self._reactor, self._log))
        self._kept(keep_asking(store, figures, self._reactor))
        if self._memory is None:
            pages = Pages(
                {"main": figures.memory},
                directories=lambda: {listen.directory for listen in self._config.listen},
                stopping=lambda: self.stopping,
                reloaded=self._reloaded,
            )
            self._page = await open_page(self._reactor, config.metrics.endpoint, pages, self._log)

    def _observe(self, made: Arrangement) -> None:
        """Let figures be kept of `made`."""
        observed, figures = self._observed, self._figures
        if observed is None:
            return
        figures.expect(made.config, made.services)
        names = [listener.name for listener in made.listeners]
        observed.services, observed.directories = made.services, made.directories
        observed.clocks = self.clocks if self._first else None
        observed.ports = dict(zip(names, self._ports, strict=True))
        observed.tallies = {listener.name: listener.tally for listener in made.listeners}
        observed.presented = {listener.name: listener.tls for listener in made.listeners if listener.tls}

    def _recorded(self, event: audit.Event) -> None:
        self._figures.recorded(event)
        self._record(event)

    def _listener(self, config: Config, listen: Listen, doorway: Doorway, directory: Directory) -> Listener:
        limits = config.limits
        own = self._door(config, listen, None, doorway)
        return Listener(
            name=listen.name,
            rules=own.rules,
            policy=own.policy,
            directory=directory,
            doorway=own.doorway,
            budget=self._budget,
            log=self._log.bind(listener=listen.name),
            tls=Presented(listen) if listen.certificate and listen.key else None,
            encrypted=listen.tls == "ldaps",
            bind_timeout=limits.bind_timeout,
            frame_timeout=limits.frame_timeout,
            handshake_timeout=limits.handshake_timeout,
            idle_timeout=limits.idle_timeout,
            write_timeout=limits.write_timeout,
            clients=self._clients,
            cuts=self._cuts,
            entrance=(
                listen.tls, listen.client_ca_file, listen.require_client_certificate, listen.proxy_protocol_from
            ),
            started=self._keep,
            doors=tuple(self._door(config, listen, application, doorway) for application in config.application),
        )

    async def _watch_certificates(self) -> None:
        await watch_certificates(
            lambda: self._arranged.watched if self._arranged else (),
            lambda: self._arranged.presented if self._arranged and self._tells_of_certificates else (),
            clock=self._reactor,
            now=time.time,
            log=self._log,
        )

    def _door(self, config: Config, listen: Listen, application: Application | None, doorway: Doorway) -> Door:
        """What holds for clients of `application` at `listen`, or for those whom none covers."""
        return Door(
            name=application.name if application else listen.name,
            recognised=recognition(application) if application else Recognition(),
            rules=session_rules(config, listen, application),
            policy=policy(config, doorway.services, listen, application),
            doorway=replace(
                doorway,
                terms=terms(config, listen, application),
                deadline=deadline(config, listen, application),
            ),
        )

    def _factory(self, listen: Listen, listener: Listener) -> Any:
        factory: Any = Factory.forProtocol(lambda: LdapFront(listener))
        if listener.encrypted:
            factory = over_tls(factory, listener.tls, client=False)
        if listen.proxy_protocol_from:

            def refused(peer: Any, why: str) -> None:
                listener.tally.turn_away("proxy-header")
                listener.log.warning("client turned away", client=str(address_of(peer)), reason=why)

            seconds = listener.handshake_timeout
            factory = ProxyHeaderFactory(factory, listen.proxy_protocol_from, self._reactor, refused, seconds)
        factory.noisy = False
        return factory

    def _cut(self, account: str) -> None:
        """Nobody is to be logged in as this account any more, nor about to be."""
        self._figures.add(catalogue.CUTS, by=self._cuts.cut({account}, self._clients))
        for asking in tuple(self._askings):
            if asking.account == account:
                asking.bar()

    async def _take_back(self) -> None:
        """Tell the services of those who are being asked that nobody waits any more."""
        for asking in tuple(self._askings):
            asking.stop()
        if self._askings:
            await asyncio.wait({asking.task for asking in self._askings}, timeout=CANCEL + 0.5)

    async def _end(self) -> None:
        loop = asyncio.get_running_loop()
        await close_ports(self._ports)
        waited_until = loop.time() + self._config.service.drain_seconds
        while self._clients and loop.time() < waited_until:  # noqa: ASYNC110 - as seldom as it is looked
            await asyncio.sleep(0.05)
        for client in tuple(self._clients):
            try:
                client.stop()
            except Exception as bug:  # noqa: BLE001 - one client's trouble must not be the others'
                self._log.error("bug", reason=where(bug))
        taking = asyncio.ensure_future(self._take_back())  # whose logins are answered by that
        waited_until = loop.time() + FAREWELL + refusal_floor(self._config)
        while self._clients and loop.time() < waited_until:  # noqa: ASYNC110 - seconds at most, once
            await asyncio.sleep(0.02)
        for client in tuple(self._clients):
            client.abort()
        await taking
        await self._take_back()
        self._cancel()
        for guarded in (*self._services.values(), *self._retired):
            await guarded.close()
        for directory in self._directories.values():
            directory.close()
        if self.trail:
            await self.trail.close()
        if self._store:
            await self._store.close()
        if self._page:
            await close_ports([self._page])
        self._log.info("stopped")
