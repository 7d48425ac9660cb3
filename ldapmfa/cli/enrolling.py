"""What is done to many accounts at once, as the directory's service account sees them: enrolling, taking phones over.

Promised here: a page with a secret is readable by its maker alone and refers to nothing outside of itself; no secret is
in the index; what fails for one account is said, and fails for no other.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import os
import re
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ldapmfa.accounts import Admin, Enrolled, No, phone_number
from ldapmfa.audit import printable
from ldapmfa.cli.accounts import in_reactor, seen_by_service_account, with_accounts
from ldapmfa.cli.command import Failed, actor, answer, given, say, table, warn
from ldapmfa.core.identity import Identity, NoOneAccount, find_account
from ldapmfa.core.members import Members, find_members
from ldapmfa.errors import LdapMfaError
from ldapmfa.net import service
from ldapmfa.wire import dn

if TYPE_CHECKING:
    from ldapmfa.config import Config
    from ldapmfa.net.directory import Directory

Value = TypeVar("Value")
_INDEX: Final = "index.csv"
_COLUMNS: Final = ("account", "dn", "outcome", "file", "why")

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">
<title>{issuer}: a second factor for {name}</title>
<style>body {{ font: 1em/1.5 sans-serif; max-width: 40em; margin: 2em auto }} code {{ overflow-wrap: anywhere }}</style>
</head><body>
<h1>A second factor for {name}</h1>
{instructions}
<p>This page is as good as the factor itself: show it to nobody, and destroy it when you are done.</p>
</body></html>
"""
_SCAN: Final = """\
<ol><li>Open an authenticator app, and scan this:</li></ol>
{qr}
<p>Or type in what stands behind <code>secret=</code> here: <code>{uri}</code></p>
<p>From now on, when you log in, type {how} the code that the app shows.</p>
"""
_CODES: Final = """\
<p>Each of these codes is good once, in the place of a one-time code: when you log in, type {how} one of them. Keep them
on paper, and strike out what is used.</p>
<ul>{codes}</ul>
"""


def _with_service_account(
    config: Config, place: str, work: Callable[[Admin, Directory], Awaitable[Value]]
) -> Value:
    """What `work` returns, given an admin of the accounts in the directory `place`, and that."""
    settings = config.every_directory[place]
    if settings.service_account is None:
        name = "directory" if place == "default" else f"directories.{place}"
        raise Failed(2, f"{config.source}: {name}.service_account: is needed for this: it finds the accounts")

    async def go(reactor: Any) -> Value:
        at = service.directories(config, reactor)[place]
        identity = settings.identity_name
        return await with_accounts(config, identity, None, lambda accounts: work(accounts.as_admin(actor()), at))

    return in_reactor(go)


async def _members(at: Directory, group: str, phone: str | None = None) -> Members:
    try:
        dn.normalise(group)
    except dn.DnError as wrong:
        raise Failed(2, f"--group: {group} is not a distinguished name: {wrong}") from None
    capabilities, base = await seen_by_service_account(at)
    return await at.answer(find_members(capabilities, at.settings.identity_name, group, base, phone))


# -- enrolling a group


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one member: enrolled, with the page's name, skipped, or failed, and why."""

    account: str
    dn: str
    outcome: str
    file: str = ""
    why: str = ""


def enrol_group(
    config: Config,
    place: str,
    group: str,
    out: Path,
    *,
    kind: str,
    options: Mapping[str, Any],
    label: str,
    add: bool,
) -> int:
    """Enrol everybody in `group`, a page each in `out`; gives the exit code."""
    _prepare(out)
    how = typing(config, place)

    async def work(admin: Admin, at: Directory) -> list[Outcome]:
        members = await _members(at, group)
        outcomes = []
        for number, account in enumerate(members.accounts, 1):
            name = account.upn or next(iter(account.accounts), account.dn)
            file = out / _file_name(account, name)
            try:
                made = await admin.enrol(account, kind, options, label=label, add=add)
                written = partial(page, name=name, issuer=config.login.issuer, how=how)
                one = await _kept(admin, made, account, name, file=file, text=written, new=not add)
            except LdapMfaError as broken:
                one = Outcome(name, account.dn, "failed", why=str(broken))
            except OSError as error:
                one = Outcome(name, account.dn, "failed", why=f"{file.name}: {error.strerror or error}")
            outcomes.append(one)
            why = f": {one.why}" if one.why else ""
            click.echo(printable(f"{number}/{len(members.accounts)} {one.account}: {one.outcome}{why}"), err=True)
        outcomes += [Outcome("", name, "failed", why="could not be read, or is no account") for name in members.unread]
        return outcomes

    outcomes = _with_service_account(config, place, work)
    _write_index(out, outcomes)
    counts = {word: sum(one.outcome == word for one in outcomes) for word in ("enrolled", "skipped", "failed")}
    rows = [{name: getattr(one, name) for name in _COLUMNS} for one in outcomes]

    def show() -> None:
        table(_COLUMNS, [tuple(row.values()) for row in rows])
        say(", ".join(f"{count} {word}" for word, count in counts.items()) + f"; {out / _INDEX} lists them.")

    answer({"members": rows, **counts}, show)
    return 3 if counts["failed"] else 0


async def _kept(
    admin: Admin,
    made: Enrolled | No,
    account: Identity,
    name: str,
    *,
    file: Path,
    text: Callable[[Enrolled], str],
    new: bool,
) -> Outcome:
    """Write the page of a factor that was made; one that can't be written leaves no factor behind."""
    if isinstance(made, No):
        return Outcome(name, account.dn, "skipped", _name_of(file), made.text)
    try:
        _write(file, text(made), new=new)
    except OSError:
        await admin.remove_factor(made.id)  # nobody could ever use it
        raise
    return Outcome(name, account.dn, "enrolled", file.name)


def typing(config: Config, place: str) -> str:
    """How a code is typed into the password field: as all listeners before the directory `place` expect it."""
    forms = [config.code_form(listen) for listen in config.listen if listen.directory == place]
    marks = {form.delimiter if form.style == "delimiter" else "" for form in forms}
    match [*marks]:
        case [""]:
            return "your password and, right behind it,"
        case [mark]:
            return f'your password, then the sign "{mark}" and, right behind it,'
    return "your password and, behind it as you were told,"


def page(made: Enrolled, name: str, issuer: str, how: str) -> str:
    """One owner's page; nothing that comes from a directory can become markup. `how` a code is typed: `typing`."""
    import segno  # noqa: PLC0415 - takes long

    instructions = ""
    if made.uri:
        uri = made.uri.reveal().decode()
        qr = segno.make(uri, micro=False).svg_inline(scale=5, border=4)
        instructions += _SCAN.format(qr=qr, uri=html.escape(uri), how=html.escape(how))
    if made.codes:
        codes = "".join(f"<li><code>{html.escape(code.reveal().decode())}</code></li>" for code in made.codes)
        instructions += _CODES.format(codes=codes, how=html.escape(how))
    return _PAGE.format(issuer=html.escape(issuer), name=html.escape(printable(name)), instructions=instructions)


def _file_name(account: Identity, name: str) -> str:
    """A name that is nobody else's, whatever the account is called."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:40] or "account"
    return f"{plain}-{hashlib.sha256(account.key.encode()).hexdigest()[:8]}.html"


def _name_of(file: Path) -> str:
    """What a page is called, where there is one."""
    return file.name if file.exists() else ""


def _prepare(out: Path) -> None:
    """A directory that nobody else can look into."""
    try:
        out.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        found = out.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise Failed(2, f"--out: {out} must be a directory of yours that nobody else can read: chmod 700") from None


def _write(file: Path, text: str, *, new: bool) -> None:
    """Write what its owner alone may read; no link that lies there is followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_EXCL if new else os.O_TRUNC)
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as written:
        written.write(text)


def _write_index(out: Path, outcomes: list[Outcome]) -> None:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(_COLUMNS)
    lines.writerows([_cell(getattr(one, name)) for name in _COLUMNS] for one in outcomes)
    _write(out / _INDEX, text.getvalue(), new=False)


def _cell(text: str) -> str:
    """`text` as no spreadsheet takes for a formula."""
    return "'" + printable(text) if text[:1] in tuple("=+-@") else printable(text)


# -- phones


def import_phones(
    config: Config, place: str, group: str | None, attribute: str, country: str | None, *, apply: bool
) -> None:
    """Show what numbers the directory has, and take them over where that is wanted."""

    async def work(admin: Admin, at: Directory) -> list[dict[str, Any]]:
        found = (await _members(at, group, attribute)).accounts if group else await _known(admin, at, attribute)
        old = {row.key: row.phone for row in (await admin.list()).accounts}
        rows = []
        for account in found:
            row = _row(account, old.get(account.key), country)
            if apply and row["outcome"] == "new":
                done = await admin.set_phone(account, row["new"])
                row["outcome"] = f"failed: {done.text}" if isinstance(done, No) else "taken over"
            rows.append(row)
        return rows

    rows = _with_service_account(config, place, work)
    changed = [row for row in rows if row["outcome"] in ("new", "taken over")]

    def show() -> None:
        table(("account", "old", "new", "outcome"), [[str(cell or "") for cell in row.values()][1:] for row in rows])
        text = f"{len(changed)} taken over" if apply else f"{len(changed)} would be taken over"
        text += ": --apply does it" if changed and not apply else ""
        say(f"{text}.")

    if given().json is False and not rows:
        warn("nobody was found")
    answer({"phones": rows, "applied": apply}, show)


def _row(account: Identity, old: str | None, country: str | None) -> dict[str, Any]:
    number = phone_number(account.phone, country) if account.phone else None
    if account.phone is None:
        outcome = "the directory has none, or several"
    elif number is None:
        outcome = f"{account.phone} is no number in E.164"
    else:
        outcome = "as it is" if number == old else "new"
    return {"key": account.key, "account": account.dn, "old": old, "new": number, "outcome": outcome}


async def _known(admin: Admin, at: Directory, attribute: str) -> list[Identity]:
    """Every account of the directory that is known here, as the directory has it."""
    capabilities, base = await seen_by_service_account(at)
    place = at.settings.identity_name
    found = []
    for row in (await admin.list()).accounts:
        if row.directory == place:
            account = await at.answer(find_account(capabilities, place, row.dn, base, attribute))
            # a DN may be another account's by now
            found += [] if isinstance(account, NoOneAccount) or account.key != row.key else [account]
    return found
