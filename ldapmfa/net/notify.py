"""Tells people and programs what the store has kept for them: by mail, and by a signed request.

Promised here: a notice is tried until it is delivered, with growing pauses, for `GIVEN_UP` seconds; then the log has
it. TLS is verified, every wait has a limit, and no name, reason or answer from outside can become a header of a mail
(A43). Nothing secret is in a notice. Not in here: what is worth telling (`ldapmfa.net.fraud`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiosmtplib

from ldapmfa.audit import printable
from ldapmfa.config import HttpTable
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, StoreDown
from ldapmfa.factors.http import Http
from ldapmfa.factors.service import Tools
from ldapmfa.factors.webhook import signed
from ldapmfa.net.driver import where
from ldapmfa.net.waiting import pause

if TYPE_CHECKING:
    from collections.abc import Callable

    from ldapmfa.config.settings import Fraud
    from ldapmfa.store import Notice, Store

#: Seconds from one look for notices to the next.
LOOK: Final = 2.0
#: Seconds for which one process has a notice: more than any way may take.
LEASE: Final = 120.0
#: Seconds that one delivery may take.
SECONDS: Final = 30.0
#: Seconds from the first failed try to the next one; each pause is twice the one before, up to `LONGEST_PAUSE`.
FIRST_PAUSE: Final = 15.0
LONGEST_PAUSE: Final = 3600.0
#: Seconds after which a notice is given up.
GIVEN_UP: Final = 86400.0
#: Characters of a name, or of a server's words, that are passed on.
_LONGEST: Final = 200


class NotDelivered(Exception):  # noqa: N818 - named as what is the case
    """A way failed, for this once; the text says why, without anything secret."""


class Way(Protocol):
    """How somebody is told."""

    async def tell(self, notice_id: str, body: Mapping[str, Any]) -> str:
        """Deliver; gives in a few words what became of it. NotDelivered: it may be tried again."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


def ways_of(settings: Fraud) -> dict[str, Way]:
    """What delivers, by the name that notices have."""
    ways: dict[str, Way] = {}
    if settings.mail_to:
        ways["mail"] = Mail(settings)
    if settings.webhook_url:
        ways["webhook"] = Webhook(settings)
    return ways


async def deliver(
    store: Store, ways: Mapping[str, Way], *, clock: Any, now: Callable[[], float], log: Any
) -> None:
    """Deliver whatever is due, until cancelled; a store that is away is waited for."""
    try:
        while True:
            try:
                for notice in await store.take_notices(LEASE):
                    await _deliver(store, ways, notice, now, log)
            except StoreDown:
                pass  # what was taken is due again when its lease is over
            await pause(clock, LOOK)
    finally:
        for way in ways.values():
            await way.close()


async def _deliver(
    store: Store, ways: Mapping[str, Way], notice: Notice, now: Callable[[], float], log: Any
) -> None:
    way = ways.get(notice.way)
    said = {"way": notice.way, "about": notice.body.get("what"), "account": notice.body.get("account")}
    try:
        if way is None:
            raise NotDelivered("this process is not configured to")
        await way.tell(notice.id, notice.body)
    except Exception as why:  # noqa: BLE001 - one notice's trouble must not be the others'
        reason = str(why) if isinstance(why, NotDelivered) else where(why)
        if now() - notice.at >= GIVEN_UP:
            log.critical("notice given up", reason=reason, tries=notice.tries, **said)
            await store.end_notice(notice)
            return
        wait = min(FIRST_PAUSE * 2.0 ** (notice.tries - 1), LONGEST_PAUSE)
        log.warning("notice not delivered", reason=reason, again_in=wait, **said)
        await store.put_off_notice(notice, wait)
    else:
        log.info("notice delivered", tries=notice.tries, **said)
        await store.end_notice(notice)


# -- by mail


def _shown(value: object) -> str:
    """Text from outside, on one line and not endless."""
    return printable(str(value))[:_LONGEST]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def message(settings: Fraud, notice_id: str, body: Mapping[str, Any], at: float) -> EmailMessage:
    """The mail that tells of `body`; whatever is in it stays within its line."""
    name = _shown(body.get("name", ""))
    test = body.get("what") == "test"
    mail = EmailMessage(policy=SMTP)
    mail["From"] = settings.mail_from or ""
    mail["To"] = ", ".join(settings.mail_to)
    mail["Subject"] = "ldapmfa: a test of fraud reports" if test else f"ldapmfa: {name} reported fraud and is blocked"
    mail["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
    mail["Message-ID"] = f"<{notice_id}@{(settings.mail_from or '').rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    if test:
        mail.set_content("This is a test. Mail like this one tells when a user reports fraud.\n")
        return mail
    text = f"""\
{name} was asked to approve a login, and said that it was somebody else.
Whoever tried to log in knows the password: have it changed at the directory.

account      {_shown(body.get("dn", ""))}
             {_shown(body.get("account", ""))}
when         {_when(float(body.get("at", at)))}
application  {_shown(body.get("application", ""))}
from         {_shown(body.get("client", "")) or "an address that is not known"}
asked by     {_shown(body.get("service", ""))}

What was done: the account is blocked here until {_when(float(body.get("until", at)))}, its connections were cut, and
remembered logins, bypasses and open questions were dropped. The directory's account was left as it is.

When the password is changed, this ends the block:

    ldapmfa user unblock {shlex.quote(_shown(body.get("account", "")))} --reason "password changed"
"""
    mail.set_content(text)
    return mail


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server."""

    settings: Fraud

    async def tell(self, notice_id: str, body: Mapping[str, Any]) -> str:
        """Hand a mail to the server."""
        settings = self.settings
        context = ssl.create_default_context(cafile=settings.smtp_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        file = settings.smtp_password_file
        try:
            password = Secret(file.read_bytes().rstrip(b"\r\n")) if file else None
            mail = message(settings, notice_id, body, float(body.get("at", time.time())))
            async with asyncio.timeout(SECONDS):
                await aiosmtplib.send(
                    mail,
                    hostname=settings.smtp_host,
                    port=settings.smtp_port,
                    use_tls=settings.smtp_tls == "tls",
                    start_tls=settings.smtp_tls == "starttls",
                    tls_context=context,
                    username=settings.smtp_user,
                    password=password.reveal().decode() if password else None,
                    local_hostname=socket.gethostname(),
                    timeout=SECONDS,
                )
        except TimeoutError:
            raise NotDelivered(f"{self._server}: no answer within {SECONDS:g} seconds") from None
        except ssl.SSLError as error:
            raise NotDelivered(f"{self._server}: its TLS certificate is not accepted: {_tls_words(error)}") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise NotDelivered(f"{self._server}: {_why(error)}") from None
        return f"{self._server} took the mail to {', '.join(settings.mail_to)}"

    @property
    def _server(self) -> str:
        return f"{self.settings.smtp_host}:{self.settings.smtp_port}"

    async def close(self) -> None:
        """There is a connection for each mail."""


def _tls_words(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", None) or error.reason or type(error).__name__


def _why(error: Exception) -> str:
    """What failed: a server's own words only where it cannot repeat what it was shown."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return f"its TLS certificate is not accepted: {_tls_words(cause)}"
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return f"does not accept user or password ({error.code})"
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return f"refuses the recipients ({', '.join(str(one.code) for one in error.recipients)})"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"answers {error.code}: {_shown(error.message)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {_shown(error)}" if isinstance(error, aiosmtplib.SMTPException) else (
        type(error).__name__
    )


# -- by a signed request


class Webhook:
    """A program that takes requests signed as the webhook service's are: docs/reference/webhook.md."""

    def __init__(self, settings: Fraud) -> None:
        self._url = settings.webhook_url or ""
        self._file = settings.webhook_secret_file
        self._http = Http("fraud webhook", HttpTable(ca_file=settings.webhook_ca_file), Tools())

    async def tell(self, notice_id: str, body: Mapping[str, Any]) -> str:
        """Send the body under the action "notice"; its transaction is the notice's id, the same at each try."""
        octets = json.dumps(dict(body)).encode()
        try:
            key = Secret(self._file.read_bytes().rstrip(b"\r\n") if self._file else b"")
            headers = signed(key, "notice", (str(int(time.time())), os.urandom(16).hex(), notice_id), octets)
            reply = await self._http.send("POST", self._url, headers=headers, body=octets)
        except FactorDown as down:
            raise NotDelivered(str(down)) from None
        except OSError as error:
            raise NotDelivered(f"webhook_secret_file: {error.strerror}") from None
        if not 200 <= reply.status < 300:
            raise NotDelivered(f"fraud webhook: answers {reply.status}")
        return f"{self._url} answered {reply.status}"

    async def close(self) -> None:
        """Let go of all connections."""
        await self._http.close()
