"""Logins played before a real directory with a policy in memory: a real store, and an owner who says what a test says."""

from __future__ import annotations

import os
import time

from twisted.internet import reactor
from world import Owner

from ldapmfa.config import ServiceTable
from ldapmfa.core.policy import Policy
from ldapmfa.core.questions import Attempt
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.factors.breaker import Guarded
from ldapmfa.factors.hotp import Hotp
from ldapmfa.factors.service import Allowed
from ldapmfa.net import service
from ldapmfa.net.asking import Terms
from ldapmfa.net.directory import Directory, DirectorySettings
from ldapmfa.net.driver import Bind, Doorway, Login, RefusedShapes
from ldapmfa.net.link import Server
from ldapmfa.net.moment import moment
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn


def directory_of(server, *, with_service=False, **changes):
    """The proxy's side of `server`."""
    account = {"service_dn": server.service_dn, "service_password": Secret(server.service_password.encode())}
    settings = {**(account if with_service else {}), **changes}
    where = (Server(server.host, server.port, ldaps=False),)
    return Directory(DirectorySettings("default", "default", where, **settings), reactor, service.message_id)


async def bound(directory, name, password):
    """A link on which that account is bound, and who it is."""
    link, answer = await directory.verify_password(None, name.encode(), Secret(password.encode()), 1, b"")
    assert answer.code == 0, answer.text
    return link, await directory.identify(link)


class Played:
    """`async with` one; then `bind` as often as needed. The owner of every account approves at once."""

    def __init__(self, server, path, policy, **settings):
        self.directory = directory_of(server, **settings)
        self.path = path
        self.policy = policy
        self.owner = Owner()
        self.owner.begins = Allowed("push")
        self.events = []

    async def __aenter__(self):
        seal = Seal.create(self.path / "key", entropy=os.urandom)
        url = f"sqlite:///{self.path}/state.db"
        self.store = await Store.open(url, seal, clock=time.time, normalise_dn=dn.normalise)

        async def sleep(_seconds):
            raise AssertionError("no service fails here")

        table = ServiceTable(kind="owner")
        asks = Guarded("duo", self.owner, table, clock=reactor.seconds, sleep=sleep, keep=lambda work: work.close())
        self.doorway = Doorway(
            store=self.store,
            factors={"hotp": Hotp()},
            clock=reactor,
            now=time.time,
            reference=service.reference_code,
            record=self.events.append,
            refused=RefusedShapes(reactor),
            services={"duo": asks},
            terms=Terms("app", prompts=1000),
            refusal_floor=0.0,
        )
        return self

    async def __aexit__(self, *_):
        self.directory.close()
        await self.store.close()

    async def bind(self, name, password, policy: Policy | None = None):
        """How a login ends, as it is recorded, and how often somebody was asked in it."""
        asked = len(self.owner.prompts)
        form, at = CodeForm(), moment(time.time(), None)
        attempt = Attempt(name, Secret(password.encode()), "default", None, form, policy or self.policy, at)
        login = Login(Bind(attempt, 1, name.encode(), b"", "test", "test"), self.doorway, self.directory, None)
        ended = await login.play(_at_once)
        if ended.link:
            ended.link.close()
        return self.events[-1], len(self.owner.prompts) - asked


async def _at_once():
    pass
