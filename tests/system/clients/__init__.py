"""Real client programs that log users in, each with the very files of conf/clients/.

    with start("apache", Door.of(slapd), tmp_path) as client:
        assert client.login("paula", "Passw0rd!1")

The files' example values (host, port, CA, service password, the products' own paths) are replaced by the test's; one
that is not in its file any more is an error, so that the files and the tests stay together.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from system.servers import people
from system.servers.common import (
    SYSTEM_PATH,
    SYSTEM_PYTHON,
    Process,
    answers_tcp,
    as_user,
    free_port,
    make_certificates,
    require,
    run,
    tail,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from system.servers.common import Directory

EXAMPLES = Path(__file__).resolve().parents[3] / "conf" / "clients"
EXAMPLE_CA = "/etc/ssl/certs/example-ca.pem"
EXAMPLE_URI = "ldaps://ldap.example.test:636"
EXAMPLE_SERVICE_PASSWORD = "service-password"
EXAMPLE_SERVICE_PASSWORD_FILE = "/etc/example/ldap-password"

ANSWER_SECONDS = 60
NO_ANSWER = re.compile(r".*(Can't contact LDAP server|Timed out|could not perform initial LDAP bind).*")


@dataclass(frozen=True)
class Door:
    """Where a client finds LDAP, and the direct bind name there (%s: the user)."""

    host: str
    port: int
    ca_file: Path
    direct: str
    tls: bool = True

    @classmethod
    def of(cls, directory: Directory, host: str | None = None, port: int | None = None, ca_file: Path | None = None,
           *, tls: bool = True) -> Door:
        """The directory's own, or a proxy's before it where host, port (and for TLS its CA) are given."""
        direct = f"%s@{people.DOMAIN}" if directory.kind == "Samba" else f"uid=%s,ou=People,{directory.base_dn}"
        default = directory.tls_port if tls else directory.port
        return cls(host or directory.host, port or default, ca_file or directory.ca_file, direct, tls)

    @property
    def scheme(self) -> str:
        """Of its URI."""
        return "ldaps" if self.tls else "ldap"

    @property
    def uri(self) -> str:
        """As in EXAMPLE_URI."""
        return f"{self.scheme}://{self.host}:{self.port}"


class LoginError(Exception):
    """The client neither let the user in nor refused: something is broken."""


class Client:
    """A client program set up in a directory of its own. Subclasses prepare, perhaps start a server, and log in."""

    product: ClassVar[str]
    needs: ClassVar[Sequence[tuple[str, str]]] = ()
    searches: ClassVar[bool] = True
    """Whether it finds the user as a service account first; otherwise it binds by the pattern at once."""

    def __init__(self, door: Door, logs: Path, patience: int | None = None) -> None:
        """`logs` is where logs are kept; `patience` the seconds after which it gives a bind up, where that can be set."""
        self.door = door
        self.patience = patience
        self.logs = logs
        self.process: Process | None = None
        # not below pytest's directory, which is closed to others: some programs run as users of their own
        self.directory = Path(tempfile.mkdtemp(prefix="ldapmfa-client-"))
        self.directory.chmod(0o755)
        self.log = self.directory / f"{type(self).__name__.lower()}.log"
        self.ca_file = self.directory / "ca.pem"
        shutil.copy(door.ca_file, self.ca_file)
        self.ca_file.chmod(0o644)

    def __enter__(self) -> Self:
        try:
            require(*self.needs)
            self.prepare()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self) -> None:
        """Write the files and start what has to run."""
        raise NotImplementedError

    def login(self, user: str, password: str) -> bool:
        """Whether the user came in; raises LoginError where that is not a yes or a no."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs, keep the logs, remove the rest."""
        if self.process is not None:
            self.process.stop()
        for log in self.directory.glob("*.log"):
            shutil.copy(log, self.logs)
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- helpers of subclasses

    def example(self, name: str, replacements: dict[str, object]) -> str:
        """The text of conf/clients/PRODUCT/NAME with the example's values replaced by the test's."""
        text = (EXAMPLES / self.product / name).read_text()
        for example, ours in replacements.items():
            if example not in text:
                raise AssertionError(f"conf/clients/{self.product}/{name} does not hold {example!r} any more")
            text = text.replace(example, str(ours))
        return text

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of its directory."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        path.chmod(mode)
        return path

    def ask(self, argv: Sequence[str | Path], stdin: str = "", env: dict[str, str] | None = None,
            ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        environment = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": str(self.directory), **(env or {})}
        return subprocess.run(list(map(str, argv)), input=stdin, capture_output=True, text=True, env=environment,
                              check=False, timeout=ANSWER_SECONDS)

    @contextlib.contextmanager
    def refusals_are_refusals(self) -> Iterator[None]:
        """Raise if the log says meanwhile that LDAP did not answer: some programs call that a refusal, too."""
        before = self.log.stat().st_size
        yield
        with self.log.open("rb") as log:
            log.seek(before)
            if found := NO_ANSWER.search(log.read().decode(errors="replace")):
                raise self.broken(found[0])

    def broken(self, what: object) -> LoginError:
        """With the end of the log."""
        return LoginError(f"{type(self).__name__}: {what}\n{tail(self.log)}")

    def common(self) -> dict[str, object]:
        """What most of the files hold."""
        return {EXAMPLE_URI: self.door.uri, EXAMPLE_CA: self.ca_file}

    def waiting(self, line: str, seconds: int) -> dict[str, object]:
        """Its patience in place of the example's."""
        return {line % seconds: line % (self.patience or seconds)}

    def with_service(self) -> dict[str, object]:
        """The same with the service account's password."""
        return {**self.common(), EXAMPLE_SERVICE_PASSWORD: people.SERVICE_PASSWORD}


class LdapSearch(Client):
    """libldap's command line: one connection, one bind."""

    product = "ldapsearch"
    needs = (("ldapsearch", "ldap-utils"),)
    searches = False

    def prepare(self) -> None:
        self.write("ldaprc", self.example("ldaprc", self.common()))
        self.script = self.write("login.sh", self.example("login.sh", {"%s@example.test": self.door.direct}), 0o755)

    def login(self, user: str, password: str) -> bool:
        done = self.ask([self.script, user], stdin=password + "\n")
        # 53 is for a name without a password
        if done.returncode not in {0, 49, 53}:
            raise self.broken(done)
        return done.returncode == 0


class Script(Client):
    """A Python script that reads the password from its standard input."""

    python: ClassVar[str]

    def prepare(self) -> None:
        password = self.write("service-password", people.SERVICE_PASSWORD + "\n")
        text = self.example("login.py", {**self.common(), EXAMPLE_SERVICE_PASSWORD_FILE: password})
        self.script = self.write("login.py", text, 0o755)

    def login(self, user: str, password: str) -> bool:
        done = self.ask([self.python, self.script, user], stdin=password + "\n")
        if done.returncode not in {0, 1} or "Traceback" in done.stderr:
            raise self.broken(done)
        return done.returncode == 0


class PythonLdap(Script):
    """python-ldap, of Debian's Python."""

    product = "python-ldap"
    needs = (("module:ldap", "python3-ldap"),)
    python = SYSTEM_PYTHON


class Ldap3(Script):
    """ldap3, of the tests' own Python."""

    product = "ldap3"
    python = sys.executable


class Apache(Client):
    """mod_authnz_ldap before a page, with HTTP Basic authentication."""

    product = "apache"
    needs = (("apache2", "apache2"), ("/usr/lib/apache2/modules/mod_authnz_ldap.so", "apache2"))
    MODULES = ("mpm_event", "authn_core", "auth_basic", "authz_core", "authz_user", "ldap", "authnz_ldap", "dir")

    def prepare(self) -> None:
        self.port = free_port()
        page = self.directory / "www" / "private" / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text("hello\n")
        example = self.write("ldapmfa.conf", self.example("ldapmfa.conf", self.with_service() | self.waiting("LDAPTimeout %d", 60)))
        conf = self.write("httpd.conf", "\n".join([
            f"ServerRoot {self.directory}",
            "ServerName localhost",
            f"Listen 127.0.0.1:{self.port}",
            f"PidFile {self.directory}/httpd.pid",
            f"DefaultRuntimeDir {self.directory}",
            f"ErrorLog {self.log}",
            "LogLevel authnz_ldap:debug",
            *(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in self.MODULES),
            *(["User nobody", "Group nogroup"] if os.geteuid() == 0 else []),
            "StartServers 3",
            f"DocumentRoot {self.directory}/www",
            f"Include {example}",
            "",
        ]))
        self.process = Process(["apache2", "-f", conf, "-DFOREGROUND"], self.log)
        self.process.wait_until(lambda: answers_tcp("127.0.0.1", self.port))

    def login(self, user: str, password: str) -> bool:
        status = self.get(user, password)
        if status not in {200, 401}:
            raise self.broken(f"HTTP status {status}")
        return status == 200

    def get(self, user: str, password: str) -> int:
        """The status of one request."""
        credentials = b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/private/",
                                         headers={"Authorization": f"Basic {credentials}"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code


class PostgreSQL(Client):
    """The ldap method of pg_hba.conf, search+bind."""

    product = "postgresql"
    needs = (("/usr/lib/postgresql/*/bin/postgres", "postgresql"), ("psql", "postgresql"))
    user = "postgres"
    """Who runs it where we are root, as it refuses to be root."""

    def prepare(self) -> None:
        self.port = free_port()
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        # ours in all but name: PostgreSQL makes and keeps its files as a user of its own
        data = self.directory / "data"
        for path in (self.directory, make_certificates(self.directory / "tls").parent / "key.pem"):
            self.give(path)
        run([*as_user(self.user), programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync",
             "--locale=C", "-E", "UTF8"], self.log, cwd=self.directory)
        hba = self.write("pg_hba.conf", "local all postgres trust\n" + self.hba())
        environment = dict(re.findall(r"^(\w+) = '(.*)'$", self.example("environment", {EXAMPLE_CA: self.ca_file}), re.MULTILINE))
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.directory,
            "hba_file": hba, "fsync": "off", "ssl": "on", "ssl_cert_file": self.directory / "tls" / "cert.pem",
            "ssl_key_file": self.directory / "tls" / "key.pem",
        }
        self.process = Process(
            [programs / "postgres", "-D", data, *(w for k, v in settings.items() for w in ("-c", f"{k}={v}"))],
            self.log, env=environment, cwd=self.directory, user=self.user)
        self.process.wait_until(lambda: self.psql("-h", self.directory, "-U", "postgres", "-c", "select 1").returncode == 0)

    def hba(self) -> str:
        """The lines of pg_hba.conf."""
        return self.example("pg_hba.conf", {**self.where(), EXAMPLE_SERVICE_PASSWORD: people.SERVICE_PASSWORD})

    def where(self) -> dict[str, object]:
        """The directory, in the words of pg_hba.conf."""
        return {"ldapserver=ldap.example.test": f"ldapserver={self.door.host}", "ldapport=636": f"ldapport={self.door.port}",
                "ldapscheme=ldaps": f"ldapscheme={self.door.scheme}"}

    def give(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, self.user, self.user)

    def psql(self, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        """One command."""
        return self.ask(["psql", "-XqAt", "-p", self.port, "-d", "postgres", *arguments], env=env)

    def login(self, user: str, password: str) -> bool:
        # the role has to be there, whoever checks the password
        role = 'create role "{}" login'.format(user.replace('"', '""'))
        self.psql("-h", self.directory, "-U", "postgres", "-c", role)
        with self.refusals_are_refusals():
            done = self.psql("-h", "127.0.0.1", "-U", user, "-c", "select current_user", PGPASSWORD=password,
                             PGSSLMODE="require")
        if done.returncode == 0 and done.stdout.strip() == user:
            return True
        # no password at all: psql gives up by itself
        if "LDAP authentication failed" in done.stderr or "no password supplied" in done.stderr:
            return False
        raise self.broken(done)


class PostgreSQLSimple(PostgreSQL):
    """The same, binding at once as prefix + user + suffix."""

    searches = False

    def hba(self) -> str:
        prefix, suffix = self.door.direct.split("%s")
        return self.example("pg_hba-simple.conf", {
            **self.where(), 'ldapprefix=""': f'ldapprefix="{prefix}"', 'ldapsuffix="@example.test"': f'ldapsuffix="{suffix}"'})


class FreeRadius(Client):
    """rlm_ldap: finds the user in authorize, binds as the user in authenticate."""

    product = "freeradius"
    needs = (("freeradius", "freeradius"), ("/usr/lib/freeradius/rlm_ldap.so", "freeradius-ldap"),
             ("radclient", "freeradius-utils"))

    SECRET = "testing123"
    MAIN = """\
prefix = {directory}
name = radiusd
raddbdir = {directory}
libdir = /usr/lib/freeradius
logdir = {directory}
run_dir = {directory}
db_dir = {directory}
max_request_time = 60
cleanup_delay = 1
hostname_lookups = no
proxy_requests = no
security {{
	reject_delay = 0
	status_server = no
}}
thread pool {{
	start_servers = 5
	max_servers = 32
	min_spare_servers = 3
	max_spare_servers = 10
	max_requests_per_server = 0
	auto_limit_acct = no
}}
client localhost {{
	ipaddr = 127.0.0.1
	secret = {secret}
}}
modules {{
	$INCLUDE {directory}/ldap
}}
$INCLUDE {directory}/site
"""

    def prepare(self) -> None:
        self.port = free_port()
        self.write("ldap", self.example("ldap", self.with_service() | self.waiting("res_timeout = %d", 60)))
        self.write("site", self.example("site", {"192.0.2.10": "127.0.0.1", "port = 1812": f"port = {self.port}"}))
        self.write("radiusd.conf", self.MAIN.format(directory=self.directory, secret=self.SECRET))
        self.write("dictionary", "")
        self.process = Process(["freeradius", "-f", "-x", "-l", "stdout", "-d", self.directory], self.log)
        self.process.wait_until(lambda: "Ready to process requests" in self.log.read_text())

    def login(self, user: str, password: str) -> bool:
        request = "".join(f'{name} = "{value}"\n' for name, value in (("User-Name", user), ("User-Password", password)))
        # where it is impatient it binds once more, and the log tells of both
        with contextlib.nullcontext() if self.patience else self.refusals_are_refusals():
            done = self.ask(["radclient", "-r", "1", "-t", str(ANSWER_SECONDS - 5), f"127.0.0.1:{self.port}", "auth",
                             self.SECRET], stdin=request)
        if "Access-Accept" in done.stdout:
            return True
        if "Access-Reject" in done.stdout:
            return False
        raise self.broken(done)


class Dovecot(Client):
    """passdb ldap with auth_bind: finds the user as a service account, binds as the user."""

    product = "dovecot"
    needs = (("dovecot", "dovecot-core"), ("/usr/lib/dovecot/modules/auth/libauthdb_ldap.so", "dovecot-ldap"))

    MAIN = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {log}
protocols =
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
auth_debug = yes
auth_failure_delay = 0
service anvil {{
  chroot =
  # or each wrong password makes the next answer come later, by up to 15 s
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
!include {directory}/auth-ldap.conf.ext
"""

    def prepare(self) -> None:
        root = os.geteuid() == 0
        ldap = self.write("dovecot-ldap.conf.ext", self.ldap(), 0o600)
        self.write("auth-ldap.conf.ext", self.example("auth-ldap.conf.ext", {"/etc/dovecot/dovecot-ldap.conf.ext": ldap}))
        # the names of whoever runs the tests, where that is not root
        user, group = ("nobody", "nogroup") if root else self.ask(["sh", "-c", "id -un; id -gn"]).stdout.split()
        self.conf = self.write("dovecot.conf", self.MAIN.format(directory=self.directory, log=self.log, user=user, group=group))
        self.process = Process(["dovecot", "-F", "-c", self.conf], self.directory / "start.log")
        self.process.wait_until((self.directory / "run" / "auth-client").is_socket)

    def ldap(self) -> str:
        """The text of dovecot-ldap.conf.ext."""
        return self.example("dovecot-ldap.conf.ext", self.with_service())

    def login(self, user: str, password: str) -> bool:
        done = self.ask(["doveadm", "-c", self.conf, "auth", "test", "-a", self.directory / "run" / "auth-client",
                         user, password])
        if "auth succeeded" in done.stdout:
            return True
        if "auth failed" in done.stdout and "temp_fail" not in done.stdout:
            return False
        raise self.broken(done)


class DovecotDirect(Dovecot):
    """The same without a service account: binds by the pattern."""

    searches = False

    def ldap(self) -> str:
        return self.example("dovecot-ldap-direct.conf.ext",
                            {**self.common(), "%n@example.test": self.door.direct.replace("%s", "%n")})


PRODUCTS: dict[str, type[Client]] = {
    "ldapsearch": LdapSearch,
    "python-ldap": PythonLdap,
    "ldap3": Ldap3,
    "apache": Apache,
    "postgresql": PostgreSQL,
    "postgresql-simple": PostgreSQLSimple,
    "freeradius": FreeRadius,
    "dovecot": Dovecot,
    "dovecot-direct": DovecotDirect,
}


def start(product: str, door: Door, logs: Path, patience: int | None = None) -> Client:
    """The client of that name, to be entered as a context manager."""
    return PRODUCTS[product](door, logs, patience)
