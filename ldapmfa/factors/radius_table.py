"""The table [factors.radius].

Promised here: what can never work is found when the file is read: a template, an encoding, the length of an attribute.
Not in here: whether a server answers.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from ldapmfa.config import ServiceTable, checks
from ldapmfa.config.values import File, Flag, Number, Seconds, Whole
from ldapmfa.factors.radius_client import LONGEST_VALUE, Server


def _server(text: str) -> str:
    Server.parse(text)
    return text


def _value(text: str) -> str:
    if not 0 < len(text.encode()) <= LONGEST_VALUE:
        raise ValueError(f"must have 1 to {LONGEST_VALUE} octets")
    return text


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise ValueError('is no encoding that is known; for example "utf-8" or "cp1252"') from None
    return name


def _template(*names: str) -> AfterValidator:
    """A text that names nothing but `names` in braces."""
    known = " or ".join(f"{{{name}}}" for name in names)

    def check(text: str) -> str:
        if not text or re.search(r"[{}]", re.sub(rf"\{{({'|'.join(names)})\}}", "", text)):
            raise ValueError(f'must be a text in which braces stand only as {known}, for example "{{{names[0]}}}"')
        return text

    return AfterValidator(check)


class RadiusTable(ServiceTable):
    """A RADIUS server that asks for a second factor: NPS with Microsoft's extension, RSA, Okta, FreeRADIUS ..."""

    servers: tuple[Annotated[str, AfterValidator(_server)], ...] = Field(
        min_length=1, examples=[["radius1.example.com:1812", "radius2.example.com:1812"]]
    )
    """Its servers, host or host:port. A later one is asked only if an earlier one can't be resolved, or ICMP says that
    nobody listens there: one that is silent may be asking the user already, and two would ask twice."""
    secret_file: Annotated[File | None, checks.is_password] = Field(None, examples=["/etc/ldapmfa/radius.secret"])
    """The file that holds the shared secret, the same for all servers; a line end after it is ignored."""
    secret: Annotated[SecretStr | None, checks.secret_or_file("secret")] = Field(None, examples=["a long random text"])
    """The shared secret itself, instead of secret_file."""
    push_password: Annotated[str, _template("password", "method")] = "{password}"  # noqa: S105 - a template
    """What the server gets as password when the user is to be asked: {password} is the one that the directory accepted,
    {method} is push or sms. NPS, and all that check the password themselves, want "{password}"; others a word, such
    as "push"."""
    password: Annotated[str, _template("password", "code")] = "{password}"  # noqa: S105 - a template
    """What the server gets as password when the user gave a code: "{code}", "{password}{code}", "{password},{code}".
    Without {code} the server must ask for the code (Access-Challenge), and gets it then: that is how NPS works."""
    password_encoding: Annotated[str, AfterValidator(_encoding)] = Field("utf-8", examples=["cp1252"])
    """How a password becomes octets. RADIUS says utf-8; NPS takes the Windows code page of its machine instead, in
    Western Europe and America "cp1252". A password that can't be written so is refused without asking the server."""
    nas_identifier: Annotated[str, AfterValidator(_value)] = "ldapmfa"
    """NAS-Identifier: what we are called in the server's policies."""
    called_station_id: Annotated[str, AfterValidator(_value)] | None = Field(None, examples=["vpn"])
    """Called-Station-Id, if the server's policies want one."""
    nas_port_type: Annotated[Whole, Field(ge=0, lt=1 << 32)] | None = Field(None, examples=[5])
    """NAS-Port-Type, if the server's policies want one; 5 is Virtual, a VPN."""
    connect_timeout: Seconds = 5
    """Seconds until a server's name that is not resolved is given up."""
    response_timeout: Seconds = 10
    """Seconds until a request without an answer is sent again, octet for octet; and how long the answer to a code is
    awaited each time."""
    retries: Annotated[Whole, Field(ge=0, le=10)] = 1
    """How often a request is sent again. A user who is asked is waited for all the same."""
    challenge_seconds: Annotated[Number, Field(gt=0, le=60)] = 3
    """Seconds within which a server that wants a code says so; later it is too late to tell the user. For a user who
    asked for sms it is response_timeout."""
    status_server: Flag = False
    """Whether the server answers Status-Server (RFC 5997), by which its health is then tried. FreeRADIUS can, NPS
    can't."""
    probe_user: Annotated[str, AfterValidator(_value)] | None = Field(None, examples=["ldapmfa-probe"])
    """A name by which the server's health is tried, with a random password that it should refuse. It must belong to
    nobody: an account would be locked. Without it and status_server, a server that is silent is not told from users who
    don't answer, and each login waits for it."""
    require_message_authenticator: Flag = True
    """Whether answers must carry a Message-Authenticator. WARNING: with false, somebody between here and the server can
    forge an Access-Accept (CVE-2024-3596, Blast-RADIUS) and needs no second factor; update the server instead."""
    connections: Annotated[Whole, Field(ge=1, le=65536)] = 5000
    """How many questions a process may have under way; each has a socket."""
