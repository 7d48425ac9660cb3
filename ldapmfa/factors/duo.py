"""Duo: push, call, SMS and passcodes by its Auth API v2 (https://duo.com/docs/authapi).

Promised here: Duo is always asked for its policy first (`preauth`), and a user it does not know is refused. Only the
`result` "allow" of our own transaction lets anybody in, or that of `preauth`, where Duo's policy asks for no factor.
Nobody is asked twice for one login.

Not possible: Duo has no call that takes a push back, so that one nobody waits for stays on the phone for its minute;
what is pressed there then changes nothing here. Nor can an LDAP client show the code of a Verified Push.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, Field, SecretStr

from ldapmfa.audit import printable
from ldapmfa.config import checks
from ldapmfa.config.tables import HttpTable
from ldapmfa.config.values import File, Flag, Text
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.duo_api import INVALID, THROTTLED, Api, Refused, garbled, words
from ldapmfa.factors.http import Http
from ldapmfa.factors.service import Allowed, Answer, CodeSent, Denied, Prompt, Started, Tools, Waiting, Why

#: What an answer of "deny" gives as its reason, as far as it is not simply a no.
_WHY: Final[Mapping[str, Why]] = {"timeout": "no-answer", "fraud": "fraud", "locked_out": "locked-at-service"}
#: Statuses that contradict an "allow".
_NOT_ALLOWED: Final = frozenset(("deny", "sent", "calling", "answered", "pushed", "push_failed", *_WHY))
#: By which way the owner is being asked, of the statuses while Duo waits.
_WAYS: Final = {"pushed": "push", "calling": "phone", "answered": "phone"}
#: Seconds within which an answer is no long poll's; after how many of those there is a pause, and of how many seconds.
_QUICK, _MANY, _PAUSE = 1.0, 3, 1.0
#: Transactions that are remembered, so that none is taken twice.
_REMEMBERED: Final = 10_000


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", text):
        raise ValueError('must be the API hostname alone, such as "api-12345678.duosecurity.com"')
    return text


@dataclass(frozen=True, slots=True)
class _Device:
    id: str
    names: tuple[str, ...]
    capabilities: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Transaction:
    """What `wait` needs; `way` is how the owner is asked. Who knows the id can ask for its outcome: it is not shown."""

    id: str
    way: str

    def __repr__(self) -> str:
        return f"_Transaction(way={self.way!r})"


class Duo:
    """Duo's service as `table` describes it."""

    class Table(HttpTable):
        """How Duo is reached, and as which of its applications."""

        api_host: Annotated[Text, AfterValidator(_host)] = Field(examples=["api-12345678.duosecurity.com"])
        """The API hostname of the application (type: Auth API), as the Duo Admin Panel shows it."""
        integration_key: Text = Field(examples=["DIABCDEFGHIJKLMNOPQR"])
        """Its integration key, also called client ID."""
        secret_key_file: Annotated[File | None, checks.is_password] = Field(
            None, examples=["/etc/ldapmfa/duo.secret-key"]
        )
        """The file that holds its secret key, the better place for it; a line end after it is ignored."""
        secret_key: Annotated[SecretStr | None, checks.secret_or_file("secret_key")] = Field(None, examples=["secret"])
        """Its secret key itself, instead of secret_key_file."""
        hostname: Text | None = Field(None, examples=["ldapmfa1.example.com"])
        """What a push calls this machine; its own name if not given."""
        send_client_address: Flag = False
        """Whether Duo is told the client's address, so that its policies for networks and countries count. That is the
        address of the LDAP client: of the VPN gateway, say, and not of the user behind it. WARNING: if such a policy
        lets your networks in without a factor, everybody behind a gateway in them gets in without one."""
        verified_push: Literal["refuse", "ignore"] = "refuse"
        """What to do with users for whom a policy demands a Verified Push, whose code LDAP clients can't show: refuse
        them a push, or (ignore) send them a plain one, past that policy."""

    methods: ClassVar[Sequence[str]] = ("auto", "push", "phone", "sms")
    takes_codes: ClassVar[bool] = True
    wants_password: bool = False

    def __init__(self, table: Table, tools: Tools) -> None:
        self._table = table
        self._tools = tools
        self._http = Http("Duo", table, tools)
        self._api = Api(self._http, tools, table.api_host, table.integration_key, table.secret_of("secret_key"))
        self._hostname = printable(table.hostname or socket.gethostname())
        self._known: dict[str, None] = {}

    # -- logging in

    async def start(self, prompt: Prompt) -> Started:
        """Ask for Duo's policy, then the owner."""
        method = prompt.method or "auto"
        verified = method in {"auto", "push"} and self._table.verified_push == "refuse"
        found = await self._preauth(prompt, verified=verified)
        if not isinstance(found, dict):
            return found
        if verified and ("txid" in found or "verification_code" in found):
            return Denied("no-method", "Duo's policy demands a Verified Push, which can't be shown in an LDAP login")
        device = self._device(_devices(found), method, prompt.device)
        if isinstance(device, Denied):
            return device
        return await self._ask(prompt, method, device)

    async def _ask(self, prompt: Prompt, method: str, device: str) -> Started:
        asked = {"username": prompt.user, "factor": method, "device": device}
        if method in {"auto", "push"}:
            asked |= self._shown(prompt)
        if method != "sms":
            asked["async"] = "1"
        self._tools.say(f"Duo is asked for {method}, device {printable(prompt.device or 'auto')}")
        answer = await self._auth(prompt, asked)
        if isinstance(answer, Denied):
            return answer
        if method == "sms":
            if (answer.get("result"), answer.get("status")) == ("deny", "sent"):
                self._tools.say("Duo has sent an SMS with codes")
                return CodeSent()
            denied = self._outcome(answer, "sms")
            if isinstance(denied, Allowed):
                raise garbled("a yes to an SMS")
            return denied
        return Waiting(_Transaction(self._new_transaction(answer), method))

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Long-poll until Duo knows what the owner says."""
        transaction: _Transaction = waiting.handle
        failure: FactorDown | None = None
        way, quick, failures = transaction.way, 0, 0
        clock = asyncio.get_running_loop().time
        end = clock() + prompt.seconds
        try:
            async with asyncio.timeout_at(end):
                while True:
                    begin = clock()
                    try:
                        answer = await self._status(transaction.id, end - begin + 5)  # the deadline comes first
                        failure, failures = None, 0
                        if answer is not None and answer.get("result") != "waiting":
                            return self._outcome(answer, way)
                        way = self._still(answer, way)
                    except FactorUnreachable as broken:
                        failure, failures = broken, failures + 1
                        self._tools.say(f"{broken}; asking again")
                        await self._tools.sleep(min(5.0, 0.5 * 2 ** min(failures, 4)))
                        continue
                    quick = quick + 1 if clock() - begin < _QUICK else 0
                    if quick > _MANY:
                        await self._tools.sleep(_PAUSE)
        except TimeoutError:
            if failure:
                raise FactorDown(str(failure), retry_after=failure.retry_after) from None
            return Denied("no-answer", f"within {prompt.seconds:g} s")

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:  # noqa: ARG002 - as any code
        """Let Duo check a passcode: of its app, a token, an SMS, or a bypass code."""
        text = code.reveal().decode("ascii", "replace")
        if not re.fullmatch(r"[!-~]{1,64}", text):
            return Denied("wrong-code", "it is no passcode of Duo's")
        try:
            found = await self._preauth(prompt, verified=False)
            if not isinstance(found, dict):
                return found
            self._tools.say("Duo checks the passcode")
            asked = {"username": prompt.user, "factor": "passcode", "passcode": text}
            answer = await self._auth(prompt, asked)
        except FactorUnreachable as error:
            raise FactorDown(str(error), retry_after=error.retry_after) from None
        if isinstance(answer, Denied):
            return answer
        if "txid" in answer:
            raise garbled("a transaction where none was begun")
        return self._outcome(answer, "passcode", "wrong-code")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:
        """Do nothing: Duo has no such call. Its own minute ends the push."""

    # -- looking after it

    async def health(self) -> str:
        """Compare the clocks by `ping`, the keys by `check`."""
        skew = await self._api.ping()
        await self._api.call("GET", "check", {}, asks_nobody=True)
        return f"Duo answers, and takes the keys; its clock is {abs(skew):.0f} s {'ahead' if skew >= 0 else 'behind'}"

    async def close(self) -> None:
        """Let go of all connections."""
        await self._http.close()

    # -- the calls

    async def _preauth(self, prompt: Prompt, *, verified: bool) -> Answer | dict[str, Any]:
        """What Duo's policy says already, or else what it says of the user's devices."""
        asked = {"username": prompt.user, **self._address(prompt)}
        if verified:
            asked["client_supports_verified_push"] = "1"
        found = await self._api.call("POST", "preauth", asked, asks_nobody=True)
        said = words(found.get("status_msg"))
        match found.get("result"):
            case "auth":
                self._tools.say("Duo knows the user, and wants a factor")
                return found
            case "allow":
                self._tools.say(f"Duo's policy wants no factor: {said}")
                return Allowed("bypass")
            case "deny":
                return Denied("denied", f"by Duo's policy: {said}")
            case "enroll":
                return Denied("not-enrolled", said)
        raise garbled("preauth")

    async def _auth(self, prompt: Prompt, asked: dict[str, str]) -> dict[str, Any] | Denied:
        try:
            return await self._api.call("POST", "auth", asked | self._address(prompt), asks_nobody=False)
        except Refused as refused:
            if refused.code == THROTTLED:
                return Denied("throttled", str(refused))
            raise

    async def _status(self, transaction: str, seconds: float) -> dict[str, Any] | None:
        """The next state, None if there was none for as long as Duo holds a poll."""
        try:
            answer = await self._api.call(
                "GET", "auth_status", {"txid": transaction}, asks_nobody=True, seconds=seconds
            )
        except Refused as refused:
            if refused.code == INVALID:
                return None
            raise
        if answer.get("txid", transaction) != transaction:
            raise garbled("the answer is for another transaction")
        return answer

    # -- what is said and shown

    def _address(self, prompt: Prompt) -> dict[str, str]:
        if not (prompt.client and self._table.send_client_address):
            return {}
        try:
            address = ip_address(prompt.client)
        except ValueError:
            return {}
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            return {"ipaddr": str(address.ipv4_mapped)}
        return {"ipaddr": str(address)}

    def _shown(self, prompt: Prompt) -> dict[str, str]:
        """What the phone shows of a push."""
        application = printable(prompt.application)[:100]
        lines = {"Application": application, "Client address": printable(prompt.client)[:100], "Host": self._hostname}
        return {
            "type": f"Login to {application}" if application else "Login",
            "pushinfo": urlencode({name: value for name, value in lines.items() if value}),
            "display_username": printable(prompt.user)[:100],
        }

    def _device(self, devices: Sequence[_Device], method: str, wanted: str) -> str | Denied:
        """The id of the device that is `wanted`, or "auto"."""
        able = [device for device in devices if method in device.capabilities]
        shown = ", ".join(f"{number}: {device.names[0]}" for number, device in enumerate(able, 1)) or "none"
        self._tools.say(f"devices that can be asked by {method}: {shown}")
        if not able:
            return Denied("no-method", f"no device can be asked by {method}")
        if not wanted:
            return "auto"
        if wanted.isascii() and wanted.isdigit():
            found = able[int(wanted) - 1 : int(wanted)] if 0 < int(wanted) <= len(able) else []
        else:
            found = [device for device in able if wanted.casefold() in (name.casefold() for name in device.names)]
        if len(found) != 1:
            return Denied("no-method", f"{'several' if found else 'no'} such device can be asked by {method}")
        return found[0].id

    def _still(self, answer: Mapping[str, Any] | None, way: str) -> str:
        """How the owner is asked, as far as is known now."""
        if answer is None:
            return way
        status = answer.get("status")
        self._tools.say(f"Duo waits: {words(status)}")
        return _WAYS.get(status, way) if way == "auto" and isinstance(status, str) else way

    def _outcome(self, answer: Mapping[str, Any], how: str, otherwise: Why = "denied") -> Answer:
        """The last word on a login; `otherwise` is why it is a no, if Duo does not say more."""
        result, status = answer.get("result"), answer.get("status")
        if result == "allow" and isinstance(status, str) and status not in _NOT_ALLOWED:
            self._tools.say(f"Duo allows it: {words(status)}")
            return Allowed("bypass" if status == "bypass" else how)
        if result == "deny":
            detail = f"{words(status)}: {words(answer.get('status_msg'))}"
            return Denied(_WHY.get(status, otherwise) if isinstance(status, str) else otherwise, detail)
        raise garbled("neither a yes nor a no")

    def _new_transaction(self, answer: Mapping[str, Any]) -> str:
        transaction = answer.get("txid")
        if not isinstance(transaction, str) or not transaction or transaction in self._known or "result" in answer:
            raise garbled("no new transaction")
        self._known[transaction] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return transaction


def _devices(found: Mapping[str, Any]) -> list[_Device]:
    devices = found.get("devices")
    usable = []
    for device in devices if isinstance(devices, list) else []:
        if isinstance(device, dict) and isinstance(device.get("device"), str):
            capabilities = device.get("capabilities")
            names = [device.get(name) for name in ("display_name", "name", "device")]
            usable.append(
                _Device(
                    device["device"],
                    tuple(printable(name) for name in names if isinstance(name, str) and name),
                    frozenset(c for c in capabilities if isinstance(c, str))
                    if isinstance(capabilities, list)
                    else frozenset(),
                )
            )
    return usable
