"""Second factors as plug-ins: those that compute codes here, and the loader of all.

A factor is found by its entry point in the group `ldapmfa.factors` (ours use the same door as strangers') and
constructed without side effects. What a service must be able to do is said in `service`. A code factor computes and
holds nothing open; it never decides that a code is accepted: the store burns what `match` names, in one atomic call,
and says who was first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ldapmfa.config import plugins
from ldapmfa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ldapmfa.config import ServiceTable
    from ldapmfa.core.policy import Address
    from ldapmfa.core.secret import Secret
    from ldapmfa.factors.service import Service, Tools


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
    (`position` is then None). One that is `static` is not burnt, and counts again and again: an app password.
    """

    credential: str
    position: int | None
    drift: int = 0
    token: str | None = None
    static: bool = False


class Bounded(Protocol):
    """A code factor whose credentials count at some applications, from some networks, or for some time only."""

    def permits(self, credential: Credential, application: str, client: Address | None, now: float) -> bool:
        """Whether the credential counts for a login at `application` from `client`, None if that is not known.

        It is asked as `match` is, before it.
        """
        ...


@runtime_checkable
class Dated(Protocol):
    """A code factor that can say what may be used up though its store has forgotten it, as after a restore."""

    def used_until(self, credential: Credential, now: float) -> int:
        """The last position that any code accepted until `now` can have had, whatever `credential` says of it."""
        ...


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

    One whose credentials don't count everywhere has a method `permits` besides (`Bounded`): where that says no, the
    code is a wrong one. One whose positions follow the clock has a method `used_until` (`Dated`), or its credentials
    are uncertain after a restore.
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


def load(names: Sequence[str]) -> dict[str, CodeFactor]:
    """The code factors among `names`, by kind. ConfigError: one does not exist, or can't be constructed."""
    found: dict[str, CodeFactor] = {}
    mistakes: list[str] = []
    for name, made in _found(names, mistakes).items():
        if plugins.table_of(made) is None:
            try:
                found[name] = made()
            except (TypeError, AttributeError) as error:
                mistakes.append(f"login.factors: {name!r} can't be constructed: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return found


def load_services(
    names: Sequence[str], tables: Mapping[str, ServiceTable], tools: Callable[[str], Tools]
) -> dict[str, Service]:
    """The services among `names`, in this order; `tables` are their settings by name, `tools` gives each one's.

    ConfigError: one can't be loaded or constructed, or has no table.
    """
    made: dict[str, Service] = {}
    mistakes: list[str] = []
    kinds = {name: tables[name].kind for name in names if name in tables}
    classes = _found(tuple(dict.fromkeys(kinds.values())), mistakes)
    for name, kind in kinds.items():
        if kind in classes:
            try:
                made[name] = classes[kind](tables[name], tools(name))
            except (TypeError, AttributeError, ValueError, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                mistakes.append(f"factors.{name}: can't be used: {why}")
    if mistakes:
        raise ConfigError(mistakes)
    return made


def _found(names: Sequence[str], mistakes: list[str]) -> dict[str, Any]:
    """What constructs each of `names` that computes codes or is the kind of a service; adds to the `mistakes`."""
    known = plugins.installed()
    found: dict[str, Any] = {}
    for name in names:
        if name not in known:
            mistakes.append(f"login.factors: {name!r} is not a factor; known are {', '.join(sorted(known))}")
            continue
        try:
            found[name] = plugins.loaded(known[name])
        except ValueError as error:
            mistakes.append(f"login.factors: {error}")
    return found
