"""What an application may not do, operation by operation."""

from __future__ import annotations

import pytest
from playbook import ORDINARY, add, control, delete, extended, modify, rename

from ldapmfa.core.writes import Denied, denied_types
from ldapmfa.wire import ldap

PASSWORD_NAMES = {"userpassword", "unicodepwd", "dbcspwd", "cleartextpassword", "authpassword"}
MODIFY_PASSWORD = "1.3.6.1.4.1.4203.1.11.1"
REFRESH = "1.3.6.1.4.1.1466.101.119.1"
BATCH = "1.2.840.113556.1.4.2212"
BULK_UPDATE = "1.3.6.1.1.17.5"
WHO_AM_I, CANCEL = "1.3.6.1.4.1.4203.1.11.3", "1.3.6.1.1.8"
START_TRANSACTION, END_TRANSACTION = "1.3.6.1.1.21.1", "1.3.6.1.1.21.3"
SET_OWNER = control("1.2.840.113556.1.4.2255", critical=True, value=b"S-1-5-18")


def code(denied, octets):
    """0, or why `octets` are refused."""
    refusal = denied.refusal(ldap.read_frame(octets, 0, len(octets)))
    return refusal.code if refusal else 0


def attributes(*names):
    return Denied(attributes=denied_types(names))


def test_what_is_denied_is_spelled_in_one_way():
    assert denied_types([]) == frozenset()
    assert denied_types(["CN", "2.5.4.31", "oid.1.2.840.113556.1.2.102", "mobileTelephoneNumber"]) == {"cn", "member", "memberof", "mobile"}


@pytest.mark.parametrize("name", ["userPassword", "2.5.4.35", "unicodePwd", "1.2.840.113556.1.4.90", "dBCSPwd"])
def test_a_password_is_denied_by_all_of_its_names(name):
    assert denied_types([name, "mail"]) == PASSWORD_NAMES | {"mail"}


@pytest.mark.parametrize("name", ["", "cn=x", "mail;binary", "mail ", "*", "1.2.3", "oid.1.2.840.113556.1.4.35"])
def test_what_could_not_be_kept_is_not_promised(name):
    with pytest.raises(ValueError, match=r"type|name"):
        denied_types(["mail", name])


def test_where_nothing_is_denied_everything_passes():
    for tag, request in ORDINARY.items():
        assert code(Denied(), request(1)) == 0
        assert tag not in Denied().looked_at
    assert code(Denied(), extended(1, BATCH)) == 0


def test_the_operations_that_must_be_looked_at():
    assert Denied().looked_at == frozenset()
    assert Denied(read_only=True).looked_at == {0x66, 0x68, 0x4A, 0x6C, 0x77}
    assert attributes("cn").looked_at == {0x66, 0x68, 0x6C, 0x77}
    assert Denied(operations=frozenset({0x63})).looked_at == {0x63, 0x77}


@pytest.mark.parametrize(
    ("denied", "codes"),
    [
        (Denied(read_only=True), (53, 53, 53, 53, 53)),
        (Denied(operations=frozenset({0x63})), (0, 53, 53, 53, 0)),
        (Denied(operations=frozenset({0x66})), (53, 53, 53, 53, 0)),
        (Denied(operations=frozenset({0x77})), (50, 50, 50, 50, 50)),
        (attributes("mail"), (0, 53, 53, 53, 0)),
        (attributes("unicodePwd"), (53, 53, 53, 53, 0)),
        (attributes("sambaNTPassword"), (53, 53, 53, 53, 0)),
    ],
)
def test_an_extended_operation_passes_if_what_it_writes_is_known_and_not_denied(denied, codes):
    asked = (MODIFY_PASSWORD, REFRESH, BATCH, BULK_UPDATE, START_TRANSACTION)
    assert tuple(code(denied, extended(1, oid)) for oid in asked) == codes
    assert code(denied, extended(1, END_TRANSACTION)) == codes[-1]
    reading = 50 if 0x77 in denied.operations else 0
    assert [code(denied, extended(1, oid)) for oid in (WHO_AM_I, CANCEL)] == [reading, reading]


def test_a_malformed_extended_operation_is_refused():
    assert code(attributes("mail"), extended(1, "whoAmI")) == 2


def test_the_owner_that_an_add_gives_to_an_entry_is_an_attribute():
    assert code(attributes("nTSecurityDescriptor"), add(1, SET_OWNER)) == 50
    assert code(attributes("nTSecurityDescriptor"), add(1, control("1.2.3"))) == 0
    assert code(attributes("mail"), add(1, SET_OWNER)) == 0


def test_an_object_identifier_that_is_not_known_may_be_anything():
    for request in (modify(1, types=["1.2.3"]), add(1, types=["OID.1.2.3"]), add(1, name="1.2.3=x"), rename(1, new="cn=x+oid.1.2.3=y")):
        assert code(attributes("mail"), request) == 50
        assert code(Denied(operations=frozenset({0x4A})), request) == 0


def test_what_removes_an_entry_writes_no_attribute():
    assert code(attributes("mail"), delete(1)) == 0
