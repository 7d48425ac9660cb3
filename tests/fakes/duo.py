"""Duo's Auth API v2 on loopback: strict about all that a client sends, and false on demand.

    async with Duo(tmp_path) as duo:                 # or `with Duo(...)`, in a thread: see fakes.web
        table = duo.settings()
        duo.owner = "deny"                           # what "pushed" people press, `duo.after` seconds later
        duo.forge = lambda path, envelope: ...       # another envelope, or (status, envelope)
        duo.web.disturb("slow", path="/auth/v2/preauth")
        duo.asked                                    # the /auth requests that asked somebody, as dicts

What no client may do (parameters that don't exist or don't go together, a body that is not what was signed) is
answered as Duo does, and is a mistake raised when the server is left, unless a test takes it out of `duo.broken_rules`.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import time
import urllib.parse
import uuid
from email.utils import parsedate_to_datetime

from fakes.web import Web, as_json

IKEY = "DIXXXXXXXXXXXXXXXXXX"
SKEY = "deadbeef" * 5
SKEW = 300

_FINAL = {
    "allow": ("allow", "allow", "Success. Logging you in..."),
    "bypass": ("allow", "bypass", "Success. Logging you in..."),
    "deny": ("deny", "deny", "Login request denied."),
    "fraud": ("deny", "fraud", "Login request reported as fraudulent."),
    "timeout": ("deny", "timeout", "Login timed out."),
    "locked_out": ("deny", "locked_out", "Account disabled."),
}
_STEPS = {
    "push": [("waiting", "pushed", "Pushed a login request to your phone...")],
    "phone": [("waiting", "calling", "Dialing..."), ("waiting", "answered", "Press a key to log in.")],
    "sms": [("deny", "sent", "New SMS passcodes sent.")],
}
_TEXTS = {
    40001: "Missing required request parameters",
    40002: "Invalid request parameters",
    40101: "Missing request credentials",
    40102: "Invalid integration key in request credentials",
    40103: "Invalid signature in request credentials",
    40104: "Missing request timestamp",
    40105: "Bad request timestamp",
    40106: "Bad content type",
    40401: "Resource not found",
    42901: "Too Many Requests",
}
#: What each factor takes besides username or user_id, factor, async, ipaddr, hostname; * is demanded.
_PARAMETERS = {
    "auto": {"*device", "type", "display_username", "pushinfo", "txid"},
    "push": {"*device", "type", "display_username", "pushinfo", "txid"},
    "phone": {"*device"},
    "sms": {"*device"},
    "passcode": {"*passcode"},
}
_EVERYWHERE = {"username", "user_id", "ipaddr", "hostname"}


class Fail(Exception):  # noqa: N818 - what Duo calls it
    def __init__(self, code, detail=None):
        super().__init__(code)
        self.code, self.detail = code, detail


def phone(device="DPFZRS9FB0D46QFTM891", name="", display_name="iOS (XXX-XXX-0100)", capabilities=("auto", "push", "sms", "phone", "mobile_otp")):
    return {"device": device, "type": "phone", "name": name, "display_name": display_name, "number": "XXX-XXX-0100",
            "capabilities": list(capabilities)}


def token(device="DHEKH0JJIYC1LX3AZWO4"):
    return {"device": device, "type": "token", "name": "0"}


@dataclasses.dataclass
class User:
    """`policy` is what preauth says; `passcodes` are good once each."""

    policy: str = "auth"
    devices: list = dataclasses.field(default_factory=lambda: [phone()])
    passcodes: set = dataclasses.field(default_factory=set)
    used: set = dataclasses.field(default_factory=set)


class _Transaction:
    def __init__(self, user, steps):
        self.user, self.steps, self.told, self.changed = user, list(steps), 0, asyncio.Event()

    def add(self, step):
        self.steps.append(step)
        self.changed.set()


class Duo:
    """The service, with its users by name."""

    def __init__(self, directory, *, certificate="", verify=True):
        self.web = Web(directory, self._answer, certificate=certificate)
        self.users = {"alice": User(), "bob": User(policy="enroll")}
        self.owner, self.after = "allow", 0.0
        self.poll_seconds = 30.0  # how long auth_status holds a poll
        self.skew = 0.0  # by which this clock is ahead
        self.most_requests = float("inf")  # of a user, to /auth
        self.verified_push = False  # whether the policy demands it
        self.forge = None
        self.asked, self.broken_rules, self.transactions = [], [], {}
        self._verify = verify
        self._counts, self._timers = {}, []

    def settings(self):
        return {
            "kind": "duo",
            "api_host": f"{self.web.host}:{self.web.port}",
            "integration_key": IKEY,
            "secret_key": SKEY,
            "ca_file": str(self.web.ca_file),
        }

    def paths(self):
        """The endpoints that were called, in order."""
        return [request.path.removeprefix("/auth/v2/") for request in self.web.requests]

    def press(self, what, transaction=None):
        """The owner of the latest push, or of that of `transaction`, presses `what`."""
        chosen = self.transactions[transaction] if transaction else list(self.transactions.values())[-1]
        chosen.add(_FINAL[what])

    async def __aenter__(self):
        await self.web.__aenter__()
        return self

    async def __aexit__(self, kind, *rest):
        for timer in self._timers:
            timer.cancel()
        await self.web.__aexit__(kind, *rest)
        self._check(kind)

    def __enter__(self):
        self.web.__enter__()
        return self

    def __exit__(self, kind, *rest):
        self.web.__exit__(kind, *rest)
        self._check(kind)

    def _check(self, kind):
        assert kind is not None or not self.broken_rules, self.broken_rules

    # -- the envelope

    async def _answer(self, request):
        name = request.path.removeprefix("/auth/v2/")
        endpoint = getattr(self, f"_on_{name}", None) if request.path == f"/auth/v2/{name}" else None
        try:
            if endpoint is None:
                raise Fail(40401)
            if name != "ping":
                self._authenticate(request)
            envelope = {"stat": "OK", "response": await endpoint(self._parameters(request, name))}
            status = 200
        except Fail as fail:
            status = fail.code // 100
            envelope = {"stat": "FAIL", "code": fail.code, "message": _TEXTS[fail.code]}
            if fail.detail:
                envelope["message_detail"] = fail.detail
            if fail.code in (40001, 40002) and name != "auth_status":
                self._break(f"{name}: {fail.code} {fail.detail}")
        if self.forge:
            forged = self.forge(name, envelope)
            status, envelope = forged if isinstance(forged, tuple) else (status, forged)
        return as_json(envelope, status)

    def _break(self, what):
        self.broken_rules.append(what)

    def _parameters(self, request, name):
        posts = name in ("preauth", "auth")
        if request.method != ("POST" if posts else "GET"):
            self._break(f"{name}: {request.method}")
            raise Fail(40401)
        if not posts:
            if request.body:
                self._break(f"{name}: a GET has a body")
            return request.parameters()
        if request.query:
            self._break(f"{name}: a POST has a query")
        if request.headers.get("content-type") != "application/json":
            raise Fail(40106)
        parameters = json.loads(request.body)
        if not all(isinstance(value, str) for value in parameters.values()):
            self._break(f"{name}: values are strings")
        if request.body != json.dumps(parameters, sort_keys=True, separators=(",", ":")).encode():
            self._break(f"{name}: the JSON is not canonical")
        return parameters

    def _authenticate(self, request):
        """Work out the signature from the request as it came in."""
        if not self._verify:  # a bench of clients, not of this
            return
        authorization = request.headers.get("authorization", "")
        if not authorization.startswith("Basic "):
            raise Fail(40101)
        key, _, signature = base64.b64decode(authorization[6:], validate=True).decode("ascii").partition(":")
        if key != IKEY:
            raise Fail(40102)
        date = request.headers.get("x-duo-date") or request.headers.get("date")
        if not date:
            raise Fail(40104)
        if abs(parsedate_to_datetime(date).timestamp() - self._now()) > SKEW:
            raise Fail(40105)

        def quoted(text):
            return urllib.parse.quote(text, safe="~")

        query = "&".join(
            f"{name}={value}" for name, value in sorted((quoted(name), quoted(value)) for name, value in request.parameters().items())
        )
        extra = [text for name in sorted(request.headers) if name.startswith("x-duo-") for text in (name, request.headers[name])]
        lines = [
            date,
            request.method,
            request.headers["host"].partition(":")[0].lower(),
            request.path,
            query,
            hashlib.sha512(request.body).hexdigest(),
            hashlib.sha512("\0".join(extra).encode()).hexdigest(),
        ]
        if not hmac.compare_digest(hmac.new(SKEY.encode(), "\n".join(lines).encode(), hashlib.sha512).hexdigest(), signature):
            raise Fail(40103)

    def _now(self):
        return time.time() + self.skew

    # -- the endpoints

    async def _on_ping(self, parameters):
        return {"time": int(self._now())}

    async def _on_check(self, parameters):
        return {"time": int(self._now())}

    def _user(self, parameters, allowed):
        for name in parameters:
            if name not in allowed | _EVERYWHERE:
                raise Fail(40002, name)
        if ("username" in parameters) == ("user_id" in parameters):
            raise Fail(40001, "username")
        if len(parameters.get("pushinfo", "")) >= 20_000:
            raise Fail(40002, "pushinfo")
        return parameters.get("username")

    async def _on_preauth(self, parameters):
        name = self._user(parameters, {"client_supports_verified_push", "trusted_device_token"})
        user = self.users.get(name, User(policy="enroll"))
        answer = {"result": user.policy, "status_msg": "Account is " + ("active" if user.policy == "auth" else user.policy)}
        if user.policy == "enroll":
            answer["enroll_portal_url"] = "https://enroll.example.com/portal?code=secret"
        if user.policy == "auth":
            answer["devices"] = user.devices
            if self.verified_push and parameters.get("client_supports_verified_push") == "1":
                answer |= {"txid": str(uuid.uuid4()), "verification_code": "123", "expiration": 60}
        return answer

    async def _on_auth(self, parameters):
        factor = parameters.get("factor")
        if factor not in _PARAMETERS:
            raise Fail(40002 if factor else 40001, "factor")
        wanted = _PARAMETERS[factor]
        name = self._user(parameters, {"factor", "async", *(parameter.lstrip("*") for parameter in wanted)})
        for parameter in wanted:
            if parameter.startswith("*") and parameter[1:] not in parameters:
                raise Fail(40001, parameter[1:])
        if parameters.get("async", "0") not in ("0", "1"):
            raise Fail(40002, "async")
        user = self.users.get(name)
        if user is None or user.policy == "enroll":
            raise Fail(40002, "username")
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._counts[name] > self.most_requests:
            raise Fail(42901)
        if factor == "passcode":
            steps = [self._passcode(user, parameters["passcode"])]
        else:
            able = [device for device in user.devices if factor in device.get("capabilities", ())]
            if not able or parameters["device"] not in ("auto", *(device["device"] for device in able)):
                raise Fail(40002, "device")
            urllib.parse.parse_qsl(parameters.get("pushinfo", ""), strict_parsing="pushinfo" in parameters)
            steps = _STEPS["push" if factor == "auto" else factor]
            self.asked.append(parameters)
        transaction = _Transaction(name, steps)
        if steps[-1][0] == "waiting" and self.owner:
            timer = asyncio.get_running_loop().call_later(self.after, transaction.add, _FINAL[self.owner])
            self._timers.append(timer)
        if parameters.get("async") == "1":
            txid = str(uuid.uuid4())
            self.transactions[txid] = transaction
            return {"txid": txid}
        while transaction.steps[-1][0] == "waiting":
            transaction.changed.clear()
            await transaction.changed.wait()
        return _as_answer(transaction.steps[-1])

    def _passcode(self, user, passcode):
        if passcode in user.passcodes:
            user.passcodes.discard(passcode)
            user.used.add(passcode)
            return _FINAL["allow"]
        if passcode in user.used:
            return "deny", "deny", "This passcode has already been used."
        return "deny", "deny", "Incorrect passcode. Please try again."

    async def _on_auth_status(self, parameters):
        if set(parameters) != {"txid"}:
            self._break(f"auth_status: {sorted(parameters)}")
            raise Fail(40001, "txid")
        transaction = self.transactions.get(parameters["txid"])
        if transaction is None:
            raise Fail(40002, "txid")
        end = time.monotonic() + self.poll_seconds
        while transaction.told == len(transaction.steps):  # each state is told once
            transaction.changed.clear()
            try:
                await asyncio.wait_for(transaction.changed.wait(), end - time.monotonic())
            except TimeoutError:
                raise Fail(40002, "txid") from None
        transaction.told += 1
        return _as_answer(transaction.steps[transaction.told - 1])


def _as_answer(step):
    return dict(zip(("result", "status", "status_msg"), step, strict=True))
