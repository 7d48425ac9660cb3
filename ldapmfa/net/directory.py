"""The side that faces the directory: connect, bind, identify, failover.

Promised here: a bind starts on a quiet link, and whatever is not success closes it (A50); who was bound is what the
directory says on that link; nothing of a group is kept for longer than is configured; a server that is known to be down
costs no login any time. Not in here: what one connection does (`link`), how it comes to serve another login (`spare`),
which server's turn it is (`servers`), and when they are looked at (`health`, `discovery`).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectBindError
from twisted.internet.protocol import Factory

from ldapmfa.core.groups import Mark, find_groups
from ldapmfa.core.identity import (
    ROOT_DSE_ATTRIBUTES,
    Ask,
    CannotIdentify,
    Capabilities,
    Found,
    Identity,
    Kind,
    NoOneAccount,
    Unidentified,
    find_account,
    identify,
    is_taken_alike,
    read_capabilities,
)
from ldapmfa.core.questions import PasswordAnswer
from ldapmfa.core.secret import Secret
from ldapmfa.errors import DirectoryDown
from ldapmfa.net.discovery import Answer, Discovery, Srv, look_up
from ldapmfa.net.health import Health, Unable
from ldapmfa.net.keeping import Kept
from ldapmfa.net.link import Link, LinkLost, Server, read_result, why
from ldapmfa.net.servers import Condition, Place, Servers, ServerState
from ldapmfa.net.spare import Spares
from ldapmfa.net.tls import client_context, over_tls
from ldapmfa.net.waiting import Deadline, DeadlineExceeded
from ldapmfa.wire import ldap

#: How many connections to the directory may be opening at once; more would only wait in its queue.
_CONNECTING: Final = 64
#: How long, in seconds, and for how many accounts an entry is kept that an account showed of itself.
_KEPT_SECONDS: Final = 30.0
_KEPT: Final = 10_000

#: What a connection fails with that says nothing of the other end.
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
#: What a domain controller says FALSE in while it does not have all that its fellows have ([MS-ADTS] 3.1.1.3.2).
_SYNCHRONISED: Final = "isSynchronized"

#: What an administrator hears of the DNS.
_DNS_SAYS: Final = {
    "away": "directory servers can't be looked up",
    "back": "directory servers can be looked up again",
    "strangers": "directory servers elsewhere are not asked",
    "servers": "directory servers",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """One directory, as the configuration describes it. Times in seconds.

    Its `servers` have turns, the first the first, or if `balance` is "spread" all the same; with `srv` the DNS says
    which there are. Each is looked at every `check_seconds`. `spare_links` at most wait, for `spare_seconds`, to serve
    another login, and none is older than `spare_age`; `pending_links` at most stay bound while an approval is pending.
    What is known of groups counts for `group_seconds` (0: it is asked each time).
    """

    name: str
    identity_name: str
    servers: tuple[Server, ...]
    balance: Literal["first", "spread"] = "first"
    srv: Srv | None = None
    check_seconds: float = 10.0
    starttls: bool = False
    ca_file: Path | None = None
    verify: bool = True
    connect_timeout: float = 5.0
    response_timeout: float = 10.0
    kind: Kind | None = None
    global_catalog: Server | None = None
    service_dn: str | None = None
    service_password: Secret | None = None
    base_dn: str | None = None
    spare_links: int = 0
    spare_seconds: float = 30.0
    spare_age: float = 600.0
    pending_links: int = 200
    group_seconds: float = 60.0
    phone_attribute: str | None = None


class Directory:
    """One directory, and how to reach it. `chance` gives message ids for requests of ours.

    `says(what, fields)` is told what an administrator should hear: of a server that went down or came back, of the DNS.
    """

    def __init__(
        self,
        settings: DirectorySettings,
        reactor: Any,
        chance: Callable[[], int],
        says: Callable[[str, dict[str, str]], None] = lambda _what, _fields: None,
    ) -> None:
        self.settings = settings
        self._reactor = reactor
        self._chance = chance
        self._says = says
        self._contexts: dict[str, Any] = {}
        self._capabilities: dict[Server, Capabilities] = {}
        self._spares = Spares(
            reactor, settings.spare_links, settings.spare_seconds, settings.spare_age, self._is_best
        )
        self._connecting = asyncio.Semaphore(_CONNECTING)
        self._kept: Kept[bytes, Found] = Kept()
        self._marks: Kept[str, Mark] = Kept()
        self._memberships: Kept[tuple[Identity, tuple[str, ...]], frozenset[Mark]] = Kept()
        self._clearing: int | None = None  # at which clearing of the caches it has forgotten
        self._forgotten = 0
        self.links_made = 0
        self.pending = 0  #: links that stay bound while their client's approval is pending
        spread = settings.balance == "spread"
        self._servers = self._several(Place(server, 0 if spread else at) for at, server in enumerate(settings.servers))
        self._catalogs = self._several([Place(settings.global_catalog)] if settings.global_catalog else [])
        self._health: tuple[Health, ...] = ()  # empty: nobody looks after the servers
        self._discovery = Discovery(self._look_up_servers, reactor, self._servers_found, self._dns_says)
        self._finding: asyncio.Task[None] | None = None

    def _several(self, places: Iterable[Place]) -> Servers:
        return Servers(places, clock=self._reactor.seconds, chance=self._luck, changed=self._changed)

    def _luck(self) -> float:
        return self._chance() / (ldap.MAX_MESSAGE_ID + 1)

    # -- the servers

    def begin(self, keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        """Look after the servers, until `close`; `keep` runs a coroutine."""
        self._health = tuple(
            Health(
                servers,
                self._check,
                clock=self._reactor,
                seconds=self.settings.check_seconds,
                chance=self._luck,
                keep=keep,
            )
            for servers in (self._servers, self._catalogs)
        )
        for health in self._health:
            health.begin()
        if self.settings.srv:
            self._finding = keep(self._discovery.run())

    def states(self) -> tuple[ServerState, ...]:
        """How each server is, those whose turn comes first in front; the global catalog last."""
        return self._servers.states() + self._catalogs.states()

    async def find_servers(self) -> tuple[Server, ...]:
        """Which servers there are now. Raises DirectoryDown where the DNS does not say it, and never has."""
        if self.settings.srv and not len(self._servers):
            if self._health and self._discovery.asked:
                raise DirectoryDown(self._discovery.trouble or "the DNS says that there is no server")
            await self._discovery.once()
        return tuple(self._servers)

    async def _look_up_servers(self) -> Answer:
        if self.settings.srv is None:
            raise AssertionError("the servers are configured")
        return await look_up(self.settings.srv, self._reactor, self.settings.connect_timeout)

    def _servers_found(self, places: tuple[Place, ...]) -> None:
        self._servers.replace(places)
        known = {*self._servers, *self._catalogs}
        hosts = {server.host for server in known}
        self._capabilities = {server: said for server, said in self._capabilities.items() if server in known}
        self._contexts = {host: context for host, context in self._contexts.items() if host in hosts}
        for health in self._health:
            health.begin()
        self._spares.sort_out()

    def _dns_says(self, what: str, detail: str) -> None:
        fields = {"directory": self.settings.name, "name": str(self.settings.srv)}
        self._says(_DNS_SAYS[what], fields | ({"servers": detail} if what == "servers" else {"reason": detail}))

    def _changed(self, state: ServerState, before: Condition) -> None:
        self._spares.sort_out()
        if before != "unknown" or state.condition != "up":
            fields = {"directory": self.settings.name, "server": str(state.server), "reason": state.reason}
            self._says(f"directory server {state.condition}", fields)

    def _is_best(self, link: Link) -> bool:
        """Whether a fresh link would lead to the same server, or to one as good."""
        return self._servers.is_best(link.server)

    def link_made(self, link: Link) -> None:
        """As an owner of links is told."""
        self.links_made += 1
        for servers in (self._servers, self._catalogs):
            servers.connected(link.server)

    def link_ended(self, link: Link, *, by_us: bool) -> None:
        """As an owner of links is told: one that was lost is a reason to look at its server, and no proof."""
        for servers in (self._servers, self._catalogs):
            servers.disconnected(link.server)
            if link.overdue and self._health:
                servers.suspect(link.server, f"{link.server}: it did not answer in time")
        if not by_us:
            self._hurry(link.server)

    def _hurry(self, server: Server) -> None:
        for health in self._health:
            health.hurry(server)

    async def _check(self, server: Server) -> bool:
        """Whether `server` says that it is synchronised, or says nothing of it. Raises DirectoryDown."""
        link = await self._connect_to(server)
        try:
            async with Deadline(self._reactor, self.settings.connect_timeout):
                found = await self._look_up(link, ldap.search_request(b"", (*ROOT_DSE_ATTRIBUTES, _SYNCHRONISED)))
        except DeadlineExceeded:
            raise DirectoryDown(f"{server}: it accepts connections, and does not answer") from None
        except DirectoryDown as down:
            raise DirectoryDown(f"{server}: {down}") from down
        finally:
            link.close()
        if found.result.code != ldap.SUCCESS or len(found.entries) != 1:
            raise DirectoryDown(f"{server}: the rootDSE can't be read (result {found.result.code})")
        self._capabilities.pop(server, None)
        with suppress(CannotIdentify):  # which a login says, with the reason
            self._capabilities[server] = read_capabilities(found.entries[0], self.settings.kind)
        return [word.upper() for word in found.entries[0].text(_SYNCHRONISED)] != ["FALSE"]

    # -- links

    async def link(self) -> Link:
        """A link on which nobody is bound, spare or fresh. Raises DirectoryDown."""
        spare = await self._spares.take()
        if spare:
            return spare
        async with self._connecting:
            return await self.connect()

    def give_back(self, link: Link) -> None:
        """Nobody uses `link` any more."""
        self._spares.give_back(link)

    def close(self) -> None:
        """Close what nobody uses, and look after the servers no longer; whoever is still here may go on."""
        self._spares.close()
        for health in self._health:
            health.end()
        self._health = ()
        if self._finding:
            self._finding.cancel()

    @property
    def spare(self) -> int:
        """How many links wait for another login."""
        return len(self._spares)

    async def connect(self) -> Link:
        """A fresh link to the server whose turn it is, of those that can be reached. Raises DirectoryDown."""
        await self.find_servers()
        return await self._reach(self._servers)

    async def _reach(self, servers: Servers) -> Link:
        tried: set[Server] = set()
        failures: list[str] = []
        while server := servers.choose(tried, desperate=not self._health):
            tried.add(server)
            try:
                return await self._try(servers, server)
            except DirectoryDown as down:
                failures.append(str(down))
        raise DirectoryDown("; ".join(failures) or servers.complaint())

    async def _try(self, servers: Servers, server: Server) -> Link:
        """Connect to `server`, and remember if that fails."""
        try:
            link = await self._connect_to(server)
        except Unable:
            raise
        except DirectoryDown as down:
            servers.down(server, str(down))
            self._hurry(server)
            raise
        if not self._health:
            servers.well(server)
        return link

    async def _connect_to(self, server: Server) -> Link:
        """A link to `server`, encrypted as configured, within the connect timeout."""
        settings = self.settings
        link = Link(server, self._reactor, self._chance, settings.response_timeout, self)
        step = "the connection is not accepted"
        secured = False
        try:
            async with Deadline(self._reactor, settings.connect_timeout):
                await self._open(link)
                step = "the TLS handshake does not end"
                if settings.starttls and not server.ldaps:
                    final, _ = await link.ask(ldap.extended_request(ldap.OID_START_TLS))
                    code = read_result(final).code
                    if code != ldap.SUCCESS:
                        raise DirectoryDown(f"StartTLS was answered with {code}")
                    link.start_tls(self._context(server))
                if settings.starttls or server.ldaps:
                    await link.secured()
            secured = True
        except DeadlineExceeded:
            raise DirectoryDown(f"{server} can't be reached: {step} within {settings.connect_timeout:g} s") from None
        except Unable:
            raise
        except DirectoryDown as failed:
            raise DirectoryDown(f"{server}: {failed}") from failed
        finally:
            if not secured:
                link.close()
        return link

    async def _open(self, link: Link) -> None:
        server = link.server
        factory: Any = Factory.forProtocol(lambda: link)
        if server.ldaps:
            factory = over_tls(factory, self._context(server), client=True)
        endpoint = _endpoint(self._reactor, server, self.settings.connect_timeout)
        try:
            await endpoint.connect(factory).asFuture(asyncio.get_running_loop())
        except Exception as failed:
            if _is_ours(failed):
                raise Unable(f"{server} can't be reached from here: {why(failed)}") from failed
            raise DirectoryDown(f"can't be reached: {why(failed)}") from failed

    def _context(self, server: Server) -> Any:
        if server.host not in self._contexts:
            self._contexts[server.host] = client_context(
                server.host, self.settings.ca_file, verify=self.settings.verify
            )
        return self._contexts[server.host]

    def renew_trust(self) -> None:
        """Go by what `ca_file` says now, from the next connection on. ConfigError: it is no good, all stays."""
        settings = self.settings
        hosts = self._contexts or ("localhost",)
        self._contexts = {host: client_context(host, settings.ca_file, verify=settings.verify) for host in hosts}

    async def capabilities(self, link: Link) -> Capabilities:
        """What the server behind `link` says of itself; asked once of each server. Raises CannotIdentify."""
        server = link.server
        if server not in self._capabilities:
            found = await self._look_up(link, ldap.search_request(b"", ROOT_DSE_ATTRIBUTES))
            if len(found.entries) != 1:
                raise CannotIdentify(f"the rootDSE of {server} can't be read (result {found.result.code})")
            self._capabilities[server] = read_capabilities(found.entries[0], self.settings.kind)
        return self._capabilities[server]

    async def verify_password(
        self, link: Link | None, name: bytes, password: Secret, message_id: int, controls: bytes
    ) -> tuple[Link, PasswordAnswer]:
        """Bind on `link` if it is quiet, else on a fresh one. The link is closed unless the answer is success.

        One bind reaches the directory. Only if a link that had served before turns out to be dead, before any octet
        of an answer, and its server to be alive, is the bind sent again, to that server on a fresh link: one that has
        died may have seen it.
        """
        operation = ldap.bind_request(name, password.reveal())
        if link is not None and link.quiet and self._is_best(link):
            link.detach()
        else:
            if link is not None:
                link.close()
            link = await self.link()
        try:
            return link, await self._bind(link, operation, message_id, controls)
        except LinkLost as lost:
            if not lost.untouched or not link.used:
                raise
        link = await self._try(self._servers, link.server)
        return link, await self._bind(link, operation, message_id, controls)

    async def _bind(self, link: Link, operation: bytes, message_id: int, controls: bytes) -> PasswordAnswer:
        kept = False
        try:
            if link.server not in self._capabilities:
                await self.capabilities(link)
            if controls:
                link.taint()
            final, _ = await link.ask(operation, message_id=message_id, controls=controls)
            answer = read_result(final)
            kept = answer.code == ldap.SUCCESS
        finally:
            if not kept:
                link.close()
        link.used = True
        return PasswordAnswer(answer.code, answer.text.decode(errors="replace").rstrip("\0"), final.raw)

    async def identify(
        self, link: Link, name: bytes = b"", password: Secret | None = None
    ) -> Identity | Unidentified:
        """Whom the bind that `link` has just seen has bound. Raises CannotIdentify, DirectoryDown.

        `name` and `password` are used again only for an account of another domain, at the global catalog, where no
        service account is configured.
        """
        asking = identify(await self.capabilities(link), self.settings.identity_name, self.settings.phone_attribute)
        return await self.answer(asking, link, (name, password) if password else None)

    async def groups(self, link: Link | None, identity: Identity, groups: tuple[str, ...]) -> frozenset[str]:
        """In which of `groups` (DNs or SIDs, as rules write them) the account that `link` has bound is.

        Without a link, as the service account sees it. Raises CannotIdentify if that can't be found out, DirectoryDown.
        """
        asked = link or await self.service_link()
        try:
            capabilities = await self.capabilities(asked)
        except BaseException:
            if asked is not link:
                asked.close()
            raise
        began, forgotten = self._reactor.seconds(), self._forgotten
        known = {group: mark for group in groups if (mark := self._marks.recall(group, began)) is not None}
        who = replace(identity, sids=(), flags=frozenset(), phone=None), groups
        own = self._memberships.recall(who, began)
        base = self.settings.base_dn
        asking = find_groups(capabilities, identity, groups, base=base, bound=link is not None, known=known, own=own)
        placed = await self.answer(asking, link, service=None if link else asked)
        until = began + self.settings.group_seconds
        if self.settings.group_seconds and forgotten == self._forgotten:
            for group in placed.marks.keys() - known.keys():
                self._marks.keep(group, placed.marks[group], until, _KEPT)
            if own is None and capabilities.kind != "active-directory":
                self._memberships.keep(who, placed.own, until, _KEPT)
        return placed.groups

    def forget(self) -> None:
        """Let nothing count any more that was found out before."""
        self._forgotten += 1
        self._kept.clear()
        self._marks.clear()
        self._memberships.clear()

    def forget_before(self, clearing: int) -> None:
        """Forget what was found out before the caches were cleared for the `clearing`-th time."""
        if clearing != self._clearing:
            self.forget()
            self._clearing = clearing

    async def resolve(self, name: str) -> Identity | None:
        """The one account as which a bind takes `name`, as the service account sees it; None where that can't be said.

        Raises CannotIdentify, DirectoryDown.
        """
        if self.settings.service_dn is None or self.settings.service_password is None:
            return None
        found = await self.find(name, as_bind=True)
        return found if isinstance(found, Identity) else None

    async def find(self, name: str, *, as_bind: bool = False) -> Identity | NoOneAccount:
        """The one account that is called `name`, as the service account sees it; `as_bind`: as which a bind takes it.

        Raises CannotIdentify, DirectoryDown.
        """
        service = await self.service_link()
        try:
            capabilities = await self.capabilities(service)
            base = self.settings.base_dn or next(iter(capabilities.naming_contexts), None)
            if base is None:
                raise CannotIdentify("base_dn is needed, as the directory's rootDSE names no naming context")
            if as_bind and not is_taken_alike(capabilities, name):
                return NoOneAccount(())
            asking = find_account(capabilities, self.settings.identity_name, name, base)
            return await self.answer(asking, service=service)
        finally:
            service.close()

    async def answer(
        self,
        asking: Generator[Ask, Found | None, T],
        link: Link | None = None,
        credentials: tuple[bytes, Secret] | None = None,
        service: Link | None = None,
    ) -> T:
        """Carry the look-ups of `asking`; links other than `link` are opened when needed and closed at the end."""
        opened: dict[str, Link] = {"service": service} if service else {}
        shown: tuple[bytes, Found] | None = None
        try:
            ask = next(asking)
            while True:
                if ask.on == "bound":
                    if link is None:
                        raise CannotIdentify("nobody is bound")
                    found: Found | None = self._recall(ask)
                    if found is None:
                        found = await self._look_up(link, ask.operation)
                        shown = (ask.operation, found) if ask.of_itself and found.entries else shown
                else:
                    if ask.on not in opened:
                        other = await (self._service() if ask.on == "service" else self._catalog(credentials))
                        if other:
                            opened[ask.on] = other
                    found = await self._look_up(opened[ask.on], ask.operation) if ask.on in opened else None
                ask = asking.send(found)
        except StopIteration as stop:
            result: T = stop.value
            if shown and isinstance(result, Identity):
                self._kept.keep(*shown, self._reactor.seconds() + _KEPT_SECONDS, _KEPT)
            return result
        finally:
            for other in opened.values():
                other.close()

    def _recall(self, ask: Ask) -> Found | None:
        return self._kept.recall(ask.operation, self._reactor.seconds()) if ask.of_itself else None

    async def service_link(self) -> Link:
        """A link bound as the service account. Raises DirectoryDown where none is configured."""
        link = await self._service()
        if link is None:
            raise DirectoryDown("no service account is configured for this directory")
        return link

    async def _service(self) -> Link | None:
        if self.settings.service_dn is None or self.settings.service_password is None:
            return None
        link = await self.connect()
        return await self._bound(link, self.settings.service_dn.encode(), self.settings.service_password, "service")

    async def _catalog(self, credentials: tuple[bytes, Secret] | None) -> Link | None:
        if self.settings.global_catalog is None:
            return None
        if self.settings.service_dn is not None and self.settings.service_password is not None:
            credentials = (self.settings.service_dn.encode(), self.settings.service_password)
        if credentials is None:
            return None
        link = await (self._reach(self._catalogs) if self._health else self._connect_to(self.settings.global_catalog))
        return await self._bound(link, *credentials, "global catalog")

    async def _bound(self, link: Link, name: bytes, password: Secret, what: str) -> Link:
        code = None
        try:
            final, _ = await link.ask(ldap.bind_request(name, password.reveal()))
            code = read_result(final).code
        finally:
            if code != ldap.SUCCESS:
                link.close()
        if code != ldap.SUCCESS:
            raise DirectoryDown(f"the bind for the {what} was answered with {code}")
        return link

    async def _look_up(self, link: Link, operation: bytes) -> Found:
        final, entries = await link.ask(operation)
        return Found(read_result(final), tuple(entries))


def _is_ours(failed: Exception) -> bool:
    """Whether a connection failed for want of descriptors, ports or memory of this machine."""
    number = getattr(failed, "osError", None) or getattr(failed, "errno", None)
    return isinstance(failed, ConnectBindError) or number in _OURS


def _endpoint(reactor: Any, server: Server, timeout: float) -> Any:
    """Where to connect; an address needs nobody to look it up."""
    if isIPAddress(server.host):
        return TCP4ClientEndpoint(reactor, server.host, server.port, timeout)
    if isIPv6Address(server.host):
        return TCP6ClientEndpoint(reactor, server.host, server.port, timeout)
    return HostnameEndpoint(reactor, server.host, server.port, timeout=timeout)
