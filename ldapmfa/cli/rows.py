"""What the accounts give out, as values for JSON and as cells of a table.

Promised here: times are ISO 8601 in UTC as values, and as the reader's clock shows them in cells.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.audit import AccountChanged, LoginEnded, as_dict, timestamp

if TYPE_CHECKING:
    from ldapmfa.store import AccountRow, FactorRow, Pending, PendingRow, RememberedRow


def moment(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC; None for never."""
    return None if seconds in (None, math.inf) else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def local(seconds: float | None, otherwise: str = "never") -> str:
    """A time as the reader's clock shows it."""
    return otherwise if seconds in (None, math.inf) else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def account_value(row: AccountRow) -> dict[str, Any]:
    """An account."""
    times = {name: moment(getattr(row, name)) for name in ("locked_until", "first_seen", "last_login")}
    value = {**asdict(row), **times}
    for name, time_in in (("blocked", "until"), ("bypass", "expires")):
        if value[name]:
            value[name][time_in] = moment(value[name][time_in])
    return value


def account_cells(row: AccountRow) -> tuple[str, ...]:
    """An account, its factors, last login, state and key."""
    factors = ", ".join(row.factors) or "none"
    return row.dn, factors, local(row.last_login), ", ".join(states(row)), row.key


def states(row: AccountRow) -> list[str]:
    """What keeps an account from logging in, or lets it in without a factor."""
    found = []
    if row.blocked:
        word, end = ("disabled", "enabled") if row.blocked.disabled else ("blocked", "unblocked")
        found.append(f"{word} until {local(row.blocked.until, end)}")
    if row.locked_until is not None:
        found.append(f"locked until {local(row.locked_until)}")
    if row.bypass:
        found.append(f"bypass until {local(row.bypass.expires)}")
    return found


def remembered_value(row: RememberedRow) -> dict[str, Any]:
    """A success that still counts."""
    return {**asdict(row), "granted": moment(row.granted), "expires": moment(row.expires)}


def remembered_cells(row: RememberedRow) -> tuple[str, ...]:
    """A success that still counts: whose, where, as what, how often, until when."""
    what = f"{row.reason} ({row.factor})" if row.factor else row.reason
    return row.dn, row.application, row.client, what, str(row.uses), local(row.expires)


def factor_value(row: FactorRow) -> dict[str, Any]:
    """A factor."""
    value = {**asdict(row), "created": moment(row.created), "last_used": moment(row.last_used)}
    if row.kind == "app-password":
        value["parameters"] = {**row.parameters, "expires": moment(row.parameters["expires"])}
    return value


def factor_cells(row: FactorRow) -> tuple[str, ...]:
    """A factor: kind, label, parameters, times, and as much of its id as names it."""
    parameters = [f"{name} {value}" for name, value in row.parameters.items()]
    if row.kind == "recovery":
        parameters.append(f"{row.codes_left} codes left")
    if row.kind == "app-password":
        bounds = row.parameters
        networks = " or ".join(bounds["networks"]) or "anywhere"
        parameters = [f"at {bounds['application']}", f"from {networks}", f"expires {local(bounds['expires'])}"]
    return row.kind, row.label, ", ".join(parameters), local(row.created), local(row.last_used), short_id(row)


def short_id(row: FactorRow) -> str:
    """As much of a factor's id as names it on a command line."""
    from ldapmfa.accounts import SHORT_ID  # noqa: PLC0415 - takes longer than --help may

    return row.id[:SHORT_ID]


def owner_value(owner: Pending) -> dict[str, str]:
    """Whom an enrolment waits for."""
    return {"directory": owner.directory, "attribute": owner.attribute, "value": owner.value, "key": owner.key}


def pending_value(row: PendingRow) -> dict[str, Any]:
    """An enrolment that waits."""
    return {**owner_value(row.owner), "expires": moment(row.expires), "factor": factor_value(row.factor)}


def pending_cells(row: PendingRow) -> tuple[str, ...]:
    """An enrolment that waits: for whom, which factor, until when."""
    factor = row.factor
    waits = f"{row.owner.value} ({row.owner.attribute}, {row.owner.directory})"
    return waits, factor.kind, factor.label, local(row.expires), short_id(factor)


def event_value(event: LoginEnded | AccountChanged) -> dict[str, Any]:
    """What happened."""
    return {"event": type(event).__name__, **asdict(event), "at": moment(event.at)}


def event_cells(event: LoginEnded | AccountChanged) -> tuple[str, ...]:
    """What happened: when, what, from where or by whom, and the reference code."""
    if isinstance(event, LoginEnded):
        what = f"login {event.outcome}: {event.reason}"
        other = f" ({event.application})" if event.application not in ("", event.listener) else ""
        place = f"{event.client} at {event.listener}{other}"
        return local(event.at), event.dn or event.name, what, place, event.reference
    what = f"{event.action}: {event.detail}" if event.detail else event.action
    return local(event.at), event.account, what, f"by {event.actor}", ""


#: What a spreadsheet takes for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_columns() -> list[str]:
    """The headings of a table of all that is recorded: what each event has, or one of a kind."""
    names = [*LoginEnded.__slots__, *AccountChanged.__slots__]
    return ["timestamp", "event", *dict.fromkeys(name for name in names if name != "at")]


def csv_cells(event: LoginEnded | AccountChanged) -> list[str]:
    """What happened, as the cells of that table: no cell is a formula, and none has a line's end."""
    said = {"timestamp": timestamp(event.at), **as_dict(event)}
    return [_cell(said.get(name, "")) for name in csv_columns()]


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else f"{value}"
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
