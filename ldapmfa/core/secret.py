"""What was typed into the password field, and how it is kept from being seen.

Promised here: a `Secret` shows stars wherever it is printed, and `split` decides by syntax alone what is
password and what is code or keyword, so that the directory sees one bind for one attempt (RFC 4513 section 5.1.3 lets
a password be any octets; nothing here normalises them).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


class Secret:
    """Octets that never show: not in a log, a repr, a format string, a pickle or a comparison's timing."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The octets themselves, for the one place that has to send or check them."""
        return self._octets

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        raise TypeError("a Secret is not a dictionary key")

    def __bool__(self) -> bool:
        return bool(self._octets)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not written anywhere")


#: A code that was generated to be written down: three groups of four letters and digits that can't be confused, after
#: "rc-" where it is a recovery code, "ap-" where it is an app password.
GENERATED: Final = re.compile(
    rb"(?:rc|ap)-[a-hj-km-np-z2-9]{4}-[a-hj-km-np-z2-9]{4}-[a-hj-km-np-z2-9]{4}", re.IGNORECASE
)
_BLANK: Final = b" \t\r\n\v\f\0"


@dataclass(frozen=True, slots=True)
class CodeForm:
    """Where in the password field a listener expects the code, or a keyword.

    `delimiter` is one octet, or None where the code is the last `digits` octets (style "suffix"). `keywords` are in
    lower case, each with the method it stands for; they are expected behind `mark`, whatever the style.
    """

    digits: int = 6
    delimiter: bytes | None = None
    keywords: Mapping[bytes, str] = field(default_factory=dict)
    mark: bytes = b","


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed, taken apart: there is a code or a method, or nothing in it looks like one.

    `method` is what the keyword stands for, with the device that was typed behind it. `marked`: it stood behind a
    delimiter, as the end of few passwords does.
    """

    password: Secret
    code: Secret | None
    method: str | None = None
    marked: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether there is anything but a password."""
        return self.code is not None or self.method is not None


def split(typed: Secret, form: CodeForm) -> Typed:
    """The password and the code, or what a keyword stands for, in `typed`, by syntax alone."""
    octets = typed.reveal()
    password, found, word = octets.rpartition(form.mark)
    method = _method(word, form.keywords) if found else None
    if method:
        return Typed(Secret(password), None, method, marked=True)
    if form.delimiter is None:
        cut = len(octets) - _code_size(octets, form.digits)
        password, code = octets[:cut], octets[cut:]
    else:
        password, found, code = octets.rpartition(form.delimiter)
        if not found or not (re.fullmatch(rb"[0-9]{6,8}", code) or GENERATED.fullmatch(code)):
            code = b""
    if not code:
        return Typed(typed, None)
    return Typed(Secret(password), Secret(code.lower()), marked=form.delimiter is not None)


def _method(word: bytes, keywords: Mapping[bytes, str]) -> str | None:
    """What `word` stands for, if it is a keyword; a digit behind one is the user's first, second, ... device."""
    word = word.lower()
    if word in keywords:
        return keywords[word]
    method = keywords.get(word[:-1]) if word[-1:] in _DEVICES else None
    return f"{method}:{word[-1:].decode()}" if method and ":" not in method else None


_DEVICES: Final = tuple(b"%d" % number for number in range(1, 10))
_GENERATED_SIZE: Final = len("rc-xxxx-xxxx-xxxx")


def _code_size(octets: bytes, digits: int) -> int:
    """How many of the last octets are a code; a generated one never ends in `digits` digits."""
    last = octets[-digits:]
    if last.isdigit() and len(last) == digits:
        return digits
    return _GENERATED_SIZE if GENERATED.fullmatch(octets[-_GENERATED_SIZE:]) else 0


def is_usable(typed: Secret, form: CodeForm) -> bool:
    """Whether something is left to send to the directory when the code or keyword is gone.

    A password that is nothing but a code or a keyword, blank or with a NUL in it never reaches a directory, whoever
    types it: some take it for an empty one, and an empty one for an anonymous bind that succeeds (RFC 4513 section
    5.1.2).
    """
    password = split(typed, form).password.reveal()
    return bool(password.strip(_BLANK)) and b"\0" not in password
