"""A privacyIDEA that answers as 3.14 does, as far as ldapmfa asks it, and that can be told to lie.

    async with Fake(tmp_path) as fake:
        fake.users["alice", ""] = {"PIPU1": Token("push")}
        fake.tap("PIPU1")                       # or tap(..., "declined"), "cancelled"
        fake.forge["/validate/check"] = lambda answer: ...

It is strict: forms only, no field it does not know, nothing of an administrator where none is needed. `web` is the
server below (tests/fakes/web.py), with its disturbances.
"""

from __future__ import annotations

import dataclasses

from fakes.web import Web, as_json

ADMIN, PASSWORD = "proxy", "an admin's password"
FIELDS = {
    "/auth": {"username", "password", "realm"},
    "/validate/triggerchallenge": {"user", "realm", "client", "type", "serial"},
    "/validate/check": {"user", "realm", "client", "pass", "transaction_id"},
}


@dataclasses.dataclass
class Token:
    """Of `kind` push, sms, email or totp; `codes` are each good once; `mode` is what its challenges are answered by."""

    kind: str
    codes: list = dataclasses.field(default_factory=list)
    locked: bool = False
    mode: str = ""
    used: list = dataclasses.field(default_factory=list)


class Fake:
    def __init__(self, directory, **options):
        self.web = Web(directory, self._answer, **options)
        self.users = {}
        self.challenges = {}
        self.forge = {}
        self.rights = ["triggerchallenge", "cancelchallenge"]
        self.filters = True  # whether the policy application_tokentype is set
        self.old = False  # whether answers have no `authentication`
        self.api_key = None
        self.sessions, self.logins, self._number = set(), 0, 0

    async def __aenter__(self):
        await self.web.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.web.__aexit__(*error)

    @property
    def asked(self):
        """The paths of all requests, without transactions."""
        return ["/".join(request.path.split("/")[:3]) for request in self.web.requests]

    def tap(self, serial, state="accept"):
        """What the owner does with the pending push."""
        for challenge in self.challenges.values():
            if serial in challenge["serials"]:
                challenge["state"] = state

    # -- answering

    async def _answer(self, request):
        assert request.headers["user-agent"].startswith("ldapmfa/"), "the policies go by the User-Agent"
        fields = {}
        if request.method == "POST":
            assert request.headers["content-type"] == "application/x-www-form-urlencoded"
            fields = request.form()
            assert fields.keys() <= FIELDS[request.path], fields.keys()
        assert not request.query
        assert all(fields[name] for name in fields if name != "pass"), "an empty field"
        path = request.path
        status, answer = self._route(request.method, path, fields, request.headers.get("pi-authorization"), request)
        base = "/validate/polltransaction" if path.startswith("/validate/polltransaction/") else path
        if base in self.forge:
            answer = self.forge[base](answer)
        return as_json(answer, status)

    def _route(self, method, path, fields, bearer, request):
        if (method, path) == ("POST", "/auth"):
            return self._auth(fields)
        if path.startswith(("/validate/check", "/validate/polltransaction/")):
            key = bearer or request.headers.get("x-api-key")
            assert key is None or self.api_key, "an administrator's token where nobody asked for it"
            if self.api_key and key != self.api_key:
                return error(403, 303, "No valid API key was passed.")
            return self._check(fields) if method == "POST" else self._poll(path.rpartition("/")[2])
        if bearer not in self.sessions:
            return error(401, 4033, "Authentication failure. Missing Authorization header.")
        if (method, path) == ("POST", "/validate/triggerchallenge"):
            return self._trigger(fields)
        if (method, path) == ("GET", "/auth/rights"):
            return self.ok({}, None)
        if method == "DELETE" and path.startswith("/token/challenges/transaction/"):
            if "cancelchallenge" not in self.rights:
                return error(403, 303, "Admin actions are defined, but the action cancelchallenge is not allowed!")
            deleted = self.challenges.pop(path.rpartition("/")[2], None)
            return self.ok({"status": True, "deleted": int(deleted is not None)}, None)
        return 404, {"error": "Not found"}

    def ok(self, value, authentication, detail=None):
        result = {"status": True, "value": value}
        if authentication and not self.old:
            result["authentication"] = authentication
        return 200, {"jsonrpc": "2.0", "id": 2, "result": result, "detail": detail or {}, "time": 1.7e9, "version": "privacyIDEA 3.14"}

    def _auth(self, fields):
        if (fields["username"], fields["password"]) != (ADMIN, PASSWORD):
            return error(401, 4031, "Authentication failed.")
        self.logins += 1
        token = f"eyJ.{self.logins}.session"
        self.sessions.add(token)
        return self.ok({"token": token, "role": "admin", "rights": self.rights}, "ACCEPT")

    def _tokens(self, fields):
        return self.users.get((fields["user"], fields.get("realm", "")))

    def _trigger(self, fields):
        tokens = self._tokens(fields)
        if tokens is None:
            return error(400, 904, "ERR904: The user can not be found in any resolver in this realm!")
        if "triggerchallenge" not in self.rights:
            return error(403, 303, "Admin actions are defined, but the action triggerchallenge is not allowed!")
        fit = {
            serial: token
            for serial, token in tokens.items()
            if fields.get("serial", serial) == serial
            and (not self.filters or fields.get("type", token.kind) == token.kind)
        }
        if fit and all(token.locked for token in fit.values()):
            return self.ok(0, "REJECT", {"message": "Failcounter exceeded", "multi_challenge": [], "transaction_ids": []})
        if not fit:
            return self.ok(0, "REJECT", {"messages": [], "multi_challenge": [], "transaction_ids": []})
        self._number += 1
        transaction = f"{self._number:020}"
        self.challenges[transaction] = {"user": fields["user"], "serials": set(fit), "state": "pending"}
        challenges = [
            {
                "transaction_id": transaction,
                "type": token.kind,
                "serial": serial,
                "client_mode": token.mode or ("poll" if token.kind == "push" else "interactive"),
                "message": "please",
            }
            for serial, token in fit.items()
        ]
        return self.ok(len(fit), "CHALLENGE", {**challenges[-1], "multi_challenge": challenges})

    def _poll(self, transaction):
        state = self.challenges.get(transaction, {"state": "pending"})["state"]
        said = {"accept": "ACCEPT", "pending": "REJECT"}.get(state, "DECLINED")
        return self.ok(state == "accept", said, {} if self.old else {"challenge_status": state})

    def _check(self, fields):
        tokens = self._tokens(fields)
        if tokens is None:
            return error(400, 904, f"ERR904: User <{fields['user']}@corp> does not exist.")
        if not tokens:
            return self.ok(False, "REJECT", {"message": "The user has no tokens assigned"})
        transaction, code = fields.get("transaction_id"), fields["pass"]
        if transaction:
            challenge = self.challenges.get(transaction)
            if challenge is None or challenge["user"] != fields["user"]:
                return self.ok(False, "REJECT", {"message": "wrong otp pin"})
            tokens = {serial: token for serial, token in tokens.items() if serial in challenge["serials"]}
            pushed = [serial for serial, token in tokens.items() if token.kind == "push"]
            if not code and challenge["state"] == "accept" and pushed:
                del self.challenges[transaction]
                return self.ok(True, "ACCEPT", {"message": "Found matching challenge", "serial": pushed[0]})
        for serial, token in tokens.items():
            if token.locked:
                return self.ok(False, "REJECT", {"message": "Failcounter exceeded"})
            if code in token.used:
                return self.ok(False, "REJECT", {"message": "wrong otp value. previous otp used again"})
            if code in token.codes:
                token.used.append(code)
                return self.ok(True, "ACCEPT", {"message": "matching 1 tokens", "serial": serial, "type": token.kind})
        return self.ok(False, "REJECT", {"message": "wrong otp value"})


def error(status, code, message):
    return status, {"jsonrpc": "2.0", "id": 1, "detail": None, "result": {"status": False, "error": {"code": code, "message": message}}}
