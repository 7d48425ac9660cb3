"""From a command to the accounts: open the store, and run what is asynchronous, with or without a reactor.

Not in here: anything that is printed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from ldapmfa.cli.command import Failed, given, load
from ldapmfa.errors import ConfigError, DirectoryDown
from ldapmfa.wire.proxy import plain

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from ldapmfa.accounts import Accounts, Lookup, No
    from ldapmfa.config import Config, Listen
    from ldapmfa.core.identity import Capabilities, Identity, NoOneAccount
    from ldapmfa.net.directory import Directory

Value = TypeVar("Value")

#: Seconds that a command which is interrupted may take to end.
_TIDY: Final = 5.0


def on_accounts(work: Callable[[Accounts], Awaitable[Value]]) -> Value:
    """What `work` returns on the accounts of the configuration; it needs no directory."""
    config = load()

    async def go() -> Value:
        return await with_accounts(config, "default", None, work)

    return asyncio.run(go())


def on_accounts_or_directory(directory: str | None, work: Callable[[Accounts], Awaitable[Value]]) -> Value:
    """The same; an account that was never seen is looked up at the directory, where a service account can."""
    config = load()
    identity_name(config, directory)
    known = config.every_directory
    place = directory or ("default" if "default" in known or len(known) > 1 else next(iter(known)))
    if place not in known or known[place].service_account is None:
        return on_accounts(work)

    async def go(reactor: Any) -> Value:
        from ldapmfa.net import service  # noqa: PLC0415 - takes long

        at = service.directories(config, reactor)[place]
        return await with_accounts(config, known[place].identity_name, lookup_at(at), work)

    return in_reactor(go)


async def with_accounts(
    config: Config, directory: str, lookup: Lookup | None, work: Callable[[Accounts], Awaitable[Value]]
) -> Value:
    """What `work` returns on the accounts, the store being open that long."""
    from ldapmfa import factors  # noqa: PLC0415 - takes long
    from ldapmfa.accounts import Accounts  # noqa: PLC0415 - takes long
    from ldapmfa.net import service  # noqa: PLC0415 - takes long

    loaded = factors.load(config.code_factors)
    store = await service.open_store(config)
    try:
        issuer = config.login.issuer
        return await work(Accounts(store, loaded, issuer, time.time, os.urandom, directory, lookup))
    finally:
        await store.close()


def in_reactor(work: Callable[[Any], Coroutine[Any, Any, Value]]) -> Value:
    """What `work`, given the reactor, returns: it may talk to a directory."""
    from ldapmfa import tap  # noqa: PLC0415 - takes long

    tap.install()
    from twisted.internet import reactor as installed  # noqa: PLC0415 - installed just now

    reactor: Any = installed
    ended: list[Callable[[], Value]] = []

    async def go() -> None:
        try:
            value = await work(reactor)
        except Exception as failed:  # noqa: BLE001 - raised again where it was asked for
            ended.append(_raising(failed))
        else:
            ended.append(lambda: value)
        if reactor.running:
            reactor.stop()

    tasks: list[asyncio.Task[None]] = []

    def interrupted() -> Any:
        """Ctrl-C: what is under way may still tidy up."""
        from twisted.internet.defer import Deferred  # noqa: PLC0415 - takes long

        for task in tasks:
            task.cancel()
        waiting = [task for task in tasks if not task.done()]
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait(waiting, timeout=_TIDY))) if waiting else None

    reactor.addSystemEventTrigger("before", "shutdown", interrupted)
    # callLater: until the reactor runs, so does not its event loop
    reactor.callLater(0, lambda: tasks.append(asyncio.ensure_future(go())))
    reactor.run()
    if not ended:
        raise click.Abort
    return ended[0]()


def yes(found: Value | No) -> Value:
    """`found`, unless it is a "no": that ends the command."""
    from ldapmfa.accounts import No  # noqa: PLC0415 - takes long

    if not isinstance(found, No):
        return found
    lines = [found.text]
    if found.names:
        lines.append("did you mean:" if found.why == "unknown-account" else "they are:")
        lines += [f"  {name}" for name in found.names]
    if found.why == "already-enrolled":
        lines.append("--add enrols another one; `ldapmfa user unenrol` removes what there is")
    raise Failed(2 if found.why in ("bad-name", "bad-phone", "no-reason") else 1, *lines)


def completed(
    context: click.Context, of: Callable[[Accounts], Awaitable[list[str]]], incomplete: str
) -> list[CompletionItem]:
    """Those words that begin as typed, of what the store is asked for; none where that is not cheap, or fails."""
    try:
        with context.scope(cleanup=False):
            settings = load(check_files=False)
            if settings.store.sqlite_file is None or not settings.store.sqlite_file.exists():
                return []
            words = on_accounts(of)
    except Exception:  # noqa: BLE001 - nobody reads an error between two strokes of the Tab key
        return []
    begun = incomplete.casefold()
    return [CompletionItem(word) for word in sorted(set(words)) if word.casefold().startswith(begun)]


def _raising(failed: Exception) -> Callable[[], Any]:
    def again() -> Any:
        raise failed

    return again


# -- names of directories


def identity_name(config: Config, directory: str | None) -> str | None:
    """The identity name of the directory that the configuration calls `directory`; None for any."""
    if directory is None:
        return None
    known = config.every_directory
    if directory not in known:
        raise Failed(2, f"--directory: {given().source} has no directory {directory}, only {', '.join(known)}")
    return known[directory].identity_name


def chosen_directory(config: Config, directory: str | None) -> str:
    """`directory`, or the one that is meant where none is named."""
    known = config.every_directory
    if directory is not None:
        identity_name(config, directory)
        return directory
    if len(known) > 1 and "default" not in known:
        raise Failed(2, f"--directory: is needed, for {given().source} has several: {', '.join(known)}")
    return "default" if "default" in known else next(iter(known))


def login_place(
    config: Config, listener: str | None, address: str | None
) -> tuple[Listen, IPv4Address | IPv6Address | None]:
    """The listener that is named, or the first, and the client's address, as --listener and --from give them."""
    known = {listen.name: listen for listen in config.listen}
    if listener and listener not in known:
        raise Failed(2, f"--listener: {config.source} has no listener {listener}, only {', '.join(known)}")
    try:
        client = plain(ip_address(address)) if address else None
    except ValueError:
        raise Failed(2, f"--from: {address} is not an IP address") from None
    return (known[listener] if listener else config.listen[0]), client


def lookup_at(directory: Directory) -> Lookup | None:
    """Finds an account as the directory's service account, if it has one."""
    settings = directory.settings
    if settings.service_dn is None:
        return None

    async def lookup(name: str) -> Identity | NoOneAccount:
        try:
            return await directory.find(name)
        except DirectoryDown as down:
            raise _no_service_account(directory, down) from down

    return lookup


def _place(directory: Directory) -> str:
    """The directory's table, as the configuration has it."""
    return "directory" if directory.settings.name == "default" else f"directories.{directory.settings.name}"


def _no_service_account(directory: Directory, down: DirectoryDown) -> Failed:
    more = "`ldapmfa check-config --online` tries it step by step"
    return Failed(3, f"{given().source}: {_place(directory)}.service_account: {down}; {more}")


async def seen_by_service_account(directory: Directory) -> tuple[Capabilities, str]:
    """What kind of directory it is, and below which entry accounts are looked for."""
    try:
        link = await directory.service_link()
    except DirectoryDown as down:
        raise _no_service_account(directory, down) from down
    try:
        capabilities = await directory.capabilities(link)
    finally:
        link.close()
    base = directory.settings.base_dn or next(iter(capabilities.naming_contexts), None)
    if base is None:
        needed = "is needed, as the directory's rootDSE names no naming context"
        raise ConfigError([f"{_place(directory)}.base_dn: {needed}"])
    return capabilities, base
