"""The log on standard error: a line for whatever happens, one for each audit event, for people or as JSON.

Promised here: text from outside can't forge a line, and what Twisted reports shows no more than a kind and a place. Not
in here: what is worth recording (`ldapmfa.audit`), and where it is kept (`ldapmfa.store`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TextIO

import structlog
from twisted.logger import ILogObserver, LogLevel, globalLogBeginner
from zope.interface import implementer

from ldapmfa import audit


def configure_log(form: str, level: str, **fields: Any) -> None:
    """Log to stderr: for people on a terminal, as JSON otherwise; text from outside is made printable.

    Each line carries `fields`, and is written at once: several processes may share stderr.
    """
    _record_by.clear()
    for_people = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if for_people
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda _logger, _method, line: {**line, **fields},
            _made_printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    if not for_people and level in ("debug", "info"):
        _record_by.append(partial(_write_line, sys.stderr, fields))


#: What an audit event is recorded by instead of the log of everything else: it costs a tenth, at every login.
_record_by: Final[list[Callable[[audit.Event], None]]] = []
_encode: Final = json.JSONEncoder(ensure_ascii=False).encode


def _write_line(file: TextIO, fields: dict[str, Any], event: audit.Event) -> None:
    """The very line that structlog would write."""
    at = audit.timestamp(event.at)
    file.write(_encode({**audit.as_dict(event), "level": "info", "timestamp": at, **fields}) + "\n")
    file.flush()


def forward_twisted_log() -> None:
    """Let what Twisted itself reports reach the log: the type and place of an error, not its text."""

    @implementer(ILogObserver)  # type: ignore[untyped-decorator]
    def observe(event: Any) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            what = failure.type.__name__ if failure else event.get("log_namespace")
            structlog.get_logger().error("twisted", failure=what)

    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False)


def _made_printable(_logger: Any, _method: str, fields: Any) -> Any:
    return {name: audit.printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def record(event: audit.Event) -> None:
    """An audit event, to the log."""
    if _record_by:
        _record_by[-1](event)
        return
    fields = audit.as_dict(event)
    structlog.get_logger().info(fields.pop("event"), **fields)
