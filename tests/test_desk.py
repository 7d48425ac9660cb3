"""What the help desk may do to an account: block, bypass, phone, what is remembered; on a real store."""

import math

import pytest
from test_accounts import ALBERT, ALICE, changes, open_office  # noqa: F401 - a fixture

from ldapmfa.accounts import phone_number
from ldapmfa.core.identity import NoOneAccount
from ldapmfa.core.secret import Secret
from ldapmfa.store import Grant, Place


async def seen(office, identity=ALICE, name="alice"):
    """An account that has logged in once."""
    await office.login(await office.admin().enrol(name, "totp", {}), identity)


def operator(office, **settings):
    return office.accounts(**settings).as_operator("olga")


async def remember(office, identity=ALICE):
    key = office.store.reuse_key(identity, Secret(b"pw"), Place("vpn", "192.0.2.1"))
    grant = Grant(key, 3600, 3, place=Place("vpn", "192.0.2.1"))
    await office.store.admit(identity, success(office), (), grant=grant)


def success(office):
    from ldapmfa.audit import LoginEnded

    return LoginEnded(
        at=office.now, outcome="accepted", reason="approved", result=0, reference="", listener="l", client="c",
        name="alice", directory="default",
    )  # fmt: skip


class TestBlock:
    async def test_an_operator_blocks_and_unblocks_with_a_reason(self, open_office):  # noqa: F811
        async with open_office() as office:
            await seen(office)
            assert await operator(office).block("alice", "phone stolen") == ALICE.key
            account = (await operator(office).show("alice")).account
            assert (account.blocked.until, account.blocked.reason, account.blocked.by) == (math.inf, "phone stolen", "olga")
            before = await operator(office).unblock("ALICE@example.com", "found again")
            assert before.blocked.by == "olga"
            found = changes((await operator(office).show("alice")).events)
            assert {(event.action, event.actor, event.detail) for event in found if event.actor == "olga"} == {
                ("blocked", "olga", "phone stolen"), ("unblocked", "olga", "found again"),
            }  # fmt: skip

    @pytest.mark.parametrize("reason", ["", "  \t"])
    async def test_nobody_is_blocked_unblocked_or_let_in_without_a_reason(self, open_office, reason):  # noqa: F811
        async with open_office() as office:
            await seen(office)
            at_desk = office.admin()
            for verb in (
                at_desk.block, at_desk.unblock, at_desk.grant_bypass, at_desk.revoke_bypass, at_desk.disable, at_desk.enable
            ):  # fmt: skip
                assert (await verb("alice", reason)).why == "no-reason"
            assert {event.action for event in changes(await at_desk.events(10))} == {"enrolled"}

    async def test_one_never_seen_is_looked_up_where_that_can_be_done(self, open_office):  # noqa: F811
        async with open_office() as office:
            office.known |= {"ali": ALICE, "al": NoOneAccount((ALICE.dn, ALBERT.dn))}
            assert (await operator(office).block("ali", "x")).why == "unknown-account"
            assert (await operator(office, lookup=True).block("bob", "x")).why == "unknown-account"
            assert (await operator(office, lookup=True).block("al", "x")).why == "several-accounts"
            assert (await operator(office, lookup=True).block("cn=x,=", "x")).why == "bad-name"
            assert await operator(office, lookup=True).block("ali", "x") == ALICE.key
            assert (await office.store.status(ALICE)).blocked

    async def test_a_pending_enrolment_alone_can_not_be_blocked(self, open_office):  # noqa: F811
        async with open_office() as office:
            await office.admin().enrol("alice", "totp", {})
            for found in (
                await operator(office).block("alice", "x"),
                await operator(office).unblock("alice", "x"),
                await operator(office).remembered("alice"),
                await operator(office).grant_bypass("alice", "x"),
            ):
                assert found.why == "unknown-account"

    async def test_who_is_not_blocked_can_not_be_unblocked(self, open_office):  # noqa: F811
        async with open_office() as office:
            await seen(office)
            assert (await operator(office).unblock("alice", "x")).why == "not-blocked"
            assert await operator(office).block("alice", "x", office.now + 60) == ALICE.key
            office.now += 60
            assert (await operator(office).unblock("alice", "x")).why == "not-blocked"

    async def test_A48_an_operator_can_not_end_what_an_administrator_disabled(self, open_office):  # noqa: F811
        async with open_office() as office:
            await seen(office)
            assert await office.admin().disable("alice", "left") == ALICE.key
            assert (await operator(office).unblock("alice", "back")).why == "disabled"
            assert (await office.store.status(ALICE)).blocked
            assert (await office.admin().enable("alice", "back")).blocked.disabled
            assert not (await office.store.status(ALICE)).blocked
            assert not any(hasattr(operator(office), verb) for verb in ("disable", "enable", "set_phone", "set_method"))
            actions = {event.action for event in changes(await office.admin().events(10))}
            assert actions == {"enrolled", "disabled", "enabled"}

    async def test_an_account_that_goes_meanwhile_is_unknown(self, open_office, monkeypatch):  # noqa: F811
        async with open_office() as office:
            await seen(office)

            async def gone(*_args, **_options):
                return False

            async def unknown(*_args, **_options):
                return "unknown"

            monkeypatch.setattr(office.store, "block", gone)
            monkeypatch.setattr(office.store, "set_phone", gone)
            monkeypatch.setattr(office.store, "grant_bypass", unknown)
            admin = office.admin()
            for found in (
                await admin.block("alice", "x"), await admin.set_phone("alice", None), await admin.grant_bypass("alice", "x")
            ):  # fmt: skip
                assert found.why == "unknown-account"


class TestBypass:
    async def test_it_lasts_five_minutes_where_nothing_else_is_said(self, open_office):  # noqa: F811
        async with open_office() as office:
            await seen(office)
            assert await operator(office).grant_bypass("alice", "lost") == ALICE.key
            bypass = (await operator(office).show("alice")).account.bypass
            assert (bypass.expires, bypass.uses, bypass.actor) == (office.now + 300, 1, "olga")
            (event, *_) = changes(await operator(office).events(10))
            assert (event.action, event.detail) == ("bypass-granted", "300 seconds: lost")
            assert await operator(office).revoke_bypass("alice", "found") == ALICE.key
            assert (await operator(office).revoke_bypass("alice", "found")).why == "no-bypass"
            assert (await operator(office).revoke_bypass("bob", "found")).why == "unknown-account"

    async def test_A33_none_is_granted_to_who_is_blocked(self, open_office):  # noqa: F811
        async with open_office() as office:
            await seen(office)
            await operator(office).block("alice", "x")
            assert (await operator(office).grant_bypass("alice", "x")).why == "blocked"

    async def test_one_never_seen_is_looked_up(self, open_office):  # noqa: F811
        async with open_office() as office:
            office.known["ali"] = ALICE
            assert await operator(office, lookup=True).grant_bypass("ali", "new phone", 60) == ALICE.key
            assert (await office.store.status(ALICE)).bypass


class TestRemembered:
    async def test_an_operator_sees_and_forgets_them(self, open_office):  # noqa: F811
        async with open_office() as office:
            await remember(office)
            await remember(office, ALBERT)
            assert {row.account for row in await operator(office).remembered()} == {ALICE.key, ALBERT.key}
            assert [row.account for row in await operator(office).remembered("albert")] == [ALBERT.key]
            assert await operator(office).forget_remembered("albert") == 1
            assert (await operator(office).forget_remembered("zoe")).why == "unknown-account"
            assert await operator(office).forget_remembered() == 1
            assert await operator(office).forget_remembered() == 0
            found = changes(await operator(office).events(10))
            assert [(event.action, event.account) for event in found] == [
                ("remembered-forgotten", "*"), ("remembered-forgotten", ALBERT.key),
            ]  # fmt: skip


class TestPhone:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("+4930123456", "+4930123456"),
            (" +49 (30) 123-45.6 ", "+4930123456"),
            ("+49\u00a030\u2013123456", "+4930123456"),
            ("+49 (0)30 123456", None),
            ("030 123456", None),
            ("0049 30 123456", None),
            ("+0930123456", None),
            ("+123456", None),
            ("+1234567890123456", None),
            ("+49 30 123456 ext. 7", None),
            ("+49/30123456", None),
            ("+٤٩٣٠١٢٣٤٥٦", None),
            ("+4930123456\n", "+4930123456"),
            ("+49\n30123456", None),
            ("", None),
        ],
    )
    def test_a_number_is_e164_or_none(self, text, number):
        assert phone_number(text) == number

    async def test_it_is_set_and_forgotten_by_an_administrator(self, open_office):  # noqa: F811
        async with open_office() as office:
            office.known["ali"] = ALBERT
            await seen(office)
            assert await office.admin().set_phone("alice", "+49 30 123456") == (ALICE.key, "+4930123456")
            assert (await office.admin().show("alice")).account.phone == "+4930123456"
            assert (await office.admin().set_phone("alice", "030 123456")).why == "bad-phone"
            assert (await office.admin().set_phone("zoe", "+4930123456")).why == "unknown-account"
            assert await office.admin(lookup=True).set_phone("ali", "+4930123456") == (ALBERT.key, "+4930123456")
            assert await office.admin().set_phone("alice", None) == (ALICE.key, None)
            assert (await office.admin().show("alice")).account.phone is None

