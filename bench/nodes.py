"""How many logins a second several nodes get out of one PostgreSQL, by the store's part of each.

    python -m bench.nodes postgresql+asyncpg://ldapmfa:secret@127.0.0.1/an_empty_database --nodes 2

Each node is a process with 64 logins under way at any time, of accounts of its own, which stay in that database.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from bench.distance import Logins
from ldapmfa.store.seal import Seal

CROWD: Final = 64
SECONDS: Final = 5.0


async def node(url: str, key: Path, number: int) -> None:
    """Print how many logins came through, when all others are ready, too."""
    numbers = range(number * CROWD, (number + 1) * CROWD)
    logins = Logins(url, Seal(key, entropy=os.urandom))
    store = await logins.open()
    await logins.enrol(store, numbers)
    click.echo("ready")
    await asyncio.to_thread(sys.stdin.readline)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        logins.later()
        await asyncio.gather(*(logins.login(store, account) for account in numbers))
        count += len(numbers)
    click.echo(f"{count / (time.perf_counter() - began):.1f}")
    await store.close()


async def measured(url: str, nodes: int) -> None:
    """Start the nodes, let them go together, and print what they did."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder, "key")
        Seal.create(key, entropy=os.urandom)
        processes = []
        for number in range(nodes):
            words = [sys.executable, "-m", "bench.nodes", url, "--key", str(key), "--number", str(number)]
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
            if process.stdin is None or process.stdout is None:
                raise AssertionError(pipe)
            processes.append((process, process.stdin, process.stdout))
            await process.stdout.readline()
        for _, stdin, _ in processes:
            stdin.write(b"go\n")
        rates = [float(await stdout.readline()) for _, _, stdout in processes]
        for process, _, _ in processes:
            await process.wait()
    click.echo(f"{nodes} nodes: {sum(rates):.0f} logins a second ({' + '.join(f'{rate:.0f}' for rate in rates)})")


@click.command()
@click.argument("url")
@click.option("--nodes", default=2, help="How many.")
@click.option("--key", type=click.Path(path_type=Path), hidden=True)
@click.option("--number", type=int, default=0, hidden=True)
def main(url: str, nodes: int, key: Path | None, number: int) -> None:
    """Measure at the empty PostgreSQL database of URL."""
    asyncio.run(measured(url, nodes) if key is None else node(url, key, number))


if __name__ == "__main__":
    main()
