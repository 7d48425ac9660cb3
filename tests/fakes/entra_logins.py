"""Logins at Entra, as its tests make them: a service in front of a fake."""

import asyncio
import contextlib
import types

import pytest

from fakes.entra import PATH, SECRET, Entra, User
from ldapmfa.core.identity import Identity
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors import entra
from ldapmfa.factors.entra_table import EntraTable
from ldapmfa.factors.service import Prompt, Tools, Waiting

ALICE = Identity("default", "guid:01", "cn=alice,dc=example,dc=com", ("alice",), "alice@example.com")
BEGIN, END, TOKEN = f"{PATH}/Begin", f"{PATH}/End", "/7a2f4c1e"
PENDING = "AuthenticationPending"


def prompt(method="", *, user="alice@example.com", seconds=60.0, device=""):
    return Prompt(ALICE, user, "the VPN", "192.0.2.7", method, device, seconds)


@contextlib.asynccontextmanager
async def service(tmp_path, web=None, fake=None, **settings):
    """A service and a fake, in a namespace that also has what was said and how long it slept."""
    fake = fake or Entra(tmp_path, **(web or {}))
    slept, said = [], []

    async def sleep(seconds):
        slept.append(seconds)
        await asyncio.sleep(0.001)

    async with fake:
        fake.users["alice@example.com"] = User()
        given = {**fake.settings, "client_secret": SECRET, **settings}
        made = entra.Entra(EntraTable(kind="entra", **given), Tools(sleep=sleep, say=said.append))
        try:
            yield types.SimpleNamespace(
                it=made, fake=fake, web=fake.web, alice=fake.users["alice@example.com"], slept=slept, said=said
            )
        finally:
            await made.close()


async def asked(run, method="", **more):
    """What becomes of a login that asks somebody."""
    asking = prompt(method, **more)
    started = await run.it.start(asking)
    return await run.it.wait(asking, started) if isinstance(started, Waiting) else started


async def down(awaitable):
    """The failure, which must not be one that opens."""
    with pytest.raises(FactorDown) as caught:
        await awaitable
    assert not isinstance(caught.value, FactorUnreachable)
    return caught.value


#: How a server may treat a request, and what that must be.
WHOLE = [
    ("status", {"status": 500}, FactorUnreachable),
    ("status", {"status": 503}, FactorUnreachable),
    ("status", {"status": 400}, FactorDown),
    ("status", {"status": 403}, FactorDown),
    ("status", {"status": 404}, FactorDown),
    ("status", {"status": 401}, FactorDown),
    ("status", {"status": 429, "headers": {"Retry-After": "7"}}, FactorDown),
    ("garbage", {}, FactorDown),
    ("huge", {}, FactorDown),
    ("nonsense", {}, FactorDown),
    ("redirect", {}, FactorDown),
]
