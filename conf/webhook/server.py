#!/usr/bin/env python3
# ruff: noqa: T201
"""An example of what a webhook talks to: whoever sits at this terminal approves logins (docs/howto/webhook.md).

usage: server.py SECRET-FILE [PORT]     (on 127.0.0.1; answer a login by its number and y, n or f, as in: 1 y)
"""

import hashlib
import hmac
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECRET = Path(sys.argv[1]).read_bytes().rstrip(b"\r\n")
NONCES, STATES, CHANGED = {}, {}, threading.Condition()  # seen when; by transaction; what guards both
KEYS = {"y": "approved", "n": "denied", "f": "fraud"}


def signature(direction: str, action: str, stamps: list[str], body: bytes) -> str:
    """Of timestamp, nonce, transaction and body."""
    lines = "\n".join(["ldapmfa-webhook-1", direction, action, *stamps, ""])
    return hmac.new(SECRET, lines.encode() + body, hashlib.sha256).hexdigest()


def decide(transaction: str, state: str) -> None:
    """Only what is pending can be decided."""
    with CHANGED:
        if STATES.get(transaction) == "pending":
            STATES[transaction] = state
            CHANGED.notify_all()


def answer(action: str, transaction: str, question: dict) -> dict:
    """To one request, with CHANGED held."""
    if action == "start":
        STATES[transaction] = "pending"
        timer = threading.Timer(question["seconds"], decide, (transaction, "no-answer"))
        timer.daemon = True
        timer.start()
        print(len(STATES), "{user!r} wants to sign in to {application} from {client}".format_map(question), flush=True)
    elif action == "poll":
        CHANGED.wait_for(lambda: STATES.get(transaction) != "pending", question["seconds"])
    elif action == "cancel":
        decide(transaction, "denied")
    state = STATES.get(transaction, "no-answer")
    return {"ok": True} if action == "health" else {"approved": state == "approved", "state": state}


class Webhook(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        """Answer it, if it is signed, of these minutes, and new."""
        action, body = self.path.rpartition("/")[2], self.rfile.read(int(self.headers["Content-Length"]))
        names = ("Timestamp", "Nonce", "Transaction", "Signature")
        *stamps, given = (self.headers.get(f"X-Ldapmfa-{name}", "") for name in names)
        with CHANGED:
            now, right = time.time(), signature("request", action, stamps, body)
            signed = hmac.compare_digest(right.encode(), given.encode())
            if not signed or abs(int(stamps[0]) - now) > 300 or stamps[1] in NONCES:
                self.send_error(401)
                return
            NONCES[stamps[1]] = now
            for old in [nonce for nonce, seen in NONCES.items() if seen < now - 600]:
                del NONCES[old]
            if action not in {"start", "poll", "cancel", "health"}:
                self.send_error(404)
                return
            octets = json.dumps(answer(action, stamps[2], json.loads(body))).encode()
        stamps[0] = str(int(time.time()))
        self.send_response(200)
        for name, value in zip(names, [*stamps, signature("answer", action, stamps, octets)], strict=True):
            self.send_header(f"X-Ldapmfa-{name}", value)
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int([*sys.argv, "8099"][2])), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    for line in sys.stdin:
        number, _, key = line.strip().partition(" ")
        transaction = dict(enumerate(STATES, 1)).get(int(number) if number.isdigit() else 0, "")
        if transaction and key in KEYS:
            decide(transaction, KEYS[key])
        else:
            print("type a number and y, n or f, as in: 1 y", flush=True)
