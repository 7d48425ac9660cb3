"""A store on a real file, and a clock that stands still."""

import functools
import inspect
import os
import sqlite3
from contextlib import closing as closing_connection
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyotp
import pytest
from system.servers.common import wait_for
from system.servers.postgresql import Connection, Postgresql, aside

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.factors import NewCredential
from ldapmfa.factors.hotp import base32
from ldapmfa.factors.recovery import Recovery
from ldapmfa.factors.totp import Totp
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn


def pytest_collection_modifyitems(items):
    """Close this room's stores inside the test's own task, which tests/conftest.py makes of it."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.obj = closing(item.obj)


def closing(function):
    @functools.wraps(function)
    async def test(**fixtures):
        try:
            await function(**fixtures)
        finally:
            if "world" in fixtures:
                await fixtures["world"].close()

    return test


SEED = Secret(b"12345678901234567890")
ALICE = Identity("ad", "guid:" + "a1" * 16, "CN=Alice,OU=People,DC=example,DC=com", ("Alice",), "alice@Example.com")
BOB = Identity("ad", "guid:" + "b0" * 16, "CN=Bob,OU=People,DC=example,DC=com", ("bob",), "bob@example.com")


def totp(seed=SEED):
    return NewCredential("totp", seed, {"algorithm": "sha1", "digits": 6, "period": 30})


@dataclass
class World:
    """What a store is opened with; `now` moves only when a test moves it."""

    url: str
    key_file: Path
    seal: Seal
    now: float = 1_700_000_000.0
    stores: list = field(default_factory=list)
    evaluated: int = 0
    cluster: Postgresql | None = None

    async def open(self, **options):
        store = await Store.open(
            self.url,
            options.pop("seal", self.seal),
            clock=lambda: self.now,
            normalise_dn=dn.normalise,
            **options,
        )
        self.stores.append(store)
        return store

    async def close(self):
        while self.stores:
            await self.stores.pop().close()

    def code(self, offset=0, seed=SEED):
        return pyotp.HOTP(base32(seed)).at(int(self.now // 30) + offset)

    def match(self, code):
        """What net/ hands to `verify`: the factor of the credential's kind, asked about this code."""
        factors = {"totp": Totp(), "recovery": Recovery()}

        def match(credential):
            self.evaluated += 1
            return factors[credential.kind].match(credential, code, self.now)

        return match

    def success(self, reference=""):
        return LoginEnded(
            at=self.now,
            outcome="accepted",
            reason="code",
            result=0,
            reference=reference,
            listener="ldaps",
            client="192.0.2.1",
            name="alice",
            directory="ad",
        )

    def change(self, account="ad/x", action="enrolled"):
        return AccountChanged(at=self.now, action=action, account=account, actor="root")

    async def verify(self, store, code, identity=ALICE, names=("alice",)):
        return await store.verify(identity, self.match(code), self.success(), names)

    async def enrol(self, store, owner=ALICE, new=None):
        return await store.enrol(owner, new or totp(), "phone", self.change())

    @property
    def postgresql(self):
        """Whether it is."""
        return self.cluster is not None

    @contextmanager
    def sql(self):
        """The database behind the store's back."""
        if self.cluster is not None:
            with closing_connection(Connection(self.cluster, self.url.rpartition("/")[2])) as connection:
                yield connection
                connection.commit()
            return
        with closing_connection(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
            yield connection
            connection.commit()


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "key"


@pytest.fixture
def seal(key_file):
    return Seal.create(key_file, entropy=os.urandom)


@pytest.fixture(scope="session")
def postgresql():
    cluster = Postgresql()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def migrated(postgresql):
    """A database with all tables, and nothing in them: making those takes a second."""
    from ldapmfa.config.postgresql import DatabaseUrl
    from ldapmfa.store import database
    from ldapmfa.store.postgresql import Postgresql as Opened

    name = postgresql.database()

    async def make():
        opened = Opened(DatabaseUrl.parse(postgresql.url(name)), lambda: DatabaseUrl.parse(postgresql.url(name)).password)
        await opened._prepare(lambda connection: database.upgrade(connection, migrate=True))

    aside(make)
    wait_for(lambda: postgresql.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name) == [(0,)])
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request):
    """Each test runs with both, unless its module or itself names one."""
    return request.param


@pytest.fixture
def world(request, kind, key_file, seal, tmp_path):
    if kind == "sqlite":
        yield World(f"sqlite:///{tmp_path}/state.db", key_file, seal)
        return
    cluster = request.getfixturevalue("postgresql")
    template = "template0" if request.node.get_closest_marker("no_tables") else request.getfixturevalue("migrated")
    name = cluster.database(template)
    try:
        yield World(cluster.url(name), key_file, seal, cluster=cluster)
    finally:
        cluster.drop(name)


@pytest.fixture
def url(world):
    return world.url


only_sqlite = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


@pytest.fixture
def alice():
    return ALICE


@pytest.fixture
def bob():
    return BOB
