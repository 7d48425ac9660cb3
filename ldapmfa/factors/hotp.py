"""One-time codes by counter (HOTP, RFC 4226), and the arithmetic that TOTP shares.

Promised here: codes are compared in constant time, a wrong one with the whole window, and a used code is recognised
as such, so that its second use is a replay and not a guess. Secrets and their URIs are pyotp's business. A code is
computed here, by five lines of RFC 4226, for pyotp takes three times as long over the same digest: it decodes the
secret anew for each counter. Tests hold the two against each other and against the RFC's values.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Final

import pyotp

from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError
from ldapmfa.factors import Credential, Match, NewCredential

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: Counters after the last used one that are tried (RFC 4226 section 7.4: keep it small).
LOOK_AHEAD: Final = 10
#: The same for two consecutive codes, which are as hard to guess as one of twice the length.
RESYNC_AHEAD: Final = 1000

DIGEST_SIZE: Final = 20  # of SHA-1, in octets

ALGORITHMS: Final[Mapping[str, Any]] = {
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
}


def base32(secret: Secret) -> str:
    """`secret` as pyotp and the otpauth URI want it: without padding, which some apps reject."""
    return base64.b32encode(secret.reveal()).decode("ascii").rstrip("=")


def checked(kind: str, options: Mapping[str, Any], allowed: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
    """`options`, the first of each `allowed` list where one is missing. ConfigError: not one of these."""
    mistakes = [
        f"{kind}.{name}: there is no such option; known are {', '.join(allowed)}"
        for name in options
        if name not in allowed
    ]
    parameters = {name: options.get(name, next(iter(values))) for name, values in allowed.items()}
    mistakes += [
        f"{kind}.{name}: {parameters[name]!r} is not possible"
        for name, values in allowed.items()
        if isinstance(parameters[name], bool) or parameters[name] not in values
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return parameters


def codes(credential: Credential) -> Callable[[int], str]:
    """The codes of `credential` by counter (RFC 4226 section 5.3)."""
    secret, digits = credential.secret.reveal(), credential.parameters.get("digits", 6)
    modulus, algorithm = 10**digits, credential.parameters.get("algorithm", "sha1")

    def code(counter: int) -> str:
        digest = hmac.digest(secret, counter.to_bytes(8, "big"), algorithm)
        offset = digest[-1] & 0xF
        return str((int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF) % modulus).zfill(digits)

    return code


def _is_code(credential: Credential, code: str) -> bool:
    return len(code) == credential.parameters.get("digits", 6) and code.isascii() and code.isdigit()


def matching(credential: Credential, code: str, counters: Iterable[int]) -> int | None:
    """The first of `counters` whose code is `code`; the unused ones first, whatever their order."""
    if not _is_code(credential, code):
        return None
    code_of = codes(credential)
    for counter in _unused_first(counters, credential.position):
        if hmac.compare_digest(code_of(counter), code):
            return counter
    return None


def consecutive(credential: Credential, first: str, second: str, counters: range) -> int | None:
    """The same of `counters` whose code is `second` while the one before it has the code `first`."""
    if not (_is_code(credential, first) and _is_code(credential, second)):
        return None
    code_of = codes(credential)
    for counter in _unused_first(counters[1:], credential.position):
        if hmac.compare_digest(code_of(counter), second) and hmac.compare_digest(code_of(counter - 1), first):
            return counter
    return None


def _unused_first(counters: Iterable[int], position: int) -> list[int]:
    # by whether they are used up, that is `position >= counter`; otherwise in their order
    return sorted(counters, key=position.__ge__)


class Hotp:
    """Event-based tokens: the counter moves with each code that is accepted."""

    kind = "hotp"

    def new(
        self, *, entropy: Callable[[int], bytes], account: str, issuer: str, options: Mapping[str, Any]
    ) -> NewCredential:
        """Make a secret of 160 bits (RFC 4226 section 4, R6); the option is `digits`, 6 or 8."""
        parameters = checked(self.kind, options, {"digits": (6, 8)})
        secret = Secret(entropy(DIGEST_SIZE))
        otp = pyotp.HOTP(base32(secret), digits=parameters["digits"])
        uri = otp.provisioning_uri(name=account, issuer_name=issuer, initial_count=0)
        return NewCredential(self.kind, secret, parameters, uri=Secret(uri.encode()))

    def match(self, credential: Credential, code: str, now: float) -> Match | None:  # noqa: ARG002 - no clock here
        """Look ahead of the last used counter, and at that one itself."""
        position = credential.position
        window = range(max(position, 0), position + LOOK_AHEAD + 1)
        counter = matching(credential, code, window)
        return None if counter is None else Match(credential.id, counter)

    def resynchronise(
        self,
        credential: Credential,
        first: str,
        second: str,
        now: float,  # noqa: ARG002 - no clock here
    ) -> Match | None:
        """Look further ahead for two consecutive codes (RFC 4226 section 7.4)."""
        position = credential.position
        window = range(max(position, 0), position + RESYNC_AHEAD + 1)
        counter = consecutive(credential, first, second, window)
        return None if counter is None else Match(credential.id, counter)
