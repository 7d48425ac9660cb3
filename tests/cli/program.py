"""The program itself, in a directory of its own: as a child process, or in this one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyotp

from ldapmfa.cli import root
from ldapmfa.cli.command import main

SECONDS = 60


@dataclass(frozen=True)
class Ran:
    """How it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """What --json puts on standard error."""
        return json.loads(self.err)["error"]


@dataclass(frozen=True)
class Program:
    """`ldapmfa` as it is called in `directory`."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("LDAPMFA_", "SUDO_"))}
        return {**own, "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def __call__(self, *words: object, env: dict[str, str] | None = None) -> Ran:
        """In this process, which saves a second; for what needs neither a reactor of its own nor standard input."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        code: list[object] = []

        def work() -> None:
            try:
                main(root, [str(word) for word in words])
            except SystemExit as end:
                code.append(end.code)

        with (
            contextlib.chdir(self.directory),
            mock.patch.dict(os.environ, self.environment | (env or {}), clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            time.tzset()
            # a thread of its own, for this one's event loop is running
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        time.tzset()
        for stream in (out, err):
            stream.flush()
        return Ran(*code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def child(self, *words: object, typed: str = "", env: dict[str, str] | None = None) -> Ran:
        """As a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "ldapmfa", *map(str, words)], cwd=self.directory, input=typed.encode(),
            capture_output=True, timeout=SECONDS, env=self.environment | (env or {}),
        )  # fmt: skip
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def configure(self, text: str) -> Path:
        """Write the configuration, and make its key and store."""
        file = self.directory / "ldapmfa.toml"
        file.write_text(text)
        made = self("init")
        assert made.code == 0, made.err
        return file

    def test(self, name: str, *lines: str, options: tuple[str, ...] = ()) -> Ran:
        """`user test` with a password and perhaps a code."""
        return self.child("user", "test", name, "--password-stdin", "--json", *options, typed="\n".join(lines) + "\n")

    @contextmanager
    def running(self, port: int):
        """`ldapmfa run`, until the block ends; `log` in the directory holds what it said."""
        with (self.directory / "log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "ldapmfa", "run"], cwd=self.directory, env=self.environment, stderr=log
            )
        try:
            deadline = time.monotonic() + SECONDS
            while not listens(port):
                assert child.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()

    def stopped(self, child: subprocess.Popen[bytes], signum: int = signal.SIGTERM) -> tuple[int, float]:
        """The exit code after a signal, and how many seconds it took."""
        began = time.monotonic()
        child.send_signal(signum)
        return child.wait(SECONDS), time.monotonic() - began


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def code_of(uri: str, steps: int = 0) -> str:
    """The code that an app shows that scanned this, or will show."""
    otp = pyotp.parse_uri(uri)
    return otp.at(int(time.time()) + 30 * steps) if isinstance(otp, pyotp.TOTP) else otp.at(steps)
