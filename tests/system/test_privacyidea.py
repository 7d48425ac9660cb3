"""The service for privacyIDEA before a real one, over TLS; a smartphone is played by its API."""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import time

import pyotp
import pytest
from fakes.web import Web
from system.servers.common import make_certificates
from system.servers.privacyidea import ADMIN, AUDITOR, PASSWORDS, SERVICE, PrivacyIdea

from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown
from ldapmfa.factors import privacyidea
from ldapmfa.factors.hotp import base32
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Tools, Waiting
from ldapmfa.store.seal import Seal

pytestmark = pytest.mark.xdist_group("privacyidea")

PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "judy")


async def sms_gateway(request):
    return 200, {}, b"sent"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """What privacyIDEA sends text messages through."""
    with Web(tmp_path_factory.mktemp("sms"), sms_gateway, tls=False, host="127.0.0.1") as web:
        yield web


@pytest.fixture(scope="module")
def server(tmp_path_factory, server_cache, gateway):
    server = PrivacyIdea(tmp_path_factory.mktemp("privacyidea"), server_cache)
    try:
        server.start()
        server.realm("corp", *PEOPLE)
        server.realm("partners", "alice", "zoe")
        # what docs/howto/privacyidea.md says
        server.policy("root", "admin", "*", adminuser=ADMIN)
        server.policy("auditor", "admin", "auditlog", adminuser=AUDITOR)
        server.policy("ldapmfa", "admin", "triggerchallenge, cancelchallenge", adminuser=SERVICE)
        server.policy("one-kind", "authorization", "application_tokentype")
        server.policy("no-pin", "authentication", "otppin=none, push_allow_polling=allow")
        url = f"{server.url}/ttype/push"
        server.policy("push", "enrollment", f"push_firebase_configuration=poll only, push_registration_url={url}")
        module = "privacyidea.lib.smsprovider.HttpSMSProvider.HttpSMSProvider"
        options = {"option__URL": gateway.url, "option__HTTP_METHOD": "POST", "option__text": "{otp}", "option__to": "{phone}"}
        server.admin("POST", "/smsgateway", name="gateway", module=module, **options)
        server.admin("POST", "/system/setConfig", sms__identifier="gateway")
        yield server
    finally:
        server.stop()


class Bench:
    """The service, and what is done while it sleeps."""

    def __init__(self, server, **table):
        self.said, self.meanwhile = [], []
        given = {"kind": "privacyidea", "url": server.url, "ca_file": server.ca_file, "poll_seconds": 0.2}
        if "token" not in table:
            given |= {"admin": SERVICE, "password": PASSWORDS[SERVICE]}
        tools = Tools(sleep=self.sleep, say=self.said.append)
        self.service = privacyidea.PrivacyIdea(privacyidea.PrivacyIdea.Table(**given | table), tools)

    async def sleep(self, seconds):
        if self.meanwhile:
            await asyncio.to_thread(self.meanwhile.pop(0))
        else:
            await asyncio.sleep(0.02)

    async def login(self, prompt):
        started = await self.service.start(prompt)
        return await self.service.wait(prompt, started) if isinstance(started, Waiting) else started

    async def verify(self, prompt, code, sent=None):
        return await self.service.verify(prompt, Secret(code.encode()), sent)


@contextlib.asynccontextmanager
async def talking_to(server, **table):
    bench = Bench(server, **table)
    try:
        yield bench
    finally:
        await bench.service.close()


def asking(user, method="", device="", *, application="", client="", seconds=20.0):
    identity = Identity("default", "guid:" + hashlib.md5(user.encode()).hexdigest(), f"cn={user}", (user,))
    return Prompt(identity, user, application, client, method, device, seconds)


def code(secret, step=0):
    return pyotp.HOTP(base32(Secret(secret))).at(int(time.time() // 30) + step)


# -- codes


async def test_codes_are_right_wrong_and_used(server):
    secret = server.totp("alice")
    async with talking_to(server) as bench:
        alice = asking("alice", client="192.0.2.7")
        now = code(secret)
        assert await bench.verify(alice, "000000" if now != "000000" else "000001") == Denied("wrong-code", "wrong otp value")
        assert await bench.verify(alice, now) == Allowed("totp")
        again = await bench.verify(alice, now)
        assert (again.why, "previous otp used again" in again.detail) == ("replayed-code", True)
        # who is only asked for codes can't be asked
        assert (await bench.service.start(alice)).why == "no-method"


async def test_an_application_has_its_realm(server):
    ours, theirs = server.totp("bob"), server.totp("zoe", realm="partners")
    async with talking_to(server, realm="corp", realms={"partners-vpn": "partners"}) as bench:
        assert await bench.verify(asking("bob"), code(ours)) == Allowed("totp")
        assert (await bench.verify(asking("zoe"), code(theirs))).why == "not-enrolled"
        assert await bench.verify(asking("zoe", application="partners-vpn"), code(theirs)) == Allowed("totp")


async def test_who_has_no_token_is_not_enrolled_and_who_has_a_locked_one_is(server):
    secret = server.totp("heidi")
    async with talking_to(server) as bench:
        for user in ("grace", "nobody"):
            assert (await bench.service.start(asking(user))).why == "not-enrolled"
            assert (await bench.verify(asking(user), "123456")).why == "not-enrolled"
        [serial] = server.serials("heidi")
        server.admin("POST", "/token/set", serial=serial, max_failcount=2)
        answers = [(await bench.verify(asking("heidi"), "12345")).why for _ in range(4)]
        assert answers == ["wrong-code"] * 2 + ["locked-at-service"] * 2
        assert (await bench.verify(asking("heidi"), code(secret))).why == "locked-at-service"
        assert (await bench.service.start(asking("heidi"))).why == "locked-at-service"
        server.admin("POST", f"/token/disable/{serial}")
        assert (await bench.service.start(asking("heidi"))).why != "not-enrolled"


async def test_a_policy_may_refuse_a_user(server):
    secret = server.totp("frank")
    server.policy("only-hotp", "authorization", "tokentype=hotp", user="frank")
    try:
        async with talking_to(server) as bench:
            assert (await bench.verify(asking("frank"), code(secret))).why == "denied"
    finally:
        server.no_policy("only-hotp")


async def test_A25_a_yes_that_no_token_has_given_is_none(server):
    server.policy("lax", "authentication", "passOnNoToken", user="grace")
    try:
        async with talking_to(server) as bench:
            assert (await bench.verify(asking("grace"), "123456")).why == "denied"
    finally:
        server.no_policy("lax")


async def test_a_user_that_is_locked_there(server):
    secret = server.totp("grace", description="locked")
    try:
        async with talking_to(server) as bench:
            server.admin("POST", "/conditionalaccess/lock/user", user="grace", username="grace", realm="corp")
            assert (await bench.verify(asking("grace"), code(secret))).why == "denied"
            server.admin("DELETE", "/conditionalaccess/lock/user", user="grace", username="grace", realm="corp")
            assert await bench.verify(asking("grace"), code(secret, 1)) == Allowed("totp")
    finally:
        for serial in server.serials("grace"):
            server.admin("DELETE", f"/token/{serial}")


# -- a push


@pytest.fixture(scope="module")
def phone(server):
    return server.phone("carol")


async def test_a_push_is_accepted(server, phone):
    async with talking_to(server) as bench:
        bench.meanwhile = [phone.accept]
        assert await bench.login(asking("carol", "push")) == Allowed("push")
        bench.meanwhile = [phone.accept]
        assert await bench.login(asking("carol", "", phone.serial)) == Allowed("push")


@pytest.mark.parametrize(("reason", "word"), [("", "declined"), ("unknown_trigger", "declined"), ("cancelled", "cancelled")])
async def test_a_push_is_declined(server, phone, reason, word):
    async with talking_to(server) as bench:
        bench.meanwhile = [lambda: phone.decline(reason)]
        assert await bench.login(asking("carol")) == Denied("denied", word)


async def test_A09_A25_a_push_is_taken_back_or_used_once(server, phone):
    async with talking_to(server) as bench:
        carol = asking("carol", "push", seconds=0.5)
        started = await bench.service.start(carol)
        assert len(phone.pending()) == 1
        await bench.service.cancel(carol, started)
        assert not phone.pending()
        assert await bench.service.wait(carol, started) == Denied("no-answer")
        started = await bench.service.start(carol)
        phone.accept()
        # who knows the transaction of somebody else has nothing of it
        assert isinstance(await bench.service.wait(asking("alice", seconds=0.5), started), Denied)
        assert await bench.service.wait(asking("carol"), started) == Allowed("push")
        assert await bench.service.wait(carol, started) == Denied("no-answer")


async def test_another_user_s_device_can_not_be_asked(server, phone):
    async with talking_to(server) as bench:
        assert (await bench.service.start(asking("alice", "push", phone.serial))).why == "no-method"
        assert not phone.pending()


# -- a code that is sent


async def test_a_code_that_was_sent_comes_with_another_bind(server, gateway):
    server.enrol("dave", "sms", phone="+491234567", genkey=1)
    async with talking_to(server) as bench:
        dave = asking("dave", "sms")
        sent = await bench.service.start(dave)
        assert isinstance(sent, CodeSent)
        message = gateway.requests[-1].form()
        assert message["to"] == "+491234567"
        assert (await bench.verify(dave, "0" if message["text"] != "0" else "1", sent)).why == "wrong-code"
        assert await bench.verify(dave, message["text"], sent) == Allowed("sms")
        assert isinstance(await bench.verify(dave, message["text"], sent), Denied)
        number = len(gateway.requests)
        assert (await bench.service.start(asking("dave", "push"))).why == "no-method"
        assert len(gateway.requests) == number, "application_tokentype is set: nothing was sent"


# -- administrators, keys, health


async def test_health(server):
    async with talking_to(server) as bench:
        assert await bench.service.health() == f"privacyIDEA 3.14, logged in as {SERVICE}"
    async with talking_to(server, password="wrong") as bench:
        with pytest.raises(FactorDown, match="4031"):
            await bench.service.health()


async def test_an_administrator_without_the_right(server):
    async with talking_to(server, admin=AUDITOR, password=PASSWORDS[AUDITOR]) as bench:
        with pytest.raises(FactorDown, match="lacks the right triggerchallenge"):
            await bench.service.health()
        with pytest.raises(FactorDown, match="lacks the right triggerchallenge"):
            await bench.service.start(asking("carol"))


async def test_tokens_and_keys_that_pi_manage_makes(server, phone):
    """Where the policy api_key_required is set, codes and polls need a key, and asking a token."""
    token, key = server.api_token("admin"), server.api_token("validate")
    secret = server.totp("erin")
    server.policy("key", "authorization", "api_key_required")
    try:
        async with talking_to(server, token=token, api_key=key) as bench:
            assert await bench.service.health() == "privacyIDEA 3.14, the token is taken"
            assert await bench.verify(asking("erin"), code(secret)) == Allowed("totp")
            bench.meanwhile = [phone.accept]
            assert await bench.login(asking("carol", "push")) == Allowed("push")
        async with talking_to(server) as bench:
            with pytest.raises(FactorDown, match="No valid API key"):
                await bench.service.health()
            assert (await bench.verify(asking("erin"), code(secret, 1))).why == "denied"
    finally:
        server.no_policy("key")


async def test_a_session_that_has_ended_is_renewed(server, phone):
    async with talking_to(server) as bench:
        bench.service._session = Secret(b"eyJ.that.ended")
        bench.meanwhile = [phone.accept]
        assert await bench.login(asking("carol")) == Allowed("push")


async def test_a_stranger_s_certificate_is_not_accepted(server, tmp_path):
    async with talking_to(server, ca_file=make_certificates(tmp_path)) as bench:
        with pytest.raises(FactorDown, match="certificate"):
            await bench.verify(asking("alice"), "123456")


# -- as an administrator tries it


def test_the_command_that_tries_a_service(server, tmp_path):
    secret = server.totp("judy")
    Seal.create(tmp_path / "store.key", entropy=os.urandom)
    (tmp_path / "privacyidea.password").write_text(f"{PASSWORDS[SERVICE]}\n")
    (tmp_path / "ldapmfa.toml").write_text(
        '[[listen]]\nendpoint = "tcp:3890:interface=127.0.0.1"\ntls = "none"\n'
        '[directory]\nuris = ["ldap://127.0.0.1:389"]\n[store]\nurl = "sqlite:///state.db"\nkey_file = "store.key"\n'
        f'[login]\nfactors = ["privacyidea"]\n[factors.privacyidea]\nurl = "{server.url}"\nca_file = "{server.ca_file}"\n'
        f'admin = "{SERVICE}"\npassword_file = "privacyidea.password"\n'
    )

    def run(*words):
        argv = [sys.executable, "-m", "ldapmfa", "factor", "test", "privacyidea", "--config", tmp_path / "ldapmfa.toml"]
        return subprocess.run([*argv, *words], capture_output=True, text=True, timeout=60)

    now = code(secret)
    done = run("--user", "judy", "--code", now)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"privacyIDEA 3.14, logged in as {SERVICE}" in done.stdout
    again = run("--user", "judy", "--code", now)
    assert (again.returncode, "previous otp used again" in again.stdout) == (1, True), again.stdout + again.stderr
    assert not [word for word in (now, PASSWORDS[SERVICE], "eyJ") if word in done.stdout + again.stdout]
