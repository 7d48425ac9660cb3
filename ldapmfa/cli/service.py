"""`ldapmfa run` and `ldapmfa demo`, and what a worker of `run` calls."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldapmfa.cli.command import Command, load
from ldapmfa.errors import ConfigError, LdapMfaError

if TYPE_CHECKING:
    from ldapmfa.config import Config


@click.command(
    cls=Command,
    examples=("ldapmfa run", "ldapmfa run --config /etc/ldapmfa/ldapmfa.toml"),
)
def run() -> None:
    """Run the proxy.

    It runs in the foreground, until SIGTERM or SIGINT (Ctrl-C); SIGHUP is `ldapmfa reload`. It logs to standard error:
    text on a terminal, JSON lines otherwise. At the end it answers what is pending, takes leave of its clients, and
    exits within seconds. A configuration with mistakes is not run (exit code 2), nor is one whose store can't be opened
    (exit code 3).
    """
    settings = load(check_ports=True)

    def make(reactor: Any) -> Any:
        from ldapmfa.net import workers  # noqa: PLC0415 - after the reactor

        return workers.service_of(settings, reactor)

    _serve(settings, make)


@click.command(cls=Command, hidden=True)
@click.option("--number", type=int, required=True, help="Which of the workers it is.")
def worker(*, number: int) -> int:
    """Run one of several workers: what `ldapmfa run` starts."""
    from ldapmfa import config  # noqa: PLC0415 - takes long
    from ldapmfa.net import order  # noqa: PLC0415 - takes long

    told = order.Order.read()

    def make(reactor: Any) -> Any:
        from ldapmfa.net import workers  # noqa: PLC0415 - after the reactor

        return workers.Worker(settings, reactor, told, number)

    try:
        settings = config.load(Path(told.file), text=told.text, check_files=False)
        _serve(settings, make, worker=number)
    except LdapMfaError as failure:
        order.report(failure)
        return 2 if isinstance(failure, ConfigError) else 3
    return 0


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Import as if `module` were not there: structlog would load rich, 3 MB and 50 ms, for tracebacks never shown."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what import takes for an absent module
    try:
        yield
    finally:
        del sys.modules[module]


def _serve(settings: Config, make: Callable[[Any], Any], **log_fields: Any) -> None:
    """Run the service that `make` makes of the reactor until it ends; raises what it could not start for."""
    from ldapmfa import tap  # noqa: PLC0415 - takes long

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold passwords
    tap.install()
    from twisted.internet import reactor as installed  # noqa: PLC0415 - installed just now

    with _without("rich"):
        from ldapmfa.net import log  # noqa: PLC0415 - after the reactor

    reactor: Any = installed
    log.configure_log(settings.log.format, settings.log.level, **log_fields)
    log.forward_twisted_log()
    proxy = make(reactor)
    proxy.startService()
    reactor.addSystemEventTrigger("before", "shutdown", proxy.stopService)
    reactor.run()
    if proxy.failure:
        raise proxy.failure


@click.command(cls=Command, examples=("ldapmfa demo", "ldapmfa demo --once"))
@click.option("--once", is_flag=True, help="End after the logins; exit code 0 only if all went as they must.")
def demo(*, once: bool) -> int:
    """Show what it does, on this machine.

    It starts a directory and a proxy in front of it, and plays and explains logins by codes and by approvals.
    Everything is on this machine's loopback address, and gone at the end. Needs no configuration.
    """
    from ldapmfa.demo.run import main  # noqa: PLC0415 - takes long

    return main(once)
