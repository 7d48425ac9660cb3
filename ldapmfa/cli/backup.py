"""`ldapmfa store backup`, `restore`, `restored`, `copy`: a copy of the store, and what one put back must forget.

Not in here: how all of a store is put into another (`ldapmfa.store.moving`), how a file is copied and put in place
(`ldapmfa.store.copies`), and what counts as used afterwards (`ldapmfa.accounts`, `ldapmfa.store.restoring`).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ldapmfa.cli.accounts import with_accounts
from ldapmfa.cli.command import Failed, Group, actor, answer, load, say
from ldapmfa.cli.rows import event_cells, event_value, local
from ldapmfa.errors import LdapMfaError, StoreDown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ldapmfa.accounts import Accounts
    from ldapmfa.audit import AccountChanged
    from ldapmfa.config import Config
    from ldapmfa.store import Restored

_CHOICES: Final = {"remove": False, "keep": True}
_UNCERTAIN: Final = click.option(
    "--uncertain",
    type=click.Choice(list(_CHOICES)),
    help="What becomes of factors of which the backup can't know what was used since: HOTP tokens, recovery codes.",
)


@click.group(cls=Group)
def store() -> None:
    """The store: factors, used codes, locks, and the audit trail."""


@store.command(
    examples=("ldapmfa store backup /root/ldapmfa-state.db", "sudo -u ldapmfa ldapmfa store backup /backup/state.db")
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(file: Path) -> None:
    """Copy a SQLite store to FILE, which must not exist.

    The service may be running. The copy is of one moment, is for its owner alone, and has been opened with the key
    file, every secret of it. The key file is not in it: keep a copy of that elsewhere. For PostgreSQL use pg_dump.
    """
    from ldapmfa.store import copies  # noqa: PLC0415 - takes long

    config = load()
    source = _sqlite_file(config)
    try:
        copies.copy(source, file)
    except FileExistsError:
        raise Failed(2, f"{file} exists, and is not overwritten: name another file") from None
    try:
        accounts, factors = _opened(config, file)
    except BaseException:
        copies.remove(file)
        raise
    value = {"store": str(source), "file": str(file), "accounts": accounts, "factors": factors}
    told = f"{file} holds {_counted(accounts, factors)}, all of which open with {config.store.key_file}"
    answer(value, lambda: say(told))


@store.command(
    examples=(
        "ldapmfa store copy sqlite:////var/lib/ldapmfa/state.db postgresql+asyncpg://ldapmfa@db.example.com/ldapmfa",
        "ldapmfa store copy postgresql+asyncpg://ldapmfa@/ldapmfa?host=db1&host=db2 /var/lib/ldapmfa/state.db",
    )
)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Holds the PostgreSQL user's password; default: store.password_file.",
)
def copy(source: str, target: str, password_file: Path | None) -> None:
    """Copy all of the store FROM to the store TO, which must be empty.

    Both are as store.url says; a table that is missing is made. Every node must be stopped: what is used or blocked
    after the copy is in FROM alone. Both need the key file of the configuration. FROM is left as it is.
    """
    from ldapmfa.cli import moving  # noqa: PLC0415 - takes long

    config = load(check_files=False)
    counts = asyncio.run(moving.copied(config, source, target, password_file or config.store.password_file))
    place = moving.shown(target)
    steps = [f'set store.url in {config.source} to "{place}", on every node', "start every node again"]
    value = {"from": moving.shown(source), "to": place, "rows": counts, "next": steps}

    def show() -> None:
        each = ", ".join(f"{count} {name}" for name, count in counts.items())
        say(f"{sum(counts.values())} rows were copied: {each}")
        say("\nNext:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1)))

    answer(value, show)


@store.command(
    examples=(
        "ldapmfa store restore /root/ldapmfa-state.db",
        "ldapmfa store restore /root/ldapmfa-state.db --uncertain remove",
    )
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_UNCERTAIN
def restore(file: Path, uncertain: str | None) -> None:
    """Put the copy FILE in the place of a SQLite store.

    The service must be stopped. FILE is left as it is, and what was there before is kept beside the store. What was
    used since the copy was made counts no more, as with `ldapmfa store restored`.
    """
    from ldapmfa.cli.install import give_to_service  # noqa: PLC0415 - only here
    from ldapmfa.store import copies  # noqa: PLC0415 - takes long

    config = load(check_files=False)
    place = _sqlite_file(config)
    _see_that_nobody_uses(place)
    new = place.with_name(f"{place.name}.restoring")
    aside = place.with_name(f"{place.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    copies.remove(new)  # of one that was interrupted
    copies.copy(file, new)
    try:
        accounts, factors = _opened(config, new)
        found = _restored(_at(config, new), uncertain)
        since = _changed_since(config, place, found.last)
        _see_that_nobody_uses(place)  # again: it would go on with what is put aside
        copies.put_in_place(new, place, aside)
    except BaseException:
        copies.remove(new)
        raise
    give_to_service(place)
    kept = aside if aside.exists() else None
    value = {"store": str(place), "file": str(file), "accounts": accounts, "factors": factors, **_as_dict(found)}
    value |= {"before": str(kept) if kept else None, "since": None if since is None else [*map(event_value, since)]}

    def show() -> None:
        say(f"{place} is now what {file} was: {_counted(accounts, factors)}.")
        if kept:
            say(f"What was there before is {kept}: remove it when you are sure.")
        _show(found, uncertain)
        if since is None:
            say("What was decided since can't be read any more. Do it again: blocks, factors removed or enrolled.")
        elif since:
            say("What was decided since, and is to be done again before the service starts:")
            for when, account, what, by, _ in map(event_cells, since):
                say(f"  {when}  {account}  {what}  {by}")

    answer(value, show)


@store.command(examples=("ldapmfa store restored", "ldapmfa store restored --uncertain remove"))
@_UNCERTAIN
def restored(uncertain: str | None) -> None:
    """Take as used what may have been used since a backup.

    To be run before the service starts on a store that was put back by other means: from pg_dump, to a point in time,
    from a snapshot, or on a standby that had not heard of everything. Codes of the clock count only when it has gone
    on so far that none of them can have been used before. Remembered logins, bypasses and open questions are dropped.
    """
    found = _restored(load(), uncertain)

    def show() -> None:
        _show(found, uncertain)
        say("What was decided since is to be done again before it starts: blocks, factors removed or enrolled.")

    answer(_as_dict(found), show)


def _sqlite_file(config: Config) -> Path:
    file = config.store.sqlite_file
    if file is None:
        raise Failed(2, "store.url: is no SQLite file: use pg_dump, and after a restore `ldapmfa store restored`")
    return file


def _see_that_nobody_uses(place: Path) -> None:
    from ldapmfa.store import copies  # noqa: PLC0415 - takes long

    if copies.in_use(place):
        raise Failed(2, f"{place} is in use: stop the service first (systemctl stop ldapmfa), all of its nodes")


def _at(config: Config, file: Path) -> Config:
    """The configuration with a copy in the place of its store."""
    store = config.store.model_copy(update={"url": str(file.absolute()), "migrate": True})
    return config.model_copy(update={"store": store})


def _run(config: Config, work: Callable[[Accounts], Awaitable[Any]]) -> Any:
    return asyncio.run(with_accounts(config, "default", None, work))


def _opened(config: Config, file: Path) -> tuple[int, int]:
    """How many accounts and factors a copy holds, every secret of which has been opened. StoreDown: one does not."""
    from ldapmfa.store.seal import SealBroken  # noqa: PLC0415 - takes long

    async def work(accounts: Accounts) -> tuple[int, int]:
        admin = accounts.as_admin(actor())
        try:
            return len((await admin.list()).accounts), await admin.open_all()
        except SealBroken as broken:
            raise StoreDown(f"{file} does not open with store.key_file: {broken}") from None

    found: tuple[int, int] = _run(_at(config, file), work)
    return found


def _restored(config: Config, uncertain: str | None) -> Restored:
    keep = None if uncertain is None else _CHOICES[uncertain]

    async def work(accounts: Accounts) -> Restored:
        return await accounts.as_admin(actor()).restored(keep=keep)

    found: Restored = _run(config, work)
    if not found.decided:
        raise Failed(
            2,
            f"--uncertain: {found.uncertain} factors (HOTP tokens, recovery codes) may have been used since the backup:"
            " `remove` them, to be enrolled anew, or `keep` them if the log shows no login by them since",
        )
    return found


def _changed_since(config: Config, place: Path, at: float | None) -> list[AccountChanged] | None:
    """What the store that is to be replaced knows of changes after `at`; None: it can't be read."""

    async def work(accounts: Accounts) -> list[AccountChanged]:
        return await accounts.as_admin(actor()).changed_since(at or 0.0)

    if not place.exists():
        return None
    try:
        found: list[AccountChanged] = _run(_at(config, place), work)
    except LdapMfaError:
        return None
    return found


def _counted(accounts: int, factors: int) -> str:
    return f"{accounts} account{'s' * (accounts != 1)} and {factors} factor{'s' * (factors != 1)}"


def _as_dict(found: Restored) -> dict[str, Any]:
    return {"last_record": found.last, "burnt": found.burnt, "uncertain": found.uncertain}


def _show(found: Restored, uncertain: str | None) -> None:
    if found.last is not None:
        say(f"It knows of nothing after {local(found.last)}.")
    say(
        f"Factors of which no code counts any more that may have been used: {found.burnt}. With TOTP that is those\n"
        "of the next 11 steps, too: their owners can log in again in six minutes, if a step takes 30 seconds."
    )
    if found.uncertain:
        fate = "kept" if uncertain == "keep" else "removed"
        say(f"Factors of which nobody knows what was used, and which were {fate}: {found.uncertain}.")
