"""A privacyIDEA of the release that is named here, in a virtual environment of its own, with SQLite.

It is run as a program, by its command line and its HTTP API, as its administrators and its app do: it is AGPL, and
nothing of it is part of this project. Installing takes some 30 s and needs a package index; it is done once for each
cache (see `server_cache`), as is the making of its database and keys.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from .common import (
    SCRIPTS,
    Process,
    StartError,
    answers_tcp,
    copy_tree,
    free_port,
    make_certificates,
    run,
    template,
    unavailable,
)

VERSION = "3.14"
ADMIN, SERVICE, AUDITOR = "root", "ldapmfa", "auditor"
#: All are administrators, and may do anything until the first policy of that scope is made.
PASSWORDS = {name: f"{name}-Passw0rd" for name in (ADMIN, SERVICE, AUDITOR)}
REALM = "corp"

CONFIGURATION = """\
import os
HERE = os.path.dirname(os.path.abspath(__file__))
SUPERUSER_REALM = ["super"]
SQLALCHEMY_DATABASE_URI = "sqlite:///" + HERE + "/privacyidea.db"
SECRET_KEY = "of tests, and of nothing else whatsoever"
PI_PEPPER = "of tests as well"
PI_ENCFILE = HERE + "/enckey"
PI_AUDIT_KEY_PRIVATE = HERE + "/private.pem"
PI_AUDIT_KEY_PUBLIC = HERE + "/public.pem"
PI_AUDIT_SQL_TRUNCATE = True
PI_LOGFILE = HERE + "/privacyidea.log"
PI_LOGLEVEL = 30
"""


class PrivacyIdea:
    """A running server and its administrator; realms, whose users are in files, are made by `realm`."""

    def __init__(self, directory: Path, cache: Path) -> None:
        self.directory = directory
        self.cache = cache
        self.process: Process | None = None
        self._token = ""

    # -- running

    def start(self) -> PrivacyIdea:
        """Some 4 s where it is installed already."""
        made_of = hashlib.sha256(repr((CONFIGURATION, PASSWORDS, sys.version)).encode()).hexdigest()
        self.tree = tree = template(self.cache, f"privacyidea-{VERSION}-{made_of[:12]}", self._install)
        copy_tree(tree / "instance", self.directory)
        self.ca_file = make_certificates(self.directory / "tls")
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        tls = self.directory / "tls"
        self.process = Process(
            [tree / "venv/bin/python", SCRIPTS / "privacyidea_serve.py", self.directory / "pi.cfg", self.port,
             tls / "cert.pem", tls / "key.pem"],
            self.directory / "server.log", env={"PYTHONUNBUFFERED": "1"}, cwd=self.directory,
        )  # fmt: skip
        self.process.wait_until(lambda: answers_tcp("127.0.0.1", self.port), seconds=60)
        self._log_in()
        return self

    def stop(self) -> None:
        if self.process:
            self.process.stop()
            self.process = None

    @staticmethod
    def _install(tree: Path) -> None:
        log, python = tree / "install.log", tree / "venv/bin/python"
        try:
            run([sys.executable, "-m", "venv", tree / "venv"], log)
            run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"privacyidea=={VERSION}"], log)
        except (StartError, subprocess.SubprocessError) as error:
            unavailable(f"privacyIDEA {VERSION} can't be installed from the package index: {error}")
        # three hundred megabytes of web interface
        for pages in tree.glob("venv/lib/python*/site-packages/privacyidea/static*"):
            shutil.rmtree(pages)
        instance = tree / "instance"
        instance.mkdir()
        (instance / "pi.cfg").write_text(CONFIGURATION)
        for words in (
            ("setup", "create_enckey"),
            ("setup", "create_audit_keys"),
            ("setup", "create_tables"),
            *(("admin", "add", name, "--password", password) for name, password in PASSWORDS.items()),
        ):
            run([python, tree / "venv/bin/pi-manage", *words], log, env=_environment(instance))

    def manage(self, *words: str) -> str:
        """What `pi-manage` prints."""
        # by its Python: the script's first line names the directory that the tree was made in
        argv = [self.tree / "venv/bin/python", self.tree / "venv/bin/pi-manage", *words]
        environment = {**os.environ, **_environment(self.directory)}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

    def api_token(self, role: str) -> str:
        """A token for `role` (admin or validate) as `pi-manage` makes it."""
        return re.search(r"eyJ\S+", self.manage("api", "createtoken", "--role", role, "--username", SERVICE))[0]

    # -- the API

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **fields: object) -> dict:
        """The answer to a request, whatever its status; a name's double underscore stands for a dot."""
        encoded = urlencode({name.replace("__", "."): value for name, value in fields.items()})
        url, data = f"{self.url}{path}", encoded.encode() if method == "POST" else None
        if encoded and method != "POST":
            url += f"?{encoded}"
        request = urllib.request.Request(url, data, headers or {}, method=method)
        context = ssl.create_default_context(cafile=self.ca_file)
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def admin(self, method: str, path: str, **fields: object) -> dict:
        """The answer to the administrator; a refusal raises."""
        answer = self.call(method, path, {"PI-Authorization": self._token}, **fields)
        if answer["result"]["status"] is not True:
            raise RuntimeError(f"{method} {path}: {answer['result']}")
        return answer

    def _log_in(self) -> None:
        answer = self.call("POST", "/auth", username=ADMIN, password=PASSWORDS[ADMIN])
        self._token = answer["result"]["value"]["token"]

    def realm(self, name: str, *users: str) -> None:
        """A realm of these users; the first that is made is the default."""
        file = self.directory / f"{name}.users"
        lines = (f"{user}:x:{1000 + number}:100:{user}:/:/bin/sh\n" for number, user in enumerate(users))
        file.write_text("".join(lines))
        self.admin("POST", f"/resolver/{name}", type="passwdresolver", fileName=file)
        self.admin("POST", f"/realm/{name}", resolvers=name)

    def policy(self, name: str, scope: str, action: str, **more: object) -> None:
        self.admin("POST", f"/policy/{name}", scope=scope, action=action, **more)

    def no_policy(self, name: str) -> None:
        self.admin("DELETE", f"/policy/{quote(name)}")

    def enrol(self, user: str, kind: str, *, realm: str = REALM, **fields: object) -> dict:
        """What the server says of a new token."""
        return self.admin("POST", "/token/init", type=kind, user=user, realm=realm, **fields)["detail"]

    def serials(self, user: str) -> list[str]:
        return [token["serial"] for token in self.admin("GET", "/token/", user=user)["result"]["value"]["tokens"]]

    def totp(self, user: str, **fields: object) -> bytes:
        """The secret of a new token of the usual kind."""
        made = self.enrol(user, "totp", genkey=1, **fields)
        return bytes.fromhex(made["otpkey"]["value"].removeprefix("seed://"))

    def phone(self, user: str, *, realm: str = REALM) -> Phone:
        """A smartphone that has scanned the code of a new push token, which no push service is told of."""
        return Phone(self, self.enrol(user, "push", realm=realm, genkey=1)["pushurl"]["value"])


def _environment(instance: Path) -> dict[str, str]:
    return {"PRIVACYIDEA_CONFIGFILE": str(instance / "pi.cfg")}


class Phone:
    """A smartphone: it enrols, polls and answers as the app does, by /ttype/push."""

    def __init__(self, server: PrivacyIdea, scanned: str) -> None:
        self.server = server
        found = dict(parse_qsl(urlsplit(scanned).query))
        self.serial = found["serial"]
        self.key = rsa.generate_private_key(65537, 2048)
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._send(
            enrollment_credential=found["enrollment_credential"],
            fbtoken="none",
            pubkey=base64.urlsafe_b64encode(public).decode(),
        )

    def _send(self, method: str = "POST", **fields: str) -> dict:
        answer = self.server.call(method, "/ttype/push", serial=self.serial, **fields)
        if answer["result"]["status"] is not True:
            raise RuntimeError(f"the phone is refused: {answer['result']}")
        return answer

    def _signed(self, *words: str) -> str:
        return base64.b32encode(self.key.sign("|".join(words).encode(), padding.PKCS1v15(), hashes.SHA256())).decode()

    def pending(self) -> list[dict]:
        """The questions that the phone shows."""
        now = dt.datetime.now(dt.UTC).isoformat()
        return self._send("GET", timestamp=now, signature=self._signed(self.serial, now))["result"]["value"]

    def accept(self) -> None:
        nonce = self.pending()[-1]["nonce"]
        self._send(nonce=nonce, signature=self._signed(nonce, self.serial))

    def decline(self, reason: str = "") -> None:
        """`reason`: "unknown_trigger" (it was not me), "cancelled" (it was me), none as older apps."""
        nonce = self.pending()[-1]["nonce"]
        words = (nonce, self.serial, "decline", *([reason] if reason else []))
        self._send(nonce=nonce, decline="1", signature=self._signed(*words), **({"decline_reason": reason} if reason else {}))
