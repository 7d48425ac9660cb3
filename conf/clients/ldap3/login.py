#!/usr/bin/python3
"""Log a user in with ldap3: search as a service account, then bind as the user on the same connection.

usage: login.py USER < FILE_WITH_PASSWORD_AND_CODE    (exit code 0: logged in, 1: refused)
"""

import ssl
import sys
from pathlib import Path

from ldap3 import NONE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPInvalidCredentialsResult
from ldap3.utils.conv import escape_filter_chars

URI = "ldaps://ldap.example.test:636"
CA_FILE = "/etc/ssl/certs/example-ca.pem"
BASE = "dc=example,dc=test"
SERVICE_ACCOUNT = "cn=svc-app,ou=Services,dc=example,dc=test"
SERVICE_PASSWORD_FILE = "/etc/example/ldap-password"  # noqa: S105 (a path)
ATTRIBUTE = "sAMAccountName"
BIND_SECONDS = 60
"""How long the answer to a bind may take; an approval on the telephone takes its time."""


def login(user: str, password: str) -> bool:
    """Whether the user may come in. A directory that does not answer raises an LDAPException."""
    if not password:  # ldap3 would raise, some directories would bind anonymously
        return False
    trust = Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=CA_FILE)
    # get_info=NONE: ldap3 would read the schema after each bind otherwise
    server = Server(URI, tls=trust, get_info=NONE, connect_timeout=5)
    service_password = Path(SERVICE_PASSWORD_FILE).read_text().strip()
    with Connection(server, SERVICE_ACCOUNT, service_password, auto_bind=True, auto_referrals=False,
                    receive_timeout=BIND_SECONDS, raise_exceptions=True) as connection:
        name = escape_filter_chars(user)
        connection.search(BASE, f"(&(objectClass=person)({ATTRIBUTE}={name}))", attributes=["1.1"])
        found = [entry["dn"] for entry in connection.response if entry["type"] == "searchResEntry"]
        if len(found) != 1:
            return False
        try:
            return connection.rebind(found[0], password)  # once: the code is used up by it
        except LDAPInvalidCredentialsResult:
            return False


if __name__ == "__main__":
    sys.exit(0 if login(sys.argv[1], sys.stdin.readline().rstrip("\n")) else 1)
