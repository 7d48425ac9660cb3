"""A name server for SRV records on loopback, which may change its mind, fall silent, or send nonsense."""

from __future__ import annotations

import socket
import threading

from twisted.names import dns

from .common import free_port

NAME = "_ldap._tcp.example.test"


class NameServer:
    """Answers SRV questions with `records`, (priority, weight, port, host); `says` may be a DNS error, or "nothing"."""

    def __init__(self):
        self.records, self.says, self.ttl = [], dns.OK, 1
        self.asked = 0

    def __enter__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = free_port()
        self.socket.bind(("127.0.0.1", self.port))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.socket.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join()
        self.socket.close()

    @property
    def where(self):
        return (("127.0.0.1", self.port),)

    def answer_by_tcp(self):
        """What was too long for UDP, on one connection; whether the client ended it."""
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(10)
            with listener.accept()[0] as near:
                near.settimeout(10)
                data = b""
                while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                    data += near.recv(1 << 16)
                raw = self.answer(data[2:]).toStr()
                near.sendall(len(raw).to_bytes(2, "big") + raw)
                return near.recv(1) == b""

    def answer(self, data):
        question = dns.Message()
        question.fromStr(data)
        code = self.says if isinstance(self.says, int) else dns.OK
        answer = dns.Message(question.id, answer=1, rCode=code, maxSize=512 if self.says == "cut off" else 0)
        answer.queries = question.queries
        if self.says in {dns.OK, "too long", "cut off"} and question.queries[0].type == dns.SRV:
            answer.answers = [
                dns.RRHeader(NAME, dns.SRV, dns.IN, self.ttl, dns.Record_SRV(*numbers, host, self.ttl))
                for *numbers, host in self.records
            ]
        return answer

    def serve(self):
        while True:
            data, who = self.socket.recvfrom(512)
            if not data:
                return
            self.asked += 1
            if self.says == "nothing":
                continue
            if self.says == "garbage":
                self.socket.sendto(data[:2] + b"\xff" * 40, who)
                continue
            answer = self.answer(data)
            if self.says in {"too long", "cut off"}:
                answer.answers, answer.trunc = [], 1
            self.socket.sendto(answer.toStr(), who)
