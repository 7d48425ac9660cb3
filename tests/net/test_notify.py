"""How people and programs are told: by a real mail server and a real web server on loopback."""

import asyncio
import contextlib
import email
import json
import os
from email.policy import default as parsed
from types import SimpleNamespace

import pytest
from fakes.mail import PASSWORD, USER, Mail
from fakes.web import Web, deaf, nobody
from twisted.internet.task import Clock

from ldapmfa.audit import AccountChanged
from ldapmfa.config.settings import Fraud
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import StoreDown
from ldapmfa.factors.webhook import signature
from ldapmfa.net import notify
from ldapmfa.net.notify import GIVEN_UP, NotDelivered, deliver, message, ways_of
from ldapmfa.store import FOREVER, Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

KEY = b"0123456789abcdef0123456789abcdef"
ALICE = Identity("default", "uuid:a", "cn=Alice,dc=example", ("alice",))
BODY = {
    "what": "fraud", "account": "default/uuid:a", "dn": "cn=Alice,dc=example", "name": "alice", "service": "duo",
    "application": "vpn", "client": "192.0.2.1", "at": 1_700_000_000.0, "until": 1_707_776_000.0,
}  # fmt: skip


def settings(mail=None, **changes):
    base = {"mail_to": ("desk@example.com", "soc@example.com"), "mail_from": "ldapmfa@example.com"}
    if mail:
        base |= {"smtp_host": "localhost", "smtp_port": mail.port, "smtp_ca_file": mail.ca_file}
    return Fraud(**(base | changes))


async def told(fraud, body=BODY):
    (way,) = ways_of(fraud).values()
    try:
        return await way.tell("ab" * 16, body)
    finally:
        await way.close()


class TestMail:
    @pytest.mark.parametrize("tls", ["starttls", "tls"])
    async def test_it_says_who_when_where_and_how_to_undo_it(self, tmp_path, tls):
        with Mail(tmp_path, tls=tls) as mail:
            assert "took the mail" in await told(settings(mail, smtp_tls=tls))
            ((sender, recipients, octets),) = mail.received
        assert (sender, recipients) == ("ldapmfa@example.com", ["desk@example.com", "soc@example.com"])
        found = email.message_from_bytes(octets, policy=parsed)
        assert found["Subject"] == "ldapmfa: alice reported fraud and is blocked"
        assert found["Auto-Submitted"] == "auto-generated"
        text = found.get_content()
        for word in (
            "cn=Alice,dc=example", "2023-11-14 22:13:20 UTC", "vpn", "192.0.2.1", "duo", "2024-02-12 22:13:20 UTC",
            "ldapmfa user unblock default/uuid:a --reason",
        ):  # fmt: skip
            assert word in text

    async def test_in_clear_text_on_this_machine(self, tmp_path):
        with Mail(tmp_path, tls="none") as mail:
            await told(settings(mail, smtp_tls="none"))
            assert len(mail.received) == 1

    async def test_it_logs_in(self, tmp_path):
        file = tmp_path / "password"
        file.write_text(PASSWORD + "\n")
        with Mail(tmp_path, auth=True) as mail:
            await told(settings(mail, smtp_user=USER, smtp_password_file=file))
            assert len(mail.received) == 1
            file.write_text("wrong-secret")
            with pytest.raises(NotDelivered, match="does not accept user or password") as failed:
                await told(settings(mail, smtp_user=USER, smtp_password_file=file))
        assert "wrong-secret" not in str(failed.value)

    @pytest.mark.parametrize("tls", ["starttls", "tls"])
    @pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
    async def test_a_server_that_is_not_who_it_should_be_gets_nothing(self, tmp_path, tls, certificate):
        with Mail(tmp_path, tls=tls, certificate=certificate) as mail:
            with pytest.raises(NotDelivered, match="certificate is not accepted"):
                await told(settings(mail, smtp_tls=tls))
            assert mail.received == []

    async def test_a_server_without_starttls_gets_nothing(self, tmp_path):
        with Mail(tmp_path, tls="none") as mail:
            with pytest.raises(NotDelivered):
                await told(settings(mail))
            assert mail.received == []

    async def test_what_a_server_refuses_is_said(self, tmp_path):
        with Mail(tmp_path) as mail:
            mail.refuse = "550 no\x1b such user"
            with pytest.raises(NotDelivered, match="refuses the recipients"):
                await told(settings(mail))

    async def test_nobody_there_and_somebody_deaf_are_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(notify, "SECONDS", 0.3)
        with nobody() as port, pytest.raises(NotDelivered, match=f"localhost:{port}: "):
            await told(settings(smtp_host="localhost", smtp_port=port))
        with deaf() as port, pytest.raises(NotDelivered, match="no answer|Timeout|timed out"):
            await told(settings(smtp_host="localhost", smtp_port=port))

    @pytest.mark.parametrize("name", ["al\r\nBcc: eve@example.com\r\n\r\nhello", "al\nX-Evil: 1", "\x1b[2Jal\u2028x\x85"])
    def test_A43_a_name_can_not_become_a_header_or_a_line(self, name):
        body = dict.fromkeys(("name", "dn", "account", "service", "application", "client"), name)
        mail = message(settings(smtp_host="x"), "ab" * 16, BODY | body, 1_700_000_000.0)
        found = email.message_from_bytes(mail.as_bytes(), policy=parsed)
        assert sorted(found.keys()) == sorted(
            ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
             "Content-Transfer-Encoding", "MIME-Version"]
        )  # fmt: skip
        assert found["To"] == "desk@example.com, soc@example.com"
        whole = found["Subject"] + found.get_content().replace("\r\n", "")
        assert whole.isprintable()
        assert len(found.get_content().splitlines()) == len(
            message(settings(smtp_host="x"), "ab" * 16, BODY, 0.0).get_content().splitlines()
        )

    def test_A43_a_name_in_the_command_to_type_is_quoted_for_the_shell(self):
        mail = message(settings(smtp_host="x"), "ab" * 16, BODY | {"account": "x'; rm -rf / #"}, 0.0)
        assert """unblock 'x'"'"'; rm -rf / #' --reason""" in mail.get_content()

    def test_names_of_other_scripts_arrive(self):
        mail = message(settings(smtp_host="x"), "ab" * 16, BODY | {"name": "Zoë Łuk"}, 0.0)
        assert "Zoë Łuk" in email.message_from_bytes(mail.as_bytes(), policy=parsed)["Subject"]


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(KEY + b"\n")
    return file


class TestWebhook:
    async def test_it_is_signed_as_the_services_requests_are(self, tmp_path, secret):
        async def answer(request):
            stamps = [request.headers[f"x-ldapmfa-{name}"] for name in ("timestamp", "nonce", "transaction")]
            right = signature(Secret(KEY), "request", "notice", stamps, request.body)
            assert request.headers["x-ldapmfa-signature"] == right
            assert stamps[2] == "ab" * 16
            assert request.json() == BODY
            return 204, {}, b""

        async with Web(tmp_path, answer) as web:
            fraud = Fraud(webhook_url=web.url + "/fraud", webhook_secret_file=secret, webhook_ca_file=web.ca_file)
            assert "answered 204" in await told(fraud)
            assert [request.path for request in web.requests] == ["/fraud"]

    @pytest.mark.parametrize("kind", ["status", "redirect", "broken", "500"])
    async def test_what_is_no_yes_is_not_delivered(self, tmp_path, secret, kind):
        async def answer(_request):
            return 200, {}, b""

        async with Web(tmp_path, answer) as web:
            status = {"status": 404, "500": 500}.get(kind)
            web.disturb(*(("status",) if status else (kind,)), **({"status": status} if status else {}))
            fraud = Fraud(webhook_url=web.url, webhook_secret_file=secret, webhook_ca_file=web.ca_file)
            with pytest.raises(NotDelivered, match="fraud webhook"):
                await told(fraud)

    async def test_a_secret_that_has_gone_is_said(self, tmp_path):
        fraud = Fraud(webhook_url="https://localhost:1", webhook_secret_file=tmp_path / "none")
        with pytest.raises(NotDelivered, match="webhook_secret_file"):
            await told(fraud)


class Log(list):
    def __getattr__(self, level):
        return lambda what, **fields: self.append((level, what, fields))


class Recorder:
    """A way that fails as often as it is told to."""

    def __init__(self, *failures):
        self.failures, self.told, self.closed = list(failures), [], False

    async def tell(self, notice_id, body):
        self.told.append(body)
        if self.failures:
            raise self.failures.pop(0)
        return "done"

    async def close(self):
        self.closed = True


class TestDeliver:
    @pytest.fixture
    def house(self, tmp_path):
        return SimpleNamespace(now=1_700_000_000.0, clock=Clock(), log=Log(), path=tmp_path)

    @contextlib.asynccontextmanager
    async def running(self, house, way, ways=("mail",)):
        seal = Seal.create(house.path / "key", entropy=os.urandom)
        house.store = await Store.open(
            f"sqlite:///{house.path}/state.db", seal, clock=lambda: house.now, normalise_dn=dn.normalise
        )
        change = AccountChanged(at=house.now, action="blocked", account=ALICE.key, actor="owner")
        await house.store.block(ALICE, FOREVER, "x", change, notices=[(way, BODY) for way in ways])
        task = house.task = asyncio.ensure_future(
            deliver(house.store, {"mail": way}, clock=house.clock, now=lambda: house.now, log=house.log)
        )
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            await house.store.close()
        assert way.closed

    async def passes(self, house, seconds, until):
        """Time passes, two seconds at a time, until so much is in the log."""
        for _ in range(200):
            assert not house.task.done(), house.task
            if len(house.log) >= until:
                return
            await asyncio.sleep(0.005)
            house.now += seconds
            house.clock.advance(2)
        raise AssertionError(house.log)

    async def test_it_is_tried_again_with_growing_pauses_until_delivered(self, house):
        way = Recorder(NotDelivered("away"), NotDelivered("away"), RuntimeError("a bug"))
        async with self.running(house, way):
            await self.passes(house, 2, 4)
            assert [(level, what) for level, what, _ in house.log] == [
                ("warning", "notice not delivered"), ("warning", "notice not delivered"),
                ("warning", "notice not delivered"), ("info", "notice delivered"),
            ]  # fmt: skip
            assert [fields.get("again_in") for _, _, fields in house.log] == [15.0, 30.0, 60.0, None]
            assert house.log[-1][2]["tries"] == 4
            assert way.told == [BODY] * 4
            assert await house.store.take_notices(1) == []
        assert "a bug" not in json.dumps(house.log, default=str)

    async def test_after_a_day_it_is_given_up_with_a_line(self, house):
        way = Recorder(*(NotDelivered("away") for _ in range(100)))
        async with self.running(house, way):
            await self.passes(house, 0, 1)
            house.now += GIVEN_UP
            await self.passes(house, 2, 2)
            assert house.log[-1][:2] == ("critical", "notice given up")
            assert await house.store.take_notices(1) == []

    async def test_a_way_that_is_not_configured_any_more_is_not_lost_at_once(self, house):
        async with self.running(house, Recorder(), ways=("pager",)):
            await self.passes(house, 2, 1)
            assert house.log[0][1:] == ("notice not delivered", house.log[0][2])
            assert "not configured" in house.log[0][2]["reason"]

    async def test_a_store_that_is_away_is_waited_for(self, house, monkeypatch):
        way = Recorder()
        take, failures = Store.take_notices, [StoreDown("x")]

        async def flaky(store, seconds):
            if failures:
                raise failures.pop()
            return await take(store, seconds)

        monkeypatch.setattr(Store, "take_notices", flaky)
        async with self.running(house, way):
            await self.passes(house, 2, 1)
        assert way.told == [BODY]
