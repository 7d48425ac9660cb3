"""App passwords: a generated code that counts again and again, for a program that can't ask anybody.

Promised here: one counts at its application only, from its networks only, until it expires, and always behind the
directory's own password; only a keyed hash is kept, as of recovery codes. Not in here: what becomes of one that is
shown elsewhere (it is a wrong code, and counts as one).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING, Any

from ldapmfa.core.rules import lies_in
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError
from ldapmfa.factors import Credential, Match, NewCredential
from ldapmfa.factors.recovery import characters, generated, is_generated, token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ldapmfa.core.policy import Address

_OPTIONS = frozenset({"application", "networks", "expires"})


class AppPassword:
    """A code for one program."""

    kind = "app-password"

    def new(
        self,
        *,
        entropy: Callable[[int], bytes],
        account: str,  # noqa: ARG002 - nothing is shown in an app
        issuer: str,  # noqa: ARG002 - the same
        options: Mapping[str, Any],
    ) -> NewCredential:
        """Make one for the `application`, from `networks` (none: any), until it `expires` (seconds since the epoch)."""
        mistakes = [f"{self.kind}.{name}: unknown option" for name in sorted(set(options) - _OPTIONS)]
        application = options.get("application")
        if not isinstance(application, str) or not application.strip():
            mistakes.append(f"{self.kind}.application: is needed: the name of the application it is for")
        networks = []
        for text in options.get("networks", ()):
            try:
                networks.append(str(ipaddress.ip_network(text)))
            except ValueError as wrong:
                mistakes.append(f"{self.kind}.networks: {wrong}")
        expires = options.get("expires")
        if expires is not None and not isinstance(expires, int | float):
            mistakes.append(f"{self.kind}.expires: must be seconds since the epoch")
        if mistakes:
            raise ConfigError(mistakes)
        secret = Secret(entropy(hashlib.sha256().digest_size))
        code = generated("ap", characters(entropy))
        return NewCredential(
            self.kind,
            secret,
            {"application": application, "networks": networks, "expires": expires},
            unused=frozenset({token_of(secret, code)}),
            codes=(Secret(code.encode("ascii")),),
        )

    def permits(self, credential: Credential, application: str, client: Address | None, now: float) -> bool:
        """Whether it counts there, from there, and still. One of which that can't be said counts nowhere."""
        bounds = credential.parameters
        networks = tuple(ipaddress.ip_network(text) for text in bounds["networks"])
        return (
            bounds["application"] == application
            and (not networks or lies_in(client, networks))
            and (bounds["expires"] is None or now < bounds["expires"])
        )

    def used_until(self, credential: Credential, now: float) -> int:  # noqa: ARG002 - whatever the time
        """Nothing is burnt, so that nothing can be burnt twice."""
        return credential.position

    def match(self, credential: Credential, code: str, now: float) -> Match | None:  # noqa: ARG002 - see `permits`
        """Compare the code's hash; nothing is burnt."""
        if not is_generated("ap", code):
            return None
        token = token_of(credential.secret, code)
        found = [stored for stored in credential.unused if hmac.compare_digest(stored, token)]
        return Match(credential.id, None, static=True) if found else None

    def resynchronise(
        self,
        credential: Credential,  # noqa: ARG002 - nothing here can be out of step
        first: str,  # noqa: ARG002
        second: str,  # noqa: ARG002
        now: float,  # noqa: ARG002
    ) -> Match | None:
        """Never: it does not drift."""
        return None
