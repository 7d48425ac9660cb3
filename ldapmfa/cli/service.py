"""`ldapmfa run` and `ldapmfa demo`."""

from __future__ import annotations

import resource
from typing import Any

import click

from ldapmfa.cli.command import Command, load


@click.command(
    cls=Command,
    examples=("ldapmfa run", "ldapmfa run --config /etc/ldapmfa/ldapmfa.toml"),
)
def run() -> None:
    """Run the proxy.

    It runs in the foreground, until SIGTERM or SIGINT (Ctrl-C), and logs to standard error: text on a terminal, JSON
    lines otherwise. At the end it answers what is pending, takes leave of its clients, and exits within seconds. A
    configuration with mistakes is not run (exit code 2), nor is one whose store can't be opened (exit code 3).
    """
    from ldapmfa import tap  # noqa: PLC0415 - takes long

    settings = load(check_ports=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold passwords
    tap.install()
    from twisted.internet import reactor as installed  # noqa: PLC0415 - installed just now

    from ldapmfa.net import service  # noqa: PLC0415 - after the reactor

    reactor: Any = installed
    service.configure_log(settings.log.format, settings.log.level)
    service.forward_twisted_log()
    proxy = service.LdapMfa(settings, reactor)
    proxy.startService()
    reactor.addSystemEventTrigger("before", "shutdown", proxy.stopService)
    reactor.run()
    if proxy.failure:
        raise proxy.failure


@click.command(cls=Command, examples=("ldapmfa demo", "ldapmfa demo --once"))
@click.option("--once", is_flag=True, help="End after the five logins; exit code 0 only if all went as they must.")
def demo(*, once: bool) -> int:
    """Show what it does, on this machine.

    It starts a directory and a proxy in front of it, and plays and explains five logins. Everything is on this
    machine's loopback address, and gone at the end. Needs no configuration.
    """
    from ldapmfa.demo.run import main  # noqa: PLC0415 - takes long

    return main(once)
