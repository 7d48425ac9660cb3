"""What stands between the proxy and the world, and can be told to fail: a TCP middleman, a name server, a filled disk."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
from pathlib import Path
from typing import Self


class Middleman:
    """Carries every connection to `port`, octet for octet, until it is told otherwise.

    `delay`: seconds that every piece from the far side waits. `cut_after`: the far side's octets of each answer after which
    the connection ends, within an answer. `deaf`: accepts, and carries nothing.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self.delay = 0.0
        self.cut_after: int | None = None
        self.deaf = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def uri(self) -> str:
        """Where the directory seems to be."""
        return f"ldap://127.0.0.1:{self.port}"

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        ways = [asyncio.ensure_future(self._there(reader, far_writer)), asyncio.ensure_future(self._back(far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                while self.deaf:
                    await asyncio.sleep(0.05)
                writer.write(data)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.delay)
                if self.cut_after is not None:
                    writer.write(data[: self.cut_after])
                    await writer.drain()
                    return
                writer.write(data)


class Names(asyncio.DatagramProtocol):
    """A name server that knows one address for every name, for a second; `silent`: it does not answer."""

    ADDRESS = "127.77.0.53"

    def __init__(self) -> None:
        self.silent = False
        self.asked = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(self.ADDRESS, 53))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self.asked += 1
        if self.silent or len(data) < 17:
            return
        end = data.index(b"\0", 12) + 5
        answers = struct.pack("!HHHLH4s", 0xC00C, 1, 1, 1, 4, socket.inet_aton("127.0.0.1")) if data[end - 4 : end - 2] == b"\0\1" else b""
        counts = struct.pack("!HHHHH", 0x8580, 1, bool(answers), 0, 0)
        self._transport.sendto(data[:2] + counts + data[12:end] + answers, sender)


class SmallDisk:
    """A file system of a few megabytes at `place`, in a mount namespace that ends with us."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        place.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", place], check=True)

    def fill(self) -> None:
        """Until there is no room for an octet."""
        with contextlib.suppress(OSError), (self.place / "filling").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        """There is room again."""
        (self.place / "filling").unlink(missing_ok=True)

    def close(self) -> None:
        """It is gone."""
        subprocess.run(["umount", "--lazy", self.place], check=False)


def bound_over(text: str, over: Path, scratch: Path) -> None:
    """A file with this text stands for `over`, in our mount namespace."""
    scratch.write_text(text)
    subprocess.run(["mount", "--bind", scratch, over], check=True)
