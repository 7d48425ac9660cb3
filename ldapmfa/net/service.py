"""Assemble everything: from a configuration to a service that listens (the only importer of the reactor).

Promised here: nothing listens before the store is open; a stop answers what is pending, sends a notice of
disconnection to whoever is connected, and ends within seconds. Not in here: what any of the parts does.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from typing import Any, Final

import structlog
from twisted.application.service import Service
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, LogLevel, globalLogBeginner
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from ldapmfa import audit, factors
from ldapmfa.config import Config, Listen
from ldapmfa.config import Directory as DirectoryTable
from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.secret import CodeForm
from ldapmfa.core.session import Rules
from ldapmfa.errors import ConfigError, LdapMfaError, StoreDown
from ldapmfa.net.directory import Directory, DirectorySettings, Server
from ldapmfa.net.driver import Doorway, RefusedShapes, where
from ldapmfa.net.ldap_front import Budget, LdapFront, Listener
from ldapmfa.net.proxy_protocol import ProxyHeaderFactory, address_of
from ldapmfa.net.tls import server_context
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

#: How long clients may take to read the notice of disconnection at a stop, in seconds.
_FAREWELL: Final = 3.0
#: Letters and digits of a reference code: none that can be taken for another.
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"

#: Connections that may wait to be accepted, at each listener.
_BACKLOG: Final = 1024

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
    return secrets.randbelow(2**31 - 1) + 1


def configure_log(form: str, level: str) -> None:
    """Log to stderr: for people on a terminal, as JSON otherwise; text from outside is made printable."""
    for_people = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if for_people
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _made_printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def forward_twisted_log() -> None:
    """Let what Twisted itself reports reach the log: the type and place of an error, not its text."""

    @implementer(ILogObserver)  # type: ignore[untyped-decorator]
    def observe(event: Any) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            what = failure.type.__name__ if failure else event.get("log_namespace")
            structlog.get_logger().error("twisted", failure=what)

    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False)


def _made_printable(_logger: Any, _method: str, fields: Any) -> Any:
    return {name: audit.printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def record(event: audit.Event) -> None:
    """An audit event, to the log."""
    fields = audit.as_dict(event)
    structlog.get_logger().info(fields.pop("event"), **fields)


def directory_settings(name: str, table: DirectoryTable) -> DirectorySettings:
    """A directory's table of the configuration, as net/directory wants it."""
    account = table.service_account
    catalog = table.global_catalog_server
    return DirectorySettings(
        name=name,
        identity_name=table.identity_name or name,
        servers=tuple(Server(server.host, server.port, server.tls) for server in table.servers),
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
    )


def directories(config: Config, reactor: Any) -> dict[str, Directory]:
    """Every directory of the configuration, by the name that listeners call it."""
    return {
        name: Directory(directory_settings(name, table), reactor, message_id)
        for name, table in config.every_directory.items()
    }


async def open_store(config: Config, *, migrate: bool | None = None) -> Store:
    """The store of the configuration; `migrate` overrides store.migrate. Raises ConfigError, StoreDown."""
    return await Store.open(
        config.store.url,
        Seal(config.store.key_file, entropy=os.urandom),
        clock=time.time,
        normalise_dn=dn.normalise,
        migrate=config.store.migrate if migrate is None else migrate,
    )


def policy(config: Config) -> Policy:
    """Who needs no code, and what becomes of those without a factor."""
    return Policy(
        exempt=tuple(Exempt(entry.account, entry.networks, entry.directory) for entry in config.exempt),
        unenrolled=config.login.unenrolled,
    )


def code_form(config: Config, listen: Listen) -> CodeForm:
    """Where a listener expects the code."""
    form = config.code_form(listen)
    return CodeForm(form.digits, form.delimiter.encode() if form.style == "delimiter" else None)


def _with_backlog(endpoint: str) -> str:
    """The endpoint string with room for a burst of connects, unless it says how much: Twisted's 50 stall one."""
    if endpoint.startswith("systemd:") or "backlog=" in endpoint:
        return endpoint
    return f"{endpoint}:backlog={_BACKLOG}"


class LdapMfa(Service):
    """The proxy as a Twisted service. `failure` says why it could not start."""

    name = "ldapmfa"

    def __init__(self, config: Config, reactor: Any, doorway_options: dict[str, Any] | None = None) -> None:
        if not isinstance(reactor, AsyncioSelectorReactor):
            raise ConfigError([WRONG_REACTOR])
        self.failure: LdapMfaError | None = None
        self.started: Deferred[None] = Deferred()
        self._config = config
        self._reactor = reactor
        self._options = doorway_options or {}
        self._clients: set[LdapFront] = set()
        self._ports: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._store: Store | None = None
        self._log = structlog.get_logger()

    def startService(self) -> None:
        """Begin as soon as the reactor runs."""
        Service.startService(self)
        # callLater: until the reactor runs, so does not its event loop
        self._reactor.callLater(0, lambda: self._keep(asyncio.ensure_future(self._begin())))

    def stopService(self) -> Deferred[None]:
        """Stop listening, take leave of the clients, close the store."""
        Service.stopService(self)
        return Deferred.fromFuture(asyncio.ensure_future(self._end()))

    async def _begin(self) -> None:
        try:
            self._store = await open_store(self._config)
            await self._listen(self._store)
        except (ConfigError, StoreDown) as failure:
            self._give_up(failure)
        except Exception as bug:
            self._give_up(LdapMfaError(f"a bug: {type(bug).__name__}"))
            raise
        else:
            self.started.callback(None)

    def _give_up(self, failure: LdapMfaError) -> None:
        self.failure = failure
        self._log.critical("not started", reason=str(failure))
        self._reactor.stop()

    async def _listen(self, store: Store) -> None:
        config = self._config
        doorway = Doorway(
            store=store,
            factors=factors.load(config.login.factors),
            clock=self._reactor,
            now=time.time,
            reference=reference_code,
            record=record,
            refused=RefusedShapes(self._reactor),
            **{"refusal_floor": config.login.refusal_floor, "deadline": config.login.deadline, **self._options},
        )
        budget = Budget(config.limits.buffered_bytes, config.limits.connections, config.limits.pending_logins)
        known = directories(config, self._reactor)
        mistakes = []
        for number, listen in enumerate(config.listen):
            listener = self._listener(listen, doorway, budget, known[listen.directory])
            try:
                endpoint = serverFromString(self._reactor, _with_backlog(listen.endpoint))
                port = await endpoint.listen(self._factory(listen, listener)).asFuture(asyncio.get_running_loop())
            except Exception as failed:  # noqa: BLE001 - whatever an endpoint raises, it is a mistake in its string
                mistakes.append(f"listen[{number}].endpoint: {listen.endpoint} can't be listened on: {failed}")
            else:
                self._ports.append(port)
                self._log.info("listening", listener=listen.name, at=str(port.getHost()), tls=listen.tls)
        if mistakes:
            raise ConfigError(mistakes)

    def _listener(self, listen: Listen, doorway: Doorway, budget: Budget, directory: Directory) -> Listener:
        limits = self._config.limits
        tls = server_context(listen.certificate, listen.key) if listen.certificate and listen.key else None
        return Listener(
            name=listen.name,
            rules=Rules(
                starttls=listen.tls == "starttls",
                tls_required=listen.tls_required,
                form=code_form(self._config, listen),
                frame_before_bind=limits.frame_before_bind,
                frame_after_bind=limits.frame_after_bind,
                held_requests=limits.held_requests,
                held_octets=limits.held_bytes,
            ),
            policy=policy(self._config),
            directory=directory,
            doorway=doorway,
            budget=budget,
            log=self._log.bind(listener=listen.name),
            tls=tls,
            encrypted=listen.tls == "ldaps",
            bind_timeout=limits.bind_timeout,
            frame_timeout=limits.frame_timeout,
            clients=self._clients,
            started=self._keep,
        )

    def _factory(self, listen: Listen, listener: Listener) -> Any:
        factory: Any = Factory.forProtocol(lambda: LdapFront(listener))
        if listener.encrypted:
            factory = TLSMemoryBIOFactory(listener.tls, False, factory)  # noqa: FBT003 - Twisted's: not a client
        if listen.proxy_protocol_from:

            def refused(peer: Any, why: str) -> None:
                listener.log.warning("client turned away", client=str(address_of(peer)), reason=why)

            factory = ProxyHeaderFactory(factory, listen.proxy_protocol_from, self._reactor, refused)
        factory.noisy = False
        return factory

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done: the loop itself holds it weakly only."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        loop = asyncio.get_running_loop()
        for port in self._ports:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped.asFuture(loop)
        for client in tuple(self._clients):
            try:
                client.stop()
            except Exception as bug:  # noqa: BLE001 - one client's trouble must not be the others'
                self._log.error("bug", reason=where(bug))
        waited_until = loop.time() + _FAREWELL + self._config.login.refusal_floor
        while self._clients and loop.time() < waited_until:  # noqa: ASYNC110 - seconds at most, once
            await asyncio.sleep(0.02)
        for client in tuple(self._clients):
            client.abort()
        for task in tuple(task for task in self._tasks if task is not asyncio.current_task()):
            task.cancel()
        if self._store:
            await self._store.close()
        self._log.info("stopped")
