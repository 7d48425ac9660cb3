"""Access tokens of Microsoft Entra for the client itself (OAuth 2.0 client credentials, RFC 6749 section 4.4).

Promised here: a token is kept until five minutes before it ends; however many logins need one, one request is under
way, whose failure all of them share. The client shows a secret, or signs an assertion with its certificate's key
(RFC 7523); files are read again for each token, so that renewed ones count. What Entra says is told in plain words, by
the number of its error, and neither a token nor a secret is part of it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown

if TYPE_CHECKING:
    from ldapmfa.factors.entra_table import EntraTable
    from ldapmfa.factors.http import Http, Reply
    from ldapmfa.factors.service import Tools

#: Seconds before its end at which a token is not used any more.
EARLY: Final = 300
#: Seconds for which an assertion is good.
ASSERTED: Final = 600

#: What errors of the token endpoint mean to an administrator.
WORDS: Final = {
    7000112: "the application (client_id) is disabled in the tenant: enable it under Enterprise applications",
    500014: "the application that owns the resource, Azure Multi-Factor Auth Connector, is disabled in the tenant",
    500011: "the tenant has no Azure Multi-Factor Auth Connector: create its service principal",
    700016: "the tenant does not know the application (client_id): create its service principal",
    7000215: "the client secret is wrong (its value is needed, not its id), or was made only seconds ago",
    7000222: "the client secret has expired: make another one",
    7000218: "the application shows neither a secret nor a certificate",
    700027: "the certificate is not registered with the application, or has expired",
    700024: "the assertion is not valid now: is this machine's clock right?",
    90002: "there is no such tenant (tenant), or not in this cloud",
    900023: "there is no such tenant (tenant)",
    53003: "a Conditional Access policy blocks the application",
    70011: "the resource is not one that it takes",
    1002012: "the resource is not one that it takes",
}


class Credentials:
    """What the client shows, of a table; ValueError or OSError: it can't be used."""

    def __init__(self, table: EntraTable) -> None:
        self._table = table
        self.fields("", 0.0, bytes(16))

    def fields(self, audience: str, now: float, unique: bytes) -> dict[str, str]:
        """The form's fields for the endpoint `audience`."""
        table = self._table
        if not table.certificate:
            secret = table.secret_of("client_secret").reveal()
            if not re.fullmatch(rb"[\x21-\x7e]+", secret):
                raise ValueError("the client secret is empty or has characters that none has")
            return {"client_secret": secret.decode("ascii")}
        certificate = x509.load_pem_x509_certificates(table.certificate.read_bytes())[0]
        return {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": _assertion(certificate, _key(table), table.client_id, audience, (now, unique)),
        }


def _key(table: EntraTable) -> rsa.RSAPrivateKey:
    if not table.key:
        raise ValueError("certificate needs key")
    try:
        key = serialization.load_pem_private_key(table.key.read_bytes(), None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ValueError("key is no PEM private key without a pass phrase") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("key is not an RSA key, which Entra demands")  # noqa: TRY004 - it is a mistake in a file
    return key


def _assertion(
    certificate: x509.Certificate, key: rsa.RSAPrivateKey, client: str, audience: str, made: tuple[float, bytes]
) -> str:
    """A JWT (RFC 7519) as Entra wants it of a certificate: RS256, x5t the SHA-1 of its DER; `made`: when, its id."""
    now, unique = made
    try:
        fits = certificate.public_key() == key.public_key()
    except UnsupportedAlgorithm:
        fits = False
    if not fits:
        raise ValueError("key does not belong to certificate")
    thumbprint = hashlib.sha1(certificate.public_bytes(serialization.Encoding.DER), usedforsecurity=False).digest()
    header = {"alg": "RS256", "typ": "JWT", "x5t": _base64(thumbprint)}
    claims = {
        "aud": audience,
        "iss": client,
        "sub": client,
        "jti": str(uuid.UUID(bytes=unique, version=4)),
        "nbf": int(now) - 1,
        "iat": int(now),
        "exp": int(now) + ASSERTED,
    }
    signed = f"{_base64(_json(header))}.{_base64(_json(claims))}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_base64(signature)}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


class Tokens:
    """The tokens of one table."""

    def __init__(self, table: EntraTable, http: Http, tools: Tools) -> None:
        self._table = table
        self._http = http
        self._tools = tools
        self._credentials = Credentials(table)
        self._kept: Secret | None = None
        self._until = 0.0
        self._asking: asyncio.Task[Secret] | None = None

    async def get(self, refused: Secret | None = None) -> Secret:
        """A token that is not `refused`. FactorUnreachable: Entra can't be reached; FactorDown: it gives none."""
        if self._kept and self._kept != refused and asyncio.get_running_loop().time() < self._until:
            return self._kept
        return await self.renewed()

    async def renewed(self) -> Secret:
        """A new token, the same for all who wait for one."""
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        # a login that is given up takes nobody else's token away
        return await asyncio.shield(self._asking)

    def _asked(self, task: asyncio.Task[Secret]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # nobody may be left to hear it

    async def close(self) -> None:
        """Give up a request that is under way."""
        if self._asking:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> Secret:
        table = self._table
        url = table.token_url
        scope = {"resource": table.audience, "scope": "openid"}
        if table.oauth_version == "v2":
            scope = {"scope": f"{table.audience}/.default"}
        try:
            shown = self._credentials.fields(url, self._tools.now(), self._tools.entropy(16))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise FactorDown(f"entra: the client's secret or certificate can't be used: {why}") from None
        form = {"grant_type": "client_credentials", "client_id": table.client_id, **shown, **scope}
        began = asyncio.get_running_loop().time()
        self._tools.say(f"asking {table.login} for a token")
        reply = await self._http.send(
            "POST",
            url,
            headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
            body=urlencode(form).encode(),
            asks_nobody=True,
        )
        token, seconds = _token(reply)
        self._kept, self._until = token, began + seconds - EARLY
        return token


def _token(reply: Reply) -> tuple[Secret, int]:
    """The token that is answered, and for how many seconds it is good."""
    answer = reply.json("entra")
    if reply.status != 200:
        raise FactorDown(f"entra: no token: {_why(reply.status, answer)}")
    token, kind, seconds = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
    if isinstance(seconds, str) and re.fullmatch(r"[0-9]{1,9}", seconds):  # the older endpoint's way
        seconds = int(seconds)
    if (
        not isinstance(token, str)
        or not re.fullmatch(r"[\x21-\x7e]+", token)
        or not isinstance(kind, str)
        or kind.lower() != "bearer"
        or type(seconds) is not int
    ):
        raise FactorDown("entra: the answer has no bearer token with an end")
    return Secret(token.encode()), seconds


def _why(status: int, answer: dict[str, Any]) -> str:
    """What an answer without a token means; of its own words only the error's number is shown."""
    codes = answer.get("error_codes")
    code = next((one for one in codes if type(one) is int), None) if isinstance(codes, list) else None
    if code is None:
        found = re.match(r"AADSTS([0-9]{1,9})\b", str(answer.get("error_description", "")))
        code = int(found[1]) if found else None
    if code is None:
        return f"status {status}"
    return f"{WORDS.get(code, 'look the error up')} (AADSTS{code})"
