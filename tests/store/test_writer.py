"""One transaction for all who wait: isolation, cancellation, and commits that fail."""

import asyncio
import os

import pytest
from sqlalchemy import event, func, insert, select
from sqlalchemy.exc import OperationalError

from ldapmfa.errors import StoreDown
from ldapmfa.store.schema import META


def adding(name, *, then=None):
    async def work(call):
        await call.write(insert(META).values(name=name, value=b""))
        if then:
            raise then
        return name

    return work


async def names(store):
    return {name for (name,) in await store._read(select(META.c.name)) if "/" not in name}


def count(store, kind):
    seen = []
    event.listen(store._engines[0].sync_engine, kind, lambda *args: seen.append(args))
    return seen


async def test_sixty_four_logins_share_few_transactions(world):
    store = await world.open()
    await world.enrol(store)
    commits, statements = count(store, "commit"), count(store, "before_cursor_execute")
    verified = await asyncio.gather(*(world.verify(store, world.code()) for _ in range(64)))
    assert [one.result for one in verified].count("accepted") == 1
    assert len(commits) == 1
    # the account, its factors, the burning; and once BEGIN and the records
    assert len(statements) <= 64 * 3 + 4


async def test_results_are_given_after_the_commit(world):
    store = await world.open()
    order = []
    event.listen(store._engines[0].sync_engine, "commit", lambda _connection: order.append("commit"))
    await store._writer.write(adding("a"))
    order.append("result")
    assert order == ["commit", "result"]
    assert await names(await world.open()) == {"a"}


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


async def test_rows_of_a_call_that_failed_are_not_written_later(world):
    store = await world.open()

    async def work(call):
        call.later(insert(META), name="later", value=b"")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store._writer.write(work)
    assert await names(store) == set()


async def test_a_call_that_fails_before_it_wrote_costs_the_others_nothing(world):
    store = await world.open()
    commits = count(store, "commit")

    async def fails(_call):
        raise ZeroDivisionError

    outcomes = await asyncio.gather(
        store._writer.write(adding("a")), store._writer.write(fails), store._writer.write(adding("b")),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(one) for one in outcomes] == [str, ZeroDivisionError, str]
    assert len(commits) == 1


async def test_if_the_commit_fails_nobody_gets_a_result(world):
    store = await world.open()

    def full(_connection):
        raise OperationalError("COMMIT", None, OSError("disk full"))

    engine = store._engines[0].sync_engine
    event.listen(engine, "commit", full)
    outcomes = await asyncio.gather(*(store._writer.write(adding(name)) for name in "abc"), return_exceptions=True)
    assert [type(one) for one in outcomes] == [StoreDown] * 3
    assert len({id(one) for one in outcomes}) == 3
    event.remove(engine, "commit", full)
    assert await names(store) == set()
    assert await store._writer.write(adding("d")) == "d", "the writer goes on"


async def test_an_operational_error_spoils_the_whole_transaction(world):
    store = await world.open()
    outcomes = await asyncio.gather(
        store._writer.write(adding("a")),
        store._writer.write(adding("b", then=OperationalError("INSERT", None, OSError("disk full")))),
        return_exceptions=True,
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


async def test_one_who_leaves_during_the_batch_does_not_break_it(world):
    store = await world.open()
    begun = asyncio.Event()

    async def slow(call):
        begun.set()
        return await adding("a")(call)

    leaving = asyncio.ensure_future(store._writer.write(slow))
    staying = asyncio.ensure_future(store._writer.write(adding("b")))
    await begun.wait()
    leaving.cancel()
    assert await staying == "b"
    assert leaving.cancelled()
    assert await names(store) == {"a", "b"}


async def test_closing_serves_those_who_wait(world):
    store = await world.open()
    waiting = [asyncio.ensure_future(store._writer.write(adding(name))) for name in "abc"]
    await asyncio.sleep(0)
    await store._writer.close()
    assert [await one for one in waiting] == ["a", "b", "c"]
    with pytest.raises(StoreDown, match="closed"):
        await store._writer.write(adding("d"))


async def test_if_the_writer_is_ended_nobody_waits_for_ever(world):
    store = await world.open()
    begun = asyncio.Event()

    async def stuck(_call):
        begun.set()
        await asyncio.Event().wait()

    first = asyncio.ensure_future(store._writer.write(stuck))
    await begun.wait()
    second = asyncio.ensure_future(store._writer.write(adding("a")))
    await asyncio.sleep(0)
    store._writer._task.cancel()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(one) for one in outcomes] == [StoreDown] * 2


async def test_a_note_that_can_not_be_written_costs_no_call(world):
    store = await world.open()
    store._writer.note(insert(META), name="n", value=None)
    store._writer.note(insert(META), name="m", value=b"")
    assert await store._writer.write(adding("a")) == "a"
    assert store.dropped == 2
    assert await names(store) == {"a"}


async def test_notes_survive_a_call_that_spoiled_their_transaction(world):
    store = await world.open()
    store._writer.note(insert(META), name="n", value=b"")
    with pytest.raises(ZeroDivisionError):
        await store._writer.write(adding("a", then=ZeroDivisionError()))
    assert await names(store) == {"n"}
    assert store.dropped == 0


async def test_another_process_holding_the_lock_for_long_is_a_broken_store(world, monkeypatch):
    from ldapmfa.store import database

    monkeypatch.setattr(database, "BUSY", 0.05)
    store = await world.open()
    async with world.sql() as sql:
        await sql.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDown):
            await store._writer.write(adding("a"))
        assert await store._read(select(func.count()).select_from(META)) == [(1,)], "reading goes on"


async def test_many_calls_are_served_in_batches(world):
    store = await world.open()
    done = await asyncio.gather(*(store._writer.write(adding(os.urandom(8).hex())) for _ in range(600)))
    assert await names(store) == set(done)
