"""An HTTPS server on loopback for fakes of services: strict about HTTP, and disturbed on demand.

    async def answer(request):                      # request: method, path, query, headers, body, .json(), .form()
        return 200, {"Content-Type": "application/json"}, b"{}"

    async with Web(tmp_path, answer) as web:        # in this event loop; `with Web(...)` runs one in a thread, for
        web.url, web.ca_file, web.requests          # tests that block or start programs
        web.disturb("status", status=429, headers={"Retry-After": "7"}, path="/auth", times=1)
        web.calm()

`Web(..., certificate="stranger")` shows a certificate of another authority; see `Authority.pair`. `nobody()` is a port
that refuses connections. An exception in `answer` is kept in `web.mistakes` and raised when the server is left, for it
is a bug of the test, or the fake's way to say that the client broke a rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
from http import HTTPStatus
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority in a directory: `ca_file`, and `pair` for what it has signed."""

    def __init__(self, directory, name="ca"):
        self._directory, self._name, self._key = directory, name, ec.generate_private_key(ec.SECP256R1())
        self.ca_file = directory / f"{name}.pem"
        certificate = (
            self._builder(name, self._key, dt.datetime.now(dt.UTC) - _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(*([False] * 5), True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject, key, begin):
        def common_name(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(common_name(subject))
            .issuer_name(common_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 300 * _DAY)
        )

    def pair(self, kind=""):
        """(certificate file, key file) for localhost; `kind` may be "expired" or "other-name"."""
        key = ec.generate_private_key(ec.SECP256R1())
        begin = dt.datetime.now(dt.UTC) - (400 * _DAY if kind == "expired" else _DAY)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if kind == "other-name":
            names = [x509.DNSName("elsewhere.example.com")]
        certificate = (
            self._builder("fake", key, begin)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self._directory / f"{self._name}-leaf.pem", self._directory / f"{self._name}-leaf.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
        return files


@dataclasses.dataclass(frozen=True)
class Request:
    """What came in. `headers` has lower-case names; `target` is path and query as they were sent."""

    method: str
    target: str
    headers: dict
    body: bytes

    @property
    def path(self):
        return self.target.partition("?")[0]

    @property
    def query(self):
        return self.target.partition("?")[2]

    def parameters(self):
        """The query's, decoded; ValueError: one is given twice."""
        return _once(parse_qsl(self.query, keep_blank_values=True, strict_parsing=bool(self.query)))

    def form(self):
        """A form's fields, decoded; ValueError: one is given twice."""
        return _once(parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(self.body)))

    def json(self):
        return json.loads(self.body)


def _once(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a parameter is given twice")
    return dict(pairs)


def as_json(value, status=200, headers=None):
    """What `answer` returns for a JSON `value`."""
    return status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode()


@dataclasses.dataclass
class _Disturbance:
    kind: str
    path: str
    times: float
    options: dict


class Web:
    """A server for `answer(request)`, an async function giving (status, headers, body) or None to cut the connection."""

    def __init__(self, directory, answer, *, certificate="", tls=True, host="localhost"):
        self._answer = answer
        self._servers = self._loop = None
        self._disturbances, self._tasks = [], set()
        self.requests, self.mistakes, self.connections, self.most_connections = [], [], 0, 0
        self._tls, self.ca_file = None, None
        if tls:
            authority = Authority(directory)
            signer = Authority(directory, "stranger") if certificate == "stranger" else authority
            self.ca_file = authority.ca_file
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*signer.pair(certificate))
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._socket.getsockname()[1]
        self.host = host
        self.url = f"http{'s' if tls else ''}://{host}:{self.port}"

    # -- how it behaves

    def disturb(self, kind, *, path="", times=float("inf"), **options):
        """Treat requests whose path begins with `path` badly, `times` times.

        Kinds: "slow" (answers after `seconds`, never if not given), "broken" (closes without an answer), "cut" (closes
        within the answer), "status" (`status`, `headers`, `body`), "garbage" (200 and no JSON; `body`), "huge"
        (a body of `octets`), "redirect" (302 to `to`), "nonsense" (no HTTP). Of several the latest counts.
        """
        self._disturbances.append(_Disturbance(kind, path, times, options))

    def calm(self):
        self._disturbances.clear()

    def _disturbance(self, path):
        for one in reversed(self._disturbances):
            if path.startswith(one.path) and one.times > 0:
                one.times -= 1
                return one
        return None

    # -- life

    async def __aenter__(self):
        self._loop = asyncio.get_running_loop()
        self._servers = await asyncio.start_server(self._connected, sock=self._socket, ssl=self._tls)
        return self

    async def __aexit__(self, kind, *_):
        self._servers.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._servers.wait_closed(), 1)
        if self.mistakes and kind is None:
            raise self.mistakes[0]

    def __enter__(self):
        started = threading.Event()

        async def run():
            async with self:
                self._stop = asyncio.Event()
                started.set()
                await self._stop.wait()

        def thread():
            try:
                asyncio.run(run())
            except BaseException as error:  # noqa: BLE001 - raised where the server is left
                self._failed = error
            finally:
                started.set()

        self._failed = None
        self._thread = threading.Thread(target=thread, daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, kind, *_):
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        if self._failed and kind is None:
            raise self._failed

    # -- HTTP

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            pass
        except asyncio.CancelledError:  # the server is left: that is no mistake, and no warning
            pass
        except Exception as error:  # noqa: BLE001 - raised where the server is left
            self.mistakes.append(error)
        finally:
            self.connections -= 1
            writer.transport.abort()

    async def _exchange(self, reader, writer):
        """Whether another request may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, version = start.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"the header {name} is sent twice"
            headers[name.lower()] = value.strip()
        assert version == "HTTP/1.1", version
        assert headers.get("host") == f"{self.host}:{self.port}", "the Host header is wrong"
        assert "transfer-encoding" not in headers, "a body needs a Content-Length here"
        request = Request(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))
        self.requests.append(request)
        answer = await self._disturbed(request, writer)
        if answer is None:
            return False
        writer.write(_octets(*answer))
        await writer.drain()
        return True

    async def _disturbed(self, request, writer):
        disturbance = self._disturbance(request.path)
        if disturbance is None:
            return await self._answer(request)
        options = disturbance.options
        body = options.get("body", b"<html>It works!</html>")
        match disturbance.kind:
            case "slow":
                seconds = options.get("seconds")
                await (asyncio.sleep(seconds) if seconds is not None else asyncio.Event().wait())
                return await self._answer(request)
            case "broken":
                return None
            case "cut" | "nonsense" as kind:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{" if kind == "cut" else b"220 smtp ready\r\n\r\n")
                await writer.drain()
                return None
            case "status":
                return options["status"], options.get("headers", {}), body
            case "garbage":
                return 200, {"Content-Type": "text/html"}, body
            case "huge":
                return 200, {"Content-Type": "application/json"}, b" " * options.get("octets", 3 << 20)
            case "redirect":
                return 302, {"Location": options.get("to", "https://elsewhere.example.com/")}, b""
        raise ValueError(disturbance.kind)


def _octets(status, headers, body):
    phrase = HTTPStatus(status).phrase
    fields = {"Content-Length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@contextlib.contextmanager
def nobody():
    """A port of loopback that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, nobody answers
        yield taken.getsockname()[1]


@contextlib.contextmanager
def deaf():
    """A port of loopback that accepts TCP connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
