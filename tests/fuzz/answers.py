"""What any answer of a service may do to what reads it: mean a yes, a no, or that the service is broken."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown
from ldapmfa.factors import duo_api, entra_token, entra_xml, privacyidea_answers, radius_client, webhook
from ldapmfa.factors.http import Reply
from ldapmfa.factors.service import Allowed, Denied

STATUSES = (200, 400, 401, 403, 404, 429, 500, 302)


def entra(data: bytes) -> None:
    """XML of Microsoft's service."""
    for operation in ("BeginTwoWayAuthentication", "EndTwoWayAuthentication"):
        with contextlib.suppress(ValueError):
            answer = entra_xml.read(data, operation)
            assert answer.value
            if answer.outcome() == "allowed":
                assert b"true" in data
                assert b"Success" in data


def privacyidea(data: bytes) -> None:
    """JSON of a privacyIDEA server, to each of the questions that we ask."""
    reply = _reply(data)
    if reply is None:
        return
    asked = privacyidea_answers.Question("01234567890", "push", ("PUSH1",))
    for read in (
        lambda: privacyidea_answers.verdict(reply, None, "wrong-code"),
        lambda: privacyidea_answers.verdict(reply, asked, "denied"),
        lambda: privacyidea_answers.polled(reply),
        lambda: privacyidea_answers.session(reply, "admin"),
        lambda: privacyidea_answers.triggered(reply),
    ):
        with contextlib.suppress(FactorDown):
            found = read()
            if found is True or isinstance(found, Allowed):
                assert reply.status == 200
                assert b"true" in reply.body
            if isinstance(found, Denied):
                assert found.detail.isprintable()


def json_objects(data: bytes) -> None:
    """The envelopes of Duo's, a token's of Microsoft's, a webhook's."""
    reply = _reply(data)
    if reply is None:
        return
    for read in (duo_api._response, entra_token._token, lambda one: webhook._object("start", one.body)):
        with contextlib.suppress(FactorDown):
            read(reply)


def _reply(data: bytes) -> Reply | None:
    return Reply(STATUSES[data[0] % len(STATUSES)], {}, data[1:]) if data else None


class _Tools:
    def entropy(self, size: int) -> bytes:
        return bytes(size)


class _Table:
    servers = ("127.0.0.1",)
    require_message_authenticator = True


@functools.cache
def _radius() -> tuple[Any, Any]:
    client = radius_client.Client(_Table(), Secret(b"a secret that nobody guesses"), _Tools())  # type: ignore[arg-type]
    return client, client._packet(radius_client.Request(1, {1: b"alice"}, Secret(b"x")))


def radius(data: bytes) -> None:
    """A datagram: nothing counts that was not signed with our secret, and nothing is raised."""
    client, packet = _radius()
    reply, wrong = client._read(packet, data)
    assert reply is None, "taken for authentic"
    assert wrong


ANSWERS = {"entra": entra, "privacyidea": privacyidea, "json-objects": json_objects, "radius": radius}
