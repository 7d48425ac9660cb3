"""One client program's LDAP connections, played with ldap3 and written down step by step.

Promised here: whatever a server does, a step ends and says how; passwords are sent and kept nowhere else. It is ldap3's
own code that speaks, so that what the proxy says is read by somebody else's eyes. Not in here: which steps a program
takes (`programs`), and what they mean (`advice`).
"""

from __future__ import annotations

import contextlib
import math
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import ldap3
from ldap3.core.exceptions import LDAPException

from ldapmfa.core.secret import Secret

#: Seconds within which a server must accept a connection.
CONNECT: Final = 10
#: Seconds that a program waits for what no person has a part in.
SEARCH: Final = 10

Who = Literal["service", "user"]
Outcome = Literal["ok", "refused", "silent", "lost", "empty", "several"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step, and how it ended. `purpose` names it for whoever gives advice; `seconds` is how long it took."""

    purpose: str
    text: str
    outcome: Outcome
    code: int | None = None
    said: str = ""
    seconds: float = 0.0

    @property
    def reference(self) -> str:
        """The reference code in a refusal of ours, if there is one."""
        found = re.search(r"Reference: ([A-Z0-9]{8})", self.said)
        return found[1] if found else ""


class Stopped(Exception):  # noqa: N818 - not an error: the program gives up here
    """A step failed that the program does not do without."""


@dataclass(frozen=True)
class Place:
    """Where a program connects, and how: in TLS from the first octet, after StartTLS, or in clear."""

    host: str
    port: int
    tls: Literal["ldaps", "starttls", "none"]
    context: ssl.SSLContext | None = None
    #: The name that the certificate must bear; None: whatever `context` accepts.
    name: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        more = " with StartTLS" if self.tls == "starttls" else ""
        return f"{'ldaps' if self.tls == 'ldaps' else 'ldap'}://{host}:{self.port}{more}"


@dataclass(frozen=True, slots=True)
class Person:
    """A name for binds, and the password with which it is tried."""

    name: str
    password: Secret


class Encrypting(ldap3.Tls):  # type: ignore[misc]
    """ldap3's, with a context of ours: what it makes itself verifies nothing by default."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:  # noqa: FBT001, FBT002 - ldap3's
        """Encrypt the connection's socket."""
        context = self._place.context or ssl.create_default_context()
        name = self._place.name or self._place.host
        connection.socket = context.wrap_socket(
            connection.socket, do_handshake_on_connect=do_handshake, server_hostname=name
        )


@dataclass
class Stage:
    """Where one program's login is played; `steps` is what came of it. Who binds is known by their role."""

    place: Place
    base: str
    people: dict[Who, Person]
    patience: int | None
    name: str
    name_attribute: str = "uid"
    steps: list[Step] = field(default_factory=list)
    user_dn: str = ""
    again: bool = False  #: whether the login is played once more, with the same password
    told: Callable[[Step], None] = lambda _step: None
    _links: list[Any] = field(default_factory=list)

    # -- what programs do

    def connect(self) -> Any:
        """A new connection, encrypted as the place is. Stopped if there is none."""
        server = ldap3.Server(
            self.place.host,
            port=self.place.port,
            use_ssl=self.place.tls == "ldaps",
            tls=Encrypting(self.place) if self.place.tls != "none" else None,
            get_info=ldap3.NONE,
            connect_timeout=CONNECT,
        )
        link = ldap3.Connection(
            server,
            authentication=ldap3.ANONYMOUS,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            check_names=False,
            receive_timeout=SEARCH,
            return_empty_attributes=False,
        )
        self._links.append(link)
        self._do("connect", f"connects to {self.place}", link.open)
        if self.place.tls == "starttls":
            self._do("starttls", "encrypts the connection by StartTLS", link.start_tls, link)
        return link

    def bind(self, link: Any, who: Who, purpose: str = "") -> None:
        """A simple bind, of a program without a service account as nobody. Stopped unless it succeeds in time."""
        if who not in self.people:
            self._do("bind-nobody", "binds as nobody, having no service account", lambda: _bind_as_nobody(link), link)
            return
        person = self.people[who]
        purpose = purpose or f"bind-{who}"
        called = "its service account" if who == "service" else "the user"
        if who == "user" and self.again:
            purpose, called = "bind-again", "the user once more, with the same password"
        name = self.user_dn or person.name if who == "user" else person.name
        wait = self.patience if who == "user" else SEARCH
        self._patience(link, wait)

        def bind() -> bool:
            link.user, link.password = name, person.password.reveal().decode()
            link.authentication = ldap3.SIMPLE
            try:
                return bool(link.bind(read_server_info=False))
            finally:
                link.password = None

        try:
            self._do(purpose, f"binds as {called}", bind, link)
        finally:
            self._patience(link, SEARCH)

    def read_root(self, link: Any, purpose: str = "root-dse") -> None:
        """Read the rootDSE."""
        self._read(purpose, "reads the rootDSE", link, "", ["*", "+"])

    def find_user(self, link: Any, where: str, attributes: list[str], *, page: int | None = None) -> None:
        """Look for the user's entry, whose DN is then bound as."""
        text = f"looks for the user: {where}"
        asked = {"search_base": self.base, "search_scope": ldap3.SUBTREE, "search_filter": where}
        found = self._search("find-user", text, link, **asked, attributes=attributes, paged_size=page)
        names = [entry["dn"] for entry in found if entry.get("type") == "searchResEntry"]
        if len(names) != 1:
            self._note(Step("find-user", text, "several" if names else "empty"))
            raise Stopped
        self.user_dn = names[0]

    def read_user(self, link: Any, purpose: str, text: str, attributes: list[str]) -> None:
        """Read the user's own entry."""
        self._read(purpose, text, link, self.user_dn, attributes)

    def find_groups(self, link: Any, where: str) -> None:
        """Look for groups; that there are none is an answer as well."""
        asked = {"search_base": self.base, "search_scope": ldap3.SUBTREE, "search_filter": where}
        self._search("groups", "looks for the user's groups", link, **asked, attributes=["cn"])

    def compare(self, link: Any, attribute: str, value: str) -> None:
        """Compare an attribute of the user's entry; true or false are both answers."""
        text = f"compares the user's {attribute}"
        self._do("compare", text, lambda: link.compare(self.user_dn, attribute, value), link, fine=(5, 6))

    def leave(self, link: Any) -> None:
        """Unbind, and close."""
        self._links.remove(link)
        with contextlib.suppress(LDAPException, OSError):  # it was gone already; whether that matters, a step said
            link.unbind()
        if link.socket:
            link.socket.close()

    def close(self) -> None:
        """Leave every connection."""
        for link in tuple(self._links):
            self.leave(link)

    # -- how

    def escaped(self, text: str) -> str:
        """`text` as it stands in a filter."""
        return str(ldap3.utils.conv.escape_filter_chars(text))

    def _read(self, purpose: str, text: str, link: Any, name: str, attributes: list[str]) -> None:
        asked = {"search_base": name, "search_scope": ldap3.BASE, "search_filter": "(objectClass=*)"}
        self._search(purpose, text, link, **asked, attributes=attributes)

    def _search(self, purpose: str, text: str, link: Any, **asked: Any) -> list[dict[str, Any]]:
        def search() -> bool:
            link.search(**asked, paged_criticality=bool(asked.get("paged_size")))
            return bool(link.result["result"] == 0)

        self._do(purpose, text, search, link)
        return list(link.response or [])

    def _patience(self, link: Any, seconds: float | None) -> None:
        link.receive_timeout = None if seconds is None else math.ceil(seconds)
        if link.socket:
            link.socket.settimeout(link.receive_timeout)

    def _do(
        self, purpose: str, text: str, act: Callable[[], Any], link: Any = None, fine: tuple[int, ...] = (0,)
    ) -> None:
        """Perform `act`, write down how it ended; Stopped unless it went well."""
        began = time.monotonic()
        try:
            done = act()
        except (LDAPException, OSError, ssl.SSLError) as failed:
            seconds = time.monotonic() - began
            said = _words(failed)
            outcome: Outcome = "silent" if "timed out" in said else "lost"
            self._note(Step(purpose, text, outcome, None, said, seconds))
            raise Stopped from failed
        seconds = time.monotonic() - began
        result = (link.result if link is not None and isinstance(link.result, dict) else None) or {}
        code, said = result.get("result"), str(result.get("message") or "")
        if (done is False and code not in fine) or code not in (None, *fine):
            self._note(Step(purpose, text, "refused", code, said, seconds))
            raise Stopped
        self._note(Step(purpose, text, "ok", code, said, seconds))

    def _note(self, step: Step) -> None:
        self.steps.append(step)
        self.told(step)


def _bind_as_nobody(link: Any) -> bool:
    link.authentication = ldap3.ANONYMOUS
    link.user = link.password = None
    return bool(link.bind(read_server_info=False))


def _words(failed: BaseException) -> str:
    """What an exception of ldap3 says, without its own prefix; of several for several addresses the last."""
    said = str(failed.args[-1][-1]) if failed.args and isinstance(failed.args[-1], (list, tuple)) else str(failed)
    return said.strip("() ") or type(failed).__name__
