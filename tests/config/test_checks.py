"""What only several keys, files or ports can tell."""

from __future__ import annotations

import datetime as dt
import errno
import os
import socket

import pytest
from config.reading import LEAST, forbid, mistakes, only
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ldapmfa.config import Listen, load
from ldapmfa.config.checks import ports_taken
from ldapmfa.config.values import Endpoint
from ldapmfa.errors import ConfigError


def test_nothing_at_all_names_what_is_needed(file):
    assert mistakes(file("")) == ["ldapmfa.toml: listen: must be a list of tables, of one at least: write [[listen]]"]
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


def test_require_tls_without_tls_is_a_mistake_on_loopback_too(file):
    line = only(file(LEAST.replace("[directory]", "require_tls = true\n[directory]")))
    assert line.startswith('ldapmfa.toml:3: listen[0].require_tls: is true while tls = "none", so that nobody')


def test_two_listeners_of_one_name(file):
    def two(first, second):
        return file(f"[[listen]]\n{first}\n[[listen]]\n{second}\n[directory]\nuris = ['ldap://x']\n")

    free = "endpoint = 'tcp:0:interface=127.0.0.1'"
    assert load(two(free + "\nname = 'a'", free + "\nname = 'b'"))
    assert "ldapmfa.toml:3: listen[1].name: is another listener's name too" in only(two(free, free))
    # those whose endpoint is mistaken have none
    assert len(mistakes(two("endpoint = 'tcp:x'", "endpoint = 'tcp:y'"))) == 2


def test_starttls_does_not_go_with_ldaps(file):
    for text in (
        LEAST.replace("ldap://127.0.0.1", "ldaps://127.0.0.1") + "starttls = true\n",
        LEAST + "starttls = true\nglobal_catalog = 'ldaps://x'\n",
    ):
        assert only(file(text)).startswith("ldapmfa.toml:5: directory.starttls: does not go with ldaps:// in uris or")
    assert load(file(LEAST + "starttls = true\n"))


def test_servers_are_listed_or_named_by_the_dns(file):
    srv = LEAST.replace("ldap://127.0.0.1", "ldap+srv://example.test")
    more = 'starttls = true\nsrv_domains = ["corp.example.test"]\nnameservers = ["10.0.0.53"]\n'
    directory = load(file(srv + more)).directory
    assert (directory.srv_domains, directory.nameservers) == (("corp.example.test",), ("10.0.0.53",))
    both = LEAST.replace('"ldap://127.0.0.1"', '"ldap+srv://example.test", "ldap://127.0.0.1"')
    assert only(file(both)).startswith("ldapmfa.toml:4: directory.uris: ldap+srv:// or ldaps+srv:// must stand alone")
    for key in ('srv_domains = ["example.test"]', 'nameservers = ["10.0.0.53"]'):
        line = only(file(f"{LEAST}{key}\n"))
        assert line.startswith(f"ldapmfa.toml:5: directory.{key.split()[0]}: is pointless without ldap+srv://")
    line = only(file(srv + 'balance = "spread"\n'))
    assert line.startswith("ldapmfa.toml:5: directory.balance: is pointless with ldap+srv://")
    line = only(file(srv.replace("ldap+", "ldaps+") + "starttls = true\n"))
    assert line.startswith("ldapmfa.toml:5: directory.starttls: does not go with ldaps://")
    line = only(file(LEAST + 'global_catalog = "ldap+srv://example.test"\n'))
    assert line.startswith("ldapmfa.toml:5: directory.global_catalog: can't be found by SRV records: name one server")
    line = only(file(srv + 'srv_domains = ["test"]\n'))
    assert line.startswith("ldapmfa.toml:5: directory.srv_domains[0]: must be a DNS domain of at least two labels")
    line = only(file(srv + 'nameservers = ["ns"]\n'))
    assert line.startswith("ldapmfa.toml:5: directory.nameservers[0]: must be an address, with a port if need be")


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "is missing, and password_file too: give one"),
        ("password = 'p'\npassword_file = 'store.key'", "or password_file: keep one"),
    ],
)
def test_one_password_of_a_service_account(file, password, said):
    line = only(file(f"{LEAST}[directory.service_account]\ndn = 'x'\n{password}\n"))
    assert f": directory.service_account.password: {said}" in line


@pytest.mark.parametrize(
    ("account", "said"),
    [
        ("cn=svc,ou", "as a DN it is not valid: no attribute type at character 7 of the name"),
        ("=svc", "as a DN it is not valid"),
        (r"cn=svc\x", "as a DN it is not valid"),
        (r"EXAMPLE\svc", "leave out the domain and the backslash"),
        ("01234567-89ab-cdef-0123-456789ABCDEF", "not an objectGUID or entryUUID"),
        ("\u200b", "must not be empty"),
    ],
)
def test_an_exempt_account_that_would_never_match(file, account, said):
    line = only(file(f"{LEAST}[[exempt]]\naccount = '{account}'\n"))
    assert line.startswith("ldapmfa.toml:6: exempt[0].account: must ")
    assert said in line


@pytest.mark.parametrize("account", ["cn=svc, ou=x", r"cn=a\,b,dc=x", "svc", "svc$", "svc@example.com", "Jörg"])
def test_an_exempt_account_that_may_match(file, account):
    assert load(file(f"{LEAST}[[exempt]]\naccount = '{account}'\n")).exempt[0].account == account


def test_an_exempt_accounts_directory_is_where_accounts_are_kept(file):
    """Accounts carry the identity name: an entry with the name of another port of the forest would never match."""
    text = LEAST + "identity_name = 'corp'\n[[exempt]]\naccount = 'x'\ndirectory = '%s'\n"
    assert load(file(text % "corp"))
    line = only(file(text % "default"))
    assert line.startswith("ldapmfa.toml:8: exempt[0].directory: no directory has this identity_name; known: corp")


# --- files --


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


def test_the_stores_key(file, tmp_path, monkeypatch):
    """Whether it exists and can be read; who else may, and what is in it, is the Seal's to say."""
    (tmp_path / "store.key").chmod(0o666)
    assert load(file(LEAST))
    forbid(monkeypatch, "store.key")
    assert only(file(LEAST)).startswith("ldapmfa.toml: store.key_file: store.key can't be read by user id")
    (tmp_path / "store.key").unlink()
    assert only(file(LEAST)).endswith("store.key_file: store.key does not exist; `ldapmfa init` makes it")
    assert load(file(LEAST), check_files=False)


def test_an_empty_password_file(file, tmp_path):
    (tmp_path / "pw").write_text("\n")
    text = LEAST + '[directory.service_account]\ndn = "x"\npassword_file = "pw"\n'
    assert only(file(text)).startswith("ldapmfa.toml:7: directory.service_account.password_file: pw is empty")


# --- ports --


def port_mistakes(endpoints):
    return [f"listen[{number}].endpoint: {why}" for number, why in ports_taken(endpoints).items()]


def listening(*endpoints):
    return {number: Endpoint.parse(endpoint) for number, endpoint in enumerate(endpoints)}


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = port_mistakes(listening("unix:x", "tcp:0", f"tcp:{port}:interface=127.0.0.1"))
    assert line.startswith(f"listen[2].endpoint: port {port} on 127.0.0.1 is in use, by another program")
    assert port_mistakes(listening(f"tcp:{port}:interface=localhost")) == []


def test_a_port_in_use_is_listed_with_all_other_mistakes(file):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = LEAST.replace("tcp:3389:interface=127.0.0.1", f"tcp:{port}:interface=127.0.0.1")
        assert f"tcp:{port}" in text
        with pytest.raises(ConfigError) as wrong:
            load(file(text + "[login]\ncode_digts = 6\n"), check_ports=True)
        assert [line.split(": ")[1] for line in wrong.value.mistakes] == ["listen[0].endpoint", "login.code_digts"]
        with pytest.raises(ConfigError, match="in use"):
            load(file(text), check_ports=True)
        assert load(file(text))


def test_two_listeners_on_one_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for first, second in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")):
        (line,) = port_mistakes(listening(f"tcp:{port}:interface={first}", f"tcp:{port}:interface={second}"))
        assert line.startswith(f"listen[1].endpoint: port {port} on {second} is in use, by another program")
    assert not port_mistakes(listening(f"tcp:{port}:interface=127.0.0.1", f"tcp:{port}:interface=127.0.0.2"))


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
