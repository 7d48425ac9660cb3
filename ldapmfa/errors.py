"""The few exceptions that mean *broken*.

A refusal is a value (see `ldapmfa.core.login`); these are for what should have worked and did not.
Broken means no: whatever a login was doing when one of these is raised, it does not succeed.
"""

from __future__ import annotations


class LdapMfaError(Exception):
    """Never raised itself; catch it for everything that is broken."""


class ConfigError(LdapMfaError):
    """The configuration has mistakes; `mistakes` lists every one as a line of its own."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class DirectoryDown(LdapMfaError):  # noqa: N818 - named as what is the case, not as what was raised
    """The directory did not answer, or not as a directory answers: nobody can log in through it now."""


class FactorDown(LdapMfaError):  # noqa: N818 - see DirectoryDown
    """A second factor's service did not answer, or not as it should: nobody is let in.

    `retry_after`: the seconds for which it wants to be left alone, if it says so. `asked`: whether its user may have
    been asked.
    """

    asked = True

    def __init__(self, text: str, *, retry_after: float | None = None, asked: bool | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        if asked is not None:
            self.asked = asked


class FactorUnreachable(FactorDown):
    """The service said nothing of having begun to ask: the only failure for which fail_mode = "open" opens.

    `asked` all the same where an answer came (5xx) to a request that asks: it counts as a prompt.
    """

    asked = False


class FactorResting(FactorDown):
    """The service has failed and is not asked until it is well again."""

    asked = False


class StoreDown(LdapMfaError):  # noqa: N818 - see DirectoryDown
    """The store can't be read or written: no code can be burnt, so no code can be accepted."""


class Stopping(LdapMfaError):  # noqa: N818 - see DirectoryDown
    """The program ends while somebody is being asked: nobody waits for the answer any more."""
