"""The services that verify second factors, each with somebody who presses its buttons, as its logins' tests want them.

Duo and Entra are fakes over TLS, privacyIDEA and FreeRADIUS real ones, and behind the webhook is conf/webhook/server.py.

    with AtDuo(tmp_path, server_cache) as site, Proxy(slapd, ..., services={site.name: site.settings}) as proxy:
        with site.owner("yes"):          # or "no": what is pressed, `WAIT` seconds after the question
            ...                          # `site.alice` logs in
        assert site.asked() == 1
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time

import pyotp
from fakes.duo import Duo, User
from fakes.entra import SECRET, Entra
from fakes.entra import User as EntraUser
from fakes.web import Web
from system.proxy import ROOT
from system.servers import freeradius_upstream as radius
from system.servers.common import tail
from system.servers.privacyidea import ADMIN, PASSWORDS, SERVICE, PrivacyIdea

from ldapmfa.core.secret import Secret
from ldapmfa.factors.hotp import base32

#: Seconds that the owner takes to find the button.
WAIT = 0.5


class Site:
    """A service. `port` is where it listens, `waits` how long a yes takes at least.

    Who logs in is called `alice`, and in a test of a no `refuses`; `bob` is sent codes by the method `sends`. At the
    service their names have `suffix` behind them.
    """

    name = ""
    waits = WAIT
    alice, refuses, bob, sends, suffix = "alice", "alice", "bob", "sms", ""
    takes_codes = burns_codes = True

    def __init__(self, directory, cache):
        self.directory, self.cache = directory, cache

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *why):
        return self._stack.__exit__(*why)

    def begin(self, stack):
        """Start it; what ends it goes to the stack."""
        raise NotImplementedError

    @contextlib.contextmanager
    def owner(self, presses):
        """Whoever is asked meanwhile presses it."""
        raise NotImplementedError

    def asked(self):
        """How often somebody was asked."""
        raise NotImplementedError

    def code(self):
        """One of alice's codes that was not used."""
        raise NotImplementedError

    def sent(self):
        """The code that was sent to bob."""
        raise NotImplementedError


class AtDuo(Site):
    name = "duo"

    def begin(self, stack):
        self.fake = stack.enter_context(Duo(self.directory))
        self.fake.users = {name: User() for name in ("alice", "bob", "carol", "dave")}
        self.fake.after = WAIT
        self.settings, self.port = self.fake.settings(), self.fake.web.port
        self._codes = 100_000

    @contextlib.contextmanager
    def owner(self, presses):
        self.fake.owner = {"yes": "allow", "no": "deny"}[presses]
        yield

    def asked(self):
        return len(self.fake.asked)

    def code(self, name="alice"):
        self._codes += 1
        self.fake.users[name].passcodes.add(str(self._codes))
        return str(self._codes)

    def sent(self):
        return self.code("bob")


class AtEntra(Site):
    name = "entra"
    suffix = "@example.com"

    def begin(self, stack):
        self.fake = Entra(self.directory)
        stack.enter_context(self.fake.web)
        for name in ("alice", "bob", "carol"):
            self.fake.users[f"{name}@example.com"] = EntraUser()
        self.settings = {**self.fake.settings, "client_secret": SECRET, "username": "{account}@example.com", "poll_seconds": WAIT / 2}
        self.port = self.fake.web.port

    @contextlib.contextmanager
    def owner(self, presses):
        last = {"yes": "Success", "no": "PhoneAppDenied"}[presses]
        self.fake.users["alice@example.com"].presses = ["AuthenticationPending", "AuthenticationPending", last]
        yield

    def asked(self):
        return len(self.fake.asked)

    def code(self):
        user = self.fake.users["alice@example.com"]
        user.code = f"{int(user.code) + 1}"
        return user.code

    def sent(self):
        return self.fake.users["bob@example.com"].code


class AtPrivacyIdea(Site):
    name = "privacyidea"

    def begin(self, stack):
        async def gateway(_request):
            return 200, {}, b"sent"

        self.messages = stack.enter_context(Web(self.directory, gateway, tls=False, host="127.0.0.1"))
        server = PrivacyIdea(self.directory, self.cache)
        stack.callback(server.stop)
        server.start()
        server.realm("corp", "alice", "bob", "carol")
        server.policy("root", "admin", "*", adminuser=ADMIN)
        server.policy("ldapmfa", "admin", "triggerchallenge, cancelchallenge", adminuser=SERVICE)
        server.policy("one-kind", "authorization", "application_tokentype")
        server.policy("no-pin", "authentication", "otppin=none, push_allow_polling=allow")
        url = f"{server.url}/ttype/push"
        server.policy("push", "enrollment", f"push_firebase_configuration=poll only, push_registration_url={url}")
        module = "privacyidea.lib.smsprovider.HttpSMSProvider.HttpSMSProvider"
        options = {"option__URL": self.messages.url, "option__HTTP_METHOD": "POST", "option__text": "{otp}", "option__to": "{phone}"}
        server.admin("POST", "/smsgateway", name="gateway", module=module, **options)
        server.admin("POST", "/system/setConfig", sms__identifier="gateway")
        server.enrol("bob", "sms", phone="+491234567", genkey=1)
        self.phone, self._secret, self._steps = server.phone("alice"), server.totp("alice"), iter((-1, 0, 1))
        self.settings = {
            "url": server.url, "ca_file": server.ca_file, "admin": SERVICE, "password": PASSWORDS[SERVICE], "poll_seconds": 0.2,
        }  # fmt: skip
        self.server, self.port, self._asked = server, server.port, 0

    @contextlib.contextmanager
    def owner(self, presses):
        def press():
            end = time.monotonic() + 20
            while not self.phone.pending():  # the server is slow: it is not asked all the time
                if time.monotonic() > end:
                    return
                time.sleep(0.2)
            self._asked += 1
            time.sleep(WAIT)
            (self.phone.accept if presses == "yes" else self.phone.decline)()

        with in_thread(press):
            yield

    def asked(self):
        return self._asked + len(self.phone.pending())

    def code(self):
        return pyotp.HOTP(base32(Secret(self._secret))).at(int(time.time() // 30) + next(self._steps))

    def sent(self):
        return self.messages.requests[-1].form()["text"]


class AtRadius(Site):
    name = "radius"
    waits = radius.PUSH_SECONDS
    refuses, sends = "carol", "radius"
    burns_codes = False

    def begin(self, stack):
        server = radius.FreeRadiusUpstream(self.directory)
        stack.callback(server.stop)
        server.start()
        self.settings = {
            "servers": [server.server], "secret": radius.SECRET, "status_server": True, "challenge_seconds": 0.5,
        }  # fmt: skip
        self.server, self.port = server, server.port

    @contextlib.contextmanager
    def owner(self, presses):
        yield

    def asked(self):
        return self.server.log.read_text(errors="replace").count("Executing: /bin/sleep")

    def sent(self):
        return radius.CODE


class AtWebhook(Site):
    name = "webhook"
    sends = None
    takes_codes = False

    def begin(self, stack):
        file = self.directory / "webhook.secret"
        file.write_bytes(b"an example of a secret, 36 octets ok\n")
        self._log, self._presses, self._asked = self.directory / "webhook.log", None, 0
        self.port, self._secret = 0, file
        stack.callback(self.stop)
        self.start()
        self.settings = {"url": f"http://127.0.0.1:{self.port}", "secret_file": file, "poll_seconds": 0.1}

    def start(self):
        """At the port that it had before, if it had one."""
        words = [sys.executable, ROOT / "conf/webhook/server.py", self._secret, str(self.port)]
        with self._log.open("ab") as log:
            pipe = subprocess.PIPE
            self._program = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=log, text=True)
        said = self._program.stdout.readline()
        found = re.search(r":(\d+)$", said.strip())
        assert found, tail(self._log)
        self.port = int(found[1])
        self._reader = threading.Thread(target=self._read, args=(self._program,), daemon=True)
        self._reader.start()

    def stop(self):
        self._program.kill()
        self._program.stdin.close()
        self._program.wait()
        self._reader.join()
        self._program.stdout.close()

    def _read(self, program):
        for line in program.stdout:
            self._asked += 1
            if self._presses:
                time.sleep(WAIT)
                program.stdin.write(f"{line.split()[0]} {self._presses}\n")
                program.stdin.flush()

    @contextlib.contextmanager
    def owner(self, presses):
        self._presses = presses[0]
        try:
            yield
        finally:
            self._presses = None

    def asked(self):
        return self._asked


@contextlib.contextmanager
def in_thread(work):
    """`work` runs meanwhile; what it raises is raised at the end."""
    raised = []

    def run():
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(30)
    if raised:
        raise raised[0]


SITES = {site.name: site for site in (AtDuo, AtEntra, AtPrivacyIdea, AtRadius, AtWebhook)}
