"""One-time codes by counter (HOTP, RFC 4226), and the arithmetic that TOTP shares.

Promised here: the whole window is always computed and compared in constant time, and a used code is
recognised as such, so that its second use is a replay and not a guess. Codes come from pyotp.
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


def matching(credential: Credential, code: str, counters: Iterable[int]) -> list[int]:
    """Every one of `counters` whose code is `code`."""
    digits = credential.parameters.get("digits", 6)
    if not (code.isascii() and code.isdigit() and len(code) == digits):
        return []
    otp = pyotp.HOTP(
        base32(credential.secret),
        digits=digits,
        digest=ALGORITHMS[credential.parameters.get("algorithm", "sha1")],
    )
    return [counter for counter in counters if hmac.compare_digest(otp.at(counter), code)]


def consecutive(credential: Credential, first: str, second: str, counters: range) -> list[int]:
    """Every counter of `counters` whose code is `second` while the one before it has the code `first`."""
    before = set(matching(credential, first, counters))
    return [counter for counter in matching(credential, second, counters) if counter - 1 in before]


def preferred(counters: list[int], position: int) -> int | None:
    """The lowest unused counter, which burns least; failing that a used one: a replay."""
    return min((counter for counter in counters if counter > position), default=max(counters, default=None))


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
        counter = preferred(matching(credential, code, window), position)
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
        counter = preferred(consecutive(credential, first, second, window), position)
        return None if counter is None else Match(credential.id, counter)
