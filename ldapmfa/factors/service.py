"""Second factors that a service verifies: a push to a phone, a call, a code sent or shown elsewhere.

Promised here: the interface of such a service, and nothing of any of them. A service is a plug-in as every factor is
(entry-point group `ldapmfa.factors`); its class names its `Table` of settings, and is constructed from one without
side effects. It is used by one event loop, by many logins at once, and must start no thread. What is broken is raised
as FactorDown, with FactorUnreachable for the one case in which a configuration may let people in without it: the
service can't have begun to ask anybody. Everything else is a value, and whatever is not `Allowed` lets nobody in.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from ldapmfa.config import ServiceTable
    from ldapmfa.core.identity import Identity
    from ldapmfa.core.secret import Secret

#: Why a service says no.
Why = Literal[
    "denied",  #: its owner pressed no, or the service's policy does
    "fraud",  #: its owner reported that it was somebody else
    "no-answer",  #: nobody pressed anything in time
    "locked-at-service",  #: the service has locked the account or the device
    "not-enrolled",  #: the service does not know the user, or has no device of theirs
    "no-method",  #: the user has no device that can be asked like this
    "throttled",  #: the service says that the user was asked too often
    "wrong-code",
    "replayed-code",
]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Whom to ask, how, and what may be shown.

    `user` is what the account is called at the service; `method` one of the service's `methods`, "" for whichever it
    prefers; `device` the user's device, as typed ("2", a name, an id), "" for whichever; `application` what people
    know the place as where they log in; `client` the address they come from, without a port, "" if it is not known;
    `seconds` for how long an answer is of any use. `password` is given only to a service that `wants_password`; `phone`
    is the owner's number in E.164, None if none is known here.
    """

    identity: Identity
    user: str
    application: str
    client: str = ""
    method: str = ""
    device: str = ""
    seconds: float = 60.0
    password: Secret | None = None
    phone: str | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """The service vouches for the user. `how`, in a word: push, phone, passcode, bypass ..."""

    how: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The service says no. `detail` is for the record: its own words, without anything secret.

    `asked`: the user may have been asked, or sent something, though the answer sounds as if nobody was.
    """

    why: Why
    detail: str = ""
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """The owner is being asked. `handle` is the service's own: what it needs to find the question again."""

    handle: Any


@dataclass(frozen=True, slots=True)
class CodeSent:
    """A code is on its way, and comes with another bind within `seconds`, to whichever process.

    `handle` is what `verify` needs then; it is kept sealed, as JSON.
    """

    handle: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 300.0


Started = Allowed | Denied | Waiting | CodeSent
Answer = Allowed | Denied


class Service(Protocol):
    """A service that verifies second factors. `table` is its settings, an instance of `Table`.

    One whose `verify` may itself ask the user, or send something, where nothing was sent before, says so by an
    attribute `codes_ask` that is true: such a code counts as a prompt.
    """

    Table: ClassVar[type[ServiceTable]]
    @property
    def methods(self) -> Sequence[str]:
        """What `start` can be asked for besides "": push, phone, sms ...; none if nobody can be asked."""
        ...

    @property
    def takes_codes(self) -> bool:
        """Whether `verify` can be asked without a `CodeSent`."""
        ...

    @property
    def wants_password(self) -> bool:
        """Whether it must see the password that the directory accepted."""
        ...

    def __init__(self, table: Any, tools: Tools) -> None: ...

    async def start(self, prompt: Prompt) -> Started:
        """Ask the owner, or send a code. FactorUnreachable: it can't have begun to; FactorDown: it may have."""
        ...

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """What the owner says; it may take `prompt.seconds`, and is cancelled when nobody waits any more."""
        ...

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """Whether this is the user's code, now and for the first time; `sent` is what `start` said, if it did."""
        ...

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:
        """Take the question back, as far as the service can do that."""
        ...

    async def health(self) -> str:
        """Whether the service can be reached and takes our keys, in a few words; it asks nobody. FactorDown: no."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What a service may use of the world. `say` hears each step in plain words, for `ldapmfa factor test`."""

    now: Callable[[], float] = time.time  #: seconds since the epoch
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    entropy: Callable[[int], bytes] = os.urandom
    say: Callable[[str], None] = lambda _text: None


def user_of(identity: Identity, template: str) -> str | None:
    """What the account is called at a service, by its table's `username`; None if that can't be said for certain.

    An account's name says nothing where it has several, or is in another domain, in which the name is another's.
    """
    name: str | None = identity.upn
    if "{account}" in template:
        name = identity.accounts[0] if len(identity.accounts) == 1 and not identity.elsewhere else None
    if not name or not name.isprintable() or name.isspace():
        return None
    return template.replace("{account}", name).replace("{upn}", name)
