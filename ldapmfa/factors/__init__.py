"""Second factors as plug-ins: the tiny interface and the loader.

A factor is found by its entry point in the group `ldapmfa.factors` (ours use the same door as strangers') and
constructed without side effects. A code factor computes and holds nothing open; it never decides that a code
is accepted: the store burns what `match` names, in one atomic call, and says who was first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol

from ldapmfa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ldapmfa.core.identity import Identity
    from ldapmfa.core.secret import Secret

#: The entry-point group factors are found in; an entry's name is the kind of its factor.
GROUP: Final = "ldapmfa.factors"


@dataclass(frozen=True, slots=True)
class Credential:
    """One enrolled factor, opened: what `CodeFactor.match` needs to know.

    `position` is the last step or counter that was used up (-1: none yet), `drift` the offset in steps at
    which the last code matched, `unused` the hashes of recovery codes that are still good, `used` of those that
    were (they must match too, or a replay would count as a guess).
    """

    id: str
    kind: str
    secret: Secret
    parameters: Mapping[str, Any] = field(default_factory=dict)
    position: int = -1
    drift: int = 0
    unused: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Match:
    """The code belongs to `credential`. What must be burnt: everything up to `position`, or `token`.

    `position` may lie at or below the credential's own: a code that was right once and is used up; the
    store finds that out when it tries to burn it and answers "replayed". `token` is the hash of a recovery code
    (`position` is then None).
    """

    credential: str
    position: int | None
    drift: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A factor just made, not yet stored. `uri` is the otpauth URI of an OTP; `codes` the printed ones."""

    kind: str
    secret: Secret
    parameters: Mapping[str, Any]
    position: int = -1
    unused: frozenset[str] = frozenset()
    uri: Secret | None = None
    codes: tuple[Secret, ...] = ()


class CodeFactor(Protocol):
    """A second factor whose codes are computed here, from a secret and a clock or counter, without I/O.

    `now` is seconds since the epoch. A code is matched as it stands: no blanks are dropped and only ASCII counts.
    """

    kind: str

    def new(
        self, *, entropy: Callable[[int], bytes], account: str, issuer: str, options: Mapping[str, Any]
    ) -> NewCredential:
        """Make a credential; `account` and `issuer` are what an app shows. ConfigError: an option is wrong."""
        ...

    def match(self, credential: Credential, code: str, now: float) -> Match | None:
        """What accepting `code` would burn, used up or not; None if it is wrong.

        It is asked within the store's transaction: in whichever thread, possibly twice, and the event loop may wait
        for it. So it must be pure and quick: some microseconds.
        """
        ...

    def resynchronise(self, credential: Credential, first: str, second: str, now: float) -> Match | None:
        """Where in a wide window two consecutive codes stand: what burning the second would burn."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """Who is asked, and what may be shown: the listener's name, and the client's address and port."""

    identity: Identity
    listener: str
    client: str


class ApprovalFactor(Protocol):
    """A second factor that asks the account's owner, somewhere else, and waits."""

    kind: str

    async def ask(self, prompt: Prompt) -> bool:
        """Whether the owner said yes. FactorDown: that can't be found out.

        It may take as long as it likes, and costs nothing but memory meanwhile: there may be thousands. It is cancelled
        when nobody waits for the answer any more.
        """
        ...


def load(names: Sequence[str]) -> dict[str, CodeFactor]:
    """The code factors among `names`, by kind. ConfigError: one does not exist, or can't be constructed."""
    return {name: found() for name, found in _found(names).items() if not hasattr(found, "ask")}


def load_approvals(names: Sequence[str]) -> dict[str, ApprovalFactor]:
    """The factors among `names` that ask the owner, by kind, in this order. ConfigError: as `load`."""
    return {name: found() for name, found in _found(names).items() if hasattr(found, "ask")}


def _found(names: Sequence[str]) -> dict[str, Any]:
    """What constructs each of `names`."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    found: dict[str, Any] = {}
    mistakes = []
    for name in names:
        if name not in known:
            mistakes.append(f"login.factors: {name!r} is not a factor; known are {', '.join(sorted(known))}")
            continue
        try:
            found[name] = known[name].load()
            found[name]()
        except (ImportError, AttributeError, TypeError) as error:
            mistakes.append(f"login.factors: {name!r} can't be loaded from {known[name].value}: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return found
