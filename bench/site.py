"""What one run has started: the directory, the peers before it, and the loads; everything ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import machine
from bench.directory import ACCOUNT_DN, ACCOUNTS, BASE, LOAD_DN, PASSWORD, Directory, answers, entry_uuid
from bench.load import secret
from bench.peers import PEERS, STORE_KEY, Before, Peer, ldapmfa
from ldapmfa.audit import AccountChanged
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.factors import NewCredential
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn


class Invalid(Exception):  # noqa: N818 - named as what is the case
    """A sample that is none: an operation failed."""


class Load:
    """A load generator before one port: a process that does as many operations as it is told."""

    def __init__(self, process: machine.Process) -> None:
        self._process = process
        self._line()

    def run(self, operations: int) -> dict[str, Any]:
        """What came of them. Invalid: not all of them succeeded."""
        self.begin(operations)
        return self.end()

    def begin(self, operations: int) -> None:
        """Start, and don't wait."""
        pipe = self._process.popen.stdin
        if pipe is None:
            raise AssertionError("started without pipes")
        pipe.write(f"{operations}\n".encode())
        pipe.flush()

    def end(self) -> dict[str, Any]:
        """Wait for what was begun."""
        done = self._line()
        if done["failed"]:
            raise Invalid(f"{done['failed']} operations failed: {done['why']}")
        return done

    def _line(self) -> dict[str, Any]:
        pipe = self._process.popen.stdout
        line = pipe.readline() if pipe else b""
        if not line:
            raise Invalid(self._process.obituary("said nothing"))
        said: dict[str, Any] = json.loads(line)
        return said


class Site:
    """A temporary directory in which things run. Directory and peers are started when they are first asked for."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._open = contextlib.ExitStack()
        self._peers: dict[str, Peer] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.__exit__(kind, error, at)

    @cached_property
    def directory(self) -> Directory:
        """OpenLDAP with 10,000 people."""
        made = Directory(self.place / "directory")
        self._open.enter_context(made.process)
        made.wait()
        return made

    def peer(self, name: str) -> Peer:
        """A peer before the directory, the same for all rows."""
        if name not in self._peers:
            self._peers[name] = self._open.enter_context(self.fresh(name, self.directory))
        return self._peers[name]

    @contextlib.contextmanager
    def fresh(self, name: str, directory: Before, *, wait: bool = True) -> Iterator[Peer]:
        """A peer for the block alone."""
        peer = PEERS[name][1](self.new_place(name), directory)
        with peer.process:
            if wait:
                peer.process.wait_until(lambda: answers(peer.port))
            yield peer

    @contextlib.contextmanager
    def ours(
        self, settings: Mapping[str, Mapping[str, object]], variables: Mapping[str, str] | None = None
    ) -> Iterator[Peer]:
        """Ourselves for the block alone, otherwise configured; all accounts are enrolled, no code has been used."""
        place = self.new_place("ldapmfa")
        shutil.copytree(self._full_store, place, dirs_exist_ok=True)
        peer = ldapmfa(place, self.directory, settings, variables)
        with peer.process:
            peer.process.wait_until(lambda: answers(peer.port))
            yield peer

    @contextlib.contextmanager
    def load(self, kind: str, port: int, **spec: object) -> Iterator[Load]:
        """A load before `port`, bound as the account that needs no code unless `spec` says otherwise."""
        spec = {"load": kind, "port": port, "dn": LOAD_DN, "password": PASSWORD, "base": BASE, **spec}
        argv = [sys.executable, "-m", "bench.load", json.dumps(spec)]
        with machine.Process(argv, self.new_place("load") / "load.log", talks=True) as process:
            yield Load(process)

    def new_place(self, name: str) -> Path:
        """An empty folder."""
        self._count += 1
        place = self.place / f"{self._count:03d}-{name}"
        place.mkdir()
        return place

    @cached_property
    def enrolled(self) -> int:
        """All accounts enrolled with our own proxy; gives how many."""
        asyncio.run(_enrol(self.peer("ldapmfa").process.log.parent))
        return ACCOUNTS

    @cached_property
    def _full_store(self) -> Path:
        """A store that holds all accounts, and its key."""
        place = self.new_place("store")
        Seal.create(place / STORE_KEY, entropy=os.urandom)
        asyncio.run(_enrol(place))
        return place


async def _enrol(place: Path) -> None:
    seal = Seal(place / STORE_KEY, entropy=os.urandom)
    store = await Store.open(f"sqlite:///{place}/state.db", seal, clock=time.time, normalise_dn=dn.normalise)
    parameters = {"algorithm": "sha1", "digits": 6, "period": 30}

    async def one(number: int) -> None:
        name = f"user{number:05d}"
        identity = Identity("default", f"uuid:{entry_uuid(number)}", ACCOUNT_DN.format(number), (name,))
        new = NewCredential("totp", Secret(secret(number)), parameters)
        change = AccountChanged(at=time.time(), action="enrolled", account=identity.key, actor="bench")
        await store.enrol(identity, new, "bench", change)

    try:
        for begin in range(0, ACCOUNTS, 200):
            await asyncio.gather(*map(one, range(begin, begin + 200)))
    finally:
        await store.close()
