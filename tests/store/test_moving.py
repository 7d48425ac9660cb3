"""All of a store put into another, both ways."""

import os
from dataclasses import replace

import pytest
from store.conftest import totp
from store.test_prompts import PLACE, approved

from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit
from ldapmfa.factors.recovery import Recovery
from ldapmfa.store import Grant, Pending
from ldapmfa.store.moving import NotEmpty, move
from ldapmfa.store.schema import METADATA


@pytest.fixture
def other(world, postgresql, migrated, tmp_path):
    """A store of the other kind, empty."""
    if world.postgresql:
        yield replace(world, url=f"sqlite:///{tmp_path}/other.db", cluster=None)
        return
    name = postgresql.database(migrated)
    try:
        yield replace(world, url=postgresql.url(name), cluster=postgresql)
    finally:
        postgresql.drop(name)


async def filled(world, alice, bob):
    """A store with something in each table."""
    store = await world.open()
    await world.enrol(store)
    codes = Recovery().new(entropy=os.urandom, account="alice", issuer="", options={})
    await world.enrol(store, new=codes)
    await world.enrol(store, Pending("ad", "account", "carol"), totp(Secret(b"another seed, 20 octs")))
    assert (await world.verify(store, world.code())).result == "accepted"
    await store.block(bob, float("inf"), "why", world.change(bob.key), notices=[("mail", {"to": "ä"})])
    await store.unblock(bob.key, world.change(bob.key))
    await store.grant_bypass(bob, 300.0, "why", world.change(bob.key))
    await store.begin_prompt(alice, "1", "k", seconds=60, prompts=9, within=600, shares=True, takes_over=False)
    await store.keep_sent(alice, "radius", {"state": "1"}, PLACE, seconds=600)
    await store.admit(alice, approved(world), (), grant=Grant("k2", 600, 9))
    counted, _ = await store.tried("ad", "bob", "192.0.2.7", Secret(b"x"), PasswordLimit())
    await store.count_wrong(counted, Secret(b"x"), PasswordLimit())
    return store


def contents(world):
    """All rows of all tables."""
    found = {}
    with world.sql() as sql:
        for table in METADATA.sorted_tables:
            columns = ", ".join(f'"{column.name}"' for column in table.c)
            keys = ", ".join(f'"{column.name}"' for column in table.primary_key)
            rows = sql.execute(f"SELECT {columns} FROM {table.name} ORDER BY {keys}").fetchall()
            found[table.name] = [tuple(row) for row in rows]
    return found


async def test_A19_everything_comes_over_and_a_used_code_stays_used(world, other, alice, bob):
    store = await filled(world, alice, bob)
    told = []
    target = await other.open()
    counts = await move(store, target, lambda *said: told.append(said))
    before, after = contents(world), contents(other)
    assert before == after
    assert all(before.values()), "there is something in each table"
    assert counts == {name: len(rows) for name, rows in before.items()}
    assert ("factors", 3, 3) in told
    assert (await world.verify(target, world.code())).result == "replayed"
    world.now = other.now = world.now + 30
    assert (await other.verify(target, other.code())).result == "accepted"
    assert (await target.status(bob)).bypass
    last = await target.last_cut()
    await target.block(bob, 9e9, "again", world.change(bob.key))
    assert [cut.number for cut in await target.cuts_since(last)] == [last + 1]
    assert len(await target.events()) == len(await store.events()) + 2
    await other.close()


async def test_a_store_that_holds_something_is_not_filled(world, other, alice, bob):
    store, target = await filled(world, alice, bob), await other.open()
    await other.enrol(target)
    before = contents(other)
    with pytest.raises(NotEmpty):
        await move(store, target, lambda *_: None)
    assert contents(other) == before
    await other.close()


async def test_half_a_copy_never_stays(world, other, alice, bob):
    store, target = await filled(world, alice, bob), await other.open()
    before = contents(other)

    def fails(table, *_):
        if table == "logins":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await move(store, target, fails)
    assert contents(other) == before
    await other.close()


async def test_pages_are_put_together(world, other, monkeypatch):
    from ldapmfa.store import moving

    monkeypatch.setattr(moving, "PAGE", 3)
    store, target = await world.open(), await other.open()
    for number in range(10):
        await world.enrol(store, Pending("ad", "account", f"u{number}"))
    assert (await move(store, target, lambda *_: None))["factors"] == 10
    assert contents(world) == contents(other)
    await other.close()


