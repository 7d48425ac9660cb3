"""One-time codes by time (TOTP, RFC 6238): HOTP whose counter is the number of periods since the epoch.

Promised here: one step of delay either way (section 5.2), around the drift at which this token last matched
(section 6). That a step is used only once is the store's promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyotp

from ldapmfa.core.secret import Secret
from ldapmfa.factors import Credential, Match, NewCredential
from ldapmfa.factors.hotp import ALGORITHMS, base32, checked, consecutive, matching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Steps tried around the expected one, the likeliest first.
NEAREST: Final = (0, -1, 1)
#: Steps a token's clock may be off: five minutes at the usual period.
MAX_DRIFT: Final = 10
#: Seconds a step of a new credential may last; pyotp's limit, from NIST SP 800-63B section 3.1.4.1.
PERIODS: Final = (30, *range(1, 30), *range(31, 121))


def _clamped(drift: int) -> int:
    return max(-MAX_DRIFT, min(MAX_DRIFT, drift))


class Totp:
    """Time-based tokens and authenticator apps."""

    kind = "totp"

    def new(
        self, *, entropy: Callable[[int], bytes], account: str, issuer: str, options: Mapping[str, Any]
    ) -> NewCredential:
        """Make a secret as long as the hash (RFC 6238 section 5.1).

        Options: `algorithm` (sha1, sha256, sha512), `digits` (6, 8), `period` (1 to 120 seconds).
        """
        parameters = checked(self.kind, options, {"algorithm": tuple(ALGORITHMS), "digits": (6, 8), "period": PERIODS})
        digest = ALGORITHMS[parameters["algorithm"]]
        secret = Secret(entropy(digest().digest_size))
        otp = pyotp.TOTP(base32(secret), digits=parameters["digits"], digest=digest, interval=parameters["period"])
        uri = otp.provisioning_uri(name=account, issuer_name=issuer)
        return NewCredential(self.kind, secret, parameters, uri=Secret(uri.encode()))

    def match(self, credential: Credential, code: str, now: float) -> Match | None:
        """Look one step around where this token's clock stood last time, and there first."""
        step = self._step(credential, now)
        centre = step + _clamped(credential.drift)
        window = (counter for offset in NEAREST if (counter := centre + offset) >= 0)
        return self._match(credential, matching(credential, code, window), step)

    def resynchronise(self, credential: Credential, first: str, second: str, now: float) -> Match | None:
        """Look for two consecutive codes as far as a clock may be off."""
        step = self._step(credential, now)
        window = range(max(0, step - MAX_DRIFT - 1), step + MAX_DRIFT + 1)
        return self._match(credential, consecutive(credential, first, second, window), step)

    def used_until(self, credential: Credential, now: float) -> int:
        """As far ahead as a token's clock may be, and a step of delay: none later can have matched by now."""
        return self._step(credential, now) + MAX_DRIFT + max(NEAREST)

    @staticmethod
    def _step(credential: Credential, now: float) -> int:
        return int(now // credential.parameters.get("period", 30))

    @staticmethod
    def _match(credential: Credential, counter: int | None, step: int) -> Match | None:
        return None if counter is None else Match(credential.id, counter, drift=_clamped(counter - step))
