"""`ldapmfa doctor` on installations that are right, and on such as are broken in each way that it looks for."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest
from cli.program import Program
from handshakes import NOW, Certificates
from system.conftest import running
from system.proxy import Proxy
from system.servers.common import free_port, make_certificates
from system.servers.slapd import Slapd
from world import entry, frames, result

from ldapmfa.cli.doctor import files
from ldapmfa.wire import ldap

# Twisted still hands pyOpenSSL's certificates to pyOpenSSL
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")

AREAS = ("configuration", "files", "certificates", "directories", "clock", "store", "services", "limits", "process")
IN_PROCESS = tuple(area for area in AREAS if area not in {"directories", "clock"})
INSTALLED = """\
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
name = "door"
{listen}
[directory]
uris = ["{uri}"]
{directory}
{more}
"""


@pytest.fixture
def install(tmp_path):
    """Makes a configuration with a key and a store; gives the program that runs there."""

    def made(listen="", directory="", more="", uri="ldap://127.0.0.1:9"):
        text = INSTALLED.format(port=free_port(), listen=listen, directory=directory, more=more, uri=uri)
        program = Program(tmp_path)
        program.configure(text)
        return program

    return made


def found(program, *areas, child=False):
    """The exit code, and the findings of these areas."""
    words = ["doctor", "--json", *(word for area in areas for word in ("--only", area))]
    ran = program.child(*words) if child else program(*words)
    assert ran.err == ""
    assert {finding["area"] for finding in ran.json["findings"]} == set(areas)
    assert ran.code == {"broken": 3, "warning": 1}.get(ran.json["state"], 0)
    return ran.code, ran.json["findings"]


def not_ok(findings):
    """What is wrong, a line each: state, check, found, remedy."""
    return [
        (finding["state"], finding["check"], finding["found"], finding["remedy"])
        for finding in findings
        if finding["state"] in {"warning", "broken"}
    ]


def the_one(findings):
    (wrong,) = not_ok(findings)
    return wrong


# -- all is well


def test_an_installation_that_is_right(samba, tmp_path):
    to = f'uris = ["{samba.tls_uri}"]\nca_file = "{samba.ca_file}"'
    more = f'[limits]\nconnections = 1000\n[metrics]\nendpoint = "tcp:{free_port()}:interface=127.0.0.1"'
    throttle = "wrong_passwords = 4\nwrong_password_seconds = 1800"
    with Proxy(
        samba, tmp_path / "proxy", to_directory=to, service=True, throttle=throttle, extra=more
    ) as proxy:
        proxy.config.chmod(0o640)
        program = Program(proxy.path)
        ran = program.child("doctor", "--config", proxy.config, "--json")
        findings = ran.json["findings"]
        assert [one for one in not_ok(findings) if one[1] != "this machine"] == []
        assert list(dict.fromkeys(one["area"] for one in findings)) == list(AREAS)
        said = {(one["area"], one["found"]) for one in findings}
        assert any("Active Directory, encrypted, service account" in text for _, text in said)
        assert any("locks an account after 5 wrong passwords within 1800 s; here 4 are passed on" in text for _, text in said)
        assert any(area == "clock" and "the directory's clock is" in text for area, text in said)
        assert ("process", f"it runs, as {proxy.process.popen.pid}") in said
        assert ("process", "it says that it is ready") in said
        assert samba.service_password not in ran.out
        shown = program.child("doctor", "--config", proxy.config, "--only", "store")
        assert shown.code == 0
        assert shown.out.startswith("store\n  ok       room: ")
        assert shown.out.endswith("\n\n5 in order\n")


def test_nothing_is_changed(install):
    program = install()

    def state():
        return {path: path.read_bytes() for path in program.directory.iterdir() if path.suffix != ".db-shm"}

    before = state()
    found(program, *IN_PROCESS)
    assert state() == before


def test_a_check_that_fails_itself_is_a_finding(install, monkeypatch):
    def fail(_):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(files, "_named", fail)
    code, findings = found(install(), "files", "store")
    assert code == 0
    assert findings[0]["state"] == "skipped"
    assert "the doctor failed here (ZeroDivisionError)" in findings[0]["found"]
    assert "a secret" not in str(findings)


# -- configuration, files


def test_mistakes_of_the_configuration_are_all_that_is_said(install):
    program = install()
    file = program.directory / "ldapmfa.toml"
    file.write_text(file.read_text() + "[limits]\nconnections = 0\nidle_timeout = -1\n")
    ran = program("doctor", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.errors) == 2
    assert "limits.idle_timeout" in ran.errors[1]


def test_what_is_dangerous_is_a_warning(install):
    state, check, text, _ = the_one(found(install(directory="verify_certificate = false"), "configuration")[1])
    assert (state, check) == ("warning", "directory.verify_certificate")
    assert "anybody between here and the directory can read every password" in text


def test_a_key_file_that_everybody_may_read(install):
    program = install()
    program.directory.joinpath("store.key").chmod(0o644)
    code, findings = found(program, "files")
    assert code == 3
    assert all(check == "store.key_file" for _, check, *_ in not_ok(findings))
    assert any("chmod" in remedy for *_, remedy in not_ok(findings))


def test_secrets_in_files_that_are_open(install):
    program = install(directory='[directory.service_account]\ndn = "cn=x"\npassword = "hush-hush"')
    file = program.directory / "ldapmfa.toml"
    file.chmod(0o644)
    ran = program("doctor", "--only", "files")
    assert f"-> chmod 640 {file}" in ran.out
    assert "hush" not in ran.out
    file.chmod(0o640)
    assert found(program, "files")[0] == 0
    file.chmod(0o660)
    assert the_one(found(program, "files")[1])[0] == "warning"


def test_a_directory_in_which_everybody_may_put_files(install):
    program = install()
    program.directory.chmod(0o777)
    assert all("put another file in the place" in text for _, _, text, _ in not_ok(found(program, "files")[1]))
    program.directory.chmod(0o1777)
    assert found(program, "files")[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="files of others need root")
def test_a_file_that_the_services_user_can_not_read(install):
    program = install()
    os.chown(program.directory / "state.db", 65534, 65534)
    state, check, text, _ = the_one(found(program, "files")[1])
    assert (state, check) == ("broken", "store.key_file")
    assert "can't be read by nobody, who owns the store" in text


# -- certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def days_from_now(days):
    """As `Certificates` counts."""
    return (dt.datetime.now(dt.UTC) - NOW).days + 999 + days + 1


def presenting(install, certificate, key):
    return install(listen=f'tls = "starttls"\ncertificate = "{certificate}"\nkey = "{key}"')


@pytest.mark.parametrize(
    ("options", "state", "text"),
    [
        ({"days": 600}, "broken", "expired"),
        ({"days": "soon"}, "warning", "expires in 5 days"),
        ({"begins": 20_000, "days": 40_000}, "broken", "is not valid before"),
    ],
)
def test_days_of_a_certificate(install, made, options, state, text):
    if options["days"] == "soon":
        options = {"days": days_from_now(5)}
    pair = made.make("one", "ldap.example.test", **options)
    wrong = the_one(found(presenting(install, *pair), "certificates")[1])
    assert (wrong[0], wrong[1]) == (state, "listen[0].certificate")
    assert text in wrong[2]


def test_a_certificate_without_a_name(install, made):
    wrong = the_one(found(presenting(install, *made.make("nameless")), "certificates")[1])
    assert "it has no subject alternative name" in wrong[2]


def test_a_certificate_that_is_not_for_servers(install, made):
    from cryptography.x509.oid import ExtendedKeyUsageOID

    pair = made.make("client", "ldap.example.test", purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert "it is not for servers" in the_one(found(presenting(install, *pair), "certificates")[1])[2]


def test_a_chain_in_the_wrong_order(install, made, tmp_path):
    pem, key = made.make("leaf", "ldap.example.test")
    other = Certificates(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(pem.read_bytes() + (tmp_path / "ca.pem").read_bytes())
    assert "the chain is broken" in the_one(found(presenting(install, both, key), "certificates")[1])[2]
    both.write_bytes(pem.read_bytes() + made.ca.read_bytes())
    assert found(presenting(install, both, key), "certificates")[0] == 0
    assert other


def test_an_authority_that_expires(install, made):
    pem, _ = made.make("old-ca", ca=True, days=600)
    wrong = the_one(found(install(directory=f'ca_file = "{pem}"'), "certificates")[1])
    assert (wrong[0], wrong[1]) == ("broken", "directory.ca_file")


# -- directories, clock


def test_a_directory_that_is_down(install):
    wrong = the_one(found(install(uri=f"ldap://127.0.0.1:{free_port()}"), "directories", child=True)[1])
    assert wrong[0] == "broken"
    assert "can't be connected to: Connection refused" in wrong[2]


def test_a_certificate_of_another_authority_and_a_wrong_password(install, slapd, tmp_path):
    other = make_certificates(tmp_path / "other")
    wrong = the_one(found(install(uri=slapd.tls_uri, directory=f'ca_file = "{other}"'), "directories", child=True)[1])
    assert "is not accepted" in wrong[2]
    account = f'ca_file = "{slapd.ca_file}"\n[directory.service_account]\ndn = "{slapd.service_dn}"\npassword = "no.1"'
    wrong = the_one(found(install(uri=slapd.tls_uri, directory=account), "directories", child=True)[1])
    assert "directory.service_account" in wrong[2]
    slapd.reset_lockout("svc-proxy")


def test_a_throttle_that_comes_too_late(install, slapd):
    account = f'[directory.service_account]\ndn = "{slapd.service_dn}"\npassword = "{slapd.service_password}"'
    program = install(uri=slapd.uri, directory=account, more="[throttle]\nwrong_passwords = 5")
    wrong = the_one(found(program, "directories", child=True)[1])
    assert "locks an account after 5 wrong passwords within 1800 s, and throttle.wrong_passwords is 5" in wrong[2]
    assert wrong[3].startswith("Set wrong_passwords = 4 in [throttle]")
    program = install(uri=slapd.uri, directory=account, more="[throttle]\nwrong_passwords = 4")
    assert "Set wrong_password_seconds = 1800 in [throttle]." in the_one(found(program, "directories", child=True)[1])


@contextmanager
def scripted(**attributes):
    """A server that says it is Active Directory, with these attributes, and refuses every bind with 8."""
    root = {"supportedCapabilities": ["1.2.840.113556.1.4.800"], "defaultNamingContext": ["dc=x"], **attributes}
    root = {name: [value.encode() for value in values] for name, values in root.items()}

    def answer(frame):
        if frame.tag == ldap.BIND_REQUEST:
            return result(frame.id, frame.tag, 8, "sign, or encrypt")
        if frame.tag == ldap.SEARCH_REQUEST:
            return entry(frame.id, "", **root) + result(frame.id, frame.tag)
        return b""

    def converse(link):
        with link:
            while octets := link.recv(65536):
                link.sendall(b"".join(answer(frame) for frame in frames(octets)))

    def serve():
        while True:
            try:
                link = listening.accept()[0]
            except OSError:
                return
            threading.Thread(target=converse, args=(link,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"ldap://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def said(seconds):
    return dt.datetime.fromtimestamp(time.time() + seconds, dt.UTC).strftime("%Y%m%d%H%M%S.0Z")


def test_a_directory_that_demands_signing_and_is_behind(install):
    with scripted(currentTime=[said(-3600)], isSynchronized=["FALSE"]) as uri:
        findings = found(install(uri=uri), "directories", "clock", child=True)[1]
    wrong = {text: remedy for state, _, text, remedy in not_ok(findings) if state == "broken"}
    assert len(wrong) == 3
    assert "it says that it is not synchronised (isSynchronized)" in wrong
    refuses = "it refuses simple binds in clear text (code 8), and so every login"
    assert wrong[refuses] == "Write ldaps:// in directory.uris, or set starttls = true there."
    assert any(text.startswith("the directory's clock is 36") and text.endswith("s behind") for text in wrong)


def test_a_clock_that_is_a_little_off(install):
    with scripted(currentTime=[said(60)]) as uri:
        findings = found(install(uri=uri), "clock", child=True)[1]
    assert any(state == "warning" and "ahead" in text for state, _, text, _ in not_ok(findings))


# -- store


def test_a_store_that_is_not_there(install):
    program = install()
    program.directory.joinpath("state.db").unlink()
    wrong = the_one(found(program, "store")[1])
    assert "state.db is not there" in wrong[2]
    assert not program.directory.joinpath("state.db").exists()


def test_a_store_that_is_locked(install, monkeypatch):
    from ldapmfa.cli.doctor import stores

    monkeypatch.setattr(stores, "_PATIENCE", 0.1)
    program = install()
    with closing(sqlite3.connect(program.directory / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        wrong = the_one(found(program, "store")[1])
        other.execute("ROLLBACK")
    assert "database is locked" in wrong[2]
    assert "which process holds it" in wrong[3]


def test_a_store_that_is_damaged_or_of_another_version(install):
    program = install()
    file = program.directory / "state.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE alembic_version SET version_num = '0001'")
        other.commit()
    assert any("it is of version 0001" in text for _, _, text, _ in not_ok(found(program, "store")[1]))
    for rest in program.directory.glob("state.db-*"):
        rest.unlink()
    file.write_bytes(b"no database" * 1000)
    assert "not a database" in the_one(found(program, "store")[1])[2]


def test_a_key_that_is_not_the_stores(install, tmp_path):
    program = install()
    other = Program(tmp_path / "other")
    other.directory.mkdir()
    other.configure(INSTALLED.format(port=free_port(), listen="", directory="", more="", uri="ldap://127.0.0.1:9"))
    (other.directory / "store.key").rename(program.directory / "store.key")
    wrong = the_one(found(program, "store")[1])
    assert wrong[1] == "opens"
    assert "key" in wrong[2]


@pytest.mark.parametrize(("free", "state"), [(1 << 20, "broken"), (100 << 20, "warning")])
def test_a_disk_that_is_full(install, monkeypatch, free, state):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))
    assert the_one(found(install(), "store")[1])[:2] == (state, "room")


def test_a_postgresql_that_may_forget(install, postgresql):
    """The tests' own is quick, not durable, and alone."""
    database = postgresql.database()
    try:
        program = install()
        file = program.directory / "ldapmfa.toml"
        file.write_text(file.read_text() + f'[store]\nurl = "{postgresql.url(database)}"\n')
        wrong = the_one([one for one in found(program, "store")[1] if one["check"] == "opens"])
        assert "migrate" in wrong[2] + wrong[3] or "version" in wrong[2]
        assert program.child("user", "list").code == 0  # which makes the schema
        findings = {check: (state, remedy) for state, check, _, remedy in not_ok(found(program, "store")[1])}
        assert findings["durable"] == ("broken", "Set fsync = on and full_page_writes = on in postgresql.conf.")
        assert findings["standby"][0] == "warning"
        assert set(findings) == {"durable", "standby"}
    finally:
        postgresql.drop(database)


# -- services, limits, process


def test_a_service_that_is_not_there(install):
    factors = (
        '[login]\nfactors = ["webhook"]\n[factors.webhook]\nurl = "http://127.0.0.1:9"\n'
        'secret = "0123456789abcdef0123456789abcdef"\nconnect_timeout = 2'
    )
    wrong = the_one(found(install(more=factors), "services")[1])
    assert wrong[1] == "factors.webhook"
    assert "ldapmfa factor test webhook" in wrong[3]


def test_limits_that_do_not_fit(install):
    limits = "[limits]\nconnections = 90000000\nidle_timeout = 0\n[login]\ndeadline = 300"
    wrong = {check: remedy for _, check, _, remedy in not_ok(found(install(more=limits), "limits")[1])}
    assert set(wrong) == {"open files", "memory", "limits.idle_timeout", "listener door"}
    assert "LimitNOFILE=180000" in wrong["open files"]
    assert wrong["listener door"] == "Set bind_timeout = 360 in [limits]."


def test_a_proxy_that_does_not_run(install):
    wrong = the_one(found(install(), "process")[1])
    assert wrong[:2] == ("broken", "listener door")
    assert "Connection refused" in wrong[2]


@pytest.mark.parametrize("listen", [{}, {"tls": "ldaps"}, {"proxy_protocol_from": ["127.0.0.0/8"]}])
def test_a_certificate_that_was_changed_and_not_taken(slapd, tmp_path, listen):
    """Without its key: then the running program keeps what it has."""
    with Proxy(slapd, tmp_path / "proxy", listen=listen) as proxy:
        program = Program(proxy.path)
        assert found(program, "process")[0] == 0
        make_certificates(tmp_path / "other")
        shutil.copy(tmp_path / "other/cert.pem", proxy.path / "tls/cert.pem")
        wrong = the_one(found(program, "process")[1])
        mistake = the_one(found(program, "configuration")[1])
    assert mistake[:2] == ("broken", "mistakes")
    assert "does not belong to the first certificate" in mistake[2]
    assert wrong[0] == "warning"
    assert "it presents another certificate than" in wrong[2]


def test_a_proxy_whose_directory_is_away(tmp_path, tmp_path_factory):
    for slapd in running(Slapd(tmp_path_factory.mktemp("slapd"), entries=1)):
        more = f'[metrics]\nendpoint = "tcp:{free_port()}:interface=127.0.0.1"'
        with Proxy(slapd, tmp_path / "proxy", extra=more) as proxy:
            slapd.stop()
            first, second = not_ok(found(Program(proxy.path), "process")[1])
        assert "the directory is not available" in first[2]
        assert second[1] == "metrics.endpoint"
        assert "it is not ready: " in second[2]
