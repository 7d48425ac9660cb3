"""Many clients at random before real directories, with links recycled: whoever asks is answered as whom it was bound as.

A witness between proxy and directory sees every frame on every link, and holds the directory's end against what the
clients know: on a link nobody's request runs but that of whom was last bound there, and between two clients it was
bound as nobody. The seed is printed; LDAPMFA_SEED=NUMBER tries one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import pytest
from system.proxy import Proxy
from system.servers.common import free_port
from system.wire import bind, extended, root_dse, search, unbind

from ldapmfa.core.identity import sid_text
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError

LIVES = 1000
AT_ONCE = 24
WITH_CODES = [f"bulk{number:04}" for number in range(6)]
EXEMPT = [f"bulk{number:04}" for number in range(6, 14)]
GUESSED = [f"bulk{number:04}" for number in range(14, 60)]
#: Wrong passwords for an account before it would be locked, and wrong codes.
MOST_WRONG_PASSWORDS, MOST_WRONG_CODES = 4, 8


# -- the witness


@dataclass
class Link:
    """One connection of the proxy's, as the directory sees it: `bound` is the DN, None for nobody."""

    bound: str | None = None
    life: int | None = None  # whose it is, or was last
    clean: bool = True  # nothing but binds and look-ups since it was nobody's
    open: bool = True
    lives: list = field(default_factory=list)
    asked: dict = field(default_factory=dict)  # binds that are not answered yet


class Witness:
    """Carries connections to the directory, and looks at what runs on them."""

    def __init__(self, to):
        self.to = to
        self.port = free_port()
        self.links = []
        self.sent = {}  # what clients sent: the octets of a frame, by whom, and as whom it must run (None: a bind)
        self.wrong = []
        self.recycled = 0

    def __enter__(self):
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    async def _run(self):
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._carry, "127.0.0.1", self.port, backlog=256)
        self._started.set()
        await self._ended.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _carry(self, reader, writer):
        link = Link()
        self.links.append(link)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.to)
        except OSError as down:
            self.wrong.append(f"the directory can't be reached: {down}")
            writer.close()
            return
        ways = [
            asyncio.ensure_future(self._way(link, reader, far_writer, self._asked)),
            asyncio.ensure_future(self._way(link, far_reader, writer, self._answered)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        link.open = False
        for end in (writer, far_writer):
            end.close()

    async def _way(self, link, reader, writer, look):
        buffer = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                buffer += data
                while buffer:
                    try:
                        frame = ldap.read_frame(buffer, 0, 1 << 26)
                    except BerError as broken:
                        self.wrong.append(f"no LDAP on a link: {broken}")
                        return
                    if isinstance(frame, int):
                        break
                    buffer = buffer[len(frame.raw) :]
                    look(link, frame)
                writer.write(data)
                await writer.drain()

    def _asked(self, link, frame):
        if frame.tag == ldap.BIND_REQUEST:
            request = ldap.read_bind(frame)
            name = request.name.decode()
            if name:
                life = self.sent.get(frame.id, (None,))[0]
                if life is None:
                    self.wrong.append(f"a bind of {name} that no client sent")
                if link.life not in (None, life) and link.bound is not None:
                    self.wrong.append(f"life {life} binds on a link where life {link.life} is bound as {link.bound}")
                if link.life not in (None, life):
                    self.recycled += 1
                    if not link.clean:
                        self.wrong.append(f"life {life} has a link that carried requests of life {link.life}")
                link.life = life
                link.lives.append(life)
            elif not link.clean:
                self.wrong.append(f"a link that carried requests of life {link.life} is made nobody's")
            link.asked[frame.id] = name or None
        elif frame.tag != ldap.UNBIND_REQUEST:
            life, who = self.sent.get(frame.raw, (None, None))
            if life is None:
                return  # a look-up of the proxy's
            if who is None:  # the rootDSE, before a bind
                if link.bound or link.lives:
                    self.wrong.append(f"life {life} reads the rootDSE on the link of {link.bound}, used by {link.lives}")
                link.life = life
            elif (link.life, link.bound) != (life, who):
                self.wrong.append(f"life {life} asks as {who} on a link of life {link.life}, bound as {link.bound}")
            link.clean = False

    def _answered(self, link, frame):
        if frame.tag == ldap.BIND_RESPONSE:
            name = link.asked.pop(frame.id, None)
            link.bound = name if ldap.read_result(frame).code == 0 else link.bound  # as Samba has it (A50)
            if name is not None and ldap.read_result(frame).code:
                link.bound = f"{link.bound}, and {name} was refused"


# -- the clients


class Gone(Exception):  # noqa: N818 - named as what is the case
    """The connection ended."""


@dataclass
class Account:
    dn: str
    password: str
    token: object = None
    sid: str = ""
    wrong_passwords: int = 0
    wrong_codes: int = 0

    def __post_init__(self):
        self.one_at_a_time = asyncio.Lock()  # codes by counter are used in order


class Life:
    """One client from connect to leave."""

    def __init__(self, number, crowd):
        self.number, self.crowd = number, crowd
        self.chance = random.Random(f"{crowd.seed}:{number}")
        self.ids = iter(range(number * 64 + 1, number * 64 + 64))
        self.silent = self.chance.random() < 0.5  # asks nothing: its link may serve another
        self.who = None
        self.buffer = b""

    async def live(self):
        proxy = self.crowd.proxy
        self.reader, self.writer = await asyncio.open_connection(proxy.host, proxy.port)
        try:
            if not self.silent and self.chance.random() < 0.15:
                await self.read_root()
            for _ in range(self.chance.randint(1, 3)):
                await self.pause()
                if not await self.bind():
                    return
                for _ in range(0 if self.silent else self.chance.choice((0, 1, 2))):
                    await self.pause()
                    await self.ask()
        finally:
            await self.leave()

    async def pause(self):
        await asyncio.sleep(self.chance.choice((0, 0, 0.002, 0.01, 0.03)))

    async def leave(self):
        how = self.chance.choice(("unbind", "close", "reset"))
        if how == "unbind":
            self.writer.write(unbind(next(self.ids)))
        elif how == "reset":
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def frame(self):
        while True:
            frame = ldap.read_frame(self.buffer, 0, 1 << 26) if self.buffer else 0
            if isinstance(frame, ldap.Frame):
                self.buffer = self.buffer[len(frame.raw) :]
                return frame
            async with asyncio.timeout(30):
                data = await self.reader.read(1 << 16)
            if not data:
                raise Gone
            self.buffer += data

    async def answer(self, message_id):
        found = []
        while True:
            frame = await self.frame()
            if frame.id != message_id:
                raise AssertionError(f"life {self.number} was sent what answers {frame.id}, not {message_id}")
            found.append(frame)
            if frame.tag not in ldap.NOT_FINAL:
                return found

    def choose(self):
        """Whom to bind as, what is typed, and the code to expect."""
        how = self.chance.choice(("code", "code", "exempt", "exempt", "exempt", "exempt", "wrong code", "wrong password", "nobody"))
        crowd = self.crowd
        if how == "nobody":
            return how, None
        if how == "wrong password":
            account = self.chance.choice((*crowd.exempt, *crowd.guessed))
            if account.wrong_passwords == MOST_WRONG_PASSWORDS:
                return "exempt", self.chance.choice(crowd.exempt)
            account.wrong_passwords += 1
            return how, account
        if how == "wrong code":
            account = self.chance.choice(crowd.with_codes)
            if account.wrong_codes == MOST_WRONG_CODES:
                return "code", account
            account.wrong_codes += 1
            return how, account
        return how, self.chance.choice(crowd.with_codes if how == "code" else crowd.exempt)

    async def bind(self):
        """Bind, or leave during it; whether there is more to come."""
        how, account = self.choose()
        if account and account.token:
            async with account.one_at_a_time:
                return await self.bind_as(how, account)
        return await self.bind_as(how, account)

    async def bind_as(self, how, account):
        message_id = next(self.ids)
        name, typed = (account.dn, account.password) if account else ("", "")
        if how == "code":
            typed += account.token.code()
        elif how == "wrong code":
            typed += "000000"
        elif how == "wrong password":
            typed = "wrong-" + typed
        self.crowd.witness.sent[message_id] = self.number, None
        segment = bind(message_id, name, typed)
        behind = []
        right = how in ("code", "exempt")
        if not self.silent and self.chance.random() < 0.3:  # in one segment with what comes behind
            behind.append(self.request(account.dn if right else None))
            segment += behind[0][1]
        self.who = None
        self.writer.write(segment)
        if self.chance.random() < 0.12:
            await asyncio.sleep(self.chance.choice((0, 0.001, 0.003, 0.01, 0.05)))
            self.crowd.left += 1
            return False
        result = ldap.read_result((await self.answer(message_id))[-1])
        expected = 0 if right or how == "nobody" else 49
        if result.code != expected:
            raise AssertionError(f"life {self.number}: {how} as {name} was answered with {result.code} {result.text}")
        if right:
            self.who = account
            self.crowd.logins += 1
        for what, raw in behind:
            await self.check(what, raw)
        return True

    def request(self, who):
        """A request that tells whose it is, and the witness of it."""
        crowd, message_id = self.crowd, next(self.ids)
        if self.chance.random() < 0.5 and (who or not crowd.sids):  # anybody may read the rootDSE
            what = "whoami"
            raw = crowd.who_am_i(message_id)
        else:
            what = "own entry"
            marked = ldap.any_of(ldap.ANY_ENTRY, ldap.equals("description", f"life-{self.number}-{message_id}".encode()))
            raw = search(message_id, who or crowd.exempt[0].dn, scope=ldap.BASE, attributes=("cn",), where=marked)
        if who:
            crowd.witness.sent[raw] = self.number, who
        return (what, message_id, who), raw

    async def ask(self):
        what, raw = self.request(self.who.dn if self.who else None)
        self.writer.write(raw)
        await self.check(what, raw)

    async def check(self, what, raw):
        kind, message_id, _ = what
        frames = await self.answer(message_id)
        code = ldap.read_result(frames[-1]).code
        if self.who is None:
            assert code == 50, f"life {self.number}, nobody, was answered {code}"
        elif kind == "whoami":
            told = self.crowd.told(frames)
            assert told == self.crowd.called(self.who), f"life {self.number}, {self.who.dn}, is {told}"
        else:
            (entry,) = [ldap.read_entry(frame) for frame in frames if frame.tag == ldap.SEARCH_ENTRY]
            assert (code, entry.dn.lower()) == (0, self.who.dn.lower())
        self.crowd.asked += 1

    async def read_root(self):
        message_id = next(self.ids)
        raw = root_dse(message_id, ("supportedLDAPVersion",))
        self.crowd.witness.sent[raw] = self.number, None
        self.writer.write(raw)
        assert ldap.read_result((await self.answer(message_id))[-1]).code == 0


class Crowd:
    """Lives, so many at once."""

    def __init__(self, proxy, witness, seed, sids):
        self.proxy, self.witness, self.seed = proxy, witness, seed
        self.logins = self.asked = self.left = 0
        self.sids = sids
        self.with_codes, self.exempt, self.guessed = (
            [self.account(name) for name in names] for names in (WITH_CODES, EXEMPT, GUESSED)
        )

    def account(self, name):
        user = self.proxy.directory.user(name)
        return Account(user.dn, user.password, self.proxy.tokens.get(name), self.sids.get(name, ""))

    def who_am_i(self, message_id):
        """On Active Directory whose groups these are: Samba has no WhoAmI."""
        if self.sids:
            return search(message_id, "", scope=ldap.BASE, attributes=("tokenGroups",))
        return extended(message_id, ldap.OID_WHO_AM_I)

    def told(self, frames):
        if self.sids:
            (entry,) = [ldap.read_entry(frame) for frame in frames if frame.tag == ldap.SEARCH_ENTRY]
            return sid_text(entry.attributes["tokengroups"][0])
        return ldap.read_result(frames[-1]).value.decode().lower()

    def called(self, account):
        return account.sid if self.sids else f"dn:{account.dn}".lower()

    async def live(self):
        numbers = iter(range(LIVES))

        async def one_after_the_other():
            for number in numbers:
                try:
                    await Life(number, self).live()
                except (Gone, OSError) as lost:
                    raise AssertionError(f"life {number} was cut off: {lost!r}") from lost

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(one_after_the_other())


def sids_of(directory):
    with directory.admin() as admin:
        found = {}
        for name in (*WITH_CODES, *EXEMPT, *GUESSED):
            admin.search(directory.user(name).dn, "(objectClass=*)", "BASE", attributes=["objectSid"])
            found[name] = sid_text(admin.response[0]["raw_attributes"]["objectSid"][0])
        return found


def live_before(directory, path, sids):
    """A thousand lives; what the witness saw."""
    seed = int(os.environ.get("LDAPMFA_SEED") or random.SystemRandom().randrange(10**9))
    print(f"LDAPMFA_SEED={seed}")
    exempt = "".join(f"[[exempt]]\naccount = {json.dumps(directory.user(name).dn)}\n" for name in EXEMPT)
    with (
        Witness((directory.host, directory.port)) as witness,
        Proxy(directory, path, to_directory=f'uris = ["ldap://127.0.0.1:{witness.port}"]', extra=exempt) as proxy,
    ):
        proxy.enrol_many(WITH_CODES)

        async def run():
            crowd = Crowd(proxy, witness, seed, sids)
            await crowd.live()
            return crowd

        began = time.monotonic()
        failed = []

        def ran():
            try:
                failed.append(asyncio.run(run()))
            except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
                failed.append(error)

        thread = threading.Thread(target=ran)
        thread.start()
        thread.join(300)
        (crowd,) = failed
        took = time.monotonic() - began
        if isinstance(crowd, BaseException):
            assert witness.wrong == []
            raise crowd
        most = max(len(set(link.lives)) for link in witness.links)
        print(
            f"{LIVES} lives in {took:.1f} s: {crowd.logins} logins, {crowd.left} left during one, {crowd.asked} requests;"
            f" {len(witness.links)} links, {witness.recycled} times one was another's, one served {most}"
        )
        assert witness.wrong == []
        accepted = [event for event in proxy.records() if event["outcome"] == "accepted"]
        assert len(accepted) >= crowd.logins
        # a good part of the lives stains its link by what it asks: all others are recycled
        assert witness.recycled > LIVES // 10, "hardly a link was recycled: it proves nothing"
        assert len(witness.links) < crowd.logins
        assert most > 3
        assert crowd.asked > LIVES // 4


def test_A06_a_thousand_random_lives_before_openldap(slapd, tmp_path):
    live_before(slapd, tmp_path / "proxy", {})


def test_A06_a_thousand_random_lives_before_active_directory(samba, tmp_path):
    live_before(samba, tmp_path / "proxy", sids_of(samba))


@pytest.mark.parametrize("kind", ["slapd", "samba"])
def test_A50_a_bind_as_nobody_is_granted_and_leaves_nobody_bound(request, kind):
    """What recycling rests on, asked of the directory itself: after it, who-am-I says nobody, and reads nothing."""
    from system.wire import Raw

    directory = request.getfixturevalue(kind)
    user = directory.user(EXEMPT[0])
    with Raw(directory.host, directory.port) as raw:
        for number in range(0, 30, 3):
            assert raw.code(bind(number + 1, user.dn, user.password)) == 0
            assert raw.code(ldap.message(number + 2, ldap.bind_request(b"", b""))) == 0
            raw.send(search(number + 3, user.dn, scope=ldap.BASE))
            frames = raw.answer()
            assert ldap.read_result(frames[-1]).code != 0 or not any(frame.tag == ldap.SEARCH_ENTRY for frame in frames)
