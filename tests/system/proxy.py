"""The proxy as an administrator runs it: a process of its own before a real directory.

Factors are enrolled through the store while it runs, as the command line does. HOTP wherever a test logs in often: its
codes do not wait for the clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyotp
from system.servers.common import Process, answers_ldap, free_port, make_certificates

from ldapmfa.audit import AccountChanged
from ldapmfa.core.secret import Secret
from ldapmfa.factors import NewCredential
from ldapmfa.factors.hotp import base32
from ldapmfa.store import Pending, Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Token:
    """A factor in a user's hand."""

    secret: bytes
    kind: str = "hotp"
    used: int = -1

    def code(self):
        """A code that was not given out before; for TOTP it may have to wait for the clock."""
        if self.kind == "hotp":
            self.used += 1
        else:
            step = int(time.time() // 30)
            if self.used >= step + 1:
                time.sleep((self.used * 30) - time.time() + 0.5)
                step = int(time.time() // 30)
            self.used = max(step - 1, self.used + 1) if self.used >= 0 else step
        return pyotp.HOTP(base32(Secret(self.secret))).at(self.used)

    def now(self):
        """The current TOTP code, used or not."""
        return pyotp.HOTP(base32(Secret(self.secret))).at(int(time.time() // 30))


@dataclass
class Proxy:
    """A running proxy before `directory`; `extra` is TOML appended to its configuration.

    Its clients have one address, and are often wrong: wrong passwords are not throttled unless `throttle` says so.
    `services` are tables [factors.NAME], as a fake's `settings` are.
    """

    directory: object
    path: Path
    listen: dict = field(default_factory=dict)
    to_directory: str | None = None
    login: str = 'factors = ["hotp", "totp", "recovery"]'
    services: dict = field(default_factory=dict)
    extra: str = ""
    throttle: str = "wrong_passwords = 0"
    exempt: str | None = None
    service: bool = False
    workers: int = 1
    runs: tuple = (sys.executable, "-m", "ldapmfa", "run")
    text: str = ""
    python_path: str = str(ROOT)
    pass_fds: tuple = ()
    environment: dict = field(default_factory=dict)
    tokens: dict = field(default_factory=dict)
    host: str = "127.0.0.1"
    store_url: str = "sqlite:///state.db"
    store_key: bytes | None = None
    """Of the store that several nodes share."""

    def __enter__(self):
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o755)
        self.port = free_port()
        self.ca_file = make_certificates(self.path / "tls")
        listen = {
            "endpoint": f"tcp:{self.port}:interface={self.host}",
            "tls": "starttls",
            "certificate": "tls/cert.pem",
            "key": "tls/key.pem",
            **self.listen,
        }
        tables = ["[[listen]]", *(f"{key} = {json.dumps(value)}" for key, value in listen.items() if value is not None)]
        tables += ["[directory]", self.to_directory or f'uris = ["{self.directory.uri}"]']
        if self.service:
            account = {"dn": self.directory.service_dn, "password": self.directory.service_password}
            tables += ["[directory.service_account]", *(f"{key} = {json.dumps(value)}" for key, value in account.items())]
        if self.workers > 1:
            tables += ["[service]", f"workers = {self.workers}"]
        tables += ["[store]", f"url = {json.dumps(self.store_url)}", 'key_file = "store.key"', "[login]", self.login]
        tables += ["[throttle]", self.throttle]
        for name, table in self.services.items():
            tables += [f"[factors.{name}]", *(f"{key} = {json.dumps(value, default=str)}" for key, value in table.items())]
        exempt = self.exempt or self.directory.user("svc-app").dn
        tables += ["[[exempt]]", f"account = {json.dumps(exempt)}", 'networks = ["127.0.0.0/8"]', self.extra]
        self.config = self.path / "ldapmfa.toml"
        text = "\n".join(tables) + "\n"
        if self.text:
            text = self.text.format(port=self.port, uri=self.directory.uri)
        self.config.write_text(text)
        if self.store_key is not None:
            (self.path / "store.key").write_bytes(self.store_key)
            (self.path / "store.key").chmod(0o600)
        elif not (self.path / "store.key").exists():
            Seal.create(self.path / "store.key", entropy=os.urandom)
        self.log = self.path / "proxy.log"
        self.start()
        return self

    def start(self):
        """Start the process; returns when it answers."""
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": self.python_path, **self.environment}
        argv = [*self.runs, "--config", self.config]
        self.process = Process(argv, self.log, env=environment, cwd=self.path, pass_fds=self.pass_fds)
        self.process.wait_until(self.answers)

    def answers(self):
        """Whether it answers, every worker of it: where TLS comes first, whether it listens."""
        if self.workers > 1:
            return '"started"' in self.log.read_text()
        if self.listen.get("tls") == "ldaps" or self.listen.get("proxy_protocol_from"):
            return "listening" in self.log.read_text()
        return answers_ldap(self.host, self.port)

    def __exit__(self, *_):
        self.process.stop()
        log = self.log.read_text()
        assert "Traceback" not in log, log
        assert '"bug"' not in log, log

    @property
    def uri(self):
        """Of its listener, in clear text."""
        return f"ldap://{self.host}:{self.port}"

    # -- what the administrator does

    def with_store(self, work):
        """Run the coroutine function `work` on the proxy's own store, from outside."""

        async def run():
            seal = Seal(self.path / "store.key", entropy=os.urandom)
            url = self.store_url.replace("sqlite:///state.db", f"sqlite:///{self.path}/state.db")
            store = await Store.open(url, seal, clock=time.time, normalise_dn=dn.normalise)
            try:
                return await work(store)
            finally:
                await store.close()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, run()).result()

    def enrol(self, name, kind="hotp"):
        """A pending enrolment of the account called `name` in people; its token is kept."""
        self.tokens[name] = self.enrol_account(self.directory.user(name).account, kind)
        return self.tokens[name]

    def enrol_many(self, names):
        """As `enrol`, for many at once."""
        accounts = {name: self.directory.user(name).account for name in names}
        self.tokens |= dict(zip(accounts, self._enrol(accounts.values(), "hotp"), strict=True))

    def enrol_account(self, account, kind="hotp"):
        """A pending enrolment of whoever has this sAMAccountName or uid."""
        return self._enrol([account], kind)[0]

    def _enrol(self, accounts, kind):
        tokens = {account: Token(os.urandom(20), kind) for account in accounts}
        parameters = {"algorithm": "sha1", "digits": 6, **({"period": 30} if kind == "totp" else {})}

        async def enrol(store):
            for account, token in tokens.items():
                new = NewCredential(kind, Secret(token.secret), parameters)
                change = AccountChanged(at=time.time(), action="enrolled", account=account, actor="test")
                await store.enrol(Pending("default", "account", account), new, "test", change)

        self.with_store(enrol)
        return list(tokens.values())

    def typed(self, name):
        """What the user types: password and a fresh code. Enrols at first."""
        if name not in self.tokens:
            self.enrol(name)
        return self.directory.user(name).password + self.tokens[name].code()

    def events(self, reference=None):
        """What the audit log says."""
        return self.with_store(lambda store: store.events(reference=reference, limit=1000))

    def children(self):
        """The workers' process ids, by the number of the worker."""
        found = {}
        for pid in Path(f"/proc/{self.process.popen.pid}/task/{self.process.popen.pid}/children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found[int(words[words.index(b"--number") + 1])] = int(pid)
        return found

    def logged(self, event):
        """The lines of the log that tell of `event`; one that is being written is none yet."""
        lines = [json.loads(line) for line in self.log.read_text().split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def wait_for_log(self, text):
        """Until the log holds `text`."""
        self.process.wait_until(lambda: text in self.log.read_text(), 10)

    def records(self):
        """The audit events on stderr."""
        return self.logged("LoginEnded")
