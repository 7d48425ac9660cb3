#!/usr/bin/python3
"""Log a user in with python-ldap, as web applications do it: search as a service account, bind as the user.

usage: login.py USER < FILE_WITH_PASSWORD_AND_CODE    (exit code 0: logged in, 1: refused)
"""

import sys
from pathlib import Path

import ldap
import ldap.filter

URI = "ldaps://ldap.example.test:636"
CA_FILE = "/etc/ssl/certs/example-ca.pem"
BASE = "dc=example,dc=test"
SERVICE_ACCOUNT = "cn=svc-app,ou=Services,dc=example,dc=test"
SERVICE_PASSWORD_FILE = "/etc/example/ldap-password"  # noqa: S105 (a path)
ATTRIBUTE = "sAMAccountName"
BIND_SECONDS = 60
"""How long the answer to a bind may take; an approval on the telephone takes its time."""


def connect() -> ldap.ldapobject.LDAPObject:
    """A connection that nobody is bound on."""
    connection = ldap.initialize(URI)
    connection.set_option(ldap.OPT_REFERRALS, 0)
    connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 5)
    connection.set_option(ldap.OPT_TIMEOUT, BIND_SECONDS)
    connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
    connection.set_option(ldap.OPT_X_TLS_CACERTFILE, CA_FILE)
    connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    return connection


def login(user: str, password: str) -> bool:
    """Whether the user may come in. A directory that does not answer raises ldap.LDAPError."""
    if not password:  # a name without a password is an anonymous bind to some directories
        return False
    service = connect()
    service.simple_bind_s(SERVICE_ACCOUNT, Path(SERVICE_PASSWORD_FILE).read_text().strip())
    filter_ = ldap.filter.filter_format("(&(objectClass=person)(%s=%s))", [ATTRIBUTE, user])
    found = [dn for dn, _ in service.search_s(BASE, ldap.SCOPE_SUBTREE, filter_, ["1.1"]) if dn]
    service.unbind_s()
    if len(found) != 1:
        return False
    # once: the code is used up by it
    own = connect()
    try:
        own.simple_bind_s(found[0], password)
    except ldap.INVALID_CREDENTIALS:
        return False
    own.unbind_s()
    return True


if __name__ == "__main__":
    sys.exit(0 if login(sys.argv[1], sys.stdin.readline().rstrip("\n")) else 1)
