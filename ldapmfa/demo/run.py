"""`ldapmfa demo`: a directory, the proxy in front of it and eight logins, in one process and on loopback.

Promised here: the proxy is the real one, started from a real configuration; everything it writes lies in a temporary
directory that is gone when this ends, however it ends; the exit code is 0 only if all outcomes were right. Not in
here: the logins (`ldapmfa.demo.logins`), the directory (`ldapmfa.demo.directory`), the page that stands for a phone
(`ldapmfa.demo.approval`), how it looks (`ldapmfa.demo.terminal`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Coroutine
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyotp
from rich.console import Console
from rich.live import Live
from rich.text import Text
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

from ldapmfa import factors, tap
from ldapmfa.accounts import Accounts, Admin, Enrolled, Operator
from ldapmfa.config import Config, ServiceTable
from ldapmfa.demo.approval import KIND, Phone, served
from ldapmfa.demo.browser import Browser
from ldapmfa.demo.terminal import Terminal
from ldapmfa.errors import LdapMfaError
from ldapmfa.factors.breaker import Guarded
from ldapmfa.factors.service import Tools
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal

#: A code that ends within so many seconds is not shown any more.
_TOO_SHORT: Final = 3.0
#: Steps around the present one whose codes the wrong code must not be.
_AROUND: Final = range(-3, 4)

_CONFIGURATION: Final = """\
[[listen]]
endpoint = "tcp:{code_port}:interface=127.0.0.1"
name = "codes"

[[listen]]
endpoint = "tcp:{push_port}:interface=127.0.0.1"
name = "{application}"
directory = "push"
deadline = 60

[directory]
uris = ["ldap://127.0.0.1:{directory_port}"]

# the same once more: its accounts have another second factor
[directories.push]
uris = ["ldap://127.0.0.1:{directory_port}"]

[store]
url = {url}
key_file = {key_file}

[login]
factors = ["totp"]
code = "suffix"
prompts = 100

[[exempt]]
account = "{service}"
networks = ["127.0.0.0/8"]
"""


def main(once: bool) -> int:  # noqa: FBT001 - `ldapmfa demo --once`, nothing else calls it
    """Show the demo; with `once` end after the logins, else keep serving until Ctrl-C. Gives the exit code."""
    tap.install()
    from twisted.internet import reactor  # noqa: PLC0415 - installed just now

    console = Console(highlight=False, markup=False, emoji=False)
    try:
        right = _on_reactor(reactor, _show(reactor, console, once=once))
    except LdapMfaError as broken:
        console.print(f"The demo can't be shown: {broken}", style="red")
        right = False
    return 0 if right else 1


async def _show(reactor: Any, console: Console, *, once: bool) -> bool:
    # here and not in main: from now on a signal ends us in good order
    with TemporaryDirectory(prefix="ldapmfa-demo-") as place:
        return await Demo(reactor, Path(place), console).show(once=once)


def _on_reactor(reactor: Any, play: Coroutine[Any, Any, bool]) -> bool:
    """Run the reactor for as long as `play` takes, or until somebody stops it; then `play` may clean up."""
    tasks: list[asyncio.Task[bool]] = []

    def begin() -> None:
        task = asyncio.ensure_future(_tolerating_exit(play))
        task.add_done_callback(stop)
        tasks.append(task)
        # the terminal's window was closed; Twisted knows of Ctrl-C and SIGTERM by itself
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(stop, None))

    def stop(_: object) -> None:
        with contextlib.suppress(ReactorNotRunning):
            reactor.stop()

    def end() -> Deferred[Any]:
        for task in tasks:
            task.cancel()
        return Deferred.fromFuture(asyncio.gather(*tasks, return_exceptions=True))

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", end)
    reactor.run()
    return not tasks[0].cancelled() and tasks[0].result()


async def _tolerating_exit(play: Coroutine[Any, Any, bool]) -> bool:
    try:
        return await play
    except SystemExit:  # rich's way when nobody reads the output any more; let through it would stop the loop dead
        return False


class Demo:
    """What is shown, and on which `console`; files go to `place`."""

    def __init__(self, reactor: Any, place: Path, console: Console) -> None:
        # late, for these import the reactor (ldaptor does)
        self._directory: Any = import_module("ldapmfa.demo.directory")
        self._logins: Any = import_module("ldapmfa.demo.logins")
        self._service: Any = import_module("ldapmfa.net.service")
        self._reactor = reactor
        self._console = console
        self._terminal = Terminal(console)
        self._file = place / "ldapmfa.toml"
        self._code_port, self._push_port = _free_ports(2)

    async def show(self, *, once: bool) -> bool:
        """The whole demo; whether all outcomes were right."""
        service = self._service
        log: Any = import_module("ldapmfa.net.log")
        log.configure_log("text", "warning")
        log.forward_twisted_log()
        async with self._embedded_directory() as directory_port:
            config = self._configured(directory_port)
            store = await service.open_store(config)
            table = ServiceTable(kind=KIND, directory="push")
            phone = Phone(table, Tools())
            async with _closing(store), self._proxy(config, phone, table), served(phone, self._reactor) as page:
                self._introduce(directory_port, page)
                admin = self._admin(config, store)
                otp = await self._enrol(admin)
                step, right = await self._play(otp, admin, page)
                if not once:
                    with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C, the ordinary end
                        await self._serve(otp, step, page)
        return right

    # -- the house

    @contextlib.asynccontextmanager
    async def _embedded_directory(self) -> AsyncIterator[int]:
        port = self._reactor.listenTCP(0, self._directory.DirectoryFactory(), interface="127.0.0.1")
        try:
            yield port.getHost().port
        finally:
            await port.stopListening().asFuture(asyncio.get_running_loop())

    def _configured(self, directory_port: int) -> Config:
        """The configuration, as a file too: whoever keeps the demo running may point commands at it."""
        place = self._file.parent
        text = _CONFIGURATION.format(
            code_port=self._code_port,
            push_port=self._push_port,
            application=self._logins.APPLICATION,
            directory_port=directory_port,
            url=json.dumps(f"sqlite:///{place / 'state.db'}"),
            key_file=json.dumps(str(place / "store.key")),
            service=self._directory.SERVICE,
        )
        self._file.write_text(text, encoding="utf-8")
        Seal.create(place / "store.key", entropy=os.urandom)
        # not config.load: the environment may hold settings of a real installation
        return Config.model_validate(tomllib.loads(text))

    @staticmethod
    def _admin(config: Config, store: Store) -> Admin:
        known = factors.load(config.login.factors)
        return Accounts(store, known, config.login.issuer, clock=time.time, entropy=os.urandom).as_admin("demo")

    @contextlib.asynccontextmanager
    async def _proxy(self, config: Config, phone: Phone, table: ServiceTable) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        # what never fails is never tried again
        guarded = Guarded(KIND, phone, table, clock=loop.time, sleep=asyncio.sleep, keep=lambda again: again.close())
        proxy = self._service.LdapMfa(config, self._reactor, {"services": {KIND: guarded}})
        proxy.startService()
        try:
            await proxy.started.asFuture(loop)
            yield
        except asyncio.CancelledError:
            if proxy.failure:  # it has stopped the reactor, which has cancelled us
                raise proxy.failure from None
            raise
        finally:
            await proxy.stopService().asFuture(loop)

    # -- what is told

    def _introduce(self, directory_port: int, page: str) -> None:
        self._terminal.title("ldapmfa: a second factor in front of a directory")
        self._terminal.tell(
            ("directory", f"ldap://127.0.0.1:{directory_port}, embedded: alice and a service account"),
            ("proxy", f"ldap://127.0.0.1:{self._code_port}, in front of it: log in with a code"),
            (self._logins.APPLICATION, f"ldap://127.0.0.1:{self._push_port}, in front of it too: log in with a push"),
            ("phone", f"{page}, a page that stands for alice's phone"),
            ("settings", f"{self._file}, gone when this ends"),
        )

    async def _enrol(self, admin: Admin) -> pyotp.TOTP:
        """Give alice a token, as `ldapmfa user enrol alice` does, and show it."""
        made = await admin.enrol("alice", "totp", {}, label="demo")
        if not isinstance(made, Enrolled) or made.uri is None:
            raise TypeError(f"alice can't be enrolled: {made}")
        uri = made.uri.reveal().decode()
        otp = pyotp.parse_uri(uri)
        if not isinstance(otp, pyotp.TOTP):
            raise TypeError("a TOTP's URI is none")
        story = "Scan the code with an authenticator app, or don't: the demo knows it too."
        self._terminal.heading("Alice gets a token", story)
        self._terminal.scan(uri)
        return otp

    async def _play(self, otp: pyotp.TOTP, operator: Operator, page: str) -> tuple[int, bool]:
        """The logins; the step whose code was used up, and whether all outcomes were right."""
        left = otp.interval - time.time() % otp.interval
        if left < _TOO_SHORT:
            self._console.print(f"The present code ends in {left:.1f} s: waiting for the next one.")
            await asyncio.sleep(left)
        step = int(time.time() // otp.interval)
        codes = self._logins.Codes(otp.generate_otp(step), _wrong_code(otp, step))
        ends = time.strftime("%H:%M:%S", time.localtime((step + 1) * otp.interval))
        self._console.print(f"The code of the moment: {codes.right} (until {ends})", style="bold")
        stage = self._logins.Stage(self._reactor, self._code_port, self._push_port, Browser(page), operator)
        right = []
        for number, login in enumerate(self._logins.LOGINS, 1):
            seen = await self._logins.play(login, codes, stage)
            right.append(self._logins.is_right(login, seen))
            self._terminal.explain(number, login, login.typed(codes), seen, right=right[-1])
        self._terminal.count(right)
        return step, all(right)

    async def _serve(self, otp: pyotp.TOTP, used: int, page: str) -> None:
        """Offer commands to paste, with a fresh code every period, for ever."""
        program = shlex.quote(str(Path(sys.executable).with_name("ldapmfa")))
        url, push_url = (f"ldap://127.0.0.1:{port}" for port in (self._code_port, self._push_port))
        self._terminal.heading("Now you", "The proxy keeps serving until you press Ctrl-C. In another terminal:")
        self._terminal.paste(
            f"ldapwhoami -x -H {push_url} -w {self._directory.ALICE_PASSWORD} \\",
            f"    -D {self._directory.ALICE}",
            f"    # a push: it waits for you; open {page} to answer",
            f"ldapwhoami -x -H {url} -w {self._directory.SERVICE_PASSWORD} \\",
            f"    -D {self._directory.SERVICE}",
            "    # a service account, exempt by the configuration: no code",
            f"{program} audit --config {shlex.quote(str(self._file))}",
            "    # who logged in, who did not, and why",
            f"{program} user unblock alice --directory push --reason demo --config {shlex.quote(str(self._file))}",
            "    # after a report of fraud nobody logs in as alice, until an operator says so",
        )
        self._console.print("As alice; a code is good once, so take one of the two lines, then wait for the next code:")
        in_place = self._console.is_terminal and not self._console.is_dumb_terminal
        with Live(console=self._console, auto_refresh=False) if in_place else contextlib.nullcontext() as live:
            while True:
                step = int(time.time() // otp.interval)
                text = self._lines_for_alice(otp, step, url, used_up=step <= used)
                if live:
                    live.update(text, refresh=True)
                else:
                    self._console.print(text, soft_wrap=True)
                await asyncio.sleep((step + 1) * otp.interval - time.time() + 0.01)

    def _lines_for_alice(self, otp: pyotp.TOTP, step: int, url: str, *, used_up: bool) -> Text:
        ends = time.strftime("%H:%M:%S", time.localtime((step + 1) * otp.interval))
        if used_up:
            return Text(f"  the code of the moment is used up; the next one comes at {ends}")
        who = f"-D {self._directory.ALICE}"
        password = f"-w {self._directory.ALICE_PASSWORD}{otp.generate_otp(step)}"
        base = self._directory.BASE
        return Text(
            f"  # with the code that comes until {ends}\n"
            f"  ldapwhoami -x -H {url} \\\n      {who} {password}\n"
            f"  ldapsearch -x -H {url} \\\n      {who} {password} \\\n      -b {base} '(uid=alice)' cn mail"
        )


@contextlib.asynccontextmanager
async def _closing(store: Store) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await store.close()


def _wrong_code(otp: pyotp.TOTP, step: int) -> str:
    right = {otp.generate_otp(step + offset) for offset in _AROUND}
    return next(code for number in range(len(right) + 1) if (code := f"{number:0{otp.digits}}") not in right)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    sys.exit(main(once="--once" in sys.argv[1:]))
