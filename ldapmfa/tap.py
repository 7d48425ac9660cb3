"""What twistd calls: `twistd --reactor=ldapmfa ldapmfa --config FILE`.

As a reactor plug-in (`--reactor=ldapmfa`) this module installs Twisted's asyncio reactor on uvloop; as a service
plug-in it makes the same service that `ldapmfa run` starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from twisted.python import usage


def install() -> None:
    """Install the asyncio reactor on a uvloop event loop."""
    from ldapmfa.net import reactor  # noqa: PLC0415 - only where it is asked for

    reactor.install()


class Options(usage.Options):
    """The command line behind `twistd ldapmfa`."""

    synopsis = "[--config FILE]"
    longdesc = "An LDAP proxy that demands a second factor. Needs --reactor=ldapmfa (or --reactor=asyncio)."
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "the configuration (default: ./ldapmfa.toml, then /etc/ldapmfa/ldapmfa.toml)"]
    ]


def makeService(options: Options) -> Any:
    """The service of the configuration; with mistakes in it, SystemExit with all of them."""
    from twisted.internet import reactor  # noqa: PLC0415 - installed by twistd before it calls this

    from ldapmfa import config  # noqa: PLC0415 - after the reactor
    from ldapmfa.errors import ConfigError  # noqa: PLC0415 - after the reactor
    from ldapmfa.net import log, workers  # noqa: PLC0415 - after the reactor

    path = options["config"]
    try:
        settings = config.load(Path(path) if path else None, check_ports=True)
        log.configure_log(settings.log.format, settings.log.level)
        return workers.service_of(settings, reactor)
    except ConfigError as wrong:
        raise SystemExit(f"ldapmfa: {wrong}") from wrong
