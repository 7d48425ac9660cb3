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

    @contextmanager
    def sql(self):
        """The database behind the store's back."""
        with closing_connection(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
            yield connection
            connection.commit()


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "key"


@pytest.fixture
def seal(key_file):
    return Seal.create(key_file, entropy=os.urandom)


@pytest.fixture(params=["sqlite"])
def url(request, tmp_path):
    """PostgreSQL joins here."""
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def world(url, key_file, seal):
    return World(url, key_file, seal)


@pytest.fixture
def alice():
    return ALICE


@pytest.fixture
def bob():
    return BOB
