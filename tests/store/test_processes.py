"""Several processes on one database, and one that is killed."""

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


class Node:
    def __init__(self, world, identity, codes, *when):
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("node.py")),
                world.url,
                str(world.key_file),
                str(world.now),
                json.dumps({name: value for name, value in asdict(identity).items() if not isinstance(value, frozenset)}),
                json.dumps(codes),
                *when,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self):
        assert self.process.stdout.readline() == "ready\n"

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(timeout=20) == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=20)
        self.process.stdin.close()
        self.process.stdout.close()


async def run(world, identity, *code_lists):
    def together():
        nodes = [Node(world, identity, codes) for codes in code_lists]
        for node in nodes:
            node.ready()
        for node in nodes:
            node.go()
        answers = [node.answer() for node in nodes]
        for node in nodes:
            node.end()
        return answers

    return await asyncio.to_thread(together)


async def test_a19_the_same_code_in_two_processes_wins_once(world, alice):
    store = await world.open()
    await world.enrol(store)
    answers = await run(world, alice, [world.code()] * 50, [world.code()] * 50)
    results = [result for answer in answers for result in answer["results"]]
    assert sorted(results) == ["accepted"] + ["replayed"] * 99


async def test_a20_wrong_codes_count_together_in_two_processes(world, alice):
    store = await world.open()
    await world.enrol(store)
    wrong = [f"{number:06}" for number in range(100) if f"{number:06}" not in {world.code(n) for n in (-1, 0, 1)}]
    answers = await run(world, alice, wrong[:50], wrong[50:])
    results = [result for answer in answers for result in answer["results"]]
    assert results.count("wrong") == 10
    assert set(results) == {"wrong", "locked"}
    assert sum(answer["evaluated"] for answer in answers) == 10
    assert (await world.verify(store, world.code())).result == "locked"


@pytest.mark.no_tables
async def test_two_processes_may_open_a_new_database_at_once(world, alice):
    answers = await run(world, alice, ["000000"], ["000000"], ["000000"])
    assert [answer["results"] for answer in answers] == [["not-enrolled"]] * 3


async def test_a_code_stays_burnt_when_its_process_is_killed_after_the_answer(world, alice):
    store = await world.open()
    await world.enrol(store)
    await world.close()

    def killed():
        node = Node(world, alice, [world.code()])
        node.ready()
        node.go()
        answer = node.answer()
        node.kill()
        return answer

    assert (await asyncio.to_thread(killed))["results"] == ["accepted"]
    store = await world.open()
    assert (await world.verify(store, world.code())).result == "replayed"
    (event,) = [event for event in await store.events() if type(event).__name__ == "LoginEnded"]
    assert (event.account, event.factor) == (alice.key, "totp")


@pytest.mark.parametrize(("when", "expected"), [("before", "accepted"), ("after", "replayed")])
async def test_one_killed_in_its_commit_has_said_nothing_and_holds_nobody_up(world, alice, when, expected):
    """Before the COMMIT the code is still good; after it the code is burnt, though nobody heard."""
    store = await world.open()
    await world.enrol(store)

    def killed():
        node = Node(world, alice, [world.code()], when)
        node.ready()
        node.go()
        assert node.process.stdout.readline() == "hanging\n"
        node.process.send_signal(signal.SIGKILL)
        rest = node.process.stdout.read()
        node.process.wait(timeout=20)
        node.process.stdin.close()
        node.process.stdout.close()
        return rest

    assert await asyncio.to_thread(killed) == ""
    assert (await world.verify(store, world.code())).result == expected


async def test_a_program_that_forgets_to_close_ends_all_the_same(world):
    program = f"""
import asyncio, os
from pathlib import Path
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal

async def main():
    seal = Seal(Path({str(world.key_file)!r}), entropy=os.urandom)
    return await Store.open({world.url!r}, seal, clock=lambda: 0.0, normalise_dn=str)

loop = asyncio.new_event_loop()
store = loop.run_until_complete(main())
loop.run_until_complete(store.accounts())
print("done")
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
