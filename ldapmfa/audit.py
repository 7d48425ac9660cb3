"""What is worth recording, as frozen classes without secrets, and their one JSON rendering.

Promised here: no class has a field for a password, a code, a key or a token, and text that came from outside
can't forge a line of a log (control characters, ANSI sequences and line separators are escaped), nor be endless in
what is sent elsewhere. Not in here: where events go (`ldapmfa.net.trail`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

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


#: Characters of each text that are passed on; as few as it takes where an event must fit into so many octets.
LENGTHS: Final = (512, 160, 48, 16)
#: What stands behind a text that was cut.
CUT: Final = "\N{HORIZONTAL ELLIPSIS}"


def as_dict(event: Event, longest: int | None = None) -> dict[str, Any]:
    """`event` as plain values, its class under "event", text made printable, None left out.

    With `longest`, no text has more characters than that; one that had ends with `CUT`.
    """
    plain: dict[str, Any] = {"event": type(event).__name__}
    for name in event.__slots__:
        value = getattr(event, name)
        if value is not None:
            plain[name] = _shown(value, longest) if isinstance(value, str) else value
    return plain


def _shown(text: str, longest: int | None) -> str:
    if longest is None:
        return printable(text)
    # what is escaped grows: no more of it is looked at than can be shown
    shown = printable(text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + CUT


def as_json(event: Event, octets: int | None = None) -> str:
    """`event` as one line of JSON, in ASCII, with its time in words too; its texts are cut until it has `octets`."""
    line = ""
    for longest in LENGTHS if octets else (None,):
        line = json.dumps({"timestamp": timestamp(event.at), **as_dict(event, longest)}, separators=(",", ":"))
        if not octets or len(line) <= octets:
            break
    return line


def timestamp(at: float) -> str:
    """A time as RFC 3339 has it, in UTC, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def told(event: Event, longest: int = LENGTHS[1]) -> str:
    """`event` as a sentence for people."""
    said = as_dict(event, longest)
    match event:
        case LoginEnded():
            text = f"login of {said.get('dn') or said['name']} {said['outcome']} ({said['reason']})"
            text += f" from {said['client']} at {said['application'] or said['listener']}"
            return text + (f", reference {said['reference']}" if said["reference"] else "")
        case AccountChanged():
            detail = f": {said['detail']}" if said["detail"] else ""
            return f"{said['actor']} changed {said['account']}: {said['action']}{detail}"
        case ConnectionRefused():
            return f"client {said['client']} turned away at {said['listener']}: {said['reason']}"
