"""The program behind a webhook, as strict as its contract (docs/reference/webhook.md), signing by its own arithmetic.

    async with Approvals(tmp_path) as there:
        Webhook(WebhookTable(**there.table), Tools())
        there.says = {"poll": [{"approved": True, "state": "approved"}]}    # one after another; the last one again and again
        there.forge = lambda answer: answer | {"nonce": "..."}              # what is signed and sent instead

What breaks the contract is a mistake of the test: raised when the server is left.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time

from fakes.web import Web

SECRET = b"an example of a secret, 36 octets ok"
PENDING = {"approved": False, "state": "pending"}
APPROVED = {"approved": True, "state": "approved"}

_WHOM = {"user": str, "account": str, "application": str, "client": str, "device": str}
_FIELDS = {
    "start": _WHOM | {"method": str, "seconds": int},
    "poll": {"seconds": int},
    "verify": _WHOM | {"code": str, "sent": bool},
    "cancel": {},
    "health": {},
}


def sign(secret, direction, action, stamps, body):
    timestamp, nonce, transaction = stamps
    text = f"ldapmfa-webhook-1\n{direction}\n{action}\n{timestamp}\n{nonce}\n{transaction}\n".encode() + body
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


class Approvals(Web):
    """`asked` are (action, transaction, body) of what came in; `polled` is set by the first poll.

    `hold`: for how many seconds a poll is held that has nothing to say.
    """

    def __init__(self, directory, *, secret=SECRET, now=time.time, **how):
        super().__init__(directory, self._reply, **how)
        self.secret, self.now = secret, now
        self.says, self.forge = {}, lambda answer: answer
        self.asked, self.polled, self.hold = [], asyncio.Event(), 0
        self._nonces, self._open = set(), set()

    @property
    def table(self):
        """The settings of a `Webhook` that talks to this."""
        trust = {"ca_file": self.ca_file} if self.ca_file else {}
        return {"kind": "webhook", "url": f"{self.url}/hook", "secret": SECRET.decode(), "poll_seconds": 0.05, **trust}

    def actions(self):
        return [action for action, _, _ in self.asked]

    async def _reply(self, request):
        action, transaction, nonce, question = self._read(request)
        self.asked.append((action, transaction, question))
        if action == "poll":
            self.polled.set()
        says = self.says.get(action, {"ok": True} if action == "health" else PENDING)
        if isinstance(says, list):
            says = says.pop(0) if len(says) > 1 else says[0]
        if action == "poll" and says == PENDING:
            await asyncio.sleep(self.hold)
        answer = self.forge(
            {
                "status": 200,
                "direction": "answer",
                "action": action,
                "timestamp": str(int(self.now())),
                "nonce": nonce,
                "transaction": transaction,
                "body": says if isinstance(says, bytes) else json.dumps(says).encode(),
            }
        )
        stamps = [answer[name] for name in ("timestamp", "nonce", "transaction")]
        signature = sign(self.secret, answer["direction"], answer["action"], stamps, answer["body"])
        names = ("Timestamp", "Nonce", "Transaction", "Signature")
        values = dict(zip(names, [*stamps, answer.get("signature", signature)], strict=True))
        headers = {f"X-Ldapmfa-{name}": value for name, value in values.items() if value is not None}
        return answer["status"], headers, answer.get("sent", answer["body"])

    def _read(self, request):
        """What a request says, every rule of the contract checked."""
        assert request.method == "POST"
        action = re.fullmatch(r"/hook/(\w+)", request.target)[1]
        stamps = [request.headers[f"x-ldapmfa-{name}"] for name in ("timestamp", "nonce", "transaction")]
        timestamp, nonce, transaction = stamps
        right = sign(SECRET, "request", action, stamps, request.body)
        assert request.headers["x-ldapmfa-signature"] == right
        assert request.headers["content-type"] == "application/json"
        assert abs(int(timestamp) - self.now()) <= 10  # tests share the machine
        assert re.fullmatch("[0-9a-f]{32}", nonce)
        assert re.fullmatch("[0-9a-f]{32}", transaction)
        assert nonce not in self._nonces, "a nonce is used twice"
        self._nonces.add(nonce)
        question = request.json()
        assert {name: type(value) for name, value in question.items()} == _FIELDS[action]
        if action == "start":
            assert transaction not in self._open, "a transaction is used twice"
            self._open.add(transaction)
        elif action in {"poll", "cancel"}:
            assert transaction in self._open
        return action, transaction, nonce, question
