"""What an application may not do at the directory, whoever is bound: operations, and attributes not to be written.

Promised here: what is denied does not pass under another name, spelling or encoding; where anything is denied, an
extended operation passes only if it is known what it does. Not in here: what an account may do; the directory knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ber import BerError
from ldapmfa.wire.ldap import Frame


class Refusal(NamedTuple):
    """Why an operation is not relayed: result code and text."""

    code: int
    text: str


#: Operations that can be denied, by tag, and the word for each.
_WORDS: Final = {
    ldap.SEARCH_REQUEST: "search",
    ldap.COMPARE_REQUEST: "compare",
    ldap.ADD_REQUEST: "add",
    ldap.MODIFY_REQUEST: "modify",
    ldap.DELETE_REQUEST: "delete",
    ldap.MODIFY_DN_REQUEST: "rename",
    ldap.EXTENDED_REQUEST: "use extended operations",
}
#: Operations that write, and those of them that name what they write.
_WRITES: Final = frozenset({ldap.ADD_REQUEST, ldap.MODIFY_REQUEST, ldap.DELETE_REQUEST, ldap.MODIFY_DN_REQUEST})
_NAMING: Final = _WRITES - {ldap.DELETE_REQUEST}
#: A password by any of its names: a directory takes one for the other (Active Directory, with fUserPwdSupport).
_PASSWORDS: Final = frozenset({"userpassword", "unicodepwd", "dbcspwd", "cleartextpassword", "authpassword"})
#: Extended operations that write nothing, whatever they are given.
_READING: Final = frozenset({ldap.OID_WHO_AM_I, ldap.OID_CANCEL})
#: Others whose writes are known, by the attributes written. A transaction's operations are looked at themselves.
_WRITING: Final[dict[bytes, frozenset[str]]] = {
    ldap.OID_START_TRANSACTION: frozenset(),
    ldap.OID_END_TRANSACTION: frozenset(),
    ldap.OID_MODIFY_PASSWORD: _PASSWORDS | {"sambantpassword", "sambalmpassword", "krbprincipalkey"},
}
_OWNER: Final = "ntsecuritydescriptor"


def denied_types(names: Iterable[str]) -> frozenset[str]:
    """The attribute types that `names` deny, as they are compared; one password denies all of its names.

    Raises ValueError for what is no attribute type, and for an object identifier whose name is not known: writes by
    name would pass.
    """
    types = frozenset(dn.attribute_type(name) for name in names)
    unknown = sorted(name for name in types if name[0].isdigit())
    if unknown:
        raise ValueError(f"{unknown[0]} is denied by its name, not by its object identifier")
    return types | _PASSWORDS if types & _PASSWORDS else types


@dataclass(frozen=True, slots=True)
class Denied:
    """What is denied: all writes, `operations` by their tags, writes of `attributes` as `denied_types` spells them."""

    read_only: bool = False
    operations: frozenset[int] = frozenset()
    attributes: frozenset[str] = frozenset()
    #: Tags of the operations that must be looked at; all others pass.
    looked_at: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        tags = self.operations | (_WRITES if self.read_only else frozenset())
        tags |= _NAMING if self.attributes else frozenset()
        object.__setattr__(self, "looked_at", tags | {ldap.EXTENDED_REQUEST} if tags else tags)

    def refusal(self, frame: Frame) -> Refusal | None:
        """Why the operation in `frame` must not reach the directory, if it must not."""
        tag = frame.tag
        if tag not in self.looked_at:
            return None
        if self.read_only and tag in _WRITES:
            return Refusal(ldap.INSUFFICIENT_ACCESS_RIGHTS, "This application may only read.")
        if tag in self.operations:
            return Refusal(ldap.INSUFFICIENT_ACCESS_RIGHTS, f"This application may not {_WORDS[tag]}.")
        try:
            return self._extended(frame) if tag == ldap.EXTENDED_REQUEST else self._write(frame)
        except (BerError, dn.DnError) as broken:
            return Refusal(ldap.PROTOCOL_ERROR, f"What the operation writes can't be read: {broken}.")

    def _extended(self, frame: Frame) -> Refusal | None:
        oid = ldap.read_extended_oid(frame)
        if oid in _READING:
            return None
        written = None if self.read_only else _WRITING.get(oid)
        if written is None or written & self.attributes or (written and ldap.MODIFY_REQUEST in self.operations):
            return Refusal(ldap.UNWILLING_TO_PERFORM, "This application may not use this extended operation.")
        return None

    def _write(self, frame: Frame) -> Refusal | None:
        types, names = ldap.read_written(frame)
        written = {dn.attribute_type(name) for name in types}
        written.update(*(dn.first_types(name) for name in names))
        if any(control.oid == ldap.OID_SET_OWNER for control in frame.controls):
            written.add(_OWNER)
        for name in sorted(written):
            if name in self.attributes:
                return Refusal(ldap.INSUFFICIENT_ACCESS_RIGHTS, f"This application may not write {name}.")
            if name[0].isdigit():
                return Refusal(ldap.INSUFFICIENT_ACCESS_RIGHTS, f"This application must call {name} by its name.")
        return None
