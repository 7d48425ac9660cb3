"""`ldapmfa factor ...`: the factors themselves, by their ids."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ldapmfa.audit import printable
from ldapmfa.cli.accounts import completed, on_accounts, yes
from ldapmfa.cli.command import Failed, Group, actor, answer, given, load, say, table
from ldapmfa.cli.rows import factor_cells, factor_value

if TYPE_CHECKING:
    from ldapmfa.accounts import Accounts, Details, No
    from ldapmfa.store import FactorRow


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Ids of factors that begin as typed."""

    async def ids(accounts: Accounts) -> list[str]:
        return [row.id for row in await accounts.as_operator(actor()).factors()]

    return completed(ctx, ids, incomplete)


_id = click.argument("factor_id", metavar="ID", shell_complete=complete_id)


@click.group(cls=Group)
def factor() -> None:
    """Factors, by their ids; and services, by their names.

    ID is a factor's id, or its first eight characters, as `factor list` shows them.
    """


@factor.command("list", examples=("ldapmfa factor list", "ldapmfa factor list alice --json"))
@click.argument("name", required=False)
def list_factors(name: str | None) -> None:
    """List the factors of an account, or of all.

    Those pending are listed too.
    """

    async def everything(accounts: Accounts) -> list[tuple[str, FactorRow]]:
        operator = accounts.as_operator(actor())
        overview = await operator.list()
        owners = {row.key: row.dn for row in overview.accounts}
        waiting = {row.factor.id: f"pending: {row.owner.value}" for row in overview.pending}
        rows = await operator.factors()
        return [(owners.get(row.account or "", waiting.get(row.id, "pending, expired")), row) for row in rows]

    async def of_one(accounts: Accounts) -> Details | No:
        return await accounts.as_operator(actor()).show(name or "")

    if name is None:
        found = on_accounts(everything)
    else:
        details = yes(on_accounts(of_one))
        found = [(details.account.dn if details.account else "", row) for row in details.factors]
        found += [(f"pending: {row.owner.value}", row.factor) for row in details.pending]
    answer({"factors": _values(found)}, lambda: _show(found))


def _values(found: list[tuple[str, FactorRow]]) -> list[dict[str, Any]]:
    return [{**factor_value(row), "owner": owner} for owner, row in found]


def _show(found: list[tuple[str, FactorRow]]) -> None:
    if not found:
        say("There are no factors.")
        return
    headings = ("owner", "factor", "label", "parameters", "created", "last used", "factor id")
    table(headings, [(owner, *factor_cells(row)) for owner, row in found])


@factor.command(examples=("ldapmfa factor remove 1f6a2b3c",))
@_id
def remove(factor_id: str) -> None:
    """Remove one factor, pending or not."""

    async def work(accounts: Accounts) -> FactorRow | No:
        return await accounts.as_admin(actor()).remove_factor(factor_id)

    row = yes(on_accounts(work))
    text = f"removed {row.kind} {row.id}" + (f" of {row.account}" if row.account else ", which was pending")
    answer({"removed": row.id, "kind": row.kind, "account": row.account}, lambda: say(text))


@factor.command(examples=("ldapmfa factor resync 1f6a2b3c 123456 654321",))
@_id
@click.argument("code1")
@click.argument("code2")
def resync(factor_id: str, code1: str, code2: str) -> None:
    """Find a token that has drifted.

    It is found by two consecutive codes of it. Both are used up. For totp the clock may be five minutes off, for hotp
    the counter 1,000 codes ahead.
    """

    async def work(accounts: Accounts) -> FactorRow | No:
        return await accounts.as_admin(actor()).resync(factor_id, code1, code2)

    row = yes(on_accounts(work))
    answer({"resynchronised": row.id}, lambda: say(f"{row.kind} {row.id} is in step again"))


def complete_service(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Services of the configuration that begin as typed."""
    try:
        with ctx.scope(cleanup=False):
            names = load(check_files=False).factors
    except Exception:  # noqa: BLE001 - nobody reads an error between two strokes of the Tab key
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@factor.command(
    examples=(
        "ldapmfa factor test duo --user alice",
        "ldapmfa factor test duo --user alice --method phone:2",
        "ldapmfa factor test radius --user alice --code 123456 --json",
    )
)
@click.argument("service", shell_complete=complete_service)
@click.option("--user", "name", required=True, metavar="NAME", help="The user, as the service calls them.")
@click.option("--method", default="", metavar="METHOD[:DEVICE]", help="How to ask; default: as the service prefers.")
@click.option("--code", metavar="CODE", help="Verify this code instead of asking the user.")
@click.option("--password-stdin", is_flag=True, help="Read the password, which some services want, as input.")
@click.option("--seconds", type=click.FloatRange(1, 600), default=60, show_default=True, help="How long to wait.")
def test(*, service: str, name: str, method: str, code: str | None, password_stdin: bool, seconds: float) -> int:
    """Try a service for one user, step by step.

    SERVICE is the name of a table [factors.SERVICE]. Its health is asked for, then the user is really asked, or the
    code really used up; no directory and no store has a part in it. Exit code 0: the service vouches for the user. 1:
    it does not. 3: it could not be asked.
    """
    from ldapmfa.cli import services  # noqa: PLC0415 - takes long
    from ldapmfa.core.secret import Secret  # noqa: PLC0415 - takes long

    config = load()
    if service not in config.factors:
        known = ", ".join(config.factors) or "none"
        raise Failed(2, f"{config.source}: there is no table [factors.{service}]; there are: {known}")
    way, _, device = method.partition(":")
    if not name.strip():
        raise Failed(2, "--user: is empty")
    wanted = services.wants_password(config, service)
    if wanted and not password_stdin and not sys.stdin.isatty():
        raise Failed(2, f"{service} wants to see the password too: add --password-stdin, and give it as input")
    password: str | None = None
    if (wanted or password_stdin) and sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, err=True)
    elif password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    trial = services.Trial(
        name=service,
        user=name,
        method=way,
        device=device,
        code=Secret(code.encode()) if code is not None else None,
        password=Secret(password.encode()) if password is not None else None,
        seconds=seconds,
    )
    steps: list[str] = []

    def step(text: str) -> None:
        steps.append(printable(text))
        if not given().json:
            say(f"{len(steps)}. {steps[-1]}")

    def ask_code() -> Secret | None:
        if not sys.stdin.isatty():
            line = sys.stdin.readline().strip()
        else:
            line = str(click.prompt("Code", default="", show_default=False, err=True)).strip()
        return Secret(line.encode()) if line else None

    tried = asyncio.run(services.play(config, trial, step=step, ask_code=ask_code))
    value = {**asdict(tried), "service": service, "user": name, "steps": steps}

    def result() -> None:
        say(f"\n{tried.outcome.capitalize()} ({tried.reason}). {tried.meaning}")
        for line in (tried.detail, tried.remedy):
            if line:
                say(printable(line))

    answer(value, result)
    return {"accepted": 0, "refused": 1}.get(tried.outcome, 3)
