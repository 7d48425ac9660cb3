"""`ldapmfa demo`: a directory, the proxy in front of it and five logins, in one process and on loopback.

Promised here: the proxy is the real one, started from a real configuration; everything it writes lies in a temporary
directory that is gone when this ends, however it ends; the exit code is 0 only if all five outcomes were right.
Not in here: the logins (`ldapmfa.demo.logins`), the directory (`ldapmfa.demo.directory`).
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
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyotp
import segno
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

from ldapmfa import factors, tap
from ldapmfa.accounts import Accounts, Admin, Enrolled, Operator
from ldapmfa.cli.reasons import explained
from ldapmfa.config import Config
from ldapmfa.errors import LdapMfaError
from ldapmfa.store import Store
from ldapmfa.store.seal import Seal

#: A code that ends within so many seconds is not shown any more.
_TOO_SHORT: Final = 3.0
#: Steps around the present one whose codes the wrong code must not be.
_AROUND: Final = range(-3, 4)

_CONFIGURATION: Final = """\
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"

[directory]
uris = ["ldap://127.0.0.1:{directory_port}"]

[store]
url = {url}
key_file = {key_file}

[login]
factors = ["totp"]
code = "suffix"

[[exempt]]
account = "{service}"
networks = ["127.0.0.0/8"]
"""

_CODES: Final = {
    0: "success",
    49: "invalidCredentials",
    50: "insufficientAccessRights",
    52: "unavailable",
}


def main(once: bool) -> int:  # noqa: FBT001 - `ldapmfa demo --once`, nothing else calls it
    """Show the demo; with `once` end after the five logins, else keep serving until Ctrl-C. Gives the exit code."""
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
        self._file = place / "ldapmfa.toml"
        self._port = _free_port()

    async def show(self, *, once: bool) -> bool:
        """The whole demo; whether all five outcomes were right."""
        service = self._service
        service.configure_log("text", "warning")
        service.forward_twisted_log()
        async with self._embedded_directory() as directory_port:
            config = self._configured(directory_port)
            store = await service.open_store(config)
            async with _closing(store), self._proxy(config):
                self._introduce(directory_port)
                admin = self._admin(config, store)
                otp = await self._enrol(admin)
                step, right = await self._play(otp, admin)
                if not once:
                    with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C, the ordinary end
                        await self._serve(otp, step)
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
            port=self._port,
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
    async def _proxy(self, config: Config) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        proxy = self._service.LdapMfa(config, self._reactor)
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

    def _introduce(self, directory_port: int) -> None:
        self._console.rule("ldapmfa: a second factor in front of a directory", characters="-")
        self._tell(
            ("directory", f"ldap://127.0.0.1:{directory_port}, embedded: alice and a service account"),
            ("proxy", f"ldap://127.0.0.1:{self._port}, in front of it; clients log in here"),
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
        self._heading("Alice gets a token", "Scan the code with an authenticator app, or don't: the demo knows it too.")
        if not self._console.options.ascii_only:
            self._console.print(Padding(qr_code(uri, colours=self._console.color_system is not None), (1, 2)))
        self._console.print(uri, soft_wrap=True)
        return otp

    async def _play(self, otp: pyotp.TOTP, operator: Operator) -> tuple[int, bool]:
        """The five logins; the step whose code was used up, and whether all outcomes were right."""
        left = otp.interval - time.time() % otp.interval
        if left < _TOO_SHORT:
            self._console.print(f"The present code ends in {left:.1f} s: waiting for the next one.")
            await asyncio.sleep(left)
        step = int(time.time() // otp.interval)
        codes = self._logins.Codes(otp.generate_otp(step), _wrong_code(otp, step))
        ends = time.strftime("%H:%M:%S", time.localtime((step + 1) * otp.interval))
        self._console.print(f"The code of the moment: {codes.right} (until {ends})", style="bold")
        right = []
        for number, login in enumerate(self._logins.LOGINS, 1):
            seen = await self._logins.play(login, codes, self._reactor, self._port, operator)
            right.append(self._logins.is_right(login, seen))
            self._explain(number, login, codes, seen, right=right[-1])
        count = f"{sum(right)} of {len(right)} outcomes are as they must be."
        self._console.print()
        self._console.print(count, style="bold green" if all(right) else "bold red")
        return step, all(right)

    def _explain(self, number: int, login: Any, codes: Any, seen: Any, *, right: bool) -> None:
        self._heading(f"{number}. {login.title}", login.story)
        typed = login.typed(codes)
        on_record = f"; on record: {login.expected.reason}" if login.expected.reason else ""
        said = f', "{seen.text}"' if seen.text else ""
        facts = [
            ("typed", typed if typed is not None else "nothing"),
            ("expected", _in_words(login.expected) + on_record),
            ("seen", _in_words(seen.outcome) + said),
        ]
        why = "No bind came before it: the proxy answers this itself, and nothing reaches the directory."
        if seen.record:
            named = f", under the reference {seen.reference}" if seen.reference else ""
            detail = f" ({seen.record.detail})" if seen.record.detail else ""
            facts.append(("audit", f"{seen.record.outcome}, {seen.record.reason}{detail}{named}"))
            why = explained(seen.record.reason).meaning
        facts.append(("why", why))
        self._tell(*facts)
        tick, cross = ("OK", "WRONG") if self._console.options.ascii_only else ("✓", "✗")
        if right:
            self._console.print(f"  {tick} as it must be", style="green")
        else:
            self._console.print(f"  {cross} not as it must be", style="bold red")

    async def _serve(self, otp: pyotp.TOTP, used: int) -> None:
        """Offer commands to paste, with a fresh code every period, for ever."""
        program = shlex.quote(str(Path(sys.executable).with_name("ldapmfa")))
        url = f"ldap://127.0.0.1:{self._port}"
        self._heading("Now you", "The proxy keeps serving until you press Ctrl-C. In another terminal:")
        self._paste(
            f"ldapwhoami -x -H {url} -w {self._directory.SERVICE_PASSWORD} \\",
            f"    -D {self._directory.SERVICE}",
            "    # a service account, exempt by the configuration: no code",
            f"{program} audit --config {shlex.quote(str(self._file))}",
            "    # who logged in, who did not, and why",
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

    def _heading(self, title: str, text: str) -> None:
        self._console.print()
        self._console.print(title, style="bold")
        self._console.print(text)

    def _tell(self, *facts: tuple[str, str]) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, fact in facts:
            table.add_row(Text(name), Text(fact))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def _paste(self, *lines: str) -> None:
        for line in lines:
            self._console.print(f"  {line}", soft_wrap=True)


@contextlib.asynccontextmanager
async def _closing(store: Store) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await store.close()


def _in_words(outcome: Any) -> str:
    verdict = "accepted" if outcome.code == 0 else "refused"
    found = f", and the search found {', '.join(outcome.entries)}" if outcome.entries else ""
    return f"{verdict}: {_CODES.get(outcome.code, 'result code')} ({outcome.code}){found}"


def qr_code(text: str, *, colours: bool) -> Text:
    """`text` as a QR code, two modules a character; without `colours` for light writing on a dark ground."""
    rows = [bytes(row) for row in segno.make(text, error="l").matrix_iter(border=2)]
    # what is written is the dark modules, on white; without colours the light ones
    letters = {(1, 1): "█", (1, 0): "▀", (0, 1): "▄", (0, 0): " "} if colours else (
        {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    )
    lines = []
    for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=bytes(len(rows[0]))):
        lines.append("".join(letters[pair] for pair in zip(upper, lower, strict=True)))
    return Text("\n".join(lines), style="black on white" if colours else "", no_wrap=True)


def _wrong_code(otp: pyotp.TOTP, step: int) -> str:
    right = {otp.generate_otp(step + offset) for offset in _AROUND}
    return next(code for number in range(len(right) + 1) if (code := f"{number:0{otp.digits}}") not in right)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(once="--once" in sys.argv[1:]))
