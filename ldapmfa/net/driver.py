"""Run a login: put each of its questions to whoever can answer, with a deadline, and say how it ended.

Promised here: whatever is raised or runs out of time ends the login as *broken*, which means no; a refusal leaves no
earlier than the refusal floor; every end is recorded, a success before it is told. The link that was bound is handed
over with a success and closed with anything else.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from ldapmfa import audit
from ldapmfa.accounts import phone_number
from ldapmfa.core.identity import CannotIdentify, Identity, Unidentified
from ldapmfa.core.login import DirectoryRefusesService, ServiceUnreachable, login
from ldapmfa.core.policy import Shape
from ldapmfa.core.questions import (
    Accepted,
    Admit,
    Answered,
    Approval,
    Attempt,
    AwaitApproval,
    CodeAnswer,
    FindGroups,
    Identify,
    LookUp,
    MayOpen,
    MayTry,
    PasswordAnswer,
    Question,
    RecallName,
    Refused,
    Remembered,
    Resolve,
    Reuse,
    Reused,
    Standing,
    StartPrompt,
    Throttled,
    UseBypass,
    VerifyAtService,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.rules import Moment
from ldapmfa.core.secret import Secret, split
from ldapmfa.errors import DirectoryDown, FactorDown, LdapMfaError, Stopping, StoreDown
from ldapmfa.factors import CodeFactor, Credential, Match
from ldapmfa.factors.breaker import Guarded
from ldapmfa.net.asking import Asking, Inquiry, Terms
from ldapmfa.net.directory import Directory
from ldapmfa.net.fraud import Measures, Precaution
from ldapmfa.net.link import Link
from ldapmfa.net.tries import Tries, Try
from ldapmfa.net.waiting import Deadline, DeadlineExceeded, pause
from ldapmfa.store import Counted, Store
from ldapmfa.wire import ldap

Value = TypeVar("Value")


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


_REMEMBERED: Final = 10_000
_KEPT: Final = 256  # characters of a name; a longer one's hint may be another's, and is only a hint
_FORGOTTEN: Final = 600.0


class RefusedShapes:
    """In which shape the directory last refused a name: a hint, kept for ten minutes, in memory."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._shapes: OrderedDict[tuple[str, ...], tuple[Shape, float]] = OrderedDict()

    def __getitem__(self, key: tuple[str, ...]) -> Shape | None:
        shape, at = self._shapes.get(key, (None, 0.0))
        return shape if self._clock.seconds() - at < _FORGOTTEN else None

    def note(self, key: tuple[str, ...], shape: Shape) -> None:
        """The directory refused `key` in this shape just now."""
        self._shapes[key] = (shape, self._clock.seconds())
        self._shapes.move_to_end(key)
        if len(self._shapes) > _REMEMBERED:
            self._shapes.popitem(last=False)

    def forget(self, key: tuple[str, ...]) -> None:
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
    application: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a login ended: the BindResponse to send, and with a success the link that is bound, and the account's key."""

    accepted: bool
    answer: bytes
    link: Link | None = None
    account: str | None = None


def _kept(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that nobody else holds: its own frame does."""
    return asyncio.get_running_loop().create_task(coroutine)


@dataclass(frozen=True, slots=True)
class Doorway:
    """What every login needs, the same for all of a listener. Times in seconds; `now` is seconds since the epoch.

    `keep` runs what may outlive a login; `alarm` is told whom an outage let in; `measures` are taken when an owner
    reports fraud; without `tries` wrong passwords are the directory's business alone.
    """

    store: Store
    factors: Mapping[str, CodeFactor]
    clock: Any
    now: Callable[[], float]
    reference: Callable[[], str]
    record: Callable[[audit.Event], None]
    refused: RefusedShapes
    services: Mapping[str, Guarded] = field(default_factory=dict)
    terms: Terms = field(default_factory=lambda: Terms(""))
    keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = _kept
    askings: set[Asking] = field(default_factory=set)  #: every prompt that is open, whoever waits for it
    sharing: Counter[str] = field(default_factory=Counter)  #: how many binds share which prompt
    entropy: Callable[[int], bytes] = os.urandom
    alarm: Callable[[audit.LoginEnded], None] = lambda _event: None
    moment: Callable[[], Moment] = Moment  #: now, by the clock on the wall that rules go by
    measures: Measures = field(default_factory=Measures)
    tries: Tries | None = None
    stopwatch: Callable[[], float] | None = None  #: seconds, finer than the clock's, to say how long things took
    stored: Callable[[float], None] = lambda _seconds: None  #: told how long a login waited for the store
    refusal_floor: float = 0.25
    deadline: float = 30.0

    @property
    def reserve(self) -> float:
        """Seconds before its deadline at which a login stops waiting for its owner, to be answered in time."""
        return min(0.5, self.deadline / 10)


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
        self._try: Try | None = None  # from the leave to ask the directory until it is asked
        self._counted: Counted | None = None
        self._password: Secret | None = None  # from the directory's yes until it is known whom that bound
        self._identity: Identity | None = None
        self._resolved = False  # nobody was bound: a service account says who is meant
        self._began = doorway.clock.seconds()
        self._seconds = doorway.stopwatch or doorway.clock.seconds
        self._started = self._seconds()
        self._directory_took = 0.0
        self._factor_took = 0.0
        self._store_took = 0.0  # in seconds
        self._recorded: audit.LoginEnded | None = None
        self._service: str | None = None  # which was asked last
        self._whole = False  # what looked like a code was taken for a part of the password
        client = bind.attempt.client
        self._inquiry = Inquiry(
            doorway.services,
            doorway.store,
            doorway.terms,
            bind.attempt.typed,
            str(client) if client else "",
            clock=doorway.clock,
            left=lambda: doorway.deadline - doorway.reserve - (doorway.clock.seconds() - self._began),
            entropy=doorway.entropy,
            keep=doorway.keep,
            askings=doorway.askings,
            sharing=doorway.sharing,
            names=self._names,
            precaution=Precaution(
                doorway.store, doorway.measures, clock=doorway.clock, now=doorway.now, keep=doorway.keep
            ),
        )

    @property
    def began(self) -> float:
        """When the bind came, in the clock's seconds."""
        return float(self._began)

    def abandon(self) -> None:
        """The client left: whatever was found out is of no use to anybody, but perhaps to who comes back."""
        self._close()
        self._untried()
        self._inquiry.leave()
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
            self._untried()
            self._inquiry.leave()
            return self._broken(broken)
        finally:
            if self._store_took:
                door.stored(self._store_took)
        if isinstance(verdict, Accepted):
            door.refused.forget(self._key)
            if door.tries and self._counted:
                door.store.note_success(self._counted, verdict.identity.key, door.tries.limit)
            if self._recorded:
                door.record(replace(self._recorded, total_ms=self._since(self._started)))
            link, self._link = self._link, None
            return Ended(accepted=True, answer=verdict.answer, link=link, account=verdict.identity.key)
        self._close()  # clean or not: a spare link left behind would tell a right password from a wrong one (A23)
        return await self._refuse(verdict)

    async def withdraw(self) -> Ended:
        """Refuse what `play` accepted: the account was cut off meanwhile. Whoever has the link closes it."""
        return await self._refuse(Refused("blocked", detail="the account was cut off while the login was under way"))

    async def _refuse(self, verdict: Refused) -> Ended:
        door = self._door
        self._identity = verdict.identity or self._identity
        if self._identity and verdict.reason in _SPOILS:
            with suppress(StoreDown):  # what can't be read can't be used again
                await door.store.forget_reuse(self._identity.key)
        reference = door.reference()
        self._note("refused", verdict.reason, ldap.INVALID_CREDENTIALS, reference, verdict.detail)
        await pause(door.clock, self._began + door.refusal_floor - door.clock.seconds())
        if verdict.answer:
            return Ended(accepted=False, answer=verdict.answer)
        return self._refusal(ldap.INVALID_CREDENTIALS, f"Invalid credentials. Reference: {reference}")

    def _broken(self, broken: Exception) -> Ended:
        reference = self._door.reference()
        reason = next((word for kind, word in _REASONS if isinstance(broken, kind)), "bug")
        foreseen = isinstance(broken, LdapMfaError | CannotIdentify | DirectoryRefusesService | ServiceUnreachable)
        detail = str(broken) if foreseen else where(broken)
        self._note("broken", reason, ldap.UNAVAILABLE, reference, detail)
        return self._refusal(ldap.UNAVAILABLE, f"The login can't be checked now. Reference: {reference}")

    def _refusal(self, code: int, text: str) -> Ended:
        return Ended(accepted=False, answer=ldap.result(self._bind.message_id, ldap.BIND_REQUEST, code, text))

    def _close(self) -> None:
        if self._link:
            self._link.close()
            self._link = None

    def _untried(self) -> None:
        """Others may try instead, if the directory was not asked."""
        if self._try:
            self._try.end()
            self._try = None

    def _release(self) -> None:
        """Give the link up, if anything was bound on it."""
        link, self._link = self._link, None
        if link:
            self._directory.give_back(link)

    # -- the questions

    async def _answered(self, question: Question) -> Any:
        if isinstance(question, _OF_STORE):
            began = self._seconds()
            try:
                reply = await self._answer(question)
            finally:
                self._store_took += self._seconds() - began
        else:
            reply = await self._answer(question)
        self._told(question, reply)
        return reply

    async def _answer(self, question: Question) -> Any:
        match question:
            case RecallName(name):
                recall = await self._door.store.recall(self._directory.settings.identity_name, name)
                return Remembered(recall, self._door.refused[self._key])
            case MayTry(name, password):
                return await self._may_try(name, password)
            case VerifyPassword(password, shape):
                return await self._verify_password(password, shape)
            case Identify():
                return await self._identify()
            case Resolve(name):
                self._resolved = True
                return await self._timed_directory(self._directory.resolve(name))
            case FindGroups(identity, groups):
                return await self._find_groups(identity, groups)
            case LookUp(identity, kinds):
                return await self._look_up(identity, kinds)
            case Reuse(identity, accepts):
                return await self._reuse(identity, accepts)
            case VerifyCode():
                return await self._verify_code(question)
            case UseBypass(identity):
                return await self._use_bypass(identity)
            case Admit():
                return await self._admit(question)
            case _:
                return await self._answer_of_service(question)

    async def _answer_of_service(self, question: VerifyAtService | StartPrompt | AwaitApproval | MayOpen) -> Any:
        match question:
            case VerifyAtService(identity, service, code, password):
                self._service = service
                return await self._timed(self._inquiry.verify(identity, service, code, password))
            case StartPrompt(identity, choice, password):
                self._service = choice.service
                return await self._timed(self._inquiry.start(identity, choice, password))
            case AwaitApproval():
                return await self._await_approval()
            case MayOpen(service):
                return await self._timed(self._door.services[service].may_open())

    async def _admit(self, question: Admit) -> str | None:
        identity, reason = question.identity, question.reason
        success = self._event("accepted", reason, ldap.SUCCESS, "", question.detail)
        success = replace(success, factor=question.factor, factor_ms=self._factor_took)
        codeless = reason in ("exempt", "password-only") or self._whole
        grant = self._inquiry.grant(identity) if reason == "code" else None
        barred = await self._door.store.admit(identity, success, self._names, codeless=codeless, grant=grant)
        if barred is None:
            self._recorded = success
            if reason == "failed-open":
                self._door.alarm(success)
        return barred

    async def _use_bypass(self, identity: Identity) -> bool:
        success = self._event("accepted", "bypass", ldap.SUCCESS, "", "")
        barred = await self._door.store.admit(identity, success, self._names, codeless=self._whole, bypass=True)
        if barred is None:
            self._recorded = success
        return barred is None

    async def _find_groups(self, identity: Identity, groups: tuple[str, ...]) -> frozenset[str]:
        if self._link is None and not self._resolved:
            raise DirectoryDown("the link that was bound is gone")
        self._directory.forget_before(await self._door.store.caches_cleared())
        return await self._timed_directory(self._directory.groups(self._link, identity, groups))

    async def _timed_directory(self, work: Awaitable[Value]) -> Value:
        """What the directory answers; the time it took is recorded."""
        began = self._seconds()
        try:
            return await work
        finally:
            self._directory_took = round(self._directory_took + self._since(began), 3)

    async def _look_up(self, identity: Identity, kinds: AbstractSet[str] | None) -> Standing:
        store, services = self._door.store, self._door.services
        status = await store.status(identity)
        # the number that is kept here goes before the directory's, which its owner may be able to change
        self._inquiry.phone = status.phone or (phone_number(identity.phone) if identity.phone else None)
        sent = await store.sent(identity.key, self._inquiry.place) if services else None
        service = sent[0] if sent and sent[0] in services else None
        return Standing(
            status.enrolled,
            status.locked,
            status.method,
            service,
            blocked=status.blocked,
            bypass=status.bypass,
            first_seen=status.first_seen,
            counts=kinds is None or bool(status.kinds & kinds),
        )

    async def _reuse(self, identity: Identity, accepts: AbstractSet[str] | None) -> Reused | None:
        success = self._event("accepted", "reused", ldap.SUCCESS, "", "")
        reused = await self._door.store.reuse(identity, self._inquiry.key(identity), success, accepts)
        if reused:
            self._recorded = replace(success, reason=reused.reason, factor=reused.factor)
        return reused

    async def _timed(self, work: Awaitable[Value]) -> Value:
        """What a service answers; the time it took is recorded."""
        began = self._seconds()
        try:
            return await work
        finally:
            self._factor_took = round(self._factor_took + self._since(began), 3)

    async def _may_try(self, name: str, password: Secret) -> Throttled | None:
        tries, client = self._door.tries, self._bind.attempt.client
        if tries is None:
            return None
        may = await tries.begin(self._directory.settings.identity_name, name, client, password)
        if isinstance(may, Throttled):
            return may
        self._try, self._counted = may, may.counted
        return None

    async def _verify_password(self, password: Secret, shape: Shape) -> PasswordAnswer:
        began = self._seconds()
        link, self._link = self._link, None
        bind = self._bind
        trying, self._try = self._try, None  # there is none behind an approval
        asked = self._directory.verify_password(link, bind.raw_name, password, bind.message_id, bind.controls)
        try:
            self._link, answer = await (trying.ask(asked) if trying else asked)
        finally:
            self._directory_took = self._since(began)
        if answer.code != ldap.SUCCESS:
            self._link = None  # closed already
            self._door.refused.note(self._key, shape)
        else:
            self._password = password
            self._whole = shape == "whole" and split(bind.attempt.typed, bind.attempt.form).is_cut
        return answer

    async def _verify_code(self, question: VerifyCode) -> CodeAnswer:
        identity, ends = question.identity, question.ends
        began, now = self._seconds(), self._door.now()
        typed = question.code.reveal().decode("ascii")
        application, client = self._door.terms.application, self._bind.attempt.client

        def match(credential: Credential) -> Match | None:
            factor = self._door.factors.get(credential.kind)
            if factor is None:
                return None
            permits = getattr(factor, "permits", None)
            if permits and permits(credential, application, client, now) is not True:
                return None
            return factor.match(credential, typed, now)

        if ends:
            success = self._event("refused", ends, ldap.INVALID_CREDENTIALS, "", "")
        else:
            success = self._event("accepted", "code", ldap.SUCCESS, "", "")
        grant = self._inquiry.grant(identity) if ends is None else None
        verified = await self._door.store.verify(
            identity, match, success, self._names, grant, kinds=question.kinds
        )
        self._factor_took = self._since(began)
        if verified.result == "accepted" and ends is None:
            self._recorded = replace(success, factor=verified.factor, factor_ms=self._factor_took)
        return verified

    async def _await_approval(self) -> Approval:
        """Wait, holding the link while few do; the others' links are given up, and so is one that is lost."""
        directory = self._directory
        held = directory.pending < directory.settings.pending_links
        if not held:
            self._release()
        directory.pending += held
        try:
            answer: Answered = await self._timed(self._inquiry.answer())
        finally:
            directory.pending -= held
        if self._link and self._link.misbehaved:
            raise DirectoryDown("the directory sent what nobody asked for while the approval was pending")
        if self._link and not self._link.alive:
            self._link = None
        return Approval(answer.given is True, self._link is None, answer.why, answer.detail)

    async def _identify(self) -> Identity | Unidentified:
        began = self._seconds()
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
    def _key(self) -> tuple[str, ...]:
        """A stranger's refusals elsewhere are no hint for this client's."""
        client = str(self._bind.attempt.client or "")
        return self._directory.settings.identity_name, self._bind.attempt.normalised_name[:_KEPT], client

    @property
    def _names(self) -> tuple[str, ...]:
        return (self._bind.attempt.normalised_name,)

    def _since(self, began: float) -> float:
        return round(float(self._seconds() - began) * 1000, 3)

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
            application=self._bind.application,
            client=self._bind.client,
            name=self._bind.attempt.name,
            directory=self._directory.settings.identity_name,
            account=identity.key if identity else None,
            dn=identity.dn if identity else None,
            factor=self._service,
            directory_ms=self._directory_took,
            factor_ms=self._factor_took,
            total_ms=self._since(self._started),
        )

    def _note(self, outcome: audit.Outcome, reason: str, code: int, reference: str, detail: str = "") -> None:
        self._recorded = self._event(outcome, reason, code, reference, detail)
        self._door.store.note(self._recorded)
        self._door.record(self._recorded)


#: Questions that nobody but the store is asked.
_OF_STORE: Final = (RecallName, LookUp, Reuse, VerifyCode, UseBypass, Admit)
#: Refusals after which no earlier success of the account counts again: somebody may have been somebody else.
_SPOILS: Final = frozenset(
    {"wrong-code", "replayed-code", "locked", "blocked", "denied", "fraud", "locked-at-service", "another-account"}
)
#: What an exception is called in the record; the first that fits.
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (CannotIdentify, "no-identity"),
    (DirectoryRefusesService, "directory-refuses"),
    (DeadlineExceeded, "deadline"),
    (DirectoryDown, "directory-down"),
    (FactorDown, "factor-down"),
    (ServiceUnreachable, "factor-down"),
    (StoreDown, "store-down"),
    (Stopping, "stopping"),
    (LdapMfaError, "broken"),
)
