"""What may be done to an account, on a real store."""

import os
from dataclasses import dataclass, field

import pyotp
import pytest

from ldapmfa.accounts import Accounts, Admin, Details, Enrolled, No
from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.core.identity import Identity, NoOneAccount
from ldapmfa.errors import ConfigError
from ldapmfa.factors.hotp import Hotp
from ldapmfa.factors.recovery import Recovery
from ldapmfa.factors.totp import Totp
from ldapmfa.store import PENDING_SECONDS, Pending, Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

ALICE = Identity("default", "uuid:a", "cn=Alice,dc=example", ("alice",), "alice@Example.com")
ALBERT = Identity("default", "uuid:b", "cn=Albert,dc=example", ("albert",))
FACTORS = {"totp": Totp(), "hotp": Hotp(), "recovery": Recovery()}


@dataclass
class Office:
    store: Store
    seal: Seal
    now: float = 1_700_000_000.0
    known: dict[str, Identity | NoOneAccount] = field(default_factory=dict)

    def accounts(self, *, lookup: bool = False, factors=FACTORS) -> Accounts:
        async def find(name):
            return self.known.get(name, NoOneAccount(()))

        return Accounts(
            self.store, factors, "Example", lambda: self.now, os.urandom, "default", find if lookup else None
        )

    def admin(self, **settings) -> Admin:
        return self.accounts(**settings).as_admin("root")

    async def login(self, enrolled: Enrolled, identity=ALICE, code: str | None = None):
        """The account's login with a code of this factor, as the driver does it."""
        otp = pyotp.parse_uri(enrolled.uri.reveal().decode())
        code = code or (otp.at(int(self.now)) if isinstance(otp, pyotp.TOTP) else otp.at(0))
        success = LoginEnded(
            at=self.now, outcome="accepted", reason="code", result=0, reference="", listener="l", client="c",
            name="alice", directory="default",
        )  # fmt: skip
        return await self.store.verify(
            identity, lambda one: FACTORS[one.kind].match(one, code, self.now), success, ("alice",)
        )


@pytest.fixture
def open_office(tmp_path):
    offices = []

    async def open_one():
        office = Office(None, Seal.create(tmp_path / "key", entropy=os.urandom))
        office.store = await Store.open(
            f"sqlite:///{tmp_path}/state.db", office.seal, clock=lambda: office.now, normalise_dn=dn.normalise
        )
        offices.append(office)
        return office

    class Opened:
        async def __aenter__(self):
            return await open_one()

        async def __aexit__(self, *_):
            await offices.pop().store.close()

    return Opened


def changes(events):
    return [event for event in events if isinstance(event, AccountChanged)]


class TestEnrol:
    @pytest.mark.parametrize(
        ("name", "attribute", "value"),
        [
            ("alice", "account", "alice"),
            ("Alice@Example.com", "userPrincipalName", "alice@example.com"),
            ("CN=Alice, DC=example", "dn", "cn=alice,dc=example"),
            ("cn=alice@home,dc=example", "dn", "cn=alice@home,dc=example"),
        ],
    )
    async def test_without_a_look_up_an_enrolment_waits_for_the_name_as_what_it_is(
        self, open_office, name, attribute, value
    ):
        async with open_office() as office:
            made = await office.admin().enrol(name, "totp", {}, label="phone")
            assert made.owner == Pending("default", attribute, name)
            assert made.expires == office.now + PENDING_SECONDS == office.now + 7 * 86400
            (row,) = (await office.admin().list()).pending
            assert (row.owner, row.expires) == (Pending("default", attribute, value), made.expires)
            assert (row.factor.id, row.factor.label, row.factor.account) == (made.id, "phone", None)

    async def test_the_uri_makes_the_codes_that_the_login_takes_and_claims_the_enrolment(self, open_office):
        async with open_office() as office:
            made = await office.admin().enrol("alice", "totp", {"algorithm": "sha256", "digits": 8})
            assert made.uri.reveal().startswith(b"otpauth://totp/Example:alice?")
            assert (await office.login(made)).result == "accepted"
            found = await office.admin().show("alice")
            assert (found.account.key, found.pending) == (ALICE.key, ())
            assert [row.id for row in found.factors] == [made.id]

    async def test_with_a_look_up_the_factor_hangs_on_the_account(self, open_office):
        async with open_office() as office:
            office.known["ali"] = ALICE
            made = await office.admin(lookup=True).enrol("ali", "totp", {})
            assert (made.owner, made.expires) == (ALICE, None)
            assert b":alice%40Example.com?" in made.uri.reveal()
            (row,) = (await office.admin().list()).accounts
            assert (row.key, row.factors) == (ALICE.key, ("totp",))

    async def test_a_name_that_matches_none_or_several_is_refused_with_the_matches(self, open_office):
        async with open_office() as office:
            office.known["al"] = NoOneAccount((ALICE.dn, ALBERT.dn))
            admin = office.admin(lookup=True)
            none, several = await admin.enrol("x", "totp", {}), await admin.enrol("al", "totp", {})
            assert none.why == "unknown-account"
            assert (several.why, several.names) == ("several-accounts", (ALICE.dn, ALBERT.dn))
            assert (await admin.list()).pending == ()

    @pytest.mark.parametrize("name", ["CORP\\alice", "cn=Alice,=", "", "  ", 'cn="Alice,dc=x'])
    async def test_a_name_that_nobody_can_have_is_refused(self, open_office, name):
        async with open_office() as office:
            assert (await office.admin().enrol(name, "totp", {})).why == "bad-name"

    async def test_a_second_factor_of_a_kind_needs_add(self, open_office):
        async with open_office() as office:
            admin = office.admin()
            await admin.enrol("alice", "totp", {})
            assert (await admin.enrol("ALICE", "totp", {})).why == "already-enrolled"
            assert isinstance(await admin.enrol("alice", "totp", {}, add=True), Enrolled)
            assert isinstance(await admin.enrol("alice", "hotp", {}), Enrolled)
            assert isinstance(await admin.enrol("albert", "totp", {}), Enrolled)

    async def test_that_counts_what_waits_for_any_of_an_accounts_names(self, open_office):
        async with open_office() as office:
            office.known["ali"] = ALICE
            await office.admin().enrol("alice@example.com", "totp", {})
            assert (await office.admin(lookup=True).enrol("ali", "totp", {})).why == "already-enrolled"

    async def test_and_what_an_account_has_that_was_seen_under_the_name(self, open_office):
        async with open_office() as office:
            await office.login(await office.admin().enrol("alice", "totp", {}))
            for name in ("alice", "alice@example.com", "cn=alice,dc=example"):
                assert (await office.admin().enrol(name, "totp", {})).why == "already-enrolled"

    async def test_a_kind_that_is_not_configured_names_the_key(self, open_office):
        async with open_office() as office:
            with pytest.raises(ConfigError, match=r'login.factors: does not have "hotp", only totp'):
                await office.admin(factors={"totp": Totp()}).enrol("alice", "hotp", {})

    async def test_options_are_the_factors_own(self, open_office):
        async with open_office() as office:
            with pytest.raises(ConfigError, match="recovery.digits"):
                await office.admin().enrol("alice", "recovery", {"digits": 6})

    async def test_recovery_codes_are_given_once_and_shown_nowhere(self, open_office):
        async with open_office() as office:
            made = await office.admin().enrol("alice", "recovery", {})
            assert (len(made.codes), made.uri) == (10, None)
            shown = repr(made) + repr(await office.admin().show("alice"))
            assert not any(code.reveal().decode() in shown for code in made.codes)


class TestLook:
    async def test_a_pending_enrolment_is_found_by_its_name_and_key(self, open_office):
        async with open_office() as office:
            await office.admin().enrol("CN=Alice, DC=example", "totp", {})
            for name in ("cn=alice,dc=example", "pending/default/dn/cn=alice,dc=example"):
                found = await office.admin().show(name)
                assert isinstance(found, Details)
                assert (found.account, len(found.pending)) == (None, 1)
                assert [event.action for event in changes(found.events)] == ["enrolled"]

    async def test_an_account_shows_what_waits_for_its_other_names(self, open_office):
        async with open_office() as office:
            await office.login(await office.admin().enrol("alice", "totp", {}))
            await office.admin().enrol("alice@example.com", "hotp", {})
            found = await office.admin().show("cn=Alice,dc=example")
            assert [row.kind for row in found.factors] == ["totp"]
            assert [row.factor.kind for row in found.pending] == ["hotp"]

    async def test_a_name_that_is_not_found_gives_the_nearest(self, open_office):
        async with open_office() as office:
            await office.admin().enrol("alice", "totp", {})
            await office.login(await office.admin().enrol("albert", "totp", {}), ALBERT)
            found = await office.admin().show("alic")
            assert (found.why, found.names) == ("unknown-account", ("alice",))
            assert await office.admin().unenrol("zzz") == No("unknown-account", found.text.replace("alic", "zzz"))

    async def test_a_name_of_several_lists_their_keys(self, open_office):
        async with open_office() as office:
            office.known |= {"1": ALICE, "2": Identity("other", "uuid:c", "cn=Alice,dc=other", ("alice",))}
            for name in ("1", "2"):
                await office.admin(lookup=True).enrol(name, "totp", {})
            found = await office.admin().show("alice")
            assert found.why == "several-accounts"
            assert found.names == (f"{ALICE.key} ({ALICE.dn})", "other/uuid:c (cn=Alice,dc=other)")
            assert (await office.admin().show("other/uuid:c")).account.key == "other/uuid:c"
            assert (await office.admin().show("alice", "other")).account.key == "other/uuid:c"

    async def test_one_account_and_an_enrolment_elsewhere_are_several(self, open_office):
        async with open_office() as office:
            office.known["1"] = Identity("other", "uuid:c", "cn=Alice,dc=other", ("alice",))
            await office.admin(lookup=True).enrol("1", "totp", {})
            await office.admin().enrol("alice", "totp", {})
            found = await office.admin().unenrol("alice")
            assert found.names == ("other/uuid:c (cn=Alice,dc=other)", "pending/default/account/alice (pending)")

    async def test_a_reference_code_is_found_however_it_is_typed(self, open_office):
        async with open_office() as office:
            event = LoginEnded(
                at=office.now, outcome="refused", reason="password", result=49, reference="ABCD2345", listener="l",
                client="c", name="alice", directory="default",
            )  # fmt: skip
            office.store.note(event)
            await office.admin().enrol("alice", "totp", {})  # written behind it
            assert await office.admin().refusal(" abcd-2345 ") == event
            assert (await office.admin().refusal("ZZZZ2345")).why == "unknown-reference"
            assert (await office.admin().refusal("-")).why == "unknown-reference"


class TestChange:
    async def test_an_operator_unlocks_and_is_told_what_was(self, open_office):
        async with open_office() as office:
            made = await office.admin().enrol("alice", "totp", {})
            await office.login(made)
            for _ in range(10):
                await office.login(made, code="000000")
            before = await office.accounts().as_operator("olga").unlock("alice")
            assert before.locked_until == office.now + 900
            assert (await office.admin().show("alice")).account.locked_until is None
            event = changes((await office.admin().show("alice")).events)[0]
            assert (event.action, event.account, event.actor) == ("unlocked", ALICE.key, "olga")

    async def test_what_waits_can_not_be_locked(self, open_office):
        async with open_office() as office:
            await office.admin().enrol("alice", "totp", {})
            assert (await office.admin().unlock("alice")).why == "unknown-account"
            assert (await office.admin().unlock("bob")).why == "unknown-account"

    async def test_an_operator_can_not_change_factors(self, open_office):
        async with open_office() as office:
            operator = office.accounts().as_operator("olga")
            assert not any(hasattr(operator, verb) for verb in ("enrol", "unenrol", "remove_factor", "rotate_key"))

    async def test_unenrol_removes_what_waits_too(self, open_office):
        async with open_office() as office:
            await office.login(await office.admin().enrol("alice", "totp", {}))
            await office.admin().enrol("alice@example.com", "hotp", {})
            assert await office.admin().unenrol("alice") == 2
            found = await office.admin().show("alice")
            assert (found.factors, found.pending) == ((), ())
            assert await office.admin().unenrol("alice") == 0

    async def test_a_factor_is_removed_by_as_much_of_its_id_as_names_it(self, open_office):
        async with open_office() as office:
            made = await office.admin().enrol("alice", "totp", {})
            assert (await office.admin().remove_factor(made.id[:7])).why == "unknown-factor"
            assert (await office.admin().remove_factor(made.id[:8].upper())).id == made.id
            assert (await office.admin().remove_factor(made.id)).why == "unknown-factor"
            assert [event.action for event in await office.admin().events(1)] == ["factor-removed"]

    async def test_a_token_that_drifted_is_found_by_two_codes(self, open_office):
        async with open_office() as office:
            made = await office.admin().enrol("alice", "hotp", {})
            otp = pyotp.parse_uri(made.uri.reveal().decode())
            assert (await office.login(made, code=otp.at(500))).result == "wrong"
            resync = office.admin().resync
            assert (await resync(made.id, otp.at(500), otp.at(502))).why == "wrong-codes"
            assert (await resync("0" * 32, otp.at(500), otp.at(501))).why == "unknown-factor"
            assert (await resync(made.id, otp.at(500), otp.at(501))).id == made.id
            assert (await resync(made.id, otp.at(500), otp.at(501))).why == "wrong-codes"
            assert (await office.login(made, code=otp.at(502))).result == "accepted"

    async def test_the_key_is_rotated_and_the_old_one_forgotten(self, open_office, tmp_path):
        async with open_office() as office:
            made = await office.admin().enrol("alice", "totp", {})
            before = (tmp_path / "key").read_text()
            new = await office.admin().rotate_key(office.seal)
            after = (tmp_path / "key").read_text()
            assert (len(after.splitlines()), after.split()[1]) == (1, new)
            assert before.split()[2] not in after
            assert (await office.login(made)).result == "accepted"
            await office.admin().unenrol("alice")  # written behind the note
            assert "key-rotated" in {event.action for event in changes(await office.admin().events(10))}

    async def test_every_change_has_its_actor(self, open_office):
        async with open_office() as office:
            admin = office.accounts().as_admin("ann")
            await admin.remove_factor((await admin.enrol("alice", "totp", {})).id)
            await admin.enrol("alice", "totp", {})
            await admin.unenrol("alice")
            found = changes(await admin.events(10))
            assert {event.actor for event in found} == {"ann"}
            assert sorted(event.action for event in found) == ["enrolled", "enrolled", "factor-removed", "unenrolled"]
