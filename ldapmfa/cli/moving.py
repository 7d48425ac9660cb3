"""`ldapmfa store copy`: two stores opened, and what is said meanwhile.

Not in here: the copying itself (`ldapmfa.store.moving`).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from ldapmfa.cli.command import Failed
from ldapmfa.config.postgresql import DatabaseUrl, is_postgresql
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError
from ldapmfa.store import Store, copies, moving, sqlite
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

if TYPE_CHECKING:
    from pathlib import Path

    from ldapmfa.config import Config

#: How often, and after how many seconds each time, sessions that may be our own are looked at again.
_LOOKS: Final = (10, 0.1)


def shown(url: str) -> str:
    """`url` as it may be shown, without a password."""
    return re.sub(r"^([^/]*//[^/@:]*):[^/]*@", r"\1@", url)


async def copied(config: Config, source: str, target: str, password_file: Path | None) -> dict[str, int]:
    """Copy; how many rows of which table. Failed: it can't be begun."""
    seal = Seal(config.store.key_file, entropy=os.urandom)
    if not is_postgresql(source):
        try:
            file = sqlite.path(source)
        except ConfigError as wrong:
            raise _of("FROM", wrong) from None
        if not file.exists():
            raise Failed(2, f"FROM: {file} does not exist")
        if copies.in_use(file):
            raise Failed(2, f"FROM: {file} is in use: stop the service first (systemctl stop ldapmfa)")
    old = await _opened("FROM", source, seal, password_file, migrate=False)
    try:
        await _see_that_nobody_uses("FROM", old)
        new = await _opened("TO", target, seal, password_file, migrate=True)
        try:
            await _see_that_nobody_uses("TO", new)
            return await moving.move(old, new, _progress)
        except moving.NotEmpty as error:
            raise Failed(2, f"TO: {shown(target)} is not empty, it has {error.table}: name an empty database") from None
        finally:
            await new.close()
    finally:
        await old.close()


async def _opened(which: str, url: str, seal: Seal, password_file: Path | None, *, migrate: bool) -> Store:
    def password() -> Secret | None:
        own = DatabaseUrl.parse(url).password
        if own is not None or password_file is None:
            return own
        return Secret(password_file.read_bytes().rstrip(b"\r\n"))

    try:
        return await Store.open(
            url, seal, clock=time.time, normalise_dn=dn.normalise, migrate=migrate, password=password
        )
    except ConfigError as wrong:
        raise _of(which, wrong) from None


def _of(which: str, wrong: ConfigError) -> Failed:
    """The mistakes, of an argument: no line of the configuration is to blame."""
    return Failed(2, *(line.replace("store.url:", f"{which}:", 1) for line in wrong.mistakes))


async def _see_that_nobody_uses(which: str, store: Store) -> None:
    times, seconds = _LOOKS
    for _ in range(times):
        others = await store.others()
        if not others:
            return
        await asyncio.sleep(seconds)  # a session of our own may have ended just now
    raise Failed(2, f"{which}: {others} other sessions of ldapmfa use it: stop every node first")


def _progress(table: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{table}: {done} of {total}\x1b[K", err=True, nl=done == total)
