"""App passwords at a login: behind the directory's password, at their application, from their networks, in time."""

import os
from dataclasses import replace

from world import ALICE, BOB, PASSWORD, SERVICE, dn

from ldapmfa import audit
from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.factors.app_password import AppPassword
from ldapmfa.factors.totp import Totp
from ldapmfa.net.asking import Terms


async def opened(house, **options):
    house.terms = Terms("jenkins", reuse_seconds=60.0)
    house.policy = Policy((Exempt(SERVICE),))
    await house.open()
    doorway = replace(house.listener.doorway, factors={"totp": Totp(), "app-password": AppPassword()})
    house.with_(doorway=doorway)
    return await enrolled(house, **options)


async def enrolled(house, name=ALICE, **options):
    identity = Identity("default", f"uuid:{house.directory.uuids[dn.normalise(name)]}", name)
    new = AppPassword().new(
        entropy=os.urandom, account="a", issuer="i", options={"application": "jenkins", "expires": house.now + 3600, **options}
    )  # fmt: skip
    change = audit.AccountChanged(at=house.now, action="enrolled", account=identity.key, actor="test")
    house.factor_id = await house.store.enrol(identity, new, "ci", change)
    return new.codes[0].reveal().decode()


async def login(house, code, name=ALICE, password=PASSWORD, **where):
    result = await house.client(**where).log_in(name, password + code)
    return result, house.events[-1].reason


def at(house, application):
    doorway = house.listener.doorway
    house.with_(doorway=replace(doorway, terms=replace(doorway.terms, application=application)))


async def test_it_counts_again_and_again_and_last_used_is_kept(house):
    code = await opened(house)
    for _ in range(3):
        house.advance(60)
        assert await login(house, code) == (0, "code")
    assert house.events[-1].factor == "app-password"
    (row,) = [row for row in await house.store.factors() if row.id == house.factor_id]
    assert (row.last_used, row.codes_left) == (house.now, 1)
    assert house.rows("reuse") == 0, "it counts again by itself, and no longer than it may"


async def test_A01_the_directory_must_accept_the_password_all_the_same(house):
    code = await opened(house)
    assert (await login(house, code, password="wrong"))[0] == 49
    assert (await login(house, code, password=""))[0] != 0


async def test_elsewhere_it_is_a_wrong_code_and_counts_as_one(house):
    code = await opened(house, networks=["10.0.0.0/8"])
    assert await login(house, code, address="10.1.2.3") == (0, "code")
    assert await login(house, code) == (49, "wrong-code")
    at(house, "vpn")
    assert await login(house, code, address="10.1.2.3") == (49, "wrong-code")
    at(house, "jenkins")
    (row,) = [row for row in await house.store.accounts() if row.key.endswith(house.directory.uuids[ALICE])]
    assert row.wrong_codes == 2
    house.advance(3600)
    assert await login(house, code, address="10.1.2.3") == (49, "wrong-code")


async def test_A20_a_program_that_logs_in_all_day_does_not_set_back_what_is_counted_of_guesses(house):
    code = await opened(house)
    for guess in range(10):
        assert await login(house, code) == (0, "code")
        assert await login(house, f"{guess:06}") == (49, "wrong-code")
    assert await login(house, house.next_code()) == (49, "locked")
    house.advance(900)
    assert await login(house, f"{10:06}") == (49, "wrong-code")
    assert await login(house, house.next_code()) == (0, "code"), "one that is burnt does"
    (row,) = [row for row in await house.store.accounts() if row.key.endswith(house.directory.uuids[ALICE])]
    assert row.wrong_codes == 0


async def test_it_is_nobody_elses(house):
    code = await opened(house)
    assert await login(house, code, BOB) == (49, "wrong-code")


async def test_removed_it_counts_no_more(house):
    code = await opened(house)
    assert await login(house, code) == (0, "code")
    change = audit.AccountChanged(at=house.now, action="factor-removed", account="x", actor="test")
    assert await house.store.remove_factor(house.factor_id, change)
    assert await login(house, code) == (49, "wrong-code")


async def test_where_it_is_not_among_the_factors_it_is_a_wrong_code(house):
    code = await opened(house)
    house.with_(doorway=replace(house.listener.doorway, factors={"totp": Totp()}))
    assert await login(house, code) == (49, "wrong-code")


async def test_A33_a_block_holds_against_it(house):
    code = await opened(house)
    key = f"default/uuid:{house.directory.uuids[ALICE]}"
    change = audit.AccountChanged(at=house.now, action="blocked", account=key, actor="test")
    assert await house.store.block(key, house.now + 60, "x", change)
    assert await login(house, code) == (49, "blocked")


async def test_other_codes_are_as_before(house):
    await opened(house)
    client = house.client()
    code = house.next_code()
    assert await client.log_in(password=PASSWORD + code) == 0
    at(house, "vpn")
    assert await login(house, code) == (49, "replayed-code")
