"""Tokens for Entra, what they are asked for with, and the table of settings."""

import asyncio
import contextlib
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from fakes.entra import PATH, SECRET
from fakes.entra_logins import BEGIN, TOKEN, asked, down, prompt, service
from pydantic import ValidationError

from ldapmfa.config.values import Reading
from ldapmfa.errors import FactorUnreachable
from ldapmfa.factors import entra, entra_token
from ldapmfa.factors.entra_table import EntraTable
from ldapmfa.factors.service import Allowed, Tools, Waiting

# -- tokens


async def test_a_token_is_kept(tmp_path):
    async with service(tmp_path) as run:
        for _ in range(3):
            assert await asked(run, "push") == Allowed("push")
        assert run.fake.token_requests == 1


async def test_a_token_is_not_used_in_its_last_five_minutes(tmp_path):
    async with service(tmp_path) as run:
        run.fake.token_seconds = 300
        await run.it.start(prompt("push"))
        before = run.fake.token_requests
        await run.it.start(prompt("push"))
        assert run.fake.token_requests > before


async def test_many_logins_ask_for_one_token(tmp_path):
    async with service(tmp_path) as run:
        run.web.disturb("slow", path=TOKEN, seconds=0.05)
        assert await asyncio.gather(*(asked(run, "push") for _ in range(20))) == [Allowed("push")] * 20
        assert run.fake.token_requests == 1


async def test_many_logins_share_the_failure_to_get_one(tmp_path):
    async with service(tmp_path, response_timeout=0.2) as run:
        run.web.disturb("slow", path=TOKEN)
        answers = await asyncio.gather(*(run.it.start(prompt("push")) for _ in range(20)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {FactorUnreachable}
        assert len(run.web.requests) == 1


async def test_a_login_that_is_given_up_takes_no_token_away_from_others(tmp_path):
    async with service(tmp_path) as run:
        run.web.disturb("slow", path=TOKEN, seconds=0.05)
        first, second = (asyncio.ensure_future(run.it.start(prompt("push"))) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        assert isinstance(await second, Waiting)
        assert first.cancelled()
        assert run.fake.token_requests == 1


async def test_a_token_that_is_not_taken_is_renewed_once(tmp_path):
    async with service(tmp_path) as run:
        await run.it.start(prompt("push"))
        run.fake.tokens.clear()
        assert await asked(run, "push") == Allowed("push")
        assert run.fake.token_requests == 2
        run.web.disturb("status", path=BEGIN, status=401)
        before = len(run.web.requests)
        assert "token" in str(await down(run.it.start(prompt("push"))))
        assert len(run.web.requests) - before == 3  # two to begin, one for a token


async def test_the_newer_endpoint_takes_a_scope(tmp_path):
    async with service(tmp_path, oauth_version="v2") as run:
        run.fake.oauth = "v2"
        assert await asked(run, "push") == Allowed("push")


async def test_what_entra_says_of_the_application_is_told_in_plain_words(tmp_path):
    async with service(tmp_path) as run:
        for run.fake.refuse, words in entra_token.WORDS.items():
            error = str(await down(run.it.health()))
            assert error.endswith(f"{words} (AADSTS{run.fake.refuse})")
            assert "Trace ID" not in error


async def test_an_error_that_is_not_known_shows_its_number(tmp_path):
    async with service(tmp_path) as run:
        run.fake.refuse = 99999999
        assert "AADSTS99999999" in str(await down(run.it.start(prompt("push"))))
    body = b'{"error_description": "AADSTS7000222: It is over", "error_codes": "?"}'
    async with service(tmp_path) as run:
        run.web.disturb("status", path=TOKEN, status=400, body=body)
        assert "expired" in str(await down(run.it.start(prompt("push"))))
        run.web.disturb("status", path=TOKEN, status=400, body=b"{}")
        assert "status 400" in str(await down(run.it.start(prompt("push"))))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"access_token": "a", "expires_in": 3599}',
        b'{"access_token": "a", "token_type": "mac", "expires_in": 3599}',
        b'{"access_token": "a", "token_type": "Bearer"}',
        b'{"access_token": "a", "token_type": "Bearer", "expires_in": true}',
        b'{"access_token": "a", "token_type": "Bearer", "expires_in": "soon"}',
        b'{"access_token": "", "token_type": "Bearer", "expires_in": 3599}',
        b'{"access_token": ["a"], "token_type": "Bearer", "expires_in": 3599}',
        b'{"access_token": "a\\r\\nX: y", "token_type": "Bearer", "expires_in": 3599}',
    ],
)
async def test_what_is_no_token_is_a_failure(tmp_path, body):
    async with service(tmp_path) as run:
        run.web.disturb("status", path=TOKEN, status=200, body=body)
        await down(run.it.start(prompt("push")))
        assert len(run.web.requests) == 1


# -- what the application shows


def pair(directory, name, key=None):
    """A certificate of its own and its key, as files."""
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    files = {"certificate": directory / f"{name}.pem", "key": directory / f"{name}.key"}
    files["certificate"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files["key"].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return certificate, files


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("entra")
    return [pair(directory, name) for name in ("first", "second")]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_certificate_signs_what_it_says(tmp_path, certificates, version):
    certificate, files = certificates[0]
    async with service(tmp_path, client_secret=None, oauth_version=version, **files) as run:
        run.fake.certificate, run.fake.oauth = certificate, version
        assert await asked(run, "push") == Allowed("push")
        await run.it.health()  # another assertion


async def test_a_certificate_that_entra_does_not_know_is_told(tmp_path, certificates):
    async with service(tmp_path, client_secret=None, **certificates[0][1]) as run:
        run.fake.certificate = certificates[1][0]
        assert "700027" in str(await down(run.it.start(prompt("push"))))


async def test_a_clock_that_is_off_is_told(tmp_path, certificates):
    certificate, files = certificates[0]
    async with service(tmp_path, client_secret=None, **files) as run:
        run.fake.certificate, now = certificate, run.fake.now()
        run.fake.now = lambda: now + 3600
        assert "clock" in str(await down(run.it.start(prompt("push"))))


async def test_files_are_read_again_for_each_token(tmp_path):
    file = tmp_path / "secret"
    file.write_text("the old one".replace(" ", "-") + "\n")
    async with service(tmp_path, client_secret=None, client_secret_file=file) as run:
        assert "client secret is wrong" in str(await down(run.it.health()))
        file.write_text(f"{SECRET}\n")
        assert "takes them" in await run.it.health()
        file.unlink()
        assert "No such file" in str(await down(run.it.health()))


def test_what_can_not_be_shown_is_found_before_anybody_logs_in(tmp_path, certificates):
    (_, first), (_, second) = certificates
    _, curve = pair(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    empty = tmp_path / "empty"
    empty.write_bytes(b"\n")
    for given, what in (
        ({}, "client secret is empty"),
        ({"client_secret_file": empty}, "client secret is empty"),
        ({"client_secret": "with blank"}, "client secret is empty"),
        ({"certificate": first["certificate"]}, "certificate needs key"),
        ({"certificate": first["certificate"], "key": second["key"]}, "does not belong"),
        ({"certificate": first["certificate"], "key": first["certificate"]}, "no PEM private key"),
        ({"certificate": first["key"], "key": first["key"]}, "PEM"),
        (curve, "not an RSA key"),
    ):
        with pytest.raises(ValueError, match=what):
            entra.Entra(EntraTable(kind="entra", tenant="t", **given), Tools())
    with pytest.raises(OSError, match="No such file"):
        entra.Entra(EntraTable(kind="entra", tenant="t", client_secret_file=tmp_path / "none"), Tools())


# -- settings


@pytest.mark.parametrize(
    ("cloud", "login", "host", "resource"),
    [
        ("global", "login.microsoftonline.com", "auth.microsoft.com", "windowsazure.com"),
        ("usgov", "login.microsoftonline.us", "auth.microsoft.us", "windowsazure.us"),
        ("china", "login.chinacloudapi.cn", "auth.microsoft.cn", "windowsazure.cn"),
    ],
)
def test_a_cloud_sets_its_hosts(cloud, login, host, resource):
    table = EntraTable(kind="entra", tenant="t.example", client_secret="s", cloud=cloud)
    assert table.token_url == f"https://{login}/t.example/oauth2/token"
    assert table.hosts == (f"strongauthenticationservice.{host}", f"adnotifications.{resource}")
    assert table.audience == f"https://adnotifications.{resource}{PATH}"
    assert table.username == "{upn}"


@pytest.mark.parametrize(
    ("given", "mistakes"),
    [
        ({"client_secret": "s"}, 0),
        ({"client_secret_file": "s"}, 0),
        ({"certificate": "c", "key": "k"}, 0),
        ({}, 1),
        ({"client_secret": "s", "client_secret_file": "s"}, 1),
        ({"client_secret": "s", "certificate": "c", "key": "k"}, 1),
        ({"certificate": "c"}, 1),
        ({"client_secret": "s", "key": "k"}, 1),
        ({"client_secret": 1}, 1),
        ({"client_secret": "s", "login_host": "https://login.example.com"}, 1),
        ({"client_secret": "s", "service_hosts": ["a.example", "b.example/x"]}, 1),
        ({"client_secret": "s", "tenant": "../x"}, 1),
        ({"client_secret": "s", "path": "/a/"}, 1),
        ({"client_secret": "s", "begin_operation": "a><b"}, 1),
        ({"client_secret": "s", "push_id": "a b"}, 1),
    ],
)
def test_mistakes_in_the_table_are_found(tmp_path, given, mistakes):
    reading = Reading(tmp_path, check_files=False, directories={})
    with pytest.raises(ValidationError) if mistakes else contextlib.nullcontext() as caught:
        EntraTable.model_validate({"kind": "entra", "tenant": "t", **given}, context=reading)
    if caught:
        assert caught.value.error_count() == mistakes
