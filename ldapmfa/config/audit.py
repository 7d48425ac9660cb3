"""The table [audit]: where audit events go besides the database, and how long that keeps them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ldapmfa.config import checks
from ldapmfa.config.tables import Table
from ldapmfa.config.values import File, Flag, Number, SyslogTarget, Text, Whole

#: Where events can go besides the database, which has them always.
Place = Literal["log", "file", "journald", "syslog"]


class Audit(Table):
    """Who is told of logins and changes besides the database, which has them always, and how long that keeps them."""

    to: tuple[Annotated[Place, checks.is_no_database], ...] = Field(("log",), examples=[["log", "file", "syslog"]])
    """Where events go besides the database: log (standard error, as [log] says), file (JSON lines), journald (with
    a field for each part), syslog (RFC 5424). None of them is waited for: what one can't take in time is counted, and
    the log says so."""
    file: Annotated[File | None, checks.needed_for("file"), checks.is_in_a_directory] = Field(
        None, examples=["/var/log/ldapmfa/audit.jsonl"]
    )
    """The file of JSON lines, made with mode 0600; of several processes each adds whole lines to it."""
    file_group_reads: Flag = False
    """Whether the file's group may read it (mode 0640), for a program that ships it; others never may."""
    rotate_bytes: Annotated[Whole, Field(ge=0)] = 100 << 20
    """How many bytes the file may have before it is put aside as FILE.1, and a new one begun; 0 leaves that to others,
    such as logrotate: a file that was moved away is noticed within a second."""
    keep_files: Annotated[Whole, Field(ge=1, le=1000)] = 10
    """How many files that were put aside are kept."""
    journald_socket: Text = "/run/systemd/journal/socket"
    """Where journald listens for its native protocol."""
    syslog: Annotated[SyslogTarget | None, checks.needed_for("syslog")] = Field(
        None, examples=["tls://siem.example.com:6514"]
    )
    """The syslog server: udp://HOST:514, tcp://HOST:601, tls://HOST:6514 (its certificate is verified), or unix:/PATH
    for a socket of this machine that takes RFC 5424."""
    syslog_ca_file: Annotated[File | None, checks.is_certificate] = Field(
        None, examples=["/etc/ldapmfa/tls/siem-ca.pem"]
    )
    """The PEM file of the authorities that may have signed its certificate; the system's if not given."""
    queue: Annotated[Whole, Field(ge=100, le=1_000_000)] = 10_000
    """How many events wait, for each place, while it takes none; further ones are dropped there, and counted."""
    keep_days: Annotated[Number, Field(ge=0, le=36500)] = 400
    """For how many days the database keeps events; 0 for ever."""
