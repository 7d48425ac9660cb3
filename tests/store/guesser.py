"""Another process on the same database: counts thirty wrong passwords for one name in parallel.

Run as ``python guesser.py URL KEY_FILE NOW``. It prints "ready", waits for a line, and prints how many it counted.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn


async def main(url, key_file, now):
    seal = Seal(Path(key_file), entropy=os.urandom)
    store = await Store.open(url, seal, clock=lambda: now, normalise_dn=dn.normalise)
    limit = PasswordLimit()
    counted, _ = await store.tried("ad", "alice", "192.0.2.7", Secret(b"x"), limit)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    done = await asyncio.gather(*(store.count_wrong(counted, Secret(f"{n}".encode()), limit) for n in range(30)))
    print(json.dumps(len(done)), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
