"""One transaction for all who wait: isolation, cancellation, and commits that fail or hang."""

import asyncio
import os
import sqlite3
import threading

import pytest
from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.exc import OperationalError

from ldapmfa.core.policy import Recall
from ldapmfa.errors import StoreDown
from ldapmfa.store import sqlite
from ldapmfa.store.database import Statement
from ldapmfa.store.schema import META
from ldapmfa.store.writer import SLICE

ADD = Statement(insert(META))


@pytest.fixture(params=["sqlite"])
def kind(request):
    """How batches are made is the same for all."""
    return request.param


def adding(name, *, then=None):
    def work(call):
        call.write(insert(META).values(name=name, value=b""))
        if then:
            raise then
        return name

    return work


async def names(store):
    return {name for (name,) in await store._read(select(META.c.name)) if "/" not in name}


def beneath(store):
    """The driver's connection that writes."""
    return sqlite.driver(store._database._writing)


@pytest.fixture
def trace():
    """What SQLite itself is told: BEGIN, COMMIT and every statement, once for each row."""

    def listen(store):
        told = []
        beneath(store).set_trace_callback(told.append)
        return told

    return listen


@pytest.fixture
def hanging(monkeypatch):
    """A disk that does not answer until it is let go."""

    class Hanging:
        begun, let_go = threading.Event(), threading.Event()

        async def until_begun(self):
            assert await asyncio.to_thread(self.begun.wait, 20)

    disk, commit = Hanging(), sqlite._commit

    def hangs(beneath):
        disk.begun.set()
        assert disk.let_go.wait(20)
        commit(beneath)

    monkeypatch.setattr(sqlite, "_commit", hangs)
    yield disk
    disk.let_go.set()


async def test_sixty_four_logins_share_few_transactions(world, trace):
    store = await world.open()
    await world.enrol(store)
    told = trace(store)
    verified = await asyncio.gather(*(world.verify(store, world.code()) for _ in range(64)))
    assert [one.result for one in verified].count("accepted") == 1
    assert (told.count("BEGIN IMMEDIATE"), told.count("COMMIT")) == (1, 1)
    # the account, its factors, the burning; and once BEGIN, COMMIT, the record, the last login, the name
    assert len(told) <= 64 * 3 + 5


async def test_sixty_four_accounts_are_burnt_in_one_commit(world, trace, alice):
    from dataclasses import replace

    store = await world.open()
    several = [replace(alice, id=f"guid:{number:032x}", accounts=(f"u{number}",)) for number in range(64)]
    for one in several:
        await world.enrol(store, one)
    told = trace(store)
    verified = await asyncio.gather(*(world.verify(store, world.code(), one, [one.id]) for one in several))
    assert [one.result for one in verified] == ["accepted"] * 64
    assert told.count("COMMIT") == 1
    assert told[-1] == "COMMIT"
    assert len(await store.events(limit=1000)) == 128


async def test_no_success_before_the_commit_returned(world, alice, hanging):
    store, other = None, None
    hanging.let_go.set()
    store, other = await world.open(), await world.open()
    await world.enrol(store)
    hanging.begun.clear(), hanging.let_go.clear()
    verifying = asyncio.ensure_future(world.verify(store, world.code()))
    await hanging.until_begun()
    for _ in range(50):
        await asyncio.sleep(0)
    assert not verifying.done()
    assert [event.account for event in await other.events() if event.account == alice.key] == []
    assert await other.recall("ad", "alice") == Recall(enrolled=True), "reading goes on meanwhile"
    assert await store.recall("ad", "alice") == Recall(enrolled=True)
    hanging.let_go.set()
    assert (await verifying).result == "accepted"
    assert [event.account for event in await other.events() if event.account == alice.key] == [alice.key]


async def test_what_comes_while_the_disk_is_busy_shares_the_next_transaction(world, hanging, trace):
    store = await world.open()
    told = trace(store)
    first = asyncio.ensure_future(store._writer.write(adding("a")))
    await hanging.until_begun()
    rest = [asyncio.ensure_future(store._writer.write(adding(f"{number}"))) for number in range(40)]
    await asyncio.sleep(0)
    hanging.let_go.set()
    await asyncio.gather(first, *rest)
    assert told.count("COMMIT") == 2


async def test_a_call_that_fails_takes_back_its_own_writes_only(world):
    store = await world.open()
    outcomes = await asyncio.gather(
        store._writer.write(adding("a")),
        store._writer.write(adding("b", then=ZeroDivisionError())),
        store._writer.write(adding("a")),
        store._writer.write(adding("c")),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [str, ZeroDivisionError, StoreDown, str]
    assert await names(store) == {"a", "c"}


async def test_a_statement_of_the_drivers_that_fails_takes_back_its_own_call_only(world):
    store = await world.open()

    def twice(call):
        call.write(ADD, name="t", value=b"")
        call.write(ADD, name="t", value=b"")

    outcomes = await asyncio.gather(
        store._writer.write(adding("a")), store._writer.write(twice), store._writer.write(adding("c")),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(one) for one in outcomes] == [str, StoreDown, str]
    assert await names(store) == {"a", "c"}


async def test_rows_of_a_call_that_failed_are_not_written_later(world):
    store = await world.open()

    def work(call):
        call.later(ADD, name="later", value=b"")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store._writer.write(work)
    assert await names(store) == set()


async def test_a_call_that_fails_before_it_wrote_costs_the_others_nothing(world, trace):
    store = await world.open()
    told = trace(store)

    def fails(_call):
        raise ZeroDivisionError

    outcomes = await asyncio.gather(
        store._writer.write(adding("a")), store._writer.write(fails), store._writer.write(adding("b")),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(one) for one in outcomes] == [str, ZeroDivisionError, str]
    assert told.count("COMMIT") == 1


async def test_if_the_commit_fails_nobody_gets_a_result(world):
    store = await world.open()
    connection = beneath(store)

    def full(action, what, *_args):
        full = action == sqlite3.SQLITE_TRANSACTION and what == "COMMIT"
        return sqlite3.SQLITE_DENY if full else sqlite3.SQLITE_OK

    connection.set_authorizer(full)
    outcomes = await asyncio.gather(*(store._writer.write(adding(name)) for name in "abc"), return_exceptions=True)
    assert [type(one) for one in outcomes] == [StoreDown] * 3
    assert len({id(one) for one in outcomes}) == 3
    connection.set_authorizer(None)
    assert await names(store) == set()
    assert await store._writer.write(adding("d")) == "d", "the writer goes on"


async def test_a_full_disk_spoils_the_whole_transaction_and_no_later_one(world):
    """SQLite itself says SQLITE_FULL, and may have rolled back by itself."""
    store = await world.open()
    connection = beneath(store)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")

    def large(call):
        call.write(ADD, name="large", value=bytes(10**6))

    writing = [asyncio.ensure_future(store._writer.write(work)) for work in (adding("a"), large)]
    await asyncio.sleep(0)
    store._writer.note(ADD, name="note", value=b"")
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(one) for one in outcomes] == [StoreDown] * 2
    assert store.dropped == 1
    connection.execute(f"PRAGMA max_page_count={pages + 1000}")
    assert await names(store) == set()
    await asyncio.gather(store._writer.write(adding("b")), store._writer.write(large))
    assert await names(store) == {"b", "large"}


async def test_an_operational_error_spoils_the_whole_transaction(world):
    store = await world.open()
    for error in (OperationalError("INSERT", None, OSError("disk full")), sqlite3.OperationalError("disk I/O error")):
        outcomes = await asyncio.gather(
            store._writer.write(adding("a")), store._writer.write(adding("b", then=error)), return_exceptions=True
        )
        assert [type(one) for one in outcomes] == [StoreDown] * 2
        assert await names(store) == set()


async def test_one_who_leaves_before_the_batch_is_not_served(world):
    store = await world.open()
    leaving = asyncio.ensure_future(store._writer.write(adding("a")))
    staying = asyncio.ensure_future(store._writer.write(adding("b")))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "b"
    assert leaving.cancelled()
    assert await names(store) == {"b"}


async def test_one_who_leaves_while_another_process_has_the_lock_is_not_served(world):
    store = await world.open()
    with world.sql() as sql:
        sql.execute("BEGIN IMMEDIATE")
        leaving = asyncio.ensure_future(store._writer.write(adding("a")))
        staying = asyncio.ensure_future(store._writer.write(adding("b")))
        for _ in range(20):
            await asyncio.sleep(0)
        assert store._writer._calls == {}, "their batch waits for the lock"
        leaving.cancel()
    assert await staying == "b"
    assert await names(store) == {"b"}


async def test_one_who_leaves_during_the_batch_does_not_break_it(world, hanging):
    store = await world.open()
    leaving = asyncio.ensure_future(store._writer.write(adding("a")))
    staying = asyncio.ensure_future(store._writer.write(adding("b")))
    await hanging.until_begun()
    leaving.cancel()
    hanging.let_go.set()
    assert await staying == "b"
    assert leaving.cancelled()
    assert await names(store) == {"a", "b"}


async def test_those_who_leave_while_the_disk_hangs_leave_nothing_behind(world, hanging):
    store = await world.open()
    first = asyncio.ensure_future(store._writer.write(adding("a")))
    await hanging.until_begun()
    leaving = [asyncio.ensure_future(store._writer.write(adding(f"{number}"))) for number in range(100)]
    await asyncio.sleep(0)
    assert len(store._writer._calls) == 100
    for one in leaving:
        one.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert store._writer._calls == {}
    hanging.let_go.set()
    assert await first == "a"


async def test_closing_serves_those_who_wait(world):
    store = await world.open()
    waiting = [asyncio.ensure_future(store._writer.write(adding(name))) for name in "abc"]
    await asyncio.sleep(0)
    await store._writer.close()
    assert [await one for one in waiting] == ["a", "b", "c"]
    with pytest.raises(StoreDown, match="closed"):
        await store._writer.write(adding("d"))


async def test_closing_waits_for_the_disk(world, hanging):
    store = await world.open()
    first = asyncio.ensure_future(store._writer.write(adding("a")))
    await hanging.until_begun()
    second = asyncio.ensure_future(store._writer.write(adding("b")))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    for _ in range(50):
        await asyncio.sleep(0)
    assert [one.done() for one in (closing, first, second)] == [False] * 3
    hanging.let_go.set()
    await closing
    assert (await first, await second) == ("a", "b")
    assert await names(await world.open()) == {"a", "b"}


async def test_if_the_writer_is_ended_nobody_waits_for_ever(world, hanging):
    store = await world.open()
    first = asyncio.ensure_future(store._writer.write(adding("a")))
    await hanging.until_begun()
    second = asyncio.ensure_future(store._writer.write(adding("b")))
    await asyncio.sleep(0)
    store._writer._task.cancel()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(one) for one in outcomes] == [StoreDown] * 2
    hanging.let_go.set()
    await store.close()
    assert await names(await world.open()) == {"a"}, "what the thread had begun it ends, and lets go of the file"


async def test_a_commit_that_was_not_even_begun_when_the_writer_was_ended_has_never_been(world):
    store, let_go = await world.open(), threading.Event()
    busy = store._database._committer.submit(let_go.wait, 20)
    first = asyncio.ensure_future(store._writer.write(adding("a")))
    for _ in range(20):
        await asyncio.sleep(0)
    store._writer._task.cancel()
    with pytest.raises(StoreDown):
        await first
    let_go.set()
    assert await asyncio.wrap_future(busy)
    await store.close()
    assert await names(await world.open()) == set()


async def test_the_loop_goes_on_between_slices_of_a_batch(world, trace):
    store = await world.open()
    told, turns, at = trace(store), 0, []

    async def turning():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def work(_call):
        at.append(turns)

    other = asyncio.ensure_future(turning())
    await asyncio.gather(*(store._writer.write(work) for _ in range(SLICE * 3)))
    other.cancel()
    assert told.count("COMMIT") == 1
    assert [at.count(turn) for turn in sorted(set(at))] == [SLICE] * 3


async def test_a_note_that_can_not_be_written_costs_no_call(world):
    store = await world.open()
    store._writer.note(ADD, name="m", value=b"")
    store._writer.note(ADD, name="n", value=None)
    assert await store._writer.write(adding("a")) == "a"
    assert store.dropped == 2
    assert await names(store) == {"a"}
    store._writer.note(ADD, name="o", value=b"")
    assert await store._writer.write(adding("b")) == "b"
    assert await names(store) == {"a", "b", "o"}


async def test_notes_survive_a_call_that_spoiled_their_transaction(world):
    store = await world.open()
    store._writer.note(ADD, name="n", value=b"")
    with pytest.raises(ZeroDivisionError):
        await store._writer.write(adding("a", then=ZeroDivisionError()))
    assert await names(store) == {"n"}
    assert store.dropped == 0


async def test_another_process_holding_the_lock_for_long_is_a_broken_store(world, monkeypatch):
    store = await world.open()
    monkeypatch.setattr(sqlite, "BUSY", 0.05)
    with world.sql() as sql:
        sql.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDown):
            await store._writer.write(adding("a"))
        assert await store._read(select(func.count()).select_from(META)) == [(1,)], "reading goes on"
        assert await store.recall("ad", "alice") == Recall()
    assert await store._writer.write(adding("b")) == "b"


async def test_many_calls_are_served_in_batches(world):
    store = await world.open()
    done = await asyncio.gather(*(store._writer.write(adding(os.urandom(8).hex())) for _ in range(600)))
    assert await names(store) == set(done)


def test_a_statement_takes_its_values_by_name_in_any_order():
    assert ADD.values({"value": b"v", "name": "n"}) == ("n", b"v")
    one = Statement(select(META.c.value).where(META.c.name == bindparam("which")))
    assert one.values({"which": "n", "other": 1}) == ["n"]
