"""What every server here shares: requirements, processes, ports, certificates, the admin's connection.

Nothing listens on anything but loopback, and nothing outlives the test run: a server is stopped by its fixture,
otherwise by atexit, otherwise (pytest killed) by the kernel's parent-death signal.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import fcntl
import hashlib
import ipaddress
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ldap3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import people

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's own Python: the one that has Samba's and 389's modules."""

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "scripts"
"""What runs as a process of its own, mostly under SYSTEM_PYTHON."""

ROOT_DSE_SEARCH = (
    bytes.fromhex("3025 020101 6320 0400 0a0100 0a0100 020100 020100 010100 870b") + b"objectclass" + b"\x30\x00"
)
"""A base search of the rootDSE without a bind: asks whether a server answers and leaves no bind in its log."""


# -- what is missing --------------------------------------------------------------------------------------------------


def everything_is_required() -> bool:
    """Whether missing software is a failure instead of a skip."""
    return os.environ.get("CI", "").lower() in {"1", "true"} or os.environ.get("LDAPMFA_REQUIRE_ALL") == "1"


def unavailable(reason: str) -> None:
    """Skip the test with a reason, or fail it where everything is required."""
    if everything_is_required():
        pytest.fail(f"{reason} (a failure because CI or LDAPMFA_REQUIRE_ALL is set)", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str | None:
    """The path of a system program; /usr/sbin counts even where PATH lacks it."""
    return shutil.which(name, path=SYSTEM_PATH)


def require(*needs: tuple[str, str]) -> None:
    """Each need is (program, module:NAME or absolute path; the Debian package that holds it)."""
    missing = []
    for what, package in needs:
        if what.startswith("module:"):
            code = f"import {what.removeprefix('module:')}"
            found = subprocess.run([SYSTEM_PYTHON, "-I", "-c", code], capture_output=True, check=False).returncode == 0
        elif what.startswith("/"):
            found = bool(list(Path("/").glob(what[1:])))
        else:
            found = program(what) is not None
        if not found:
            missing.append((what, package))
    if missing:
        packages = " ".join(sorted({package for _, package in missing}))
        unavailable(
            f"not installed: {', '.join(what for what, _ in missing)}; Debian packages: {packages}"
            " (tests/system/install-packages installs them)",
        )


def namespace(*, fake_root: bool = True) -> tuple[str, ...]:
    """The command that gives what follows a network of its own.

    Where we are not root it has root's rights in there, and with `fake_root` root's number too.
    """
    if os.geteuid() == 0:
        return "unshare", "--net", "--mount"
    who = ("--map-root-user",) if fake_root else ("--map-current-user", "--keep-caps")
    return "unshare", "--user", *who, "--net", "--mount"


def require_namespaces(who: str) -> None:
    """Containers often forbid them."""
    done = subprocess.run([*namespace(), "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(
            f"{who} needs {'the capability CAP_SYS_ADMIN' if os.geteuid() == 0 else 'root, or user namespaces'}"
            f" to run in a network namespace: {' '.join(namespace())} says {done.stderr.strip()!r}",
        )


# -- places -----------------------------------------------------------------------------------------------------------


def can_bind(host: str, port: int) -> bool:
    """Whether a listener could be opened there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on, below those the kernel gives to outgoing connections."""
    for _ in range(1000):
        port = random.randint(20000, 29999)
        if can_bind(host, port):
            return port
    raise RuntimeError(f"no free port on {host}")


def digest_of(*paths: Path) -> str:
    """A name for a cached tree: another one when what made it changed."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def template(cache: Path, name: str, build: Callable[[Path], None]) -> Path:
    """The tree `cache/name`, built once however many processes ask; a failed build leaves nothing."""
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            unfinished = cache / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(tree)
    return tree


def copy_tree(source: Path, target: Path) -> None:
    """Copy a template with owners, modes, links and holes."""
    subprocess.run(["cp", "-a", "--sparse=always", f"{source}/.", str(target)], check=True)


# -- certificates -----------------------------------------------------------------------------------------------------


def make_certificates(directory: Path, *addresses: str) -> Path:
    """ca.pem, cert.pem and key.pem for localhost, ldap.example.test and the addresses; gives the CA's path.

    The CA is readable for everybody: client programs read it as users of their own. Samba refuses a key that others
    can read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)

    def certificate(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=365))
        )

    ca_name = "ldapmfa test CA"
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    ca = (
        certificate(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**(usage | {"key_cert_sign": True, "crl_sign": True})), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.DNSName("ldap.example.test")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in {"127.0.0.1", *addresses}]
    leaf = (
        certificate("ldap.example.test", ca_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(ca.public_bytes(pem))
    (directory / "cert.pem").write_bytes(leaf.public_bytes(pem))
    (directory / "key.pem").touch(mode=0o600)
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return directory / "ca.pem"


# -- processes --------------------------------------------------------------------------------------------------------


class Process:
    """A child in a session of its own, with its output in a file."""

    def __init__(self, argv: Sequence[str | Path], log: Path, *, env: dict[str, str] | None = None,
                 cwd: Path | None = None, pass_fds: Sequence[int] = (), user: str | None = None) -> None:
        """`user` runs it as somebody else, where we are root (PostgreSQL will not be root)."""
        self.log = log
        self.name = str(argv[0])
        words = ["setpriv", "--pdeathsig", "TERM", *as_user(user)[1:]]
        environment = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **(env or {})}
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [*words, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=environment, cwd=cwd, pass_fds=pass_fds, start_new_session=True,
            )
        atexit.register(self.stop)

    def running(self) -> bool:
        """Whether the child itself is still there."""
        return self.popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float = 30) -> None:
        """Until `ready`; raises with the end of the log when the child dies or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running() or time.monotonic() > deadline:
                why = f"did not answer within {seconds} s" if self.running() else f"ended with {self.popen.returncode}"
                self.stop()
                raise StartError(f"{self.name} {why}; the end of {self.log}:\n{tail(self.log)}")
            time.sleep(0.02)

    def stop(self, seconds: float = 10) -> None:
        """TERM to the child, then KILL to whatever is left of its session."""
        atexit.unregister(self.stop)
        if self.running():
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Until it holds; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.01)


class StartError(Exception):
    """A server did not come up; the message holds the end of its log."""


def as_user(user: str | None) -> list[str]:
    """The words before a command that run it as somebody else, where we are root and it is wanted."""
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if user and os.geteuid() == 0 else []


def tail(path: Path, lines: int = 25) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


def run(argv: Sequence[str | Path], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """A command of the set-up, its output appended to `log`; raises with the log's end when it fails."""
    environment = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **(env or {})}
    with log.open("ab") as out:
        done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                              env=environment, cwd=cwd, check=False)
    if done.returncode:
        raise StartError(f"{argv[0]} ended with {done.returncode}; the end of {log}:\n{tail(log)}")


def answers_ldap(host: str, port: int) -> bool:
    """Whether an LDAP server answers a rootDSE search there."""
    try:
        with socket.create_connection((host, port), timeout=2) as link:
            link.sendall(ROOT_DSE_SEARCH)
            return link.recv(1) == b"\x30"
    except OSError:
        return False


def answers_tcp(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


# -- what tests see ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    """An account as this directory knows it."""

    name: str
    dn: str
    password: str
    account: str
    """What its sAMAccountName, or uid, holds."""
    upn: str
    """What its userPrincipalName holds, or on Active Directory would imply."""


@dataclass(frozen=True)
class Bind:
    """One bind that the server itself saw."""

    name: str
    """As the client sent it, or as the server normalised it (OpenLDAP, 389)."""
    result: int
    """The LDAP result code; on Samba 0 or 49, as its log tells of authentications, not of LDAP."""
    detail: str = ""
    """Samba's NTSTATUS, OpenLDAP's diagnostic text."""


def binds_in(log: Path, bind_line: re.Pattern[str], result_line: re.Pattern[str]) -> list[Bind]:
    """The binds of a log that has a line when a request was read and another when its result was sent.

    Both patterns begin with two groups that tell connection and operation apart; then comes the name, or the result
    code and perhaps a text. Waits a moment for binds under way: the client may have the answer before the log has.
    """
    deadline = time.monotonic() + 2
    while True:
        binds: list[Bind | None] = []
        unanswered: dict[tuple[str, str], tuple[int, str]] = {}  # a restarted server counts from the beginning again
        for line in log.read_text(errors="replace").splitlines():
            if found := bind_line.search(line):
                connection, operation, name = found.groups()
                unanswered[connection, operation] = len(binds), name
                binds.append(None)
            elif found := result_line.search(line):
                connection, operation, code, *text = found.groups()
                place, name = unanswered.pop((connection, operation), (None, ""))
                if place is not None:
                    binds[place] = Bind(name, int(code), *text)
        if not unanswered or time.monotonic() > deadline:
            return [bind for bind in binds if bind]
        time.sleep(0.01)


class Directory:
    """A directory server with the people of `people` in it. Subclasses start it and read its log."""

    kind: ClassVar[str]
    base_dn: ClassVar[str] = people.BASE_DN
    admin_dn: ClassVar[str]
    admin_password: ClassVar[str] = people.ADMIN_PASSWORD
    service_password: ClassVar[str] = people.SERVICE_PASSWORD
    states: ClassVar[frozenset[str]]
    """The account states it knows (people.Person.state)."""
    account_attribute: ClassVar[str] = "sAMAccountName"
    lockout_threshold: ClassVar[int] = people.LOCKOUT_THRESHOLD

    host: str
    port: int
    tls_port: int
    ca_file: Path
    process: Process | None = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)

    @property
    def uri(self) -> str:
        """Clear text, where StartTLS works too."""
        return f"ldap://{self.host}:{self.port}"

    @property
    def tls_uri(self) -> str:
        """TLS from the start; the certificate names the address, localhost and ldap.example.test."""
        return f"ldaps://{self.host}:{self.tls_port}"

    @property
    def service_dn(self) -> str:
        """The proxy's service account; applications have svc-app, the documented exempt account is svc."""
        return self.user("svc-proxy").dn

    def user(self, name: str) -> User:
        """The account of people.PEOPLE, or bulkNNNN, of that name."""
        person = people.person(name)
        if person.state not in self.states:
            raise KeyError(f"{self.kind} has no account {name!r}: it does not know the state {person.state!r}")
        return self._user(person)

    def _user(self, person: people.Person) -> User:
        return User(person.name, person.dn(), person.password or "", person.name, person.principal)

    def members(self) -> list[people.Person]:
        """Those whose state this directory knows."""
        return [person for person in people.PEOPLE if person.state in self.states]

    # -- running

    def start(self) -> Directory:
        """Build what is needed and start; returns when LDAP answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it; the files stay."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def restart(self) -> None:
        """Stop and start again on the same address with the same data."""
        raise NotImplementedError

    # -- the witness

    def bind_log(self) -> list[Bind]:
        """Every bind the server has seen so far, in order, anonymous and administrator's ones included."""
        raise NotImplementedError

    @contextlib.contextmanager
    def binds_seen(self) -> Iterator[list[Bind]]:
        """A list that holds, after the block, the binds that the server saw during it."""
        seen: list[Bind] = []
        before = len(self.bind_log())
        yield seen
        seen.extend(self.bind_log()[before:])

    # -- the administrator

    def connect(self, dn: str, password: str, *, tls: bool = False, **options: object) -> ldap3.Connection:
        """An ldap3 connection that is not yet bound; raise_exceptions is off, `result` tells."""
        trust = ldap3.Tls(validate=2, ca_certs_file=str(self.ca_file)) if tls else None
        server = ldap3.Server(self.host, self.tls_port if tls else self.port, use_ssl=tls, tls=trust,
                              get_info=ldap3.NONE, connect_timeout=10)
        return ldap3.Connection(server, dn, password, receive_timeout=30, **options)

    @contextlib.contextmanager
    def bound(self, dn: str, password: str, *, tls: bool = False, **options: object) -> Iterator[ldap3.Connection]:
        """An ldap3 connection on which that bind was tried, closed at the end."""
        connection = self.connect(dn, password, tls=tls, **options)
        try:
            connection.bind()
            yield connection
        finally:
            connection.unbind()

    def bind(self, dn: str, password: str, *, tls: bool = False) -> dict[str, Any]:
        """ldap3's result of one bind on a connection of its own: its keys are result, description, message ..."""
        with self.bound(dn, password, tls=tls) as connection:
            return connection.result

    @contextlib.contextmanager
    def admin(self) -> Iterator[ldap3.Connection]:
        """The administrator's connection; a refused operation raises."""
        with self.bound(self.admin_dn, self.admin_password, raise_exceptions=True) as connection:
            yield connection

    def add_user(self, name: str, password: str = people.PASSWORD, ou: str = "Staff") -> User:
        """A new ordinary account; the same name again after delete_user is a new account with a new id."""
        raise NotImplementedError

    def delete_user(self, user: User) -> None:
        """Remove an account."""
        with self.admin() as admin:
            admin.delete(user.dn)

    def set_password(self, user: User, password: str) -> None:
        """As an administrator does it; it need not be changed at the next bind."""
        raise NotImplementedError

    def reset_lockout(self, name: str) -> None:
        """Forget an account's wrong passwords and unlock it."""
        raise NotImplementedError
