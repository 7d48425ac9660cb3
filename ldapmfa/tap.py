"""What twistd calls: `twistd --reactor=ldapmfa ldapmfa --config FILE`.

As a reactor plug-in (`--reactor=ldapmfa`) this module installs Twisted's asyncio reactor on uvloop; as a service
plug-in it makes the same service that `ldapmfa run` starts.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, ClassVar

from twisted.python import usage


def install() -> None:
    """Install the asyncio reactor on a uvloop event loop."""
    import uvloop  # noqa: PLC0415 - only where it is asked for
    from twisted.internet import asyncioreactor  # noqa: PLC0415 - importing it must not install anything

    class Loop(uvloop.Loop):
        """uvloop, that tells of a connection's end even where it came together with octets.

        libuv reports such an event once and then stops watching the socket (uvloop 0.22 and before): a client that
        sends and resets at once would never be seen to leave. So whoever reads is called again if an error is pending.
        """

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
            """Watch `fd`, as uvloop does; the reactor's first argument is what reads, and has the socket."""
            watched = getattr(args[0], "socket", None) if args else None
            if watched is None:
                super().add_reader(fd, callback, *args)
                return

            def read() -> None:
                callback(*args)
                if watched.fileno() >= 0 and watched.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    callback(*args)

            super().add_reader(fd, read)

    loop = Loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)


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
    from ldapmfa.net import service  # noqa: PLC0415 - after the reactor

    path = options["config"]
    try:
        settings = config.load(Path(path) if path else None, check_ports=True)
        service.configure_log(settings.log.format, settings.log.level)
        return service.LdapMfa(settings, reactor)
    except ConfigError as wrong:
        raise SystemExit(f"ldapmfa: {wrong}") from wrong
