"""Another process on the same database: opens a store, verifies codes in parallel, prints what became of them.

Run as ``python node.py URL KEY_FILE NOW IDENTITY_JSON CODES_JSON [HANG]``. It prints "ready", waits for a line, and prints
one JSON list of results after the calls returned; then it waits to be killed, or for its input to end. HANG is "before" or
"after": there, of its first COMMIT, it prints "hanging" and goes no further.
"""

import asyncio
import json
import os
import sys
import threading
from pathlib import Path

from ldapmfa.audit import LoginEnded
from ldapmfa.core.identity import Identity
from ldapmfa.factors.totp import Totp
from ldapmfa.store import Store, postgresql, sqlite
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn


def hang(when):
    commit, commits = sqlite._commit, postgresql._commit

    def hanging(beneath):
        if when == "after":
            commit(beneath)
        hang()

    async def hangs(line, limit):
        if when == "after":
            await commits(line, limit)
        hang()

    def hang():
        print("hanging", flush=True)
        threading.Event().wait()

    sqlite._commit, postgresql._commit = hanging, hangs


async def main(url, key_file, now, identity, codes):
    seal = Seal(Path(key_file), entropy=os.urandom)
    store = await Store.open(url, seal, clock=lambda: now, normalise_dn=dn.normalise)
    totp = Totp()
    success = LoginEnded(
        at=now, outcome="accepted", reason="code", result=0, reference="", listener="l", client="c",
        name="alice", directory="ad",
    )  # fmt: skip
    evaluated = 0

    def match(code):
        def matching(credential):
            nonlocal evaluated
            evaluated += 1
            return totp.match(credential, code, now)

        return matching

    for when in sys.argv[6:]:
        hang(when)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    results = await asyncio.gather(*(store.verify(identity, match(code), success, ["alice"]) for code in codes))
    print(json.dumps({"results": [one.result for one in results], "evaluated": evaluated}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()


if __name__ == "__main__":
    _, url, key_file, now, identity, codes = sys.argv[:6]
    fields = json.loads(identity)
    who = Identity(**{**fields, "accounts": tuple(fields["accounts"])})
    asyncio.run(main(url, key_file, float(now), who, json.loads(codes)))
