#!/usr/bin/python3
"""Run a server in a network namespace and relay to it from listeners made outside.

usage: namespace.py ADDRESS FD=PORT... -- COMMAND...

Each FD is an inherited listening socket (it stays in the namespace it was made in); its connections go to
ADDRESS:PORT in here. On TERM the command is ended first.
"""

import asyncio
import fcntl
import signal
import socket
import struct
import sys

SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41


def loopback_up():
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


def relay(address, port):
    async def connected(reader, writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        inner_writer.close()
        writer.close()

    return connected


async def main():
    split = sys.argv.index("--")
    address, listeners, command = sys.argv[1], sys.argv[2:split], sys.argv[split + 1 :]
    loopback_up()
    server = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig", "KILL", *command, stdin=asyncio.subprocess.DEVNULL)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.terminate)
    for listener in listeners:
        fd, port = map(int, listener.split("="))
        await asyncio.start_server(relay(address, port), sock=socket.socket(fileno=fd))
    return await server.wait()


if __name__ == "__main__":
    sys.exit(abs(asyncio.run(main())))
