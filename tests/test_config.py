"""Every setting, and every mistake in one: what is said, about which key, on which line."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor

from ldapmfa import config as config_module
from ldapmfa.config import (
    CodeForm,
    Config,
    Directory,
    DirectoryUri,
    Endpoint,
    Listen,
    _lines,
    conf_text,
    load,
    port_mistakes,
    reference_text,
)
from ldapmfa.errors import ConfigError

ROOT = Path(__file__).parent.parent

VERBATIM = """\
[[listen]]
endpoint = "tcp:3389:interface=127.0.0.1"

[directory]
uris = ["ldap://127.0.0.1:10389"]

[store]
url = "sqlite:///state.db"
key_file = "store.key"

[login]
factors = ["totp"]
code = "suffix"          # or "delimiter", with delimiter = ","

[[exempt]]
account = "cn=svc,ou=services,dc=example,dc=test"
networks = ["127.0.0.0/8"]
"""

LEAST = '[[listen]]\nendpoint = "tcp:3389:interface=127.0.0.1"\n[directory]\nuris = ["ldap://127.0.0.1"]\n'


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("LDAPMFA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    """Writes a configuration, beside a key for the store, and gives its path."""
    key = tmp_path / "store.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)

    def write(text):
        path = tmp_path / "ldapmfa.toml"
        path.write_text(text)
        return path

    return write


def mistakes(path, **how):
    """The mistakes in `path`, each without the path's directory."""
    with pytest.raises(ConfigError) as caught:
        load(path, **how)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    assert all("\n" not in mistake for mistake in caught.value.mistakes)
    return [mistake.replace(f"{path.parent}/", "") for mistake in caught.value.mistakes]


def only(path, **how):
    found = mistakes(path, **how)
    assert len(found) == 1, found
    return found[0]


# --- what loads ------------------------------------------------------------------------------------------


def test_the_configuration_of_the_issue_loads_verbatim(file, tmp_path):
    config = load(file(VERBATIM))
    (listener,) = config.listen
    assert listener.endpoint == listener.name == "tcp:3389:interface=127.0.0.1"
    assert not listener.tls_required
    assert config.directory_of(listener).servers == (DirectoryUri(tls=False, host="127.0.0.1", port=10389),)
    assert config.directory_of(listener).identity_name == "default"
    assert config.store.url == f"sqlite:///{tmp_path}/state.db"
    assert config.store.sqlite_file == tmp_path / "state.db"
    assert config.store.key_file == tmp_path / "store.key"
    assert config.login.factors == ("totp",)
    assert config.code_form(listener) == CodeForm("suffix", 6, ",")
    assert config.exempt[0].networks == (ip_network("127.0.0.0/8"),)
    assert config.source == tmp_path / "ldapmfa.toml"


def test_defaults_are_those_of_the_design(file):
    config = load(file(LEAST))
    assert config.login.model_dump() == {
        "factors": ("totp",),
        "code": "suffix",
        "code_digits": 6,
        "delimiter": ",",
        "unenrolled": "refuse",
        "refusal_floor": 0.25,
        "deadline": 30,
        "issuer": "ldapmfa",
    }
    assert config.limits.model_dump() == {
        "connections": 10000,
        "frame_before_bind": 65536,
        "frame_after_bind": 1048576,
        "held_requests": 100,
        "held_bytes": 262144,
        "buffered_bytes": 268435456,
        "bind_timeout": 120,
        "frame_timeout": 30,
        "pending_logins": 5000,
    }
    assert (config.log.format, config.log.level) == ("auto", "info")
    assert config.directory.verify_certificate
    assert (config.directory.connect_timeout, config.directory.response_timeout) == (5, 10)
    assert config.store.migrate


def test_settings_are_frozen(file):
    config = load(file(LEAST))
    for table in (config, config.login, config.listen[0]):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(table, next(iter(type(table).model_fields)), None)


def test_a_config_made_directly_reads_no_environment(monkeypatch):
    monkeypatch.setenv("LDAPMFA_LOGIN__CODE_DIGITS", "8")
    config = Config(listen=(Listen(endpoint="tcp:0"),), directory=Directory(uris=("ldap://[::1]",)))
    assert config.login.code_digits == 6
    assert config.source is None
    network = ip_network("10.0.0.0/8")
    assert Listen(endpoint="tcp:0", proxy_protocol_from=(network,)).proxy_protocol_from == (network,)


def test_an_absolute_sqlite_file_stays(file, tmp_path):
    config = load(file(LEAST + f'[store]\nurl = "sqlite:///{tmp_path}/a/b.db?x=1"\n'), check_files=False)
    assert config.store.sqlite_file == tmp_path / "a/b.db"
    assert config.store.url.endswith("/a/b.db?x=1")


def test_a_postgresql_url_does_not_show(file):
    config = load(file(LEAST + '[store]\nurl = "postgresql://ldapmfa:hush@db/ldapmfa"\n'))
    assert config.store.url == "postgresql://ldapmfa:hush@db/ldapmfa"
    assert config.store.sqlite_file is None
    assert "hush" not in repr(config)


def test_a_listener_overrides_the_form_of_codes(file):
    config = load(
        file(LEAST.replace("[directory]", 'code = "delimiter"\ncode_digits = 8\ndelimiter = ";"\n[directory]'))
    )
    assert config.code_form(config.listen[0]) == CodeForm("delimiter", 8, ";")


def test_several_directories_may_share_an_identity_name(file):
    text = (
        '[[listen]]\nendpoint = "tcp:1389:interface=127.0.0.1"\ndirectory = "corp"\n'
        '[[listen]]\nendpoint = "tcp:1390:interface=127.0.0.1"\ndirectory = "corp-gc"\n'
        '[directories.corp]\nuris = ["ldaps://dc1.example.com"]\nglobal_catalog = "ldaps://dc1.example.com"\n'
        '[directories.corp-gc]\nuris = ["ldap://dc1.example.com:3268"]\nidentity_name = "corp"\n'
    )
    config = load(file(text))
    assert config.directory is None
    assert list(config.every_directory) == ["corp", "corp-gc"]
    assert {directory.identity_name for directory in config.every_directory.values()} == {"corp"}
    assert config.directory_of(config.listen[0]).global_catalog_server == DirectoryUri(
        tls=True, host="dc1.example.com", port=3269
    )
    assert config.directory_of(config.listen[1]).global_catalog_server is None


def test_the_service_accounts_password_comes_from_its_file_each_time(file, tmp_path):
    (tmp_path / "pw").write_text("häsh\r\n")
    text = LEAST + '[directory.service_account]\ndn = "cn=reader"\npassword_file = "pw"\n'
    account = load(file(text)).directory.service_account
    assert account.secret().reveal() == "häsh".encode()
    (tmp_path / "pw").write_text("new")
    assert account.secret().reveal() == b"new"


def test_a_password_never_shows(file):
    config = load(file(LEAST + '[directory.service_account]\ndn = "cn=reader"\npassword = "hush"\n'))
    assert config.directory.service_account.secret().reveal() == b"hush"
    assert "hush" not in repr(config) + str(config.model_dump()) + config.model_dump_json()


def test_no_twisted_is_imported():
    code = "import sys, ldapmfa.config; sys.exit(any(name.startswith('twisted') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- where the file is --------------------------------------------------------------------------------------


def test_the_default_places_are_tried_in_order(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "etc.toml"
    monkeypatch.setattr(config_module, "PLACES", (Path("ldapmfa.toml"), elsewhere))
    elsewhere.write_text(LEAST)
    assert load(check_files=False).source == elsewhere
    assert load(file(LEAST)) is not None
    assert load().source == tmp_path / "ldapmfa.toml"


def test_without_a_file_both_places_and_init_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "PLACES", (Path("ldapmfa.toml"), Path("/nowhere/ldapmfa.toml")))
    with pytest.raises(ConfigError) as caught:
        load()
    (line,) = caught.value.mistakes
    assert f"{tmp_path}/ldapmfa.toml nor /nowhere/ldapmfa.toml" in line
    assert "`ldapmfa init`" in line
    assert config_module.PLACES[0] == Path("ldapmfa.toml")


def test_the_places_are_those_of_the_issue():
    assert list(config_module.PLACES) == [Path("ldapmfa.toml"), Path("/etc/ldapmfa/ldapmfa.toml")]


def test_a_named_file_that_is_missing_a_directory_or_forbidden(tmp_path, monkeypatch):
    assert "`ldapmfa init` writes one" in only(tmp_path / "none.toml")
    (tmp_path / "dir.toml").mkdir()
    assert only(tmp_path / "dir.toml") == "dir.toml: the configuration is a directory, where a file is needed"
    forbid(monkeypatch, "secret.toml")
    assert only(tmp_path / "secret.toml").startswith("secret.toml: the configuration can't be read by user id")


def forbid(monkeypatch, name):
    """Reading a file called `name` is forbidden, even to root."""
    read = Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"[login]\ncode = suffix\n", "ldapmfa.toml:2: not valid TOML: "),
        (b"[login]\nfactors = [\n", "ldapmfa.toml:3: not valid TOML: "),
        (b"[login]\n[login]\n", "ldapmfa.toml:2: not valid TOML: "),
        (b"[login]\n\n# \xff\n", "ldapmfa.toml:3: not UTF-8"),
    ],
)
def test_what_is_no_toml_is_a_mistake_with_a_line(file, octets, said):
    path = file("")
    path.write_bytes(octets)
    assert only(path).startswith(said)


def complaint(parse, text):
    """What `parse` says about `text`, None if it is content."""
    try:
        parse(text)
    except ValueError as mistake:
        return str(mistake)
    return None


# --- mistakes of single keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[login]\ncode_digts = 8", '6: login.code_digts: unknown key; did you mean "code_digits"?'),
        ("[login]\nzzz = 8", "6: login.zzz: unknown key; known: factors, code, code_digits, "),
        ("[logn]\ncode_digits = 8", '5: logn: unknown key; did you mean "login"?'),
        ("[login]\ncode_digits = 7", "6: login.code_digits: must be 6 or 8"),
        ('[login]\ncode_digits = "8"', "6: login.code_digits: must be a whole number, without quotes"),
        ("[login]\ncode_digits = true", "6: login.code_digits: must be a whole number, without quotes"),
        ('[login]\n\n\ncode = "sufix"', '8: login.code: must be "suffix" or "delimiter"; did you mean "suffix"?'),
        ("[login]\ncode = 5", '6: login.code: must be "suffix" or "delimiter"'),
        ('[login]\ndelimiter = "ab"', '6: login.delimiter: must be one ASCII punctuation character, for example ","'),
        ('[login]\ndelimiter = "7"', "6: login.delimiter: must be one ASCII punctuation character"),
        ('[login]\nfactors = ["totpp"]', '6: login.factors[0]: no such factor; did you mean "totp"?'),
        ('[login]\nfactors = "totp"', '6: login.factors: must be a list, for example factors = ["totp"]'),
        ("[login]\nfactors = []", '6: login.factors: must not be empty, for example factors = ["totp"]'),
        ("[login]\nfactors = [1]", "6: login.factors[0]: must be a string in quotes"),
        ('[login]\nissuer = " "', "6: login.issuer: must not be empty"),
        ("[login]\ndeadline = -1", "6: login.deadline: must be more than 0 and at most 86400"),
        ("[login]\ndeadline = nan", "6: login.deadline: must be more than 0 and at most 86400"),
        ('[login]\ndeadline = "30"', "6: login.deadline: must be a number, without quotes"),
        ("[login]\nrefusal_floor = 11", "6: login.refusal_floor: must be at least 0 and at most 10"),
        ("[limits]\nframe_after_bind = 10485761", "6: limits.frame_after_bind: must be at least 1024 and at most 10485760"),
        ("login = 5", "5: directory.login: unknown key; known: uris, "),
        ("[[login]]\ncode_digits = 6", "5: login: must be a table: write [login]"),
        ("[exempt]\naccount = 'x'", "5: exempt: must be a list of tables: write [[exempt]]"),
        ("[[exempt]]", "5: exempt[0].account: is missing, and needed, for example account = "),
        ("[[exempt]]\naccount = ''", "6: exempt[0].account: must not be empty"),
        ("[[exempt]]\naccount = 'x'\nnetworks = []", '7: exempt[0].networks: must not be empty, for example networks = ["10.1.0.0/16"]'),
        ("[[exempt]]\naccount = 'x'\nnetworks = ['10.0.0.1/8']", '7: exempt[0].networks[0]: has bits set beyond its length: write "10.0.0.0/8"'),
        ("[[exempt]]\naccount = 'x'\nnetworks = ['a/b']", "7: exempt[0].networks[0]: must be a network or an address"),
        ("[[exempt]]\naccount = 'x'\nnetworks = [7]", "7: exempt[0].networks[0]: must be a network or an address"),
        ("[[exempt]]\naccount = 'x'\ndirectory = 'crop'", "7: exempt[0].directory: there is no [directories.crop] table; known: default"),
        ('[store]\nurl = "mysql://x"', "6: store.url: must begin with sqlite:/// or postgresql://"),
        ('[store]\nurl = "sqlite://state.db"', "6: store.url: a SQLite file needs three slashes before a relative path"),
        ('[store]\nurl = "sqlite:///:memory:"', "6: store.url: must name a file"),
        ('[store]\nmigrate = "yes"', "6: store.migrate: must be true or false, without quotes"),
        ("[store]\nkey_file = 5", "6: store.key_file: must be a path in quotes"),
        ("[store]\nkey_file = 'none.key'", "6: store.key_file: none.key does not exist; `ldapmfa init` makes it"),
        ("[store]\nkey_file = '.'", "6: store.key_file: "),
        ("[store]\nurl = 'sqlite:///sub/state.db'", "6: store.url: there is no directory sub: create it, or name another"),
        ("kind = 'ad'", '5: directory.kind: must be "auto", "active-directory", "openldap" or "389-ds"'),
        ("verify_certificate = 1", "5: directory.verify_certificate: must be true or false, without quotes"),
        ("identity_name = 'a/b'", "5: directory.identity_name: must consist of small letters"),
        ("global_catalog = 'dc1:3268'", "5: directory.global_catalog: must begin with ldap:// or ldaps://"),
        ("ca_file = 'none.pem'", "5: directory.ca_file: none.pem does not exist"),
        ("ca_file = 'store.key'", "5: directory.ca_file: store.key holds no PEM certificate"),
        ("service_account = 'x'", "5: directory.service_account: must be a table: write [directory.service_account]"),
        ("[directory.service_account]\ndn = 'x'", "5: directory.service_account: needs password_file (or password)"),
        ("[directory.service_account]\ndn = 'x'\npassword = 'p'\npassword_file = 'store.key'", "5: directory.service_account: has both"),
        ("[directory.service_account]\ndn = 'x'\npassword_file = 'none'", "7: directory.service_account.password_file: none does not exist"),
        ("[directories.Corp]\nuris = ['ldap://x']", "5: directories.Corp: must consist of small letters"),
        ("[directories.default]\nuris = ['ldap://x']", '5: directories.default: the directory named "default" is the table [directory]'),
        ("[directories.corp]", "5: directories.corp.uris: is missing, and needed, for example uris = ["),
        ("directories = 7", "5: directory.directories: unknown key"),
        ("[log]\nlevel = 'inof'", '6: log.level: must be "debug", "info", "warning" or "error"; did you mean "info"?'),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line_with_its_key_its_line_and_what_would_be_right(file, more, said):
    assert only(file(f"{LEAST}{more}\n")).startswith(f"ldapmfa.toml:{said}")


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("ssl:636", "TLS is not part of the endpoint: write tcp: here, and beside it tls = "),
        ("tls:636", "TLS is not part of the endpoint"),
        ("", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("389", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("TCP:389", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("haproxy:tcp:389", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("tcp:ldap", 'needs a port from 1 to 65535, for example "tcp:389"'),
        ("tcp:", "needs a port"),
        ("tcp", "needs a port"),
        ("tcp:65536", "needs a port"),
        ("tcp6:x", 'needs a port from 1 to 65535, for example "tcp6:389"'),
        ("tcp:389:interface=eth0", "interface must be an IP address of this machine"),
        ("tcp:389:interfce=127.0.0.1", "tcp: takes each of port, interface, backlog once and nothing else"),
        ("tcp:389:127.0.0.1:50:1", "tcp: takes each of port, interface, backlog once"),
        ("tcp:389:interface=::1", r"tcp: takes each of port, interface, backlog once and nothing else; a colon within"),
        ("tcp6:389:interface=127.0.0.1", "tcp6: wants an IPv6 address"),
        ("tcp:389:backlog=x", "backlog must be a whole number"),
        ("unix:", "needs a path"),
        ("unix:s:mode=9", "mode must be an octal number"),
        ("unix:s:lockfile=no", "backlog must be a whole number, and lockfile 0 or 1"),
        ("unix:" + 200 * "s", "a path of a socket has at most 107 octets"),
        ("systemd:domain=INET", "must be systemd:domain=INET (or INET6, UNIX) and one of index=0 and name=..."),
        ("systemd:domain=INET:index=0:name=ldap", "must be systemd:domain=INET"),
        ("systemd:domain=IP:index=0", "must be systemd:domain=INET"),
        ("systemd:domain=INET:index=x", "index must be a whole number from 0"),
    ],
)
def test_a_bad_endpoint_says_what_would_be_right(file, endpoint, said):
    line = only(file(LEAST.replace("tcp:3389:interface=127.0.0.1", endpoint)))
    assert line.startswith(f"ldapmfa.toml:2: listen[0].endpoint: {said}")


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:389",
        "tcp:port=389",
        "tcp:389:10.0.0.1:50",
        "tcp:389:interface=10.0.0.1:backlog=5",
        r"tcp:389:interface=\:\:1",
        "tcp6:389",
        r"tcp6:389:interface=2001\:db8\:\:7",
        "unix:/run/ldapmfa/ldap.sock",
        r"unix:/run/a\:b\=c:mode=660:lockfile=0",
        "unix:address=/run/x",
    ],
)
def test_what_we_read_in_an_endpoint_is_what_twisted_does(endpoint):
    listener = Listen(endpoint=endpoint)
    ours, theirs = listener.where, serverFromString(MemoryReactor(), listener.endpoint)
    if ours.kind == "unix":
        assert theirs._address == ours.path
        assert f"{theirs._mode:o}" in {"666", "660"}
    else:
        assert (theirs._port, theirs._interface) == (ours.port, ours.interface)


@given(st.text(alphabet="tcp6unixsystemd:=\\0123.\x00é", max_size=40))
def test_no_endpoint_raises_anything_but_a_value_error(text):
    for candidate in (text, f"tcp:{text}", f"unix:{text}"):
        assert complaint(Endpoint.parse, candidate) != ""


def test_a_relative_unix_socket_is_relative_to_the_file(file, tmp_path):
    config = load(
        file(LEAST.replace("tcp:3389:interface=127.0.0.1", "unix:run=d.sock:mode=660").replace("run=d", "rund"))
    )
    assert config.listen[0].endpoint == f"unix:{tmp_path}/rund.sock:mode=660"
    line = only(file(LEAST.replace("tcp:3389:interface=127.0.0.1", "unix:sub/ldap.sock")))
    assert line.startswith("ldapmfa.toml:2: listen[0].endpoint: there is no directory sub")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ldapi:///", "must begin with ldap:// or ldaps://"),
        ("dc1.example.com", "must begin with ldap:// or ldaps://"),
        ("ldap://", "needs a host name or an address"),
        ("ldap://a b", "needs a host name or an address"),
        ("ldap://dc1:0", "needs a host name or an address"),
        ("ldap://dc1:99999", "the host or the port is not valid"),
        ("ldap://dc1:ldap", "the host or the port is not valid"),
        ("ldap://2001:db8::7", "the host or the port is not valid"),
        ("http://[::1", "must begin with ldap:// or ldaps://"),
        ("ldap://[::1", "the host or the port is not valid"),
        ("ldap://dc1/dc=example", "is only scheme, host and port here"),
        ("ldap://cn=x:hush@dc1", "is only scheme, host and port here"),
    ],
)
def test_a_bad_uri_says_what_would_be_right(file, uri, said):
    line = only(file(LEAST.replace('"ldap://127.0.0.1"', f'"ldap://good", "{uri}"')))
    assert line.startswith(f"ldapmfa.toml:4: directory.uris[1]: {said}")
    assert "hush" not in line


def test_uris_are_taken_apart():
    uris = ("ldap://DC1.example.com", "ldaps://dc2", "ldap://[2001:db8::7]:3890/", "LDAPS://10.0.0.1:1636")
    assert Directory(uris=uris).servers == (
        DirectoryUri(tls=False, host="dc1.example.com", port=389),
        DirectoryUri(tls=True, host="dc2", port=636),
        DirectoryUri(tls=False, host="2001:db8::7", port=3890),
        DirectoryUri(tls=True, host="10.0.0.1", port=1636),
    )


@given(st.text(max_size=30))
def test_no_uri_raises_anything_but_a_value_error(text):
    for candidate in (text, f"ldap://{text}", f"ldaps://[{text}]"):
        assert complaint(DirectoryUri.parse, candidate) != ""


# --- mistakes of several keys -------------------------------------------------------------------------------


def test_nothing_at_all_names_what_is_needed(file):
    assert mistakes(file("")) == ["ldapmfa.toml: listen: needs at least one [[listen]] table"]
    line = only(file('[[listen]]\nendpoint = "unix:x"'))
    assert line.startswith('ldapmfa.toml:1: listen[0].directory: is "default", but there is no [directory] table: add')


@pytest.mark.parametrize(
    ("endpoint", "required"),
    [
        ("tcp:389", True),
        ("tcp:389:interface=0.0.0.0", True),
        ("tcp:389:interface=10.0.0.1", True),
        ("tcp:389:interface=127.0.0.2", False),
        ("tcp:389:interface=localhost", False),
        (r"tcp:389:interface=\:\:1", False),
        (r"tcp6:389:interface=\:\:1", False),
        (r"tcp6:389:interface=\:\:ffff\:127.0.0.1", False),
        ("tcp6:389", True),
        ("unix:x", False),
        ("systemd:domain=UNIX:name=x", False),
        ("systemd:domain=INET:name=x", True),
    ],
)
def test_tls_is_demanded_unless_only_this_machine_can_connect(file, endpoint, required):
    assert Listen(endpoint=endpoint).tls_required is required
    assert Listen(endpoint=endpoint, require_tls=not required).tls_required is not required
    text = LEAST.replace('"tcp:3389:interface=127.0.0.1"', f"'{endpoint}'")
    if required:
        line = only(file(text))
        assert line.startswith("ldapmfa.toml:1: listen[0].require_tls: is true by default")
        for way_out in ('tls = "starttls" or "ldaps"', "interface=127.0.0.1", "require_tls = false"):
            assert way_out in line
        text = text.replace("[directory]", "require_tls = false\n[directory]")
    assert load(file(text))


def test_a_literal_of_a_listener(file):
    line = only(file(LEAST.replace("[directory]", "code = 'sufix'\n[directory]")))
    assert line == 'ldapmfa.toml:3: listen[0].code: must be "suffix" or "delimiter"; did you mean "suffix"?'


def test_require_tls_without_tls_is_a_mistake_on_loopback_too(file):
    line = only(file(LEAST.replace("[directory]", "require_tls = true\n[directory]")))
    assert line.startswith('ldapmfa.toml:3: listen[0].require_tls: is true while tls = "none", so that nobody')


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        ("tcp:3389:interface=127.0.0.1", True),
        ("tcp:3389:interface=0.0.0.0", True),
        ("tcp:3389:127.0.0.1:9", True),
        ("tcp:3389:interface=127.0.0.2", False),
        ("tcp:3390:interface=127.0.0.1", False),
        (r"tcp:3389:interface=\:\:1", False),
        ("unix:x", False),
    ],
)
def test_two_listeners_in_one_place(file, second, wrong):
    text = LEAST.replace("[directory]", f"[[listen]]\nendpoint = '{second}'\nrequire_tls = false\n[directory]")
    if wrong:
        assert only(file(text)).startswith("ldapmfa.toml:4: listen[1].endpoint: is where listen[0] listens already")
    else:
        assert load(file(text))


def test_the_same_socket_unit_or_name_twice(file):
    def two(first, second):
        return file(f"[[listen]]\n{first}\n[[listen]]\n{second}\n[directory]\nuris = ['ldap://x']\n")

    unix = "endpoint = 'systemd:domain=UNIX:name=x'"
    assert "listen[1].endpoint" in only(two(unix, unix))
    assert "listen[1].endpoint" in only(two("endpoint = 'unix:x'", "endpoint = 'unix:./x:mode=600'"))
    assert load(two(unix, unix.replace("=x", "=y")))
    free = "endpoint = 'tcp:0:interface=127.0.0.1'"
    assert load(two(free + "\nname = 'a'", free + "\nname = 'b'"))
    assert "ldapmfa.toml:3: listen[1].name: is the name of listen[0] too" in only(two(free, free))


def test_starttls_does_not_go_with_ldaps(file):
    text = LEAST.replace("ldap://127.0.0.1", "ldaps://127.0.0.1") + "starttls = true\n"
    assert only(file(text)).startswith("ldapmfa.toml:5: directory.starttls: does not go with ldaps:// in uris")
    text = LEAST + "starttls = true\nglobal_catalog = 'ldaps://x'\n"
    assert only(file(text)).startswith(
        "ldapmfa.toml:5: directory.starttls: does not go with ldaps:// in global_catalog"
    )


def test_a_hyphen_is_no_delimiter_beside_recovery_codes(file):
    text = LEAST + '[login]\nfactors = ["totp", "recovery"]\ndelimiter = "-"\n'
    assert only(file(text)).startswith('ldapmfa.toml:7: login.delimiter: must not be "-"')
    assert load(file(text.replace(', "recovery"', "")))
    text = text.replace('delimiter = "-"', "").replace("[directory]", 'delimiter = "-"\n[directory]')
    assert only(file(text)).startswith('ldapmfa.toml:3: listen[0].delimiter: must not be "-"')


def test_numbers_that_contradict_each_other(file):
    text = (
        LEAST
        + "[login]\ndeadline = 1\nrefusal_floor = 2\n[limits]\nframe_before_bind = 9000\nframe_after_bind = 8000\n"
    )
    floor, frames = mistakes(file(text))
    assert floor.startswith("ldapmfa.toml:7: login.refusal_floor: must be less than login.deadline")
    assert frames.startswith("ldapmfa.toml:9: limits.frame_before_bind: must not be more than limits.frame_after_bind")


def test_all_mistakes_come_at_once(file):
    text = """\
[[listen]]
endpoint = "tcp:ldap"
tls = "ldaps"
certificate = "none.pem"

[[listen]]
nmae = "second"
endpoint = "tcp:636"

[[listen]]
endpoint = "tcp:637:interface=127.0.0.1"
directory = "corp"

[directory]
uris = [
  "ldap://good",
  "http://bad",
]
starttls = "yes"

[directory.service_account]
dn = "cn=reader"
pasword = "hush"

[store]
key_file = "none.key"

[login]
code_digits = "hush"
factors = ["totp"]
"what\\never" = 1

[limits]
connections = 0

[speed]
"""
    found = mistakes(file(text))
    assert [line.split(": ")[:2] for line in found] == [
        ["ldapmfa.toml:1", "listen[0].key"],
        ["ldapmfa.toml:2", "listen[0].endpoint"],
        ["ldapmfa.toml:4", "listen[0].certificate"],
        ["ldapmfa.toml:6", "listen[1].require_tls"],
        ["ldapmfa.toml:7", "listen[1].nmae"],
        ["ldapmfa.toml:12", "listen[2].directory"],
        ["ldapmfa.toml:15", "directory.uris[1]"],
        ["ldapmfa.toml:19", "directory.starttls"],
        ["ldapmfa.toml:23", "directory.service_account.pasword"],
        ["ldapmfa.toml:26", "store.key_file"],
        ["ldapmfa.toml:29", "login.code_digits"],
        ["ldapmfa.toml:31", 'login."what\\never"'],
        ["ldapmfa.toml:34", "limits.connections"],
        ["ldapmfa.toml:36", "speed"],
    ]
    assert not any("hush" in line for line in found)


def test_a_mistake_does_not_cause_others(file):
    """A misspelt certificate is not missing too, nor is a listener's directory whose table has a mistake."""
    text = LEAST.replace("[directory]", "[directry]")
    assert only(file(text)) == 'ldapmfa.toml:3: directry: unknown key; did you mean "directory"?'
    text = LEAST.replace("endpoint", "endpont")
    assert only(file(text)) == 'ldapmfa.toml:2: listen[0].endpont: unknown key; did you mean "endpoint"?'
    text = LEAST.replace("[directory]", 'tls = "sttls"\ncertificate = "x"\n[directory]')
    assert only(file(text)).startswith("ldapmfa.toml:3: listen[0].tls: ")
    assert [line.split(": ")[1] for line in mistakes(file("listen = [5, {tls = 7}]\ndirectory = 6\n"))] == [
        "listen[0]",
        "listen[1].endpoint",
        "listen[1].tls",
        "directory",
    ]


def test_keywords_of_pydantic_settings_are_unknown_keys(file):
    assert only(file("_env_file = 'x'\n" + LEAST)).startswith("ldapmfa.toml:1: _env_file: unknown key")


def test_control_characters_do_not_reach_the_terminal(file):
    line = only(file('"\\u001b[31m\\n" = 1\n' + LEAST))
    assert line.isprintable()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        [*Config.model_fields, *Listen.model_fields, *Directory.model_fields, "dn", "x"]), inner, max_size=3),
                    max_leaves=8))  # fmt: skip
def test_any_values_at_all_end_in_mistakes_or_a_config(value):
    data = value if isinstance(value, dict) else {"listen": value, "directory": value, "directories": value}
    config, found = config_module._validated(json.loads(json.dumps(data)), check_files=True)
    assert config is not None
    assert all(config_module._Origin(Path("f"), {}, {}, {}).line(mistake).isprintable() for mistake in found)


# --- files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """A certificate and its key as PEM; twice, to have two that do not match."""

    def one():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy.test")])
        now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        return certificate.public_bytes(serialization.Encoding.PEM), key

    return one(), one()


def pem(key, password=None):
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


TLS = LEAST.replace("[directory]", 'tls = "starttls"\ncertificate = "cert.pem"\nkey = "key.pem"\n[directory]').replace(
    ":interface=127.0.0.1", ""
)


def test_a_certificate_and_its_key(file, tmp_path, pair):
    (certificate, key), (other_certificate, other_key) = pair
    (tmp_path / "cert.pem").write_bytes(certificate + other_certificate)
    (tmp_path / "key.pem").write_bytes(pem(key))
    config = load(file(TLS + 'ca_file = "cert.pem"\n'))
    assert config.directory.ca_file == tmp_path / "cert.pem"
    assert config.listen[0].tls_required
    assert config.listen[0].certificate == tmp_path / "cert.pem"
    (tmp_path / "key.pem").write_bytes(pem(other_key))
    assert only(file(TLS)).startswith(
        "ldapmfa.toml:5: listen[0].key: key.pem does not belong to the first certificate in cert.pem"
    )
    (tmp_path / "key.pem").write_bytes(pem(key, b"pass"))
    assert only(file(TLS)).startswith("ldapmfa.toml:5: listen[0].key: key.pem is protected by a pass phrase")
    (tmp_path / "key.pem").write_bytes(certificate)
    assert only(file(TLS)).startswith("ldapmfa.toml:5: listen[0].key: key.pem holds no PEM private key")


def test_tls_files_that_are_missing_forbidden_or_nonsense(file, tmp_path, monkeypatch):
    certificate, key = mistakes(file(TLS))
    assert certificate == "ldapmfa.toml:4: listen[0].certificate: cert.pem does not exist"
    assert key == "ldapmfa.toml:5: listen[0].key: key.pem does not exist"
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "key.pem").mkdir()
    certificate, key = mistakes(file(TLS))
    assert certificate.startswith("ldapmfa.toml:4: listen[0].certificate: cert.pem holds no PEM certificate")
    assert key == "ldapmfa.toml:5: listen[0].key: key.pem is a directory, where a file is needed"
    (tmp_path / "cert.pem").unlink()
    (tmp_path / "cert.pem").symlink_to("cert.pem")
    forbid(monkeypatch, "key.pem")
    assert "listen[0].certificate: cert.pem can't be read: Too many levels" in mistakes(file(TLS))[0]
    assert "listen[0].key: key.pem can't be read by user id" in mistakes(file(TLS))[1]
    assert load(file(TLS), check_files=False)


def test_tls_keys_are_needed_with_tls_and_pointless_without(file):
    found = mistakes(file(TLS.replace('certificate = "cert.pem"\n', "").replace('key = "key.pem"\n', "")))
    assert [line.split(": ")[1] for line in found] == ["listen[0].certificate", "listen[0].key"]
    assert all('is missing, and needed with tls = "starttls": name a PEM file' in line for line in found)
    found = mistakes(file(TLS.replace('"tcp:3389"', '"unix:x"').replace('tls = "starttls"', "")))
    assert [line.split(": ")[1] for line in found] == ["listen[0].certificate", "listen[0].key"]
    assert all('is pointless with tls = "none"' in line for line in found)


def test_the_stores_key_must_be_kept_from_others(file, tmp_path):
    path = file(LEAST)
    for mode in (0o604, 0o620, 0o666):
        (tmp_path / "store.key").chmod(mode)
        assert "store.key_file: store.key may be read by everybody" in only(path)
        assert load(path, check_files=False)
    (tmp_path / "store.key").chmod(0o440)  # as systemd hands out a credential
    assert load(path)
    (tmp_path / "store.key").chmod(0o600)
    (tmp_path / "store.key").write_bytes(b"")
    assert "store.key_file: store.key is empty" in only(path)


def test_an_empty_password_file(file, tmp_path):
    (tmp_path / "pw").write_text("\n")
    text = LEAST + '[directory.service_account]\ndn = "x"\npassword_file = "pw"\n'
    assert only(file(text)).startswith("ldapmfa.toml:7: directory.service_account.password_file: pw is empty")


# --- the environment ----------------------------------------------------------------------------------------


def test_the_environment_overrides_the_file(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_LOGIN__CODE_DIGITS", "8")
    monkeypatch.setenv("LDAPMFA_LOGIN__DEADLINE", "12.5")
    monkeypatch.setenv("LDAPMFA_LOGIN__FACTORS", '["totp", "hotp"]')
    monkeypatch.setenv("LDAPMFA_DIRECTORY__SERVICE_ACCOUNT__DN", "cn=reader")
    monkeypatch.setenv("LDAPMFA_DIRECTORY__SERVICE_ACCOUNT__PASSWORD", "hush")
    monkeypatch.setenv("LDAPMFA_DIRECTORIES__CORP__URIS", '["ldaps://dc1"]')
    monkeypatch.setenv("LDAPMFA_STORE__MIGRATE", "false")
    monkeypatch.setenv("LDAPMFA_LISTEN", '[{"endpoint": "unix:x", "code_digits": 6}]')
    config = load(file(VERBATIM))
    assert (config.login.code_digits, config.login.deadline) == (8, 12.5)
    assert config.login.factors == ("totp", "hotp")
    assert config.login.code == "suffix"
    assert config.directory.uris == ("ldap://127.0.0.1:10389",)
    assert config.directory.service_account.secret().reveal() == b"hush"
    assert config.directories["corp"].identity_name == "corp"
    assert not config.store.migrate
    assert [listener.where.kind for listener in config.listen] == ["unix"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LDAPMFA_LOGIN__CODE_DIGITS", "7", "login.code_digits: must be 6 or 8"),
        ("LDAPMFA_LOGIN__CODE_DIGITS", "x", "login.code_digits: must be a whole number"),
        ("LDAPMFA_LOGIN__DEADLINE", "soon", "login.deadline: must be a number"),
        ("LDAPMFA_LOGIN__CODE_DIGTS", "8", 'login.code_digts: unknown key; did you mean "code_digits"?'),
        ("LDAPMFA_LOGIN__FACTORS", "totp", "login.factors: must be a list, for example factors = "),
        ("LDAPMFA_LOGIN", "{", "login: must be a table"),
        ("LDAPMFA_LOGIN", '{"code_digits": 7}', "login.code_digits: must be 6 or 8"),
        ("LDAPMFA_LISTEN", '[{"endpoint": "tcp:1"}]', "listen[0].require_tls: is true by default"),
        ("LDAPMFA_STORE__MIGRATE", "maybe", "store.migrate: must be true or false"),
        ("LDAPMFA_LOGN__CODE", "suffix", 'sets nothing, unknown table; did you mean "login"?'),
        ("LDAPMFA_WHAT__EVER", "1", "sets nothing, unknown table; known: listen, "),
        ("LDAPMFA_LISTN", "[]", 'sets nothing, unknown table; did you mean "listen"?'),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(file, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    assert only(file(LEAST)).startswith(f"environment variable {variable}: {said}")


def test_a_mistake_beside_an_environment_value_is_the_files(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_LOGIN__CODE", "delimiter")
    assert only(file(LEAST + "[login]\ncode_digits = 7\n")).startswith("ldapmfa.toml:6: login.code_digits")


def test_a_variable_for_others_is_left_alone(file, monkeypatch):
    monkeypatch.setenv("LDAPMFA_CONFIG", "x")
    assert load(file(LEAST))


# --- lines --------------------------------------------------------------------------------------------------


def test_every_key_is_found_on_its_line():
    text = (
        'top = 1\r\n\r\n[a]  # [x]\nb.c = 2\n"d e" = """\n[no]\nf = 1\n"""\ng = [\n  1,\n  {h = 2},\n]\n'
        "[[i]]\nj = 1\n[i.k]\nl = 1\n[[i]]\n\nj = 2\n[[i.m]]\nn = 1\n[a.o]\np = {q = {r = 1}}\n"
    )
    assert tomllib.loads(text)
    lines = _lines(text)
    assert lines["top",] == 1
    assert lines["a",] == 3
    assert lines["a", "b", "c"] == 4
    assert lines["a", "d e"] == 5
    assert lines["a", "g"] == lines["a", "g", 1, "h"] == 9
    assert lines["i", 0] == 13
    assert lines["i", 0, "j"] == 14
    assert lines["i", 0, "k", "l"] == 16
    assert lines["i", 1] == 17
    assert lines["i", 1, "j"] == 19
    assert lines["i", 1, "m", 0, "n"] == 21
    assert lines["a", "o", "p", "q", "r"] == 23
    assert ("no",) not in lines
    assert ("x",) not in lines


# --- ports --------------------------------------------------------------------------------------------------


def listening(*endpoints):
    return Config(listen=tuple(Listen(endpoint=endpoint) for endpoint in endpoints))


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = port_mistakes(listening("unix:x", "tcp:0", f"tcp:{port}:interface=127.0.0.1"))
    assert line.startswith(f"listen[2].endpoint: port {port} on 127.0.0.1 is in use: stop what uses it")
    assert port_mistakes(listening(f"tcp:{port}:interface=localhost")) == []


def test_an_address_of_another_machine_is_named():
    (line,) = port_mistakes(listening("tcp:0:interface=192.0.2.1"))
    assert line.startswith("listen[0].endpoint: port 0 on 192.0.2.1 is not available")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "is not allowed for this user: ports below 1024 need CAP_NET_BIND_SERVICE"),
        (errno.EAFNOSUPPORT, "is not available"),
        (errno.EINVAL, "can't be listened on: Invalid argument"),
    ],
)
def test_a_port_that_is_forbidden(monkeypatch, number, said):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    (line,) = port_mistakes(listening("tcp:389"))
    assert line.startswith(f"listen[0].endpoint: port 389 on 0.0.0.0 {said}")


# --- the pages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "made", "argument"),
    [
        ("conf/ldapmfa.toml", conf_text, "conf"),
        ("docs/reference/configuration.md", reference_text, "reference"),
    ],
)
def test_the_pages_made_from_the_classes_are_up_to_date(path, made, argument):
    assert (ROOT / path).read_text() == made(), f"python -m ldapmfa.config {argument} > {path}"
    run = subprocess.run([sys.executable, "-m", "ldapmfa.config", argument], capture_output=True, text=True, check=True)
    assert run.stdout == made()


def uncommented():
    return re.sub(r"(?m)^#(?=[^ ])", "", conf_text())


def test_the_example_is_all_comments_and_parses_when_uncommented():
    assert tomllib.loads(conf_text()) == {}
    data = tomllib.loads(uncommented())
    config = Config(**data)
    assert set(data) == set(Config.model_fields)
    for name, field in Config.model_fields.items():
        table = config_module._class_in(field.annotation)
        given = data[name][0] if isinstance(data[name], list) else data[name]
        if name == "directories":
            continue
        assert set(given) == set(table.model_fields), f"[{name}] shows every option"
        for key, option in table.model_fields.items():
            if not option.is_required() and option.default not in (None, ""):
                mine = config.listen[0] if name == "listen" else getattr(config, name)
                assert getattr(mine, key) == option.default, f"{name}.{key} is shown at its default"


def test_the_example_loads_without_what_excludes_each_other(file):
    text = uncommented()
    for line in ("certificate = ", "key = ", "password = ", "require_tls = "):
        text = re.sub(rf"(?m)^{line}.*$", "", text)
    assert load(file(text), check_files=False)


def test_every_option_is_described_in_a_sentence():
    for _, table in config_module._sections():
        assert table.__doc__
        for name, field in table.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name
            assert config_module._value(field) is not None or config_module._class_in(field.annotation), name
