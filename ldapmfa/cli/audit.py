"""`ldapmfa audit ...`: what a refusal's reference code means, what happened, and all of it for others to read."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from ldapmfa.cli.accounts import on_accounts, yes
from ldapmfa.cli.command import DefaultGroup, Failed, actor, answer, say, table
from ldapmfa.cli.reasons import REASONS, explained
from ldapmfa.cli.rows import csv_cells, csv_columns, event_cells, event_value, local
from ldapmfa.cli.user import complete_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ldapmfa.accounts import Accounts, Details, No
    from ldapmfa.audit import AccountChanged, LoginEnded
    from ldapmfa.store import Wanted

    Recorded = LoginEnded | AccountChanged

#: How long each unit of a time ago is, in seconds.
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
#: Events from one word of how far an export is to the next.
_PROGRESS: Final = 1000


@click.group(cls=DefaultGroup, default="show")
def audit() -> None:
    """What happened: logins, and changes of accounts.

    Without a command it is `show`: `ldapmfa audit alice` is `ldapmfa audit show alice`.
    """


@audit.command(
    "show", examples=("ldapmfa audit --ref K7RT29XA", "ldapmfa audit alice", "ldapmfa audit show --limit 100 --json")
)
@click.argument("name", required=False, shell_complete=complete_name)
@click.option("--ref", "reference", metavar="CODE", help="The reference code that a user was shown.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many events to list.")
def show_events(name: str | None, reference: str | None, limit: int) -> None:
    """Say why a login was refused.

    With --ref: by the reference code in the refusal. Without: list what happened last, to everybody or to NAME.
    Users are told one text whatever was wrong, with a reference code; the true reason is found here. NAME is as for
    `ldapmfa user`. Logins refused before the password was looked at have no reference code.
    """
    if reference:
        if name:
            raise Failed(2, "NAME and --ref do not go together: the reference code says whose login it was")
        _explain(reference)
        return

    async def of_all(accounts: Accounts) -> tuple[LoginEnded | AccountChanged, ...]:
        return await accounts.as_operator(actor()).events(limit)

    async def of_one(accounts: Accounts) -> Details | No:
        return await accounts.as_operator(actor()).show(name or "", events=limit)

    events = yes(on_accounts(of_one)).events if name else on_accounts(of_all)
    _answer(events, "Nothing is recorded.")


def _answer(events: Sequence[Recorded], nothing: str, *, more: bool = False) -> None:
    def show() -> None:
        if events:
            table(("when", "who", "what", "from", "reference"), map(event_cells, events))
        else:
            say(nothing)
        if more:
            say(f"\nThese are the last {len(events)}; there are more: --limit lists them.")

    answer({"events": [event_value(event) for event in events], **({"more": True} if more else {})}, show)


def _explain(reference: str) -> None:
    async def work(accounts: Accounts) -> LoginEnded | No:
        return await accounts.as_operator(actor()).refusal(reference)

    event = yes(on_accounts(work))
    why = explained(event.reason)

    def show() -> None:
        say(f"{event.reference}: the login was {event.outcome} ({event.reason})")
        say(f"  who       typed {event.name}" + (f", which is {event.dn} ({event.account})" if event.account else ""))
        say(f"  when      {local(event.at)}")
        say(f"  where     from {event.client} at the listener {event.listener}, directory {event.directory}")
        if event.application not in ("", event.listener):
            say(f"  as        the application {event.application}")
        say(f"  took      {event.total_ms:.0f} ms (directory {event.directory_ms:.0f}, factor {event.factor_ms:.0f})")
        if event.detail:
            say(f"  detail    {event.detail}")
        say(f"\n{why.meaning}")
        if why.remedy:
            say(why.remedy)

    answer({**event_value(event), "meaning": why.meaning, "remedy": why.remedy}, show)


# -- looking for events


class _When(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.3
    """A time: so long ago, or a date with or without a time of day."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since the epoch."""
        if isinstance(value, float):
            return value
        ago = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
        if ago:
            return time.time() - int(ago[1]) * _UNITS[ago[2]]
        days = {"today": 0, "yesterday": 1}.get(value)
        try:
            if days is not None:
                midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
                return (midnight - timedelta(days=days)).timestamp()
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f'{value} is no time: write "2h", "7d", "today", "2026-11-25" or "2026-11-25T17:00"', param, ctx)


def _network(_ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    try:
        return ip_network(value, strict=False) if value is not None else None
    except ValueError:
        raise click.BadParameter(f"{value} is neither an address nor a network", param=param) from None


def _complete_reason(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(reason) for reason in REASONS if reason.startswith(incomplete)]


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which events are chosen."""
    options = (
        click.option("--since", type=_When(), metavar="WHEN", help="From then on: 2h, 7d, today, a date (and time)."),
        click.option("--until", type=_When(), metavar="WHEN", help="Before then."),
        click.option("--account", metavar="NAME", shell_complete=complete_name,
                     help="Of this account: a name, DN, GUID or key."),
        click.option("--name", metavar="TEXT", help="What was typed as the name, in any case; * stands for anything."),
        click.option("--client", "client", metavar="ADDRESS", callback=_network,
                     help="From this address, or network (10.1.0.0/16)."),
        click.option("--application", metavar="NAME", help="At this application, or listener."),
        click.option("--factor", metavar="NAME", help="Accepted by this factor, or asked of this service."),
        click.option("--outcome", type=click.Choice(["accepted", "refused", "broken"]), help="Ended so."),
        click.option("--reason", metavar="REASON", shell_complete=_complete_reason, help="For this reason."),
        click.option("--reference", metavar="CODE", help="With this reference code."),
        click.option("--action", metavar="ACTION", help="Changes of this kind: enrolled, blocked, ..."),
        click.option("--actor", metavar="NAME", help="Changes made by this user."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _wanted(chosen: dict[str, Any]) -> Wanted:
    from ldapmfa.store import Wanted  # noqa: PLC0415 - takes long

    equal = {name: chosen[name] for name in ("application", "factor", "outcome", "reason", "action", "actor")}
    if chosen["reference"] is not None:
        equal["reference"] = "".join(char for char in chosen["reference"].upper() if char.isalnum())
    since, until = chosen["since"], chosen["until"]
    if since is not None and until is not None and since >= until:
        raise Failed(2, "--until: is not after --since: nothing can be in between")
    return Wanted(
        since=since,
        until=until,
        name=chosen["name"],
        client=chosen["client"],
        equal={name: value for name, value in equal.items() if value is not None},
    )


@audit.command(
    examples=(
        "ldapmfa audit search --since 2h --outcome refused",
        "ldapmfa audit search --account alice --since 7d --json",
        "ldapmfa audit search --client 203.0.113.0/24 --reason wrong-password --limit 500",
        "ldapmfa audit search --actor ann --since 2026-11-01",
    )
)
@_filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many to list.")
def search(limit: int, **chosen: Any) -> int:
    """Look for events, the newest first.

    All that is given must hold; what only logins have leaves changes out, and what only changes have leaves logins
    out. Times without a zone are this machine's. Exit code 1: there is none.
    """
    wanted = _wanted(chosen)

    async def work(accounts: Accounts) -> list[Recorded] | No:
        from ldapmfa.accounts import No  # noqa: PLC0415 - takes longer than --help may

        operator = accounts.as_operator(actor())
        whose = await operator.wanted(wanted, chosen["account"])
        if isinstance(whose, No):
            return whose
        found: list[Recorded] = []
        async for event in operator.search(whose):
            found.append(event)
            if len(found) > limit:
                break
        return found

    found = yes(on_accounts(work))
    _answer(found[:limit], "No event is like that.", more=len(found) > limit)
    return 0 if found else 1


# -- all of them, for others to read


@audit.command(
    examples=(
        "ldapmfa audit export --since 2026-10-01 --until 2026-11-01 --output october.jsonl",
        "ldapmfa audit export --since 30d --format csv --output logins.csv",
        "ldapmfa audit export --account alice | jq .reason",
    )
)
@_filters
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True,
              help="A line of JSON for each event, as in the file of [audit]; or a table.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to write, with mode 0600; it must not exist. Default: standard output.")
def export(form: str, output: Path | None, **chosen: Any) -> None:
    """Write all events of a time, the oldest first.

    It takes as much memory for a million events as for a thousand. In csv a cell that a spreadsheet would take for a
    formula begins with an apostrophe.
    """
    wanted = _wanted(chosen)
    with _written(output) as file:
        write = _csv(file) if form == "csv" else _jsonl(file)

        async def work(accounts: Accounts) -> int | No:
            from ldapmfa.accounts import No  # noqa: PLC0415 - takes longer than --help may

            operator = accounts.as_operator(actor())
            whose = await operator.wanted(wanted, chosen["account"])
            if isinstance(whose, No):
                return whose
            events = operator.search(whose, newest_first=False)
            return await _export(events, write, watched=output is not None or not sys.stdout.isatty())

        count = yes(on_accounts(work))
    if output is not None:
        answer({"events": count, "file": str(output)}, lambda: say(f"wrote {count} events to {output}"))


async def _export(events: AsyncIterator[Recorded], write: Callable[[Recorded], None], *, watched: bool) -> int:
    """How many there were; a person is told meanwhile, where that is `watched` and not in between the events."""
    watched = watched and sys.stderr.isatty()
    count = 0
    async for event in events:
        write(event)
        count += 1
        if watched and count % _PROGRESS == 0:
            click.echo(f"\r{count} events, up to {local(event.at)}", err=True, nl=False)
    if watched and count >= _PROGRESS:
        click.echo("", err=True)
    return count


@contextmanager
def _written(output: Path | None) -> Iterator[IO[str]]:
    """What is written to; a file only if it is new, and gone again if it is not written to its end."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Failed(2, f"--output: {output} exists: name another file, or remove it") from None
    except OSError as error:
        raise Failed(2, f"--output: {output} can't be made: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            output.unlink()
        raise


def _jsonl(file: IO[str]) -> Callable[[Recorded], None]:
    from ldapmfa.audit import as_json  # noqa: PLC0415 - takes longer than --help may

    def write(event: Recorded) -> None:
        file.write(as_json(event) + "\n")

    return write


def _csv(file: IO[str]) -> Callable[[Recorded], None]:
    import csv  # noqa: PLC0415 - takes longer than --help may

    writer = csv.writer(file, lineterminator="\r\n")  # RFC 4180
    writer.writerow(csv_columns())

    def write(event: Recorded) -> None:
        writer.writerow(csv_cells(event))

    return write
