"""`async def` tests run as asyncio tasks on Twisted's asyncio reactor: libraries of asyncio need that."""

import asyncio
import functools
import inspect

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from world import World


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.obj = pytest_twisted.ensureDeferred(_as_task(item.obj))


def _as_task(function):
    @functools.wraps(function)
    async def run(**fixtures):
        async def test():
            try:
                await function(**fixtures)
            finally:
                for fixture in fixtures.values():
                    if isinstance(fixture, World):
                        await fixture.close()

        await Deferred.fromFuture(asyncio.ensure_future(test()))

    return run


@pytest.fixture
def house(tmp_path):
    """A whole proxy in memory: see tests/world.py."""
    return World(tmp_path)
