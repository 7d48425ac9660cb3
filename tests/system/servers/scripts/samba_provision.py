#!/usr/bin/python3
"""Provision the EXAMPLE.TEST domain and its accounts into a directory that holds an smb.conf.

usage: samba_provision.py DIRECTORY ADDRESS

Run by Debian's Python, which has Samba's modules. What "samba-tool domain provision" does, less the file ACLs of the
sysvol share (skip_sysvolacl): an LDAP-only server has no use for them, and they are what makes samba-tool need real
root. The accounts are written to the database directly: no server runs meanwhile.
"""

import logging
import sys
import time
from pathlib import Path

# at the end: the samba.py beside people.py must not be taken for Samba's own module
sys.path.append(str(Path(__file__).resolve().parent.parent))

import ldb
import people
from samba.auth import system_session
from samba.dsdb import DS_DOMAIN_FUNCTION_2008_R2
from samba.param import LoadParm
from samba.provision import FILL_FULL, provision
from samba.samdb import SamDB

BASE = people.AD_BASE_DN
SECONDS = 10**7
"""Windows counts time in units of 100 ns ..."""
EPOCH = 11644473600
"""... from 1601."""
BYPASS_PASSWORD_HASH = "local_oid:1.3.6.1.4.1.7165.4.3.12:0"
"""Samba's control that lets pwdLastSet be written as it is."""

NORMAL, DISABLED, NEVER_EXPIRES, SMARTCARD = 0x200, 0x202, 0x10200, 0x40200
FLAGS = {"disabled": DISABLED, "pwnever": NEVER_EXPIRES, "smartcard": SMARTCARD}
AT_CREATION = {
    "mustchange": {"pwdLastSet": "0"},
    "acctexpired": {"accountExpires": "132000000000000000"},  # April 2019
    "nohours": {"logonHours": b"\0" * 21},
    "otherws": {"userWorkstations": "SOMEWHERE"},
}


def windows_time(seconds_from_now):
    return str(int((time.time() + EPOCH + seconds_from_now) * SECONDS))


def create_domain(directory, address):
    lp = LoadParm()
    empty = directory / "etc" / "smb.conf.start"
    empty.parent.mkdir(parents=True, exist_ok=True)
    # a lock directory that can be written, whoever runs this
    empty.write_text(f"[global]\n\tlock directory = {directory}/lock\n")
    lp.load(str(empty))
    provision(
        logging.getLogger("provision"), system_session(), smbconf=str(empty), targetdir=str(directory), samdb_fill=FILL_FULL,
        realm=people.DOMAIN.upper(), domain="EXAMPLE", hostname="dc1", hostip=address, hostip6=None,
        adminpass=people.ADMIN_PASSWORD, dns_backend="NONE", serverrole="active directory domain controller", lp=lp,
        use_rfc2307=True, dom_for_fun_level=DS_DOMAIN_FUNCTION_2008_R2, skip_sysvolacl=True, batch_mode=True,
    )


def modify(db, dn, controls=(), **attributes):
    message = ldb.Message(ldb.Dn(db, dn))
    for name, value in attributes.items():
        message[name] = ldb.MessageElement(value, ldb.FLAG_MOD_REPLACE, name)
    db.modify(message, controls=list(controls))


def add_person(db, person, with_password=True):
    entry = {
        "dn": person.ad_dn,
        "objectClass": "user",
        "sAMAccountName": person.name,
        "userAccountControl": str(FLAGS.get(person.state, NORMAL)),
        **AT_CREATION.get(person.state, {}),
        **person.attributes,
    }
    if person.has_upn:
        entry["userPrincipalName"] = person.principal
    if person.mail:
        entry["mail"] = f"{person.name}@{people.DOMAIN}"
    if with_password:
        entry["unicodePwd"] = f'"{person.password}"'.encode("utf-16-le")
    else:
        entry["userAccountControl"] = str(DISABLED)
    db.add(entry)


def add_group(db, name, account, members=()):
    dn = f"CN={people.escape_rdn(name)},OU=Groups,{BASE}"
    entry = {"dn": dn, "objectClass": "group", "sAMAccountName": account}
    if members:
        entry["member"] = list(members)
    db.add(entry)


def member_dn(member):
    if member.startswith("@"):
        return f"CN={people.escape_rdn(member[1:])},OU=Groups,{BASE}"
    return people.person(member).ad_dn


def fill(db):
    db.transaction_start()
    minutes = 60 * SECONDS
    modify(db, BASE, lockoutThreshold=str(people.LOCKOUT_THRESHOLD), lockoutDuration=str(-30 * minutes),
           lockOutObservationWindow=str(-30 * minutes), minPwdAge="0", minPwdLength="7", pwdHistoryLength="3",
           maxPwdAge=str(-999 * 86400 * SECONDS))  # not the usual 42 days: a kept tree may get old
    modify(db, f"CN=Partitions,CN=Configuration,{BASE}", uPNSuffixes="corp.example")
    for ou in people.OUS:
        db.add({"dn": "".join(f"OU={o}," for o in ou.split(",")) + BASE, "objectClass": "organizationalUnit"})
    for person in people.PEOPLE:
        add_person(db, person)
    for name, members in people.GROUPS.items():
        later = [m for m in members if m == "@loop-b"]
        account = "grp-comma" if "," in name else name
        add_group(db, name, account, [member_dn(m) for m in members if m not in later])
    modify(db, member_dn("@loop-a"), member=member_dn("@loop-b"))
    db.transaction_commit()

    db.transaction_start()
    bulk = [people.bulk_person(number) for number in range(people.BULK_USERS)]
    for number, person in enumerate(bulk):
        add_person(db, person, with_password=number < people.BULK_USERS_WITH_PASSWORD)
    add_group(db, "bulk-all", "bulk-all", [person.ad_dn for person in bulk])
    db.transaction_commit()

    for person in people.PEOPLE:
        if person.state == "pwexpired":
            # set 2,000 days ago. (A password settings object with a tiny maximum age would not do: Samba takes
            # anything under a day as "never".)
            modify(db, person.ad_dn, [BYPASS_PASSWORD_HASH], pwdLastSet=windows_time(-2000 * 86400))
        if person.state == "locked":
            # a time far ahead, so that the lock does not run out in a kept tree
            future = windows_time(3650 * 86400)
            modify(db, person.ad_dn, lockoutTime=future, badPwdCount=str(people.LOCKOUT_THRESHOLD),
                   badPasswordTime=future)


def main():
    directory, address = Path(sys.argv[1]), sys.argv[2]
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    create_domain(directory, address)
    lp = LoadParm()
    lp.load(str(directory / "smb.conf"))
    fill(SamDB(url=str(directory / "private" / "sam.ldb"), session_info=system_session(), lp=lp))


main()
