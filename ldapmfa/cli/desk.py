"""What the help desk does: `ldapmfa user block`, `bypass`, `set-phone` and their kin, and `ldapmfa remembered ...`."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from ldapmfa.audit import printable
from ldapmfa.cli.accounts import chosen_directory, identity_name, on_accounts, on_accounts_or_directory, yes
from ldapmfa.cli.command import Failed, Group, actor, answer, load, say, table, warn
from ldapmfa.cli.rows import local, moment, remembered_cells, remembered_value
from ldapmfa.cli.user import complete_name, enrolled, user

if TYPE_CHECKING:
    from ldapmfa.accounts import Accounts, Admin, No, Operator
    from ldapmfa.config import Config
    from ldapmfa.store import AccountRow, RememberedRow
    from ldapmfa.store.rows import Block

Value = TypeVar("Value")
_DAY: Final = 86400

_name = click.argument("name", shell_complete=complete_name)
_directory = click.option(
    "--directory", metavar="NAME", help="The directory it is in, as the configuration calls it; default: any."
)
_reason = click.option("--reason", required=True, metavar="TEXT", help="Why, for the record.")


def _as_operator(directory: str | None, work: Callable[[Operator, str | None], Awaitable[Value | No]]) -> Value:
    """What an operator's `work` gives, told the identity name of the directory that was named, unless it is a "no"."""
    within = identity_name(load(), directory) if directory else None
    return yes(on_accounts_or_directory(directory, lambda accounts: work(accounts.as_operator(actor()), within)))


def _as_admin(directory: str | None, work: Callable[[Admin, str | None], Awaitable[Value | No]]) -> Value:
    """The same of an administrator's."""
    within = identity_name(load(), directory) if directory else None
    return yes(on_accounts_or_directory(directory, lambda accounts: work(accounts.as_admin(actor()), within)))


# -- blocks


@user.command(
    examples=(
        'ldapmfa user block alice --reason "laptop stolen"',
        'ldapmfa user block alice --days 7 --reason "on leave"',
        'ldapmfa user block alice --until 2027-01-31 --reason "ticket 4711"',
    )
)
@_name
@_reason
@click.option("--days", type=click.FloatRange(0, 36500, min_open=True), help="For so many days.")
@click.option("--until", metavar="DATE", help="Until this day begins, or 2027-01-31T18:00:00, here.")
@_directory
def block(*, name: str, reason: str, days: float | None, until: str | None, directory: str | None) -> None:
    """Let nobody log in as an account.

    That is until it is unblocked, unless --days or --until says otherwise. Whatever counts for the account is dropped
    at once, in every process: remembered logins, a bypass, a code that was sent, a question that is open; and its live
    connections are cut. A block never shortens one that there is. One that was never seen is looked up at the
    directory, where that has a service_account.
    """
    if days is not None and until is not None:
        raise Failed(2, "--days, --until: give one of them")
    now = time.time()
    end = now + days * _DAY if days is not None else _day(until) if until is not None else math.inf
    if end <= now:
        raise Failed(2, f"--until: {local(end)} is over")

    async def work(operator: Operator, within: str | None) -> tuple[str, Block | None] | No:
        key = await operator.block(name, reason, end, within)
        if not isinstance(key, str):
            return key
        found = await operator.show(key)
        return key, getattr(getattr(found, "account", None), "blocked", None)

    key, holds = _as_operator(directory, work)
    longer = holds is not None and holds.until > end
    until_when = holds.until if holds is not None and longer else end
    end_of_it = f"unblocked (`ldapmfa user unblock {name} --reason ...`)"
    if holds is not None and holds.disabled:
        end_of_it = f"enabled (`ldapmfa user enable {name}`)"
    text = f"{name} is blocked until {local(until_when, end_of_it)}"
    if longer and holds is not None:
        text += f", by {holds.by}: {printable(holds.reason)}. A block is never shortened: unblock first"
    answer({"account": key, "until": moment(until_when)}, lambda: say(text))


def _day(text: str) -> float:
    """When that day begins by the clock of this machine, or a moment."""
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise Failed(2, f"--until: {text} is no date, such as 2027-01-31 or 2027-01-31T18:00:00") from None


@user.command(examples=('ldapmfa user unblock alice --reason "laptop found, password changed"',))
@_name
@_reason
@_directory
def unblock(name: str, reason: str, directory: str | None) -> None:
    """End an account's block.

    That is whoever made it, an operator or the account's owner by reporting fraud, but not `user disable`.
    """
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> AccountRow | No:
        return await accounts.as_operator(actor()).unblock(name, reason, within)

    _answer_unblocked(name, yes(on_accounts(work)), "unblocked")


@user.command(examples=("ldapmfa user disable alice", 'ldapmfa user disable alice --reason "has left"'))
@_name
@click.option("--reason", default="disabled", metavar="TEXT", help="Why, for the record.")
@_directory
def disable(name: str, reason: str, directory: str | None) -> None:
    """Let nobody log in as an account until it is enabled.

    It is a block that `user unblock` does not end. The directory's account is left as it is.
    """

    async def work(admin: Admin, within: str | None) -> str | No:
        return await admin.disable(name, reason, within)

    key = _as_admin(directory, work)
    answer({"account": key}, lambda: say(f"{name} is disabled until enabled (`ldapmfa user enable {name}`)"))


@user.command(examples=("ldapmfa user enable alice", 'ldapmfa user enable alice --reason "is back"'))
@_name
@click.option("--reason", default="enabled", metavar="TEXT", help="Why, for the record.")
@_directory
def enable(name: str, reason: str, directory: str | None) -> None:
    """End an account's block, whoever made it."""
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> AccountRow | No:
        return await accounts.as_admin(actor()).enable(name, reason, within)

    _answer_unblocked(name, yes(on_accounts(work)), "enabled")


def _answer_unblocked(name: str, before: AccountRow, word: str) -> None:
    was = before.blocked
    value = {
        "account": before.key,
        "was_blocked_by": was.by if was else None,
        "was_blocked_for": was.reason if was else None,
        "was_blocked_until": moment(was.until) if was else None,
    }
    what = f"; it was blocked by {was.by}: {printable(was.reason)}" if was else ""
    answer(value, lambda: say(f"{name} is {word}{what}"))


# -- bypasses


@user.command(
    examples=(
        'ldapmfa user bypass alice --reason "phone forgotten, known by voice"',
        'ldapmfa user bypass alice --seconds 900 --reason "ticket 4711"',
        'ldapmfa user bypass alice --revoke --reason "not needed"',
    )
)
@_name
@_reason
@click.option("--seconds", type=click.FloatRange(1, _DAY), help="For how long it can be used; default: 300.")
@click.option("--revoke", is_flag=True, help="Take it back.")
@_directory
def bypass(*, name: str, reason: str, seconds: float | None, revoke: bool, directory: str | None) -> None:
    """Let an account log in once without a second factor.

    The next login with the right password alone is let in, within --seconds. Make sure who is asking: whoever knows
    the password is let in.
    """
    from ldapmfa.accounts import BYPASS_SECONDS  # noqa: PLC0415 - takes long

    if revoke and seconds is not None:
        raise Failed(2, "--revoke, --seconds: give one of them")
    lasts = BYPASS_SECONDS if seconds is None else seconds
    expires = time.time() + lasts

    async def work(operator: Operator, within: str | None) -> str | No:
        if revoke:
            return await operator.revoke_bypass(name, reason, within)
        return await operator.grant_bypass(name, reason, lasts, within)

    key = _as_operator(directory, work)
    text = f"{name} may log in once without a second factor until {local(expires)}"
    if revoke:
        text = f"{name} needs a second factor again"
    answer({"account": key, "expires": None if revoke else moment(expires)}, lambda: say(text))


# -- phones


@user.command(
    "set-phone", examples=('ldapmfa user set-phone alice "+49 30 123456"', "ldapmfa user set-phone alice --none")
)
@_name
@click.argument("number", required=False)
@click.option("--none", "forget", is_flag=True, help="Forget the number.")
@_directory
def set_phone(*, name: str, number: str | None, forget: bool, directory: str | None) -> None:
    """Say at which number services reach a user.

    NUMBER begins with + and the country's code (E.164); blanks, dots, hyphens and parentheses in it are dropped.
    """
    if forget == (number is not None):
        raise Failed(2, "give a NUMBER, or --none")

    async def work(admin: Admin, within: str | None) -> tuple[str, str | None] | No:
        return await admin.set_phone(name, number, within)

    key, kept = _as_admin(directory, work)
    text = f"{name} is reached at {kept}" if kept else f"{name} has no number here"
    answer({"account": key, "phone": kept}, lambda: say(text))


@user.command(
    "import-phones",
    examples=(
        "ldapmfa user import-phones",
        'ldapmfa user import-phones --group "cn=staff,ou=groups,dc=example,dc=com" --country-code 49 --apply',
    ),
)
@click.option("--group", metavar="DN", help="Of whom: of all in this group; default: of all accounts that are known.")
@click.option("--attribute", default="mobile", show_default=True, metavar="NAME", help="Which attribute it is in.")
@click.option(
    "--country-code", "country", metavar="DIGITS", help="What stands for the 0 at the beginning of a number, as in 49."
)
@click.option("--apply", is_flag=True, help="Do it; else only what would be done is shown.")
@_directory
def import_phones(
    *, group: str | None, attribute: str, country: str | None, apply: bool, directory: str | None
) -> None:
    """Take numbers over from the directory, once.

    From then on they are ldapmfa's own: what is changed in the directory later is of no effect, until this is done
    again. Nothing is changed without --apply. It needs a service_account.
    """
    from ldapmfa.cli import enrolling  # noqa: PLC0415 - takes long

    if country is not None and not (country.isascii() and country.isdigit() and country[0] != "0"):
        raise Failed(2, f"--country-code: {country} is none: give digits alone, as in 49")
    config = load()
    place = chosen_directory(config, directory)
    enrolling.import_phones(config, place, group, attribute, country, apply=apply)


# -- app passwords


def complete_application(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Applications of the configuration that begin as typed."""
    try:
        with ctx.scope(cleanup=False):
            names = _applications(load(check_files=False))
    except Exception:  # noqa: BLE001 - nobody reads an error between two strokes of the Tab key
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _applications(config: Config) -> list[str]:
    """What logins can be at: an application, or a listener where none covers the client."""
    return [*(table.name for table in config.application), *(listen.name for listen in config.listen)]


@user.command(
    "app-password",
    examples=(
        "ldapmfa user app-password alice --application jenkins",
        "ldapmfa user app-password alice --application mail --network 10.1.0.0/16 --days 90 --label laptop",
    ),
)
@_name
@click.option(
    "--application",
    required=True,
    metavar="APP",
    shell_complete=complete_application,
    help="Where alone it counts: an application's name, or a listener's for clients that no application covers.",
)
@click.option("--network", "networks", multiple=True, metavar="CIDR", help="From where alone; may be repeated.")
@click.option("--days", type=click.FloatRange(0, 36500, min_open=True), default=365, show_default=True)
@click.option("--label", default="", help="What to call it in lists, such as the program's name.")
@_directory
def app_password(
    *, name: str, application: str, networks: tuple[str, ...], days: float, label: str, directory: str | None
) -> None:
    """Make an app password, for a program that can't ask for codes.

    It is typed behind the directory's password as a code is, and counts again and again: at one application, from the
    networks that are named, until it expires. It is shown this once. `factor remove` revokes it. It needs
    "app-password" among login.factors, or the factors of that application.
    """
    config = load()
    known = _applications(config)
    if application not in known:
        raise Failed(2, f"--application: {config.source} has no {application}, only {', '.join(known)}")
    if "app-password" not in config.every_factor:
        raise Failed(2, f'{config.source}: login.factors: does not have "app-password": add it there')
    for network in networks:
        try:
            ip_network(network)
        except ValueError as wrong:
            raise Failed(2, f"--network: {wrong}; for example 10.1.0.0/16") from None
    own = next((table.factors for table in config.application if table.name == application), None)
    if "app-password" not in (own or config.login.factors):
        where = f"the application {application}" if own else "login"
        warn(f'{where} has no "app-password" among its factors: it counts only where a rule names it')
    expires = time.time() + days * _DAY
    options = {"application": application, "networks": list(networks), "expires": expires}
    made = yes(
        enrolled(
            config,
            chosen_directory(config, directory),
            lambda admin: admin.enrol(name, "app-password", options, label=label, add=True),
        )
    )
    code = made.codes[0].reveal().decode()
    parameters = {**made.parameters, "expires": moment(expires)}
    value = {
        "id": made.id,
        "owner": made.owner.key,
        "code": code,
        "parameters": parameters,
        "pending_until": moment(made.expires),
    }

    def show() -> None:
        click.echo(code)
        where = f"at {application}, from {' or '.join(networks) or 'anywhere'}, until {local(expires)}"
        say(f"\nIt counts behind the password of {name}, {where}. It is not shown again.")
        if made.expires is not None:
            say(f"Pending until {local(made.expires)}: claimed by the account of that name when it is first used.")
        say(f"`ldapmfa factor remove {made.id}` revokes it.")

    answer(value, show)


# -- remembered logins


@click.group(cls=Group)
def remembered() -> None:
    """Logins that still count for further ones: list, forget.

    They are successes within reuse_seconds, and approvals that came after their client had left.
    """


@remembered.command("list", examples=("ldapmfa remembered list", "ldapmfa remembered list alice --json"))
@click.argument("name", required=False, shell_complete=complete_name)
@_directory
def list_remembered(name: str | None, directory: str | None) -> None:
    """List them, of one account or of all.

    Each counts for a bind with the very same password and code, from the same address, at the same application.
    """
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> tuple[RememberedRow, ...] | No:
        return await accounts.as_operator(actor()).remembered(name, within)

    rows = yes(on_accounts(work))

    def show() -> None:
        if not rows:
            say("No login counts for further ones.")
            return
        table(("account", "application", "from", "as", "uses left", "expires"), map(remembered_cells, rows))

    answer({"remembered": [remembered_value(row) for row in rows]}, show)


@remembered.command(examples=("ldapmfa remembered forget alice", "ldapmfa remembered forget --all"))
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("--all", "everybody", is_flag=True, help="Those of all accounts.")
@_directory
def forget(*, name: str | None, everybody: bool, directory: str | None) -> None:
    """Let them count no more."""
    if everybody == (name is not None):
        raise Failed(2, "give a NAME, or --all")
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> int | No:
        return await accounts.as_operator(actor()).forget_remembered(name, within)

    count: Any = yes(on_accounts(work))
    answer({"forgotten": count}, lambda: say(f"{count} forgotten" if count else "There was none that counted."))
