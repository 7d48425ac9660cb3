"""Run a login: put each of its questions to whoever can answer, with a deadline, and say how it ended.

Promised here: whatever is raised or runs out of time ends the login as *broken*, which means no; a refusal leaves no
earlier than the refusal floor; every end is recorded, a success before it is told. The link that was bound is handed
over with a success and closed with anything else.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, cast

from ldapmfa import audit
from ldapmfa.core.identity import CannotIdentify, Identity, Unidentified
from ldapmfa.core.login import (
    Accepted,
    Admit,
    Approval,
    AskApproval,
    Attempt,
    CodeAnswer,
    DirectoryRefusesService,
    HasFactor,
    Identify,
    PasswordAnswer,
    Question,
    RecallName,
    Remembered,
    VerifyCode,
    VerifyPassword,
    login,
)
from ldapmfa.core.policy import Shape
from ldapmfa.core.secret import Secret
from ldapmfa.errors import DirectoryDown, LdapMfaError, StoreDown
from ldapmfa.factors import ApprovalFactor, CodeFactor, Credential, Match, Prompt
from ldapmfa.net.directory import Directory
from ldapmfa.net.link import Link
from ldapmfa.store import Store
from ldapmfa.wire import ldap

Value = TypeVar("Value")


class DeadlineExceeded(LdapMfaError):  # noqa: N818 - named as what is the case
    """The login took longer than it may."""


def where(broken: BaseException) -> str:
    """Which exception nobody foresaw, and the line that raised it: its text may hold anything, a password too."""
    lines = traceback.extract_tb(broken.__traceback__)
    place = f" at {lines[-1].filename}:{lines[-1].lineno}" if lines else ""
    return type(broken).__name__ + place


async def run(procedure: Generator[Question, Any, Value], answer: Callable[[Question], Awaitable[Any]]) -> Value:
    """Play `procedure` to its end; what answering raises is raised inside it."""
    try:
        question = next(procedure)
        while True:
            try:
                reply = await answer(question)
            except Exception as broken:  # noqa: BLE001 - the procedure decides, and may let it pass
                question = procedure.throw(broken)
            else:
                question = procedure.send(reply)
    except StopIteration as stop:
        value: Value = stop.value
        return value
    finally:
        procedure.close()


async def pause(clock: Any, seconds: float) -> None:
    """Wait, by `clock`."""
    waited = asyncio.get_running_loop().create_future()
    timer = clock.callLater(max(0.0, seconds), waited.cancel)
    try:
        await asyncio.wait([waited])
    finally:
        if timer.active():
            timer.cancel()


class Deadline:
    """`async with Deadline(clock, seconds):` what is not done in time by `clock` is cancelled: DeadlineExceeded.

    As asyncio.timeout, but by a clock that is a parameter. A cancellation from outside stays one.
    """

    def __init__(self, clock: Any, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._expired = False
        self._task: asyncio.Task[Any]

    async def __aenter__(self) -> None:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._timer = self._clock.callLater(self._seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._timer.active():
            self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeadlineExceeded(f"not done within {self._seconds:g} s") from None


_REMEMBERED: Final = 10_000
_KEPT: Final = 256  # characters of a name; a longer one's hint may be another's, and is only a hint
_FORGOTTEN: Final = 600.0


class RefusedShapes:
    """In which shape the directory last refused a name: a hint, kept for ten minutes, in memory."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._shapes: OrderedDict[tuple[str, str], tuple[Shape, float]] = OrderedDict()

    def __getitem__(self, key: tuple[str, str]) -> Shape | None:
        shape, at = self._shapes.get(key, (None, 0.0))
        return shape if self._clock.seconds() - at < _FORGOTTEN else None

    def note(self, key: tuple[str, str], shape: Shape) -> None:
        """The directory refused `key` in this shape just now."""
        self._shapes[key] = (shape, self._clock.seconds())
        self._shapes.move_to_end(key)
        if len(self._shapes) > _REMEMBERED:
            self._shapes.popitem(last=False)

    def forget(self, key: tuple[str, str]) -> None:
        """The name logged in."""
        self._shapes.pop(key, None)


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind to be answered: what the client sent, and what is known of the client."""

    attempt: Attempt
    message_id: int
    raw_name: bytes
    controls: bytes
    listener: str
    client: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a login ended: the BindResponse to send, and with a success the link that is bound."""

    accepted: bool
    answer: bytes
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Doorway:
    """What every login needs, the same for all. Times in seconds; `now` is seconds since the epoch."""

    store: Store
    factors: Mapping[str, CodeFactor]
    clock: Any
    now: Callable[[], float]
    reference: Callable[[], str]
    record: Callable[[audit.Event], None]
    refused: RefusedShapes
    approvals: Mapping[str, ApprovalFactor] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)  #: the accounts whose owner is being asked
    refusal_floor: float = 0.25
    deadline: float = 30.0


class Login:
    """One login under way; `play` it once. `told` hears every question with its answer, secrets included."""

    def __init__(
        self,
        bind: Bind,
        doorway: Doorway,
        directory: Directory,
        link: Link | None,
        told: Callable[[Question, Any], None] = lambda _question, _answer: None,
    ) -> None:
        self._bind = bind
        self._told = told
        self._door = doorway
        self._directory = directory
        self._link = link
        self._password: Secret | None = None  # from the directory's yes until it is known whom that bound
        self._identity: Identity | None = None
        self._began = doorway.clock.seconds()
        self._directory_took = 0.0
        self._factor_took = 0.0
        self._recorded: audit.LoginEnded | None = None

    def abandon(self) -> None:
        """The client left: whatever was found out is of no use to anybody."""
        self._close()
        if self._recorded is None:
            self._note("broken", "client-left", 0, "")

    async def play(self, ready: Callable[[], Awaitable[None]]) -> Ended:
        """Find out, record it, and say so, once `ready`; when the client leaves, cancel this and `abandon`."""
        await ready()
        door = self._door
        try:
            async with Deadline(door.clock, door.deadline):
                verdict = await run(login(self._bind.attempt), self._answered)
        except Exception as broken:  # noqa: BLE001 - broken means no, whatever broke
            self._close()
            return self._broken(broken)
        if isinstance(verdict, Accepted):
            door.refused.forget(self._key)
            if self._recorded:
                door.record(replace(self._recorded, total_ms=self._since(self._began)))
            link, self._link = self._link, None
            return Ended(accepted=True, answer=verdict.answer, link=link)
        self._close()  # clean or not: a spare link left behind would tell a right password from a wrong one (A23)
        self._identity = verdict.identity or self._identity
        reference = door.reference()
        self._note("refused", verdict.reason, ldap.INVALID_CREDENTIALS, reference, verdict.detail)
        await pause(door.clock, self._began + door.refusal_floor - door.clock.seconds())
        return self._refusal(ldap.INVALID_CREDENTIALS, f"Invalid credentials. Reference: {reference}")

    def _broken(self, broken: Exception) -> Ended:
        reference = self._door.reference()
        reason = next((word for kind, word in _REASONS if isinstance(broken, kind)), "bug")
        foreseen = isinstance(broken, LdapMfaError | CannotIdentify | DirectoryRefusesService)
        detail = str(broken) if foreseen else where(broken)
        self._note("broken", reason, ldap.UNAVAILABLE, reference, detail)
        return self._refusal(ldap.UNAVAILABLE, f"The login can't be checked now. Reference: {reference}")

    def _refusal(self, code: int, text: str) -> Ended:
        return Ended(accepted=False, answer=ldap.result(self._bind.message_id, ldap.BIND_REQUEST, code, text))

    def _close(self) -> None:
        if self._link:
            self._link.close()
            self._link = None

    def _release(self) -> None:
        """Give the link up, if anything was bound on it."""
        link, self._link = self._link, None
        if link:
            self._directory.give_back(link)

    # -- the questions

    async def _answered(self, question: Question) -> Any:
        reply = await self._answer(question)
        self._told(question, reply)
        return reply

    async def _answer(self, question: Question) -> Any:
        store = self._door.store
        match question:
            case RecallName(name):
                recall = await store.recall(self._directory.settings.identity_name, name)
                return Remembered(recall, self._door.refused[self._key])
            case VerifyPassword(password, shape):
                return await self._verify_password(password, shape)
            case Identify():
                return await self._identify()
            case HasFactor(identity):
                return (await store.status(identity)).enrolled
            case VerifyCode(identity, code):
                return await self._verify_code(identity, code)
            case AskApproval(identity, kind):
                return await self._ask_approval(identity, kind)
            case Admit(identity, reason, kind):
                success = self._event("accepted", reason, ldap.SUCCESS, "", "")
                success = replace(success, factor=kind, factor_ms=self._factor_took)
                await store.admit(identity, success, self._names)
                self._recorded = success
                return None

    async def _verify_password(self, password: Secret, shape: Shape) -> PasswordAnswer:
        began = self._door.clock.seconds()
        link, self._link = self._link, None
        bind = self._bind
        try:
            self._link, answer = await self._directory.verify_password(
                link, bind.raw_name, password, bind.message_id, bind.controls
            )
        finally:
            self._directory_took = self._since(began)
        if answer.code != ldap.SUCCESS:
            self._link = None  # closed already
            self._door.refused.note(self._key, shape)
        else:
            self._password = password
        return answer

    async def _verify_code(self, identity: Identity, code: Secret) -> CodeAnswer:
        began, now = self._door.clock.seconds(), self._door.now()
        typed = code.reveal().decode("ascii")

        def match(credential: Credential) -> Match | None:
            factor = self._door.factors.get(credential.kind)
            return factor.match(credential, typed, now) if factor else None

        success = self._event("accepted", "code", ldap.SUCCESS, "", "")
        verified = await self._door.store.verify(identity, match, success, self._names)
        self._factor_took = self._since(began)
        if verified.result == "accepted":
            self._recorded = replace(success, factor=verified.factor, factor_ms=self._factor_took)
        return verified

    async def _ask_approval(self, identity: Identity, kind: str) -> Approval:
        """Ask, holding the link while few do; the others' links are given up, and so is one that is lost."""
        began = self._door.clock.seconds()
        directory, bind = self._directory, self._bind
        factor = self._door.approvals[kind]
        prompt = Prompt(identity, bind.listener, bind.client)
        if (await self._door.store.status(identity)).locked:
            return Approval(given=False, why="locked")
        if identity.key in self._door.asking:
            return Approval(given=False, why="asked-already")
        held = directory.pending < directory.settings.pending_links
        if not held:
            self._release()
        directory.pending += held
        self._door.asking.add(identity.key)
        try:
            given = await factor.ask(prompt)
        finally:
            directory.pending -= held
            self._door.asking.discard(identity.key)
            self._factor_took = self._since(began)
        if self._link and self._link.misbehaved:
            raise DirectoryDown("the directory sent what nobody asked for while the approval was pending")
        if self._link and not self._link.alive:
            self._link = None
        return Approval(given is True, parked=self._link is None)

    async def _identify(self) -> Identity | Unidentified:
        began = self._door.clock.seconds()
        if self._link is None:
            raise DirectoryDown("the link that was bound is gone")
        password, self._password = self._password, None
        found = await self._directory.identify(self._link, self._bind.raw_name, password)
        self._directory_took = round(self._directory_took + self._since(began), 3)
        if isinstance(found, Identity):
            self._identity = found
        return found

    # -- the record

    @property
    def _key(self) -> tuple[str, str]:
        return self._directory.settings.identity_name, self._bind.attempt.normalised_name[:_KEPT]

    @property
    def _names(self) -> tuple[str, ...]:
        return (self._bind.attempt.normalised_name,)

    def _since(self, began: float) -> float:
        return round(float(self._door.clock.seconds() - began) * 1000, 3)

    def _event(self, outcome: audit.Outcome, reason: str, code: int, reference: str, detail: str) -> audit.LoginEnded:
        identity = self._identity
        return audit.LoginEnded(
            at=self._door.now(),
            outcome=outcome,
            reason=reason,
            detail=detail,
            result=code,
            reference=reference,
            listener=self._bind.listener,
            client=self._bind.client,
            name=self._bind.attempt.name,
            directory=self._directory.settings.identity_name,
            account=identity.key if identity else None,
            dn=identity.dn if identity else None,
            directory_ms=self._directory_took,
            factor_ms=self._factor_took,
            total_ms=self._since(self._began),
        )

    def _note(self, outcome: audit.Outcome, reason: str, code: int, reference: str, detail: str = "") -> None:
        self._recorded = self._event(outcome, reason, code, reference, detail)
        self._door.store.note(self._recorded)
        self._door.record(self._recorded)


#: What an exception is called in the record; the first that fits.
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (CannotIdentify, "no-identity"),
    (DirectoryRefusesService, "directory-refuses"),
    (DeadlineExceeded, "deadline"),
    (DirectoryDown, "directory-down"),
    (StoreDown, "store-down"),
    (LdapMfaError, "broken"),
)
