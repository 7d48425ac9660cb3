"""A request that is cancelled at whichever moment spoils nothing for the next one: clients leave when they like."""

import asyncio
import contextlib

from fakes.web import Web, as_json

from ldapmfa.config import HttpTable
from ldapmfa.factors.http import Http
from ldapmfa.factors.service import Tools


async def answer(request):
    await asyncio.sleep(0)
    return as_json({"path": request.path})


async def test_A09_a_cancelled_request_leaves_no_connection_that_hangs(tmp_path):
    with Web(tmp_path, answer) as web:
        table = HttpTable(kind="duo", ca_file=web.ca_file, connections=2, response_timeout=2)
        http = Http("fake", table, Tools())
        try:
            for turns in range(120):
                for after in (lambda: asyncio.sleep(0), lambda: asyncio.sleep(0.001)):
                    request = asyncio.ensure_future(http.send("GET", f"{web.url}/cancelled"))
                    for _ in range(turns // 2):
                        await asyncio.sleep(0)
                    await after()
                    request.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await request
                    reply = await http.send("GET", f"{web.url}/{turns}")
                    assert reply.json("fake") == {"path": f"/{turns}"}
        finally:
            await http.close()
