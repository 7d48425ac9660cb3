"""What only PostgreSQL has: other nodes, a network between, servers that come and go."""

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import replace

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import func, insert, select, update
from store.conftest import World
from system.servers.common import make_certificates
from system.servers.postgresql import Postgresql

from ldapmfa.config.postgresql import DatabaseUrl
from ldapmfa.core.policy import Recall
from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.store import Cut, postgresql, servers
from ldapmfa.store.database import Statement, StatementFailed, TransactionLost
from ldapmfa.store.schema import META, METADATA

ADD = Statement(insert(META))


@pytest.fixture(params=["postgresql"])
def kind(request):
    return request.param


@pytest.fixture
def own_cluster():
    """A server for a test that harms it."""
    cluster = Postgresql()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def harmed(cluster, key_file, seal, *others):
    return World(cluster.url(cluster.database(), *others), key_file, seal, cluster=cluster)


def adding(name, *, then=None):
    def work(call):
        call.write(ADD, name=name, value=b"")
        if then:
            raise then
        return name

    return work


async def names(store):
    return {name for (name,) in await store._read(select(META.c.name)) if "/" not in name}


async def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def works(store):
    try:
        await store.recall("ad", "alice")
        await store._writer.write(lambda call: call.read(select(META.c.name)))
    except StoreDown:
        return False
    return True


# -- the tables


@pytest.mark.no_tables
async def test_the_migrations_make_the_schema(world):
    store = await world.open()
    async with store._database.transaction() as transaction:

        def compare():
            context = MigrationContext.configure(transaction._sync, opts={"compare_type": True})
            return compare_metadata(context, METADATA)

        assert await transaction.do(compare) == []


@pytest.mark.no_tables
async def test_text_is_compared_by_its_octets(world):
    await world.open()
    with world.sql() as sql:
        rows = sql.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
            "AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'"
        ).fetchall()
    assert rows == []


async def test_without_leave_to_migrate_the_command_is_named(world):
    with world.sql() as sql:
        sql.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(ConfigError, match=r"store\.url: .*run `ldapmfa init`"):
        await world.open(migrate=False)


async def test_a_database_of_another_encoding_is_refused(world):
    world.cluster.sql("CREATE DATABASE latin OWNER ldapmfa TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with pytest.raises(ConfigError, match=r"store\.url: .*LATIN1.*UTF8"):
            await replace(world, url=world.cluster.url("latin")).open()
    finally:
        world.cluster.drop("latin")


@pytest.mark.no_tables
async def test_one_who_may_make_no_tables_is_told_how_to(world):
    world.cluster.sql(f"ALTER DATABASE {world.url.rpartition('/')[2]} OWNER TO postgres")
    with pytest.raises(ConfigError, match=r"store\.url: .*OWNER TO"):
        await world.open()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: url.replace("correct", "wrong"), "password authentication failed"),
        (lambda url: url.rpartition("/")[0] + "/nosuch", "does not exist"),
    ],
)
async def test_what_is_wrong_with_the_url_is_said_and_the_password_is_not(world, change, says):
    with pytest.raises(ConfigError, match=rf"store\.url: .*{says}") as caught:
        await replace(world, url=change(world.url)).open()
    assert "horse" not in str(caught.value)
    assert "horse" not in repr(DatabaseUrl.parse(world.url))


# -- transactions


async def test_what_was_read_stays_so_until_the_commit_whoever_else_writes(world):
    """The lock is one for all: the second transaction reads what the first has written."""
    one, two = await world.open(), await world.open()
    await one._writer.write(adding("count"))
    mine = META.c.name == "count"

    def more(call):
        ((value,),) = call.read(select(META.c.value).where(mine))
        call.read(select(func.pg_sleep(0.01)))
        call.write(update(META).where(mine).values(value=value + b"+"))

    for _ in range(5):
        await asyncio.gather(one._writer.write(more), two._writer.write(more))
    assert await one._read(select(META.c.value).where(mine)) == [(b"+" * 10,)]


async def test_a_call_that_fails_takes_back_its_own_writes_only(world):
    store = await world.open()
    outcomes = await asyncio.gather(
        store._writer.write(adding("a")),
        store._writer.write(adding("b", then=ZeroDivisionError())),
        store._writer.write(adding("a")),
        store._writer.write(adding("c")),
        store._writer.write(lambda call: call.read(select(func.no_such_function()))),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [str, ZeroDivisionError, StoreDown, str, StoreDown]
    assert await names(store) == {"a", "c"}


async def test_A19_what_the_server_takes_back_instead_of_committing_is_no_success(world):
    """A statement failed and nobody said so: COMMIT does not fail then, its answer is ROLLBACK."""
    store = await world.open()
    row = {"name": "a", "value": b""}
    with pytest.raises(TransactionLost):
        async with store._database.transaction() as transaction:
            await transaction.do(lambda: transaction.write(ADD, row))
            with contextlib.suppress(StatementFailed):
                await transaction.do(lambda: transaction.write(ADD, row))
    assert await names(store) == set()


async def test_a_note_that_can_not_be_written_costs_no_call(world):
    store = await world.open()
    store._writer.note(ADD, name="m", value=b"")
    store._writer.note(ADD, name="n", value=None)
    assert await store._writer.write(adding("a")) == "a"
    assert store.dropped == 2
    assert await names(store) == {"a"}


async def test_A44_cuts_are_numbered_in_the_order_of_their_commits(world, alice, bob):
    """Or one that looks for numbers after the last would miss the one committed later with a lower number."""
    one, two = await world.open(), await world.open()
    with world.sql() as sql:
        sql.execute("BEGIN IMMEDIATE")
        sql.execute("INSERT INTO cuts (account_key, at) VALUES ('slow', ?)", (world.now,))
        blocking = asyncio.ensure_future(one.block(alice, 9e9, "why", world.change(alice.key)))
        await asyncio.sleep(0.1)
        assert not blocking.done()
        assert await two.cuts_since(0) == []
    assert await blocking
    assert [(cut.number, cut.account) for cut in await two.cuts_since(0)] == [(1, "slow"), (2, alice.key)]


async def test_a_node_that_holds_the_lock_and_says_nothing_holds_nobody_up_for_long(world, monkeypatch):
    """As one that lost its power within a transaction: the server ends it."""
    store, other = await world.open(), await world.open()
    reached = asyncio.Event()

    async def silent():
        async with other._database.transaction():
            await other._database._writing.raw.execute("SET idle_in_transaction_session_timeout = '300ms'")
            reached.set()
            await asyncio.sleep(60)

    holding = asyncio.ensure_future(silent())
    await reached.wait()
    assert await store._writer.write(adding("a")) == "a"
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert await other._writer.write(adding("b")) == "b"


async def test_a_session_has_the_limits_that_free_the_others(world):
    store = await world.open()
    await store._writer.write(adding("a"))
    raw = store._database._writing.raw
    found = [
        await raw.fetchval(f"SHOW {name}")
        for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout", "synchronous_commit")
    ]
    assert found == ["5s", "5s", "0", "on"], "though the server has synchronous_commit = off"
    world.cluster.sql(f"ALTER DATABASE {world.url.rpartition('/')[2]} SET synchronous_commit = remote_write")
    other = await world.open()
    await other._writer.write(adding("b"))
    assert await other._database._writing.raw.fetchval("SHOW synchronous_commit") == "on", "the standby's disk, too"


async def test_one_who_is_cancelled_before_the_rollback_leaves_nothing_to_the_next_transaction(world, monkeypatch):
    store = await world.open()
    await store._writer.write(adding("a"))
    execute, reached = asyncpg.Connection.execute, asyncio.Event()

    async def slow(self, query, *args, **options):
        if query == "ROLLBACK":
            reached.set()
            await asyncio.sleep(60)
        return await execute(self, query, *args, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", slow)

    async def fails():
        async with store._database.transaction() as transaction:
            await transaction.do(lambda: transaction.write(ADD, {"name": "b", "value": b""}))
            raise ZeroDivisionError

    failing = asyncio.ensure_future(fails())
    await reached.wait()
    failing.cancel()
    await asyncio.gather(failing, return_exceptions=True)
    await store._writer.write(adding("c"))
    assert await names(store) == {"a", "c"}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_A19_a_commit_that_got_no_answer_is_no_success(world, alice, monkeypatch, when):
    """The connection ends in the COMMIT: whether it was done or not, nobody is let in by it."""
    store = await world.open()
    await world.enrol(store)
    await world.verify(store, "000000")
    commit = postgresql._commit

    async def breaks(line, limit):
        if when == "after":
            await commit(line, limit)
        line.raw.terminate()
        await commit(line, limit)

    with monkeypatch.context() as patch:
        patch.setattr(postgresql, "_commit", breaks)
        with pytest.raises(StoreDown):
            await world.verify(store, world.code())
    expected = "replayed" if when == "after" else "accepted"
    assert (await world.verify(store, world.code())).result == expected


async def test_one_who_leaves_while_it_reads_costs_no_connection(world):
    store = await world.open()
    await store.recall("ad", "alice")
    for _ in range(50):
        reading = asyncio.ensure_future(store.recall("ad", "alice"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert await store.recall("ad", "alice") == Recall()
    assert len(store._database._readers) <= postgresql.READERS


async def test_sessions_that_the_server_ended_are_replaced_without_a_word(world):
    store = await world.open()
    await store._writer.write(adding("a"))
    await store.recall("ad", "alice")
    await store.accounts()
    world.cluster.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", world.url.rpartition("/")[2]
    )
    assert await store.recall("ad", "alice") == Recall()
    assert await store._writer.write(adding("b")) == "b"
    assert await names(store) == {"a", "b"}


@pytest.mark.parametrize("method", ["fetch", "execute", "prepare"])
async def test_a_server_that_dies_in_the_middle_of_a_message_is_down_and_no_bug(world, monkeypatch, method):
    store = await world.open()

    async def garbled(*_arguments, **_options):
        raise asyncpg.InternalClientError("got result for unknown protocol state 3")

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, method, garbled)
        for work in (lambda: store.recall("ad", "alice"), lambda: store._writer.write(adding("new")), lambda: names(store)):
            with contextlib.suppress(StoreDown):
                await work()
    await until(lambda: works(store))


async def test_a_closed_store_is_down_for_all(world):
    store = await world.open()
    await store.recall("ad", "alice")
    await store.close()
    for verb in (store.recall("ad", "alice"), store.accounts(), store._writer.write(adding("a")), store.told_of_cuts()):
        with pytest.raises(StoreDown, match="closed"):
            await verb


async def test_the_databases_own_clock(world):
    store = await world.open()
    assert abs(await store.database_time() - time.time()) < 5


# -- being told


async def test_A44_who_waits_is_woken_by_another_nodes_block(world, alice):
    store, other = await world.open(), await world.open()
    await asyncio.wait_for(store.told_of_cuts(), 5)  # that it listens from now on
    waiting = asyncio.ensure_future(store.told_of_cuts())
    await asyncio.sleep(0)
    await other.block(alice, 9e9, "why", world.change(alice.key))
    await asyncio.wait_for(waiting, 5)
    assert await store.cuts_since(0) == [Cut(1, alice.key)]


async def test_A44_whose_connection_was_lost_looks_when_it_is_back(world, monkeypatch):
    monkeypatch.setattr(postgresql, "AGAIN", 0.05)
    store = await world.open()
    await asyncio.wait_for(store.told_of_cuts(), 5)
    waiting = asyncio.ensure_future(store.told_of_cuts())
    await asyncio.sleep(0)
    world.cluster.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", world.url.rpartition("/")[2]
    )
    await asyncio.wait_for(waiting, 5)


# -- TLS


async def test_A40_the_servers_certificate_is_verified(key_file, seal, tmp_path):
    cluster = Postgresql()
    try:
        ca_file = make_certificates(cluster.directory / "tls")
        cluster.show(cluster.directory / "tls")
        cluster.start()
        url = cluster.url(cluster.database())
        named = url.replace("127.0.0.1", "localhost")
        for options in (f"?sslrootcert={ca_file}", "?ssl=require"):
            world = World(named + options, key_file, seal, cluster=cluster)
            store = await world.open()
            assert await works(store)
            raw = store._database._writing.raw
            assert await raw.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            await world.close()
        for options in ("?ssl=verify-full", f"?ssl=verify-ca&sslrootcert={make_certificates(tmp_path / 'other')}"):
            with pytest.raises(ConfigError, match=r"store\.url: .*sslrootcert"):
                await World(named + options, key_file, seal, cluster=cluster).open()
    finally:
        cluster.stop()


@pytest.mark.parametrize("ssl", ["require", "verify-ca", "verify-full"])
async def test_A40_a_server_without_tls_is_told_nothing(world, ssl):
    """Anybody between could say that it has none."""
    with pytest.raises(StoreDown, match="can't be reached"):
        await replace(world, url=f"{world.url}?ssl={ssl}").open()


# -- a server that is away


async def test_a_killed_server_is_said_to_be_away_at_once_and_it_heals(own_cluster, key_file, seal, alice):
    world = harmed(own_cluster, key_file, seal)
    store = await world.open()
    await world.enrol(store)
    own_cluster.kill()
    with pytest.raises(StoreDown):
        await store.recall("ad", "alice")
    began = time.monotonic()
    for verb in (store.recall("ad", "alice"), world.verify(store, world.code()), store.status(alice), store.accounts()):
        with pytest.raises(StoreDown):
            await verb
    assert time.monotonic() - began < 4, "none of them has waited"
    own_cluster.run()
    await until(lambda: works(store))
    assert (await world.verify(store, world.code())).result == "accepted"
    await world.close()


async def test_a_server_that_hangs_is_waited_for_once(own_cluster, key_file, seal, monkeypatch):
    monkeypatch.setattr(postgresql, "LIMIT", 0.5)
    monkeypatch.setattr(servers, "CONNECT", 0.5)
    world = harmed(own_cluster, key_file, seal)
    store = await world.open()
    assert await works(store)
    pids = own_cluster.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [store.recall("ad", "alice"), world.verify(store, "000000")]
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(one) for one in outcomes] == [StoreDown] * 2
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreDown):
                await store.recall("ad", "alice")
        assert time.monotonic() - began < 5, "none of them has waited"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await until(lambda: works(store))
    await world.close()


async def test_no_login_waits_for_a_list_of_a_server_that_hangs_nor_for_connections_that_hang_still(
    own_cluster, key_file, seal, alice, monkeypatch
):
    """Who was renamed is looked for by a query like a list's; the server goes on, the old sessions never do."""

    async def reads():
        with contextlib.suppress(StoreDown):
            await store.recall("ad", "alice")
            return True
        return False

    monkeypatch.setattr(postgresql, "LIMIT", 0.5)
    monkeypatch.setattr(servers, "CONNECT", 1.0)
    world = harmed(own_cluster, key_file, seal)
    store = await world.open()
    assert await works(store)
    await store.accounts()
    await asyncio.gather(*(store.recall("ad", "alice") for _ in range(postgresql.READERS)))
    pids = [pid for (pid,) in own_cluster.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'ldapmfa'")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        asked = [store.status(replace(alice, dn="CN=Renamed,DC=example,DC=com")), store.accounts(), store.recall("ad", "alice")]
        outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert [type(one) for one in outcomes] == [StoreDown] * 3
        await until(reads, 3)
        assert await store._writer.write(adding("a")) == "a", "the first try"
        assert await store.accounts() == []
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await world.close()


async def test_a_server_that_is_away_when_opening(own_cluster, key_file, seal):
    world = harmed(own_cluster, key_file, seal)
    own_cluster.kill()
    with pytest.raises(StoreDown, match=f"can't be reached: 127.0.0.1:{own_cluster.port}: ") as caught:
        await world.open()
    assert "horse" not in str(caught.value)


# -- a standby that takes over


@contextlib.contextmanager
def pair():
    """A server that waits for its standby, and that."""
    primary, standby = Postgresql(synchronous_commit="on"), None
    try:
        primary.start()
        standby = primary.standby(synchronous_commit="on")
        primary.configure("synchronous_standby_names", "standby")
        yield primary, standby
    finally:
        for server in (primary, standby):
            if server is not None:
                server.stop()


async def test_A19_a_promoted_standby_takes_over_with_every_code_that_was_used(key_file, seal, alice):
    with pair() as (primary, standby):
        world = harmed(primary, key_file, seal, standby)
        store = await world.open()
        await world.enrol(store)
        assert (await world.verify(store, world.code())).result == "accepted"
        number = await store.last_cut()
        primary.kill()
        with pytest.raises(StoreDown):
            await world.verify(store, world.code())
        await asyncio.to_thread(standby.promote)
        await until(lambda: works(store))
        assert (await world.verify(store, world.code())).result == "replayed"
        world.now += 30
        assert (await world.verify(store, world.code())).result == "accepted"
        await store.block(alice, 9e9, "why", world.change(alice.key))
        number += 32 - store.lost_cuts()
        assert [cut.account for cut in await store.cuts_since(number)] == [alice.key], "a number may come again"
        assert store.lost_cuts() == 0, "once"
        # the old one comes back and takes writes: nobody is fooled by it
        primary.settings["synchronous_standby_names"] = ""
        await asyncio.to_thread(primary.run)
        await world.verify(store, "000000")
        store._database._drop_readers()
        await store._database._lose(store._database._writing)
        assert (await world.verify(store, world.code())).result == "blocked"
        standby.kill()
        for _ in range(3):
            with pytest.raises(StoreDown):
                await world.verify(store, world.code())
            await asyncio.sleep(0.3)
        await world.close()


async def test_A19_an_old_primary_that_goes_on_is_left_though_its_connections_work(key_file, seal, alice, monkeypatch):
    """Nothing fails on them: who has a successor must be looked for. Nor is a block there to be missed."""
    monkeypatch.setattr(postgresql, "LOOK", 0.2)
    with pair() as (primary, standby):
        world = harmed(primary, key_file, seal, standby)
        store = await world.open()
        await world.enrol(store)
        assert await works(store)
        await asyncio.wait_for(store.told_of_cuts(), 5)
        waiting = asyncio.ensure_future(store.told_of_cuts())
        primary.configure("synchronous_standby_names", "")
        await asyncio.to_thread(standby.promote)
        other = await replace(world, url=standby.url(world.url.rpartition("/")[2]), stores=world.stores).open()
        assert (await world.verify(other, world.code())).result == "accepted"
        await asyncio.wait_for(waiting, 5)
        assert (await world.verify(store, world.code())).result == "replayed"
        await other.block(alice, 9e9, "why", world.change(alice.key))
        assert (await store.status(alice)).blocked
        await world.close()


async def test_A19_a_commit_that_did_not_reach_the_standby_is_no_success(key_file, seal):
    """Somebody ends the wait: the server says COMMIT, and warns."""
    with pair() as (primary, standby):
        world = harmed(primary, key_file, seal)
        store = await world.open()
        await world.enrol(store)
        standby.kill()
        verifying = asyncio.ensure_future(world.verify(store, world.code()))

        async def waits():
            return primary.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'") != []

        await until(waits)
        primary.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        with pytest.raises(StoreDown, match="may not have reached the standby|TransactionLost"):
            await verifying
        primary.settings["synchronous_standby_names"] = ""
        primary.kill()
        primary.run()
        await until(lambda: works(store))
        assert (await world.verify(store, world.code())).result == "replayed"
        await world.close()


async def test_what_endangers_the_data_is_told(world):
    store = await world.open()
    risks = await store.risks()
    assert [risk for risk in risks if "fsync = off" in risk]
    two = await replace(world, url=world.url.replace("@127", "@127.0.0.1:1,127"), stores=world.stores).open()
    assert [risk for risk in await two.risks() if "synchronous_standby_names" in risk]
