"""What five kinds of programs do at a login: their binds and searches, in their order, and for how long they wait.

Promised here: each does what the product of that name does with its default settings, as far as it is named in its
docstring; where that was seen on the wire, the docstring says so. Not in here: how a step is performed
(`conversation`), and what is to be done if it fails (`advice`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ldapmfa.cli.doctor.conversation import Stage


@dataclass(frozen=True, slots=True)
class Program:
    """One kind of program.

    `patience`: the seconds it waits for the bind of a user, None without limit; `setting`: where that is set.
    `again`: when it binds once more by itself with the same password, "" if it does not; `again_after`: how many
    seconds later, 0 if at once. `instead`: what to use at the product where that must not need the password. `tries`:
    how often it tries one bind that is not answered.
    """

    name: str
    title: str
    play: Callable[[Stage], None]
    patience: int | None
    setting: str
    again: str = ""
    again_after: int = 0
    instead: str = ""
    tries: int = 1


def jenkins(stage: Stage) -> None:
    """Jenkins with its LDAP plugin (github.com/jenkinsci/ldap-plugin: LDAPConfiguration, BindAuthenticator2).

    A manager's pooled connection reads the rootDSE for the naming context where none is configured, and finds the user
    by `uid={0}`; the user is bound on a connection of its own by Spring Security's BindAuthenticator, which reads the
    own entry; groups are the manager's to find.
    """
    manager = stage.connect()
    stage.bind(manager, "service")
    stage.read_root(manager)
    stage.find_user(manager, f"({stage.name_attribute}={stage.escaped(stage.name)})", ["*"])
    user = stage.connect()
    stage.bind(user, "user")
    stage.read_user(user, "read-self", "reads the user's entry as the user", ["*", "+"])
    stage.leave(user)
    member = stage.escaped(stage.user_dn)
    stage.find_groups(manager, f"(|(member={member})(uniqueMember={member})(memberUid={stage.escaped(stage.name)}))")
    stage.leave(manager)


def gitlab(stage: Stage) -> None:
    """GitLab (omniauth-ldap on net-ldap: `bind_as`; Gitlab::Auth::Ldap::Adapter for what follows).

    Seen on the wire of net-ldap: service bind, rootDSE (for paged results), search and the user's bind, all on one
    connection. Then GitLab looks on a new connection, as the service account, whether the user may still come in; that
    search must end within its `timeout`, 10 seconds.
    """
    link = stage.connect()
    stage.bind(link, "service")
    stage.read_root(link)
    stage.find_user(link, f"({stage.name_attribute}={stage.escaped(stage.name)})", ["*"], page=126)
    stage.bind(link, "user")
    stage.leave(link)
    check = stage.connect()
    stage.bind(check, "service")
    stage.read_root(check)
    stage.read_user(check, "read-user", "reads the user's entry as its service account", ["dn", "uid", "cn", "mail"])
    stage.leave(check)


def nextcloud(stage: Stage) -> None:
    """Nextcloud (github.com/nextcloud/server: apps/user_ldap, Connection and Access).

    The agent's connection finds the user in pages of 500 and stays; the password is tried on a connection of its own;
    then the agent reads the user's attributes. That it tries the password again is issue 26883 of nextcloud/server.
    """
    agent = stage.connect()
    stage.bind(agent, "service")
    attribute = stage.name_attribute
    where = f"(&(objectClass=*)({attribute}={stage.escaped(stage.name)}))"
    stage.find_user(agent, where, ["dn", attribute, "mail", "displayName"], page=500)
    tried = stage.connect()
    stage.bind(tried, "user")
    stage.leave(tried)
    stage.read_user(agent, "read-user", "reads the user's attributes as its agent", ["*", "memberOf"])
    stage.leave(agent)


def sssd(stage: Stage) -> None:
    """SSSD with `id_provider = ldap` and `auth_provider = ldap`; seen on the wire (Debian 12).

    It reads the rootDSE before any bind, on every connection. The user is bound on a second connection; after
    `ldap_opt_timeout` (8 seconds) it abandons the bind, opens another connection, and binds again, twelve times in 90
    seconds.
    """
    identity = stage.connect()
    stage.read_root(identity, "root-dse-first")
    stage.bind(identity, "service")
    where = f"(&({stage.name_attribute}={stage.escaped(stage.name)})(objectClass=*))"
    stage.find_user(identity, where, ["*", "modifyTimestamp"])
    stage.find_groups(identity, f"(&(member={stage.escaped(stage.user_dn)})(objectClass=*)(cn=*))")
    user = stage.connect()
    stage.read_root(user, "root-dse-first")
    stage.bind(user, "user")
    stage.leave(user)
    stage.leave(identity)


def apache(stage: Stage) -> None:
    """Apache httpd with mod_authnz_ldap; seen on the wire (2.4).

    One connection for all: service bind, search, the user's bind; kept, and bound as the service account for the next
    request. `Require ldap-attribute` and `ldap-user` compare. After `LDAPTimeout` (60 seconds) it binds once more, on a
    new connection.
    """
    link = stage.connect()
    stage.bind(link, "service")
    stage.find_user(link, f"(&(objectClass=*)({stage.name_attribute}={stage.escaped(stage.name)}))", ["dn"])
    stage.bind(link, "user")
    stage.bind(link, "service", "rebind-service")
    stage.compare(link, stage.name_attribute, stage.name)
    stage.leave(link)


PROGRAMS: Final[dict[str, Program]] = {
    program.name: program
    for program in (
        Program(
            "jenkins", "Jenkins", jenkins, 60, "com.sun.jndi.ldap.read.timeout, in the LDAP plugin's environment",
            again="jenkins-cli and scripts that log in by password authenticate every request",
            instead="an API token",
        ),
        Program(
            "gitlab", "GitLab", gitlab, 60, "GITLAB_RAILS_RACK_TIMEOUT",
            again="git over HTTPS authenticates every request, and a clone is two",
            instead="a personal access token, or SSH",
        ),
        Program(
            "nextcloud", "Nextcloud", nextcloud, 60, "the time-outs of PHP and of the web server before it",
            again="Nextcloud tries the password again every 5 minutes, and logs the user out if it is refused",
            again_after=300,
            instead="'auth.storeCryptedPassword' => false in config.php, and Nextcloud's app passwords for its clients",
        ),
        Program("sssd", "SSSD", sssd, 8, "ldap_opt_timeout", tries=12),
        Program(
            "apache", "Apache", apache, 60, "LDAPTimeout", tries=2,
            again="a browser sends the password with every request, and Apache binds again when LDAPCacheTTL (600 s) is"
            " over",
            again_after=600,
            instead="a longer LDAPCacheTTL",
        ),
    )
}  # fmt: skip
