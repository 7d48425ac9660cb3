"""What is worth recording, as frozen classes without secrets, and their one JSON rendering.

Promised here: no class has a field for a password, a code, a key or a token, and text that came from outside
can't forge a line of a log (control characters, ANSI sequences and line separators are escaped).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["accepted", "refused", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginEnded:
    """One bind and how it ended. `at` is seconds since the epoch; durations are milliseconds.

    `name` is what the client typed; `account` the key of the identity the directory confirmed (None before
    that); `result` the LDAP result code sent; `reason` the true reason, one of `ldapmfa.core.login.Reason`;
    `reference` the code shown to the user in a refusal (empty for a success); `detail` what the directory or the broken
    part said, for the record only; `factor` what accepted it, or the service that was asked; `application` whose rules
    held, by name.
    """

    at: float
    outcome: Outcome
    reason: str
    result: int
    reference: str
    listener: str
    client: str
    name: str
    directory: str
    detail: str = ""
    application: str = ""
    account: str | None = None
    dn: str | None = None
    factor: str | None = None
    directory_ms: float = 0.0
    factor_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChanged:
    """Somebody with the right to do so changed an account: what, whose, and by whom."""

    at: float
    action: str
    account: str
    actor: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRefused:
    """A client was turned away before it could bind: no TLS, garbage, a limit, a bad PROXY header."""

    at: float
    listener: str
    client: str
    reason: str


Event = LoginEnded | AccountChanged | ConnectionRefused


def printable(text: str) -> str:
    """`text` with everything that could move a cursor or start a line written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def as_dict(event: Event) -> dict[str, Any]:
    """`event` as plain values, its class under "event", text made printable, None left out."""
    plain: dict[str, Any] = {"event": type(event).__name__}
    for name in event.__slots__:
        value = getattr(event, name)
        if value is not None:
            plain[name] = printable(value) if isinstance(value, str) else value
    return plain


def as_json(event: Event) -> str:
    """`event` as one line of JSON."""
    return json.dumps(as_dict(event), ensure_ascii=False, separators=(",", ":"))
