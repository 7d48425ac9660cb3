"""A06: whatever two clients do on connections they use again, each operation runs as whom its client was told it is.

A model-based test of the whole proxy in memory. The model knows of every bind who asked for it and whether it may
succeed, and of every operation whose it is; when one reaches the directory, the link's bound identity must be the one of the
last BindResponse that very client has received, which must be a success, and no bind of it may be unanswered. Both with
each link to the directory used once, and with links that serve one client after the other.
"""

import asyncio
import itertools

import greenlet
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from world import (
    ALICE,
    BOB,
    PASSWORD,
    SERVICE,
    World,
    bind,
    directory_settings,
    frames,
    is_bind_as_nobody,
    result,
    root_dse,
    search,
    unbind,
)

from ldapmfa.wire import dn, ldap

WHO = st.sampled_from((ALICE, BOB, SERVICE))
HOW = st.sampled_from(("fresh", "fresh", "fresh", "again", "wrong code", "no code", "wrong password", "empty"))
SLOT = st.integers(0, 1)


def play(work):
    """Run a coroutine on the loop to its end, from a function that `beside_the_loop` runs."""
    task, us = asyncio.ensure_future(work), greenlet.getcurrent()
    task.add_done_callback(lambda _task: us.switch())
    us.parent.switch()
    return task.result()


async def beside_the_loop(function):
    """Run a function that is no coroutine and calls `play`: hypothesis knows nothing of loops."""
    done = asyncio.get_running_loop().create_future()

    def run():
        try:
            done.set_result(function())
        except BaseException as failed:  # noqa: BLE001 - it is raised below
            done.set_exception(failed)

    greenlet.greenlet(run).switch()
    await done


class Reuse(RuleBasedStateMachine):
    path = None  # where the store lies; one for all runs, with new accounts in each
    store = None
    spare_links = 0
    successes = 0
    recycled = 0  # binds on a link that somebody else had given back

    @initialize()
    def begin(self):
        self.house = World(self.path, settings=directory_settings(spare_links=self.spare_links))
        if Reuse.store is None:
            play(self.house.open())
            Reuse.store = self.house.store
        else:
            self.house.store = Reuse.store
            play(self.house.enrol(ALICE))
            play(self.house.enrol(BOB))
            self.house.assemble()
        self.house.now = Reuse.now = getattr(Reuse, "now", self.house.now) + 3600
        self.ids = itertools.count(1)
        self.asked = {}  # message id of a bind: who, the code's step (None: none needed), and whether it may succeed
        self.owner = {}  # message id of an operation: whose it is
        self.used = set()
        self.wrong = []
        self.house.directory.misbehave = self.bind_and_deny
        self.serve, self.house.directory.serve = self.house.directory.serve, self.served
        self.clients = [self.house.client(port=40_000), self.house.client(port=40_001)]
        self.sent = [0, 0]  # binds, on the connection there is

    def teardown(self):
        self.house.directory.holds = lambda link, frame: False
        for client in self.clients:
            client.leave()
        play(self.settled())
        Reuse.now = self.house.now
        for link in self.house.directory.served:
            tags = [is_bind_as_nobody(frame) for frame in link.received if frame.tag == ldap.BIND_REQUEST]
            Reuse.recycled += sum(before and not after for before, after in itertools.pairwise(tags))
        assert self.house.links_open == 0
        assert self.house.budget.logins_used == 0
        assert self.house.budget.octets_used == 0

    # -- the model

    def told(self, client):
        """The BindResponses that the client has received."""
        return [frame for frame in frames(bytes(client.pipe.written)) if frame.tag == ldap.BIND_RESPONSE]

    def identity(self, client):
        """As whom operations of this client may run."""
        told = self.told(client)
        if not told or ldap.read_result(told[-1]).code != 0:
            return None
        return self.asked[told[-1].id][0]

    def bind_and_deny(self, link, frame):
        """A50, the worst of directories: it says no to a wrong password, and binds the link all the same."""
        if frame.tag != ldap.BIND_REQUEST or is_bind_as_nobody(frame):
            return None
        asked = ldap.read_bind(frame)
        link.bound = dn.normalise(asked.name.decode())
        return [result(frame.id, frame.tag, 0 if asked.password == PASSWORD.encode() else 49)]

    def served(self, server):
        """A link on which the model looks at everything as it is sent."""
        link = self.serve(server)
        served = self.house.directory.served[-1]
        write = served.pipe.write

        def looked_at(data):
            for frame in frames(data):
                self.look(served, frame)
            write(data)

        served.pipe.write = looked_at
        return link

    def look(self, link, frame):
        """Does an operation that is sent to the directory run as whom it should?"""
        if frame.tag != ldap.UNBIND_REQUEST and frame.id in self.owner:
            client, binds = self.owner[frame.id]
            name = self.identity(client)
            if name is None or link.bound != dn.normalise(name):
                self.wrong.append(f"operation {frame.id} runs as {link.bound}, its client is {name}")
            if len(self.told(client)) < binds:
                self.wrong.append(f"operation {frame.id} runs while a bind is not answered")
            if not client.pipe.open:
                self.wrong.append(f"operation {frame.id} runs for a client that has gone")

    @invariant()
    def nothing_ran_as_another(self):
        if hasattr(self, "wrong"):
            assert self.wrong == []

    def check(self):
        """Who may succeed, and that nobody is left bound."""
        for client in self.clients:
            for frame in self.told(client):
                who, step, allowed = self.asked[frame.id]
                if ldap.read_result(frame).code == 0 and frame.id not in self.used:
                    Reuse.successes += 1
                    assert allowed, f"bind {frame.id} as {who} succeeded"
                    if step is not None:
                        assert (who, step) not in self.used, f"{who}'s code {step} was accepted twice"
                        self.used.add((who, step))
                    self.used.add(frame.id)
        bound = sorted(link.bound for link in self.house.directory.served if link.pipe.open and link.bound)
        names = [self.identity(client) for client in self.clients if client.pipe.open]
        assert bound == sorted(dn.normalise(name) for name in names if name)

    async def settled(self):
        self.house.directory.release()
        while self.house.tasks:
            await self.house.idle()
            self.house.clock.advance(0.3)
            await asyncio.sleep(0)

    # -- what may happen

    def request(self, who, how):
        """A bind as `who`; what the model is to know of it."""
        number = next(self.ids)
        step, allowed, password = None, False, PASSWORD
        if how in ("fresh", "again"):
            code = self.house.next_code() if how == "fresh" else self.house.last_code()
            step = int(self.house.now // 30)
            allowed, password = who != SERVICE, PASSWORD + code
        elif how == "no code":
            allowed = who == SERVICE
        else:
            password = {"wrong code": PASSWORD + "000000", "wrong password": "x" + self.house.last_code(), "empty": ""}[how]
        self.asked[number] = who, step, allowed
        return bind(number, who, password)

    def operation(self, slot, binds):
        number = next(self.ids)
        self.owner[number] = self.clients[slot], binds
        return search(number)

    @rule(slot=SLOT, who=WHO, how=HOW, before=st.integers(0, 1), behind=st.integers(0, 2))
    def binds(self, slot, who, how, before, behind):
        """In one segment: operations, a bind, operations."""
        sent = self.sent[slot]
        self.sent[slot] += 1
        segment = [self.operation(slot, sent) for _ in range(before)]
        segment.append(self.request(who, how))
        segment += [self.operation(slot, sent + 1) for _ in range(behind)]
        self.clients[slot].send(*segment)

    @rule(slot=SLOT)
    def binds_as_nobody(self, slot):
        number = next(self.ids)
        self.asked[number] = None, None, True
        self.sent[slot] += 1
        self.clients[slot].send(bind(number, "", ""))

    @rule(slot=SLOT)
    def searches(self, slot):
        self.clients[slot].send(self.operation(slot, self.sent[slot]))

    @rule(slot=SLOT)
    def reads_the_root_dse(self, slot):
        self.clients[slot].send(root_dse(next(self.ids)))

    @rule(slot=SLOT, polite=st.booleans())
    def leaves_and_comes_again(self, slot, polite):
        client = self.clients[slot]
        client.send(unbind(next(self.ids))) if polite else client.leave()
        client.leave()
        self.clients[slot] = self.house.client(port=40_000 + slot)
        self.sent[slot] = 0

    @rule(slot=SLOT, first=WHO, second=WHO)
    def one_goes_and_another_comes(self, slot, first, second):
        """And neither asks anything before: the second may well have the first one's link."""
        for who in (first, second):
            self.leaves_and_comes_again(slot, polite=False)
            play(self.settled())
            self.binds(slot, who, "no code" if who == SERVICE else "fresh", 0, 0)
            play(self.settled())
            self.check()

    @rule(tag=st.sampled_from((ldap.BIND_REQUEST, ldap.SEARCH_REQUEST, ldap.EXTENDED_REQUEST)))
    def the_directory_hesitates(self, tag):
        self.house.directory.holds = lambda link, frame: frame.tag == tag

    @rule(turns=st.integers(1, 30))
    def a_moment_passes(self, turns):
        async def moment():
            for _ in range(turns):
                self.house.serve()
                await asyncio.sleep(0)

        play(moment())

    @rule()
    def all_is_answered(self):
        play(self.settled())
        self.check()

    @precondition(lambda self: any(not client.pipe.open for client in getattr(self, "clients", ())))
    @rule()
    def whoever_was_closed_comes_again(self):
        for slot, client in enumerate(self.clients):
            if not client.pipe.open:
                self.clients[slot] = self.house.client(port=40_000 + slot)
                self.sent[slot] = 0


async def test_A06_every_operation_runs_as_whom_its_client_was_told_it_is(tmp_path, spare_links):
    Reuse.path, Reuse.store, Reuse.successes, Reuse.spare_links, Reuse.recycled = tmp_path, None, 0, spare_links, 0
    quick = settings(
        max_examples=100, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    try:
        await beside_the_loop(lambda: run_state_machine_as_test(Reuse, settings=quick))
    finally:
        if Reuse.store:
            await Reuse.store.close()
    assert Reuse.successes > 3, "the model was hardly ever let in: it proves nothing"
    assert (Reuse.recycled > 3) == bool(spare_links), "links were hardly ever recycled: it proves nothing"


async def test_A06_back_and_forth_between_accounts_each_needs_its_code(house):
    await house.open()
    client = house.client()
    assert await client.log_in(ALICE) == 0
    assert await client.log_in(BOB, PASSWORD + "000000") == 49
    client.send(search(5))
    assert await client.code() == 50
    assert await client.log_in(ALICE, PASSWORD) == 49
    assert await client.log_in(ALICE, PASSWORD + house.last_code()) == 49
    assert await client.log_in(ALICE) == 0
    assert await client.log_in(SERVICE, PASSWORD) == 0
    client.send(search(6))
    assert await client.code() == 0
    assert house.directory.served[-1].bound == SERVICE
    assert await client.log_in(ALICE, PASSWORD) == 49
    client.send(search(7))
    assert await client.code() == 50
