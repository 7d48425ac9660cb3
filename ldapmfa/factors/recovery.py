"""Printed recovery codes: ten of them, each good once, for the day the token is lost.

Promised here: only keyed hashes are kept, so that neither a stolen table nor a stolen key alone gives a code
back. The syntax is `ldapmfa.core.secret.GENERATED` after "rc-", by which the core tells such a code from a password.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.core.secret import GENERATED, Secret
from ldapmfa.factors import Credential, Match, NewCredential
from ldapmfa.factors.hotp import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: How many codes are printed.
COUNT: Final = 10
#: Letters and digits that can't be confused (no i, l, o, 0, 1): 31, so that twelve are 59 bits.
ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"


def characters(entropy: Callable[[int], bytes]) -> Iterator[str]:
    """Characters of the alphabet, each as likely as the other: octets past the last multiple are dropped."""
    limit = 256 - 256 % len(ALPHABET)
    while True:
        yield from (ALPHABET[octet % len(ALPHABET)] for octet in entropy(256) if octet < limit)


def generated(prefix: str, drawn: Iterator[str]) -> str:
    """A code of `ldapmfa.core.secret.GENERATED`."""
    groups = ("".join(next(drawn) for _ in range(4)) for _ in range(3))
    return "-".join((prefix, *groups))


def is_generated(prefix: str, code: str) -> bool:
    """Whether `code` is one of that prefix by its form; upper case is as good."""
    return code.isascii() and code.lower().startswith(f"{prefix}-") and bool(GENERATED.fullmatch(code.encode("ascii")))


def token_of(secret: Secret, code: str) -> str:
    """The keyed hash that is kept of a code."""
    return hmac.digest(secret.reveal(), code.lower().encode("ascii"), hashlib.sha256).hex()


class Recovery:
    """Codes on paper."""

    kind = "recovery"

    def new(
        self,
        *,
        entropy: Callable[[int], bytes],
        account: str,  # noqa: ARG002 - nothing is shown in an app
        issuer: str,  # noqa: ARG002 - the same
        options: Mapping[str, Any],
    ) -> NewCredential:
        """Make ten codes and the key of their hashes; there are no options."""
        parameters = checked(self.kind, options, {})
        secret = Secret(entropy(hashlib.sha256().digest_size))
        drawn = characters(entropy)
        codes: set[str] = set()
        while len(codes) < COUNT:
            codes.add(generated("rc", drawn))
        return NewCredential(
            self.kind,
            secret,
            parameters,
            unused=frozenset(token_of(secret, code) for code in codes),
            codes=tuple(Secret(code.encode("ascii")) for code in sorted(codes)),
        )

    def match(self, credential: Credential, code: str, now: float) -> Match | None:  # noqa: ARG002 - no clock here
        """Look for the code's hash among all of this credential, used or not; upper case is as good."""
        if not is_generated("rc", code):
            return None
        token = token_of(credential.secret, code)
        found = [stored for stored in credential.unused | credential.used if hmac.compare_digest(stored, token)]
        return Match(credential.id, None, token=token) if found else None

    def resynchronise(
        self,
        credential: Credential,  # noqa: ARG002 - nothing here can be out of step
        first: str,  # noqa: ARG002
        second: str,  # noqa: ARG002
        now: float,  # noqa: ARG002
    ) -> Match | None:
        """Never: paper does not drift."""
        return None
