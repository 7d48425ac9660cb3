"""`ldapmfa user ...`: who is enrolled, enrolling, unlocking, and a login played step by step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from ldapmfa.audit import printable
from ldapmfa.cli.accounts import (
    chosen_directory,
    completed,
    identity_name,
    in_reactor,
    login_place,
    lookup_at,
    on_accounts,
    with_accounts,
    yes,
)
from ldapmfa.cli.command import Failed, Group, actor, answer, given, load, say, table, warn
from ldapmfa.cli.rows import (
    account_cells,
    account_value,
    event_cells,
    event_value,
    factor_cells,
    factor_value,
    local,
    moment,
    owner_value,
    pending_cells,
    pending_value,
)

if TYPE_CHECKING:
    from ldapmfa.accounts import Accounts, Details, Enrolled, No, Overview
    from ldapmfa.config import Config
    from ldapmfa.store import AccountRow

#: Kinds of factor that have codes of digits.
_DIGITS: Final = ("totp", "hotp")
_ATTRIBUTES: Final = {
    "dn": "the DN",
    "userPrincipalName": "the userPrincipalName",
    "account": "the sAMAccountName or uid",
}


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of accounts that begin as typed."""

    async def names(accounts: Accounts) -> list[str]:
        overview = await accounts.as_operator(actor()).list()
        found = [row.accounts[0] if len(row.accounts) == 1 else row.dn for row in overview.accounts]
        return found + [row.owner.value for row in overview.pending]

    return completed(ctx, names, incomplete)


_name = click.argument("name", shell_complete=complete_name)
_directory = click.option(
    "--directory", metavar="NAME", help="The directory it is in, as the configuration calls it; default: any."
)


@click.group(cls=Group)
def user() -> None:
    """Accounts: list, enrol, unlock, test a login.

    NAME is an account's name (sAMAccountName or uid), userPrincipalName, DN, or its key as `user list` shows it.
    """


# -- looking


@user.command("list", examples=("ldapmfa user list", "ldapmfa user list --json"))
def list_users() -> None:
    """List accounts and pending enrolments.

    Accounts are listed with their factors, last logins, locks, blocks and bypasses, pending enrolments with when they
    expire.
    """

    async def work(accounts: Accounts) -> Overview:
        return await accounts.as_operator(actor()).list()

    found = on_accounts(work)

    def show() -> None:
        if found.accounts:
            table(("account", "factors", "last login", "state", "key"), map(account_cells, found.accounts))
        if found.pending:
            say("Pending: claimed by the account of that name, at its first right password with the right code.\n")
            table(("waits for", "factor", "label", "expires", "factor id"), map(pending_cells, found.pending))
        if not found.accounts and not found.pending:
            say("Nobody is enrolled, and nobody has logged in. `ldapmfa user enrol NAME` enrols somebody.")

    accounts = [account_value(row) for row in found.accounts]
    answer({"accounts": accounts, "pending": [pending_value(row) for row in found.pending]}, show)


@user.command(examples=("ldapmfa user show alice", "ldapmfa user show alice@example.com --json"))
@_name
@_directory
def show(name: str, directory: str | None) -> None:
    """Show all that is known of one account.

    These are its names, factors, lock, block and bypass, what waits for it, and what happened last.
    """
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> Details | No:
        return await accounts.as_operator(actor()).show(name, within)

    found = yes(on_accounts(work))
    value = {
        "account": account_value(found.account) if found.account else None,
        "factors": [factor_value(row) for row in found.factors],
        "pending": [pending_value(row) for row in found.pending],
        "events": [event_value(event) for event in found.events],
    }
    answer(value, lambda: _show_details(found))


def _show_details(found: Details) -> None:
    account = found.account
    if account:
        say(f"{account.dn}")
        say(f"  key                {account.key}")
        say(f"  names              {', '.join(account.accounts) or 'none'}")
        say(f"  userPrincipalName  {account.upn or 'none'}")
        say(f"  first seen         {local(account.first_seen)}")
        say(f"  last login         {local(account.last_login)}")
        say(f"  locked until       {local(account.locked_until, 'not locked')}")
        say(f"  wrong codes        {account.wrong_codes} in a row")
        say(f"  asked by           {account.method or 'as the configuration says'}")
        say(f"  phone              {account.phone or 'none'}")
        blocked, bypass = account.blocked, account.bypass
        if blocked:
            end = "enabled" if blocked.disabled else "unblocked"
            say(f"  blocked            until {local(blocked.until, end)}, by {blocked.by}: {printable(blocked.reason)}")
        if bypass:
            times = f"{bypass.uses} login{'s' if bypass.uses > 1 else ''}"
            why = printable(bypass.reason)
            say(f"  bypass             {times} until {local(bypass.expires)}, by {bypass.actor}: {why}")
    if found.factors:
        table(("factor", "label", "parameters", "created", "last used", "factor id"), map(factor_cells, found.factors))
    elif account:
        say("\nIt has no factor.")
    if found.pending:
        say("\nPending:")
        table(("waits for", "factor", "label", "expires", "factor id"), map(pending_cells, found.pending))
    if found.events:
        say("\nWhat happened last:")
        table(("when", "who", "what", "from", "reference"), map(event_cells, found.events))


# -- changing


@user.command(
    examples=(
        "ldapmfa user enrol alice",
        "ldapmfa user enrol alice@example.com --kind totp --label phone",
        'ldapmfa user enrol "cn=Alice,ou=staff,dc=example,dc=com" --kind recovery --add',
        "ldapmfa user enrol alice --json | jq -r .uri",
        'ldapmfa user enrol --group "cn=staff,ou=groups,dc=example,dc=com" --out pages',
    )
)
@click.argument("name", required=False)
@click.option("--group", metavar="DN", help="Enrol all who are in this group, through others too, instead of NAME.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where a page for each of them is written.")
@click.option("--kind", metavar="KIND", help="totp, hotp, recovery, or a plug-in; default: the first in login.factors.")
@click.option(
    "--algorithm",
    type=click.Choice(["SHA1", "SHA256", "SHA512"], case_sensitive=False),
    help="Of totp; default: SHA1, which every app knows.",
)
@click.option(
    "--digits",
    type=click.Choice(["6", "8"]),
    help="Of totp and hotp; default: as the listeners expect (code_digits).",
)
@click.option("--period", type=click.IntRange(1, 120), help="Of totp, in seconds; default: 30, which every app knows.")
@click.option("--label", default="", help="What to call the factor in lists, such as phone.")
@click.option("--add", is_flag=True, help="Enrol although the account has a factor of this kind.")
@_directory
def enrol(
    *,
    name: str | None,
    group: str | None,
    out: Path | None,
    kind: str | None,
    algorithm: str | None,
    digits: str | None,
    period: int | None,
    label: str,
    add: bool,
    directory: str | None,
) -> int | None:
    """Enrol an account for a second factor.

    Prints a QR code and the otpauth URI, or the recovery codes. Where the directory has a service_account, NAME is
    looked up, and the factor hangs on the account found. Otherwise the enrolment is pending: the account whose DN,
    userPrincipalName (NAME with an @), or sAMAccountName or uid is this very NAME claims it at its first right
    password with the right code. It expires in seven days.

    What is printed is the secret: show it to nobody but the account's owner.

    With --group, a page with it is written for each member, readable by you alone, and an index.csv without secrets.
    Who has a factor of this kind is left out, so that it may be run again. It needs a service_account.
    """
    if bool(name) == bool(group) or bool(group) != (out is not None):
        raise Failed(2, "give a NAME, or --group and --out")
    config = load()
    place = chosen_directory(config, directory)
    kind = _kind(config, kind)
    options: dict[str, Any] = {}
    warnings: list[str] = []
    if kind in _DIGITS:
        options["digits"], warnings = _digits(config, place, int(digits) if digits else None)
    elif digits:
        options["digits"] = int(digits)
    if algorithm:
        options["algorithm"] = algorithm.lower()
    if period:
        options["period"] = period
    if group is not None and out is not None:
        from ldapmfa.cli import enrolling  # noqa: PLC0415 - takes long

        for warning in warnings:
            warn(warning)
        return enrolling.enrol_group(config, place, group, out, kind=kind, options=options, label=label, add=add)
    who = name or ""
    made = yes(enrolled(config, place, lambda admin: admin.enrol(who, kind, options, label=label, add=add)))
    _answer_enrolled(made, warnings)
    return None


def _kind(config: Config, kind: str | None) -> str:
    """What is to be enrolled: what was said, or the first factor that is enrolled here and not at a service."""
    own = [name for name in config.code_factors if name != "app-password"]
    if kind == "app-password":
        raise Failed(2, "--kind app-password: `ldapmfa user app-password` makes one")
    if kind in config.factors:
        raise Failed(2, f"--kind {kind}: is a service: who is asked by it enrols there, not here")
    if kind in own:
        return kind
    if kind is None and own:
        return own[0]
    if kind is None:
        raise Failed(2, f"{config.source}: login.factors: has services alone, where users enrol: add totp, or so")
    known = ", ".join(own) or "services"
    raise Failed(2, f'{config.source}: login.factors: does not have "{kind}", only {known}: add it there')


def enrolled(config: Config, place: str, work: Any) -> Enrolled | No:
    """What `work` returns, given an admin of the accounts in the directory `place`."""
    table = config.every_directory[place]
    identity = table.identity_name

    async def go(reactor: Any) -> Enrolled | No:
        from ldapmfa.net import service  # noqa: PLC0415 - takes long

        lookup = lookup_at(service.directories(config, reactor)[place]) if reactor else None

        async def on(accounts: Accounts) -> Enrolled | No:
            made: Enrolled | No = await work(accounts.as_admin(actor()))
            return made

        return await with_accounts(config, identity, lookup, on)

    if table.service_account:
        return in_reactor(go)
    import asyncio  # noqa: PLC0415 - takes long

    return asyncio.run(go(None))


def _digits(config: Config, place: str, digits: int | None) -> tuple[int, list[str]]:
    """How many digits codes are to have, and a warning where some listener would not take them."""
    listeners = [listen for listen in config.listen if listen.directory == place] or list(config.listen)
    # behind a delimiter a code of any length is found
    wanted = {listen.name: config.code_form(listen) for listen in listeners}
    lengths = [form.digits for form in wanted.values() if form.style == "suffix"]
    if digits is None:
        default = config.login.code_digits
        digits = default if default in lengths or not lengths else lengths[0]
    misfits = [name for name, form in wanted.items() if form.style == "suffix" and form.digits != digits]
    if len(misfits) == len(wanted):
        raise Failed(
            2,
            f"--digits {digits}: no listener takes such codes: they cut {lengths[0]} digits off ({config.source}: "
            f'login.code_digits); leave --digits out, or set code_digits or code = "delimiter"',
        )
    return digits, [f"the listener {name} takes no codes of {digits} digits: see its code_digits" for name in misfits]


def _answer_enrolled(made: Enrolled, warnings: list[str]) -> None:
    from ldapmfa.store import Pending  # noqa: PLC0415 - takes long

    pending = made.owner if isinstance(made.owner, Pending) else None
    value: dict[str, Any] = {
        "id": made.id,
        "kind": made.kind,
        "account": None if pending else made.owner.key,
        "dn": None if isinstance(made.owner, Pending) else made.owner.dn,
        "pending": owner_value(pending) if pending else None,
        "expires": moment(made.expires),
        "parameters": dict(made.parameters),
        "warnings": warnings,
    }
    if made.uri:
        value["uri"] = made.uri.reveal().decode()
    if made.codes:
        value["codes"] = [code.reveal().decode() for code in made.codes]

    def show() -> None:
        for warning in warnings:
            warn(warning)
        if made.uri:
            import segno  # noqa: PLC0415 - takes long

            uri = made.uri.reveal().decode()
            segno.make(uri, micro=False).terminal(sys.stdout, compact=True, border=2)
            click.echo(f"\nScan it with an authenticator app, or type in what is behind secret=:\n{uri}\n")
        for code in made.codes:
            click.echo(code.reveal().decode())
        if made.codes:
            say("\nEach of these codes is good once, in the place of a one-time code. Keep them on paper.\n")
        if isinstance(made.owner, Pending):
            whose = f"{_ATTRIBUTES[made.owner.attribute]} is {made.owner.value}"
            say(
                f"Pending until {local(made.expires)}: claimed by the account of which {whose}, at its first right "
                "password with the right code."
            )
        else:
            say(f"Enrolled: {made.owner.dn}")
        say(f"`ldapmfa user test NAME` plays a login with it. Its id is {made.id}.")

    answer(value, show)


@user.command(
    examples=("ldapmfa user unenrol alice", "ldapmfa user unenrol default/guid:0123456789abcdef0123456789abcdef")
)
@_name
@_directory
def unenrol(name: str, directory: str | None) -> None:
    """Remove all factors of an account.

    Enrolments that wait for it are removed too. What then becomes of its logins, login.require_user_match says.
    """
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> int | No:
        return await accounts.as_admin(actor()).unenrol(name, within)

    removed = yes(on_accounts(work))
    answer({"removed": removed}, lambda: say(f"{name}: {removed} removed" if removed else f"{name} had no factor"))


@user.command(examples=("ldapmfa user unlock alice",))
@_name
@_directory
def unlock(name: str, directory: str | None) -> None:
    """End an account's lock.

    It may try codes again that was locked for ten wrong ones in a row, and its owner may be asked again who was asked
    login.prompts times.
    """
    within = identity_name(load(), directory) if directory else None

    async def work(accounts: Accounts) -> AccountRow | No:
        return await accounts.as_operator(actor()).unlock(name, within)

    before = yes(on_accounts(work))
    locked = before.locked_until is not None
    text = "is not locked any more" if locked else "was not locked; its owner may be asked again"
    value = {"account": before.key, "was_locked": locked, "wrong_codes": before.wrong_codes}
    answer(value, lambda: say(f"{before.dn} {text}"))


def complete_method(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Ways to be asked that begin as typed."""
    try:
        with ctx.scope(cleanup=False):
            from ldapmfa.cli import services  # noqa: PLC0415 - takes long

            ways = services.ways(load(check_files=False))
    except Exception:  # noqa: BLE001 - nobody reads an error between two strokes of the Tab key
        return []
    return [CompletionItem(way) for way in ways if way.startswith(incomplete)]


@user.command(
    "set-method",
    examples=(
        "ldapmfa user set-method alice push",
        "ldapmfa user set-method alice duo/phone:2",
        "ldapmfa user set-method alice code",
        "ldapmfa user set-method alice --default",
    ),
)
@_name
@click.argument("method", required=False, shell_complete=complete_method)
@click.option("--default", "forget", is_flag=True, help="In the order of the configuration again.")
@_directory
def set_method(*, name: str, method: str | None, forget: bool, directory: str | None) -> None:
    """Say how a user is asked.

    That is for those who type the password alone. METHOD is a method (push, phone, sms), with a service and a slash
    before it if it must be that one, and a device behind a colon; or a service; or "code": the user is never asked, and
    types codes.
    """
    from ldapmfa.config.values import METHOD  # noqa: PLC0415 - takes long

    config = load()
    if forget == (method is not None):
        raise Failed(2, "give a METHOD, or --default")
    if method is not None:
        from ldapmfa.cli import services  # noqa: PLC0415 - takes long

        ways = services.ways(config)
        if not METHOD.fullmatch(method) or method.partition(":")[0] not in ways:
            known = f"known are {', '.join(ways)}; a device may follow, as in push:2"
            if not config.factors:
                known = f'{config.source} has no service that asks ([factors.NAME]), so that only "code" is left'
            raise Failed(2, f'"{method}": nobody can be asked like this; {known}')
    chosen = chosen_directory(config, directory)
    within = identity_name(config, directory) if directory else None

    async def work(reactor: Any) -> str | No:
        from ldapmfa.net import service  # noqa: PLC0415 - takes long

        known = service.directories(config, reactor)[chosen]
        identity_directory = config.every_directory[chosen].identity_name

        async def change(accounts: Accounts) -> str | No:
            return await accounts.as_admin(actor()).set_method(name, method, within)

        return await with_accounts(config, identity_directory, lookup_at(known), change)

    key = yes(in_reactor(work))
    text = f"{name} is asked by {method}" if method else f"{name} is asked in the order of the configuration"
    if method == "code":
        text = f"{name} is not asked, and types codes"
    answer({"account": key, "method": method}, lambda: say(text))


# -- testing


@user.command(
    examples=(
        'ldapmfa user test "cn=Alice,ou=staff,dc=example,dc=com"',
        "ldapmfa user test alice@example.com --listener vpn --from 10.1.2.3",
        r"""printf '%s\n' "$PASSWORD" "$CODE" | ldapmfa user test alice --password-stdin --json""",
    )
)
@_name
@click.option("--listener", metavar="NAME", help="The listener to log in at; default: the first.")
@click.option("--from", "address", metavar="ADDRESS", help="The client's address; default: none is known.")
@click.option("--password-stdin", is_flag=True, help="Read the password, and from a second line the code, as input.")
def test(*, name: str, listener: str | None, address: str | None, password_stdin: bool) -> int:
    """Play a login, step by step.

    Asks for password and code, and says in plain words what is done with them. It is a real login, at the directory,
    with everything that it changes: the code or a bypass is used up, wrong ones count, and a pending enrolment is
    claimed. NAME is sent as it stands: OpenLDAP and 389 Directory Server take only a DN. Exit code 0: the login was
    accepted. 1: refused. 3: something was broken.
    """
    from ldapmfa.cli import trial  # noqa: PLC0415 - takes long

    config = load()
    listen, client = login_place(config, listener, address)
    if password_stdin:
        password, code = (sys.stdin.buffer.readline().rstrip(b"\r\n") for _ in range(2))
    elif not sys.stdin.isatty():
        raise Failed(2, "there is no terminal to ask at: give the password as input, with --password-stdin")
    else:
        password = click.prompt("Password", hide_input=True, err=True).encode()
        asked = click.prompt("Code or keyword (none: just Enter)", default="", show_default=False, err=True)
        code = asked.strip().encode()
    typed = trial.typed(config, listen, password, code)
    steps: list[str] = []

    def step(text: str) -> None:
        steps.append(text)
        if not given().json:
            say(f"{len(steps)}. {text}")

    outcome = in_reactor(
        lambda reactor: trial.play(
            config, listen, name, typed, client=client, actor=actor(), reactor=reactor, step=step
        )
    )
    value = {
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "meaning": outcome.meaning,
        "remedy": outcome.remedy,
        "detail": outcome.detail,
        "reference": outcome.reference,
        "account": outcome.account,
        "steps": steps,
    }

    def result() -> None:
        say(f"\n{outcome.outcome.capitalize()} ({outcome.reason}). {outcome.meaning}")
        for line in (outcome.detail, outcome.remedy):
            if line:
                say(line)

    answer(value, result)
    return {"accepted": 0, "refused": 1}.get(outcome.outcome, 3)
