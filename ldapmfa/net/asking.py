"""What one login asks of services: the prompt, which may outlive it, and codes that services verify.

Promised here: a prompt is counted and opened in the store before its service hears of it, and closed when it is over,
whatever happens; a client that leaves takes its prompt back, or, where late approvals count, leaves it to its deadline
with nothing of the login but the identity, the application, the address and the keyed hash. Not in here: which service
is asked, and what an answer means for the login.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.core.questions import Answered, Asked, CodeIsSent, Unreachable
from ldapmfa.errors import FactorDown, FactorUnreachable, Stopping, StoreDown
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt, Waiting, user_of
from ldapmfa.net.fraud import Report
from ldapmfa.net.waiting import Deadline, DeadlineExceeded, within
from ldapmfa.store import Grant, Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ldapmfa.core.identity import Identity
    from ldapmfa.core.policy import Choice
    from ldapmfa.core.secret import Secret
    from ldapmfa.factors.breaker import Guarded
    from ldapmfa.factors.service import Answer, Started
    from ldapmfa.net.fraud import Precaution
    from ldapmfa.store import Begun, Guess, Store

#: Seconds for which a prompt is left open whose client has gone, where late approvals count.
LATE: Final = 60.0
#: Seconds that a prompt may take longer than was agreed, before it is given up as the service's fault.
SLACK: Final = 5.0
#: Seconds for which a service is told that nobody waits any more.
CANCEL: Final = 3.0
#: Seconds after which whoever shares a prompt looks again.
LOOK: Final = 0.25
#: Answers by which an owner, or a service, says that it may have been somebody else.
SPOILING: Final = frozenset({"denied", "fraud", "locked-at-service"})
#: What is recorded of a login whose owner was being asked then.
_STOPPING: Final = "the program was stopped while the owner was being asked"

#: What a service says of a code that was no guess; whatever else it says no by may hide that the code was wrong.
_NO_GUESS: Final = frozenset(
    {"not-enrolled", "no-method", "throttled", "replayed-code", "locked-at-service", "no-answer"}
)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a listener's logins ask: how often, for how long, and for what a success counts again. Times in seconds.

    `application` is what owners are shown; `fingerprint` changes with the policy, and what counts again is forgotten.
    """

    application: str
    fingerprint: str = ""
    prompts: int = 5
    prompt_seconds: float = 600.0
    reuse_seconds: float = 0.0
    reuse_uses: int = 1
    late_seconds: float = 0.0


class Asking:
    """One prompt, from the request that starts it to the answer. `started` and `answered` are futures."""

    __slots__ = (
        "__weakref__",
        "_askings",
        "_clock",
        "_grant",
        "_guarded",
        "_id",
        "_keep",
        "_late",
        "_left",
        "_precaution",
        "_prompt",
        "_store",
        "_waits",
        "answered",
        "started",
        "stopped",
        "task",
    )

    def __init__(
        self,
        guarded: Guarded,
        prompt: Prompt,
        prompt_id: str,
        store: Store,
        *,
        grants: tuple[Grant | None, Grant | None],
        clock: Any,
        keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        askings: set[Asking],
        precaution: Precaution,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = loop.create_future()
        self.answered: asyncio.Future[Answer] = loop.create_future()
        self._guarded = guarded
        self._prompt = prompt
        self._id = prompt_id
        self._store = store
        self._grant, self._late = grants
        self._clock = clock
        self._keep = keep
        self._precaution = precaution
        self._left = self._waits = False
        self.stopped = False  # whether the program ends
        self._askings = askings
        self.task = keep(self._ask())
        askings.add(self)

    def leave(self) -> None:
        """Nobody waits any more."""
        if self._left or self.answered.done():
            return
        self._left = True
        if self._late:
            self._keep(self._note_left())
        elif self._waits:
            self.task.cancel()

    @property
    def service(self) -> str:
        """What the service is called."""
        return self._guarded.name

    @property
    def account(self) -> str:
        """The key of whose owner is being asked."""
        return self._prompt.identity.key

    def bar(self) -> None:
        """The account was blocked meanwhile: whoever waits is told so, and its owner is asked no more."""
        if self._waits:
            _settle(self.answered, Denied("denied", "the account was blocked while its owner was being asked"))
        self._give_up()

    def stop(self) -> None:
        """The program ends: whoever is being asked is told that nobody waits, late or not."""
        self.stopped = True
        self._give_up()

    @property
    def given_up(self) -> Exception:
        """What its login ends with, if nobody waited for the answer."""
        return Stopping(_STOPPING) if self.stopped else FactorDown("the prompt was given up")

    def _give_up(self) -> None:
        self._left, self._late = True, None
        if self._waits:
            self.task.cancel()

    async def _note_left(self) -> None:
        try:
            await self._store.leave_prompt(self._prompt.identity.key, self._id)
        except StoreDown:
            self._late = None  # nobody could find the answer

    async def _ask(self) -> None:
        prompt = self._prompt
        end = self._clock.seconds() + prompt.seconds + SLACK
        counts = True
        answer: Answer | None = None
        try:
            try:
                async with Deadline(self._clock, prompt.seconds + SLACK):
                    started = await self._guarded.start(prompt)
            except FactorDown as down:
                counts = down.asked
                raise
            self._prompt = prompt = replace(prompt, password=None)
            if isinstance(started, Waiting):
                answer = await self._waited(prompt, started, end - self._clock.seconds())
            else:
                # "no-method" counts, though nobody is asked: it tells whoever is patient that the password was right
                counts = not (isinstance(started, Denied) and started.why == "not-enrolled" and not started.asked)
                answer = started if isinstance(started, Allowed) else None
                await self._reported(started)
                await self._end(counts=counts, answer=answer)
                _settle(self.started, started)
        except asyncio.CancelledError:
            await self._end(counts=counts, answer=None)
            raise
        except Exception as broken:  # noqa: BLE001 - whoever waits is told
            await self._end(counts=counts, answer=None)
            for future in (self.started, self.answered):
                if not future.done():
                    future.set_exception(broken)
                    future.exception()  # it need not be asked for
        finally:
            self._askings.discard(self)
            for future in (self.started, self.answered):
                future.cancel()

    async def _waited(self, prompt: Prompt, waiting: Waiting, seconds: float) -> Answer | None:
        """The answer, if it comes within `seconds` and anybody wants it; it is in the store before it is given."""
        answer: Answer | None = None
        if not self._left or self._late:
            self._waits = True
            _settle(self.started, waiting)
            try:
                async with Deadline(self._clock, max(0.0, seconds)):
                    answer = await self._guarded.wait(prompt, waiting)
            except DeadlineExceeded:
                pass
            finally:
                self._waits = False
                if answer is None or (isinstance(answer, Denied) and answer.why == "no-answer"):
                    await self._cancelled(prompt, waiting)
        else:
            await self._cancelled(prompt, waiting)
        answer = answer or Denied("no-answer")
        if not await self._reported(answer) and isinstance(answer, Denied) and answer.why in SPOILING:
            await self._store.forget_reuse(prompt.identity.key)  # nobody else does, if the client has left
        await self._end(counts=True, answer=answer)
        _settle(self.answered, answer)
        return answer

    async def _reported(self, answer: Answer | Started) -> bool:
        """Whether the owner reports fraud; what is to be done about it is done then, before anybody is told."""
        prompt = self._prompt
        reports = isinstance(answer, Denied) and answer.why == "fraud"
        if reports:
            report = Report(prompt.identity, self._guarded.name, prompt.application, prompt.client)
            await self._precaution.take(report)
        return reports

    async def _cancelled(self, prompt: Prompt, waiting: Waiting) -> None:
        cancelling = asyncio.ensure_future(self._guarded.cancel(prompt, waiting))
        try:
            await within(self._clock, CANCEL, cancelling)
            if cancelling.done():
                cancelling.exception()  # it was worth trying
        finally:
            cancelling.cancel()

    async def _end(self, *, counts: bool, answer: Answer | None) -> None:
        grant = self._late if self._left else self._grant
        try:
            await self._store.end_prompt(
                self._prompt.identity.key,
                self._id,
                counts=counts,
                grant=grant if isinstance(answer, Allowed) else None,
                factor=self._guarded.name,
            )
        except StoreDown:
            if isinstance(answer, Allowed):
                raise


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


class Inquiry:
    """What one login asks of services. `left()` gives the seconds that are left to it."""

    __slots__ = (
        "_asking",
        "_askings",
        "_client",
        "_clock",
        "_entropy",
        "_keep",
        "_left",
        "_names",
        "_precaution",
        "_services",
        "_shared",
        "_sharing",
        "_store",
        "_terms",
        "_typed",
        "phone",
    )

    def __init__(
        self,
        services: Mapping[str, Guarded],
        store: Store,
        terms: Terms,
        typed: Secret,
        client: str,
        *,
        clock: Any,
        left: Callable[[], float],
        entropy: Callable[[int], bytes],
        keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        askings: set[Asking],
        sharing: Counter[str],
        names: Sequence[str],
        precaution: Precaution,
    ) -> None:
        self._names = names
        self._precaution = precaution
        self._sharing = sharing
        self._services = services
        self._store = store
        self._terms = terms
        self._typed = typed
        self._client = client
        self._clock = clock
        self._left = left
        self._entropy = entropy
        self._keep = keep
        self._askings = askings
        self._asking: Asking | None = None
        self.phone: str | None = None  # of the account's owner, as soon as it has been looked up
        self._shared: tuple[str, str] | None = None

    @property
    def place(self) -> Place:
        """Where the login comes from, as a code that was sent is bound to it."""
        return Place(self._terms.application, self._client)

    def key(self, identity: Identity) -> str:
        """What an equal bind has in common with this one."""
        place = Place(f"{self._terms.application}\0{self._terms.fingerprint}", self._client)
        return self._store.reuse_key(identity, self._typed, place)

    def grant(self, identity: Identity) -> Grant | None:
        """What a success of this login counts for later, if anything."""
        terms = self._terms
        if not terms.reuse_seconds:
            return None
        return Grant(self.key(identity), terms.reuse_seconds, terms.reuse_uses, place=self.place)

    def leave(self) -> None:
        """The login is over, or its client has gone."""
        if self._asking:
            self._asking.leave()

    async def start(
        self, identity: Identity, choice: Choice, password: Secret
    ) -> Answered | Asked | CodeIsSent | Unreachable:
        """Have the owner asked, or a code sent, as often as the terms allow."""
        guarded, terms = self._services[choice.service], self._terms
        seconds = max(self._left(), LATE if terms.late_seconds else 0.0)
        prompt = self._prompt(identity, guarded, password, seconds)
        if prompt is None:
            return Answered(given=False, why="no-user-name")
        key, prompt_id = self.key(identity), self._entropy(16).hex()
        begun = await self._begun(identity, prompt_id, key, guarded, seconds)
        if begun == "shared":
            self._shared = identity.key, key
            return Asked(shared=True)
        if begun != "begun":
            return Answered(given=False, why=begun)
        late = Grant(key, terms.late_seconds, 1, "late-approval", self.place) if terms.late_seconds else None
        self._asking = Asking(
            guarded,
            replace(prompt, method=choice.method, device=choice.device),
            prompt_id,
            self._store,
            grants=(self.grant(identity), late),
            clock=self._clock,
            keep=self._keep,
            askings=self._askings,
            precaution=self._precaution,
        )
        await asyncio.wait({self._asking.started})
        try:
            started = self._asking.started.result()
        except FactorUnreachable as error:
            return Unreachable(str(error))
        except asyncio.CancelledError:
            raise self._asking.given_up from None
        match started:
            case Allowed():
                return Answered(given=True)
            case Denied(why, detail):
                return Answered(given=False, why=why, detail=detail)
            case CodeSent(handle, for_seconds):
                place, names = self.place, self._names
                await self._store.keep_sent(identity, guarded.name, handle, place, names, seconds=for_seconds)
                return CodeIsSent()
            case Waiting():
                return Asked()
        raise FactorDown(f"{guarded.name}: the plug-in answered {type(started).__name__}")

    async def _begun(
        self, identity: Identity, prompt_id: str, key: str, guarded: Guarded, seconds: float, *, shares: bool = True
    ) -> Begun:
        """Open the question, if the terms allow it; where it `shares`, an equal one may stand for it."""
        table, terms = guarded.table, self._terms
        beginning = asyncio.ensure_future(
            self._store.begin_prompt(
                identity,
                prompt_id,
                key,
                seconds=seconds + 2 * SLACK + CANCEL + table.connect_timeout + table.response_timeout,
                prompts=terms.prompts,
                within=terms.prompt_seconds,
                shares=shares and terms.reuse_seconds > 0,
                takes_over=shares and terms.late_seconds > 0,
            )
        )
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            self._keep(self._not_asked(identity.key, prompt_id, beginning))
            raise

    async def _not_asked(self, account: str, prompt_id: str, beginning: asyncio.Future[Begun]) -> None:
        """The client left while the store opened the question: it may have done so all the same."""
        with suppress(StoreDown):
            if await beginning == "begun":
                await self._store.end_prompt(account, prompt_id, counts=False)

    async def answer(self) -> Answered:
        """What the owner says, to this login or to the one whose prompt it shares."""
        if self._shared:
            return await self._shared_answer(*self._shared)
        asking = self._asking
        if asking is None:
            raise FactorDown("nobody was asked")
        if not await within(self._clock, self._left(), asking.answered):
            asking.leave()
            return Answered(given=False, why="no-answer", detail=f"{asking.service} had said nothing when time was up")
        try:
            answer = asking.answered.result()
        except asyncio.CancelledError:
            raise asking.given_up from None
        if isinstance(answer, Denied):
            return Answered(given=False, why=answer.why, detail=answer.detail)
        return Answered(given=isinstance(answer, Allowed), why="denied")

    async def _shared_answer(self, account: str, key: str) -> Answered:
        """Wait until the other one's prompt is over; whether it counts for this bind the store says then.

        No more wait than a success can count for.
        """
        if self._sharing[key] >= max(1, self._terms.reuse_uses):
            return Answered(given=False, why="asked-already")
        self._sharing[key] += 1
        try:
            while await self._store.is_open(account, key):
                if self._left() <= 0:
                    return Answered(given=False, why="no-answer")
                never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                await within(self._clock, min(LOOK, self._left()), never)
        finally:
            self._sharing[key] -= 1
            if not self._sharing[key]:
                del self._sharing[key]
        return Answered(given=True)

    async def verify(self, identity: Identity, service: str, code: Secret, password: Secret) -> Answered | Unreachable:
        """Whether the service takes the code; it counts as a wrong guess until the service says otherwise."""
        guarded = self._services[service]
        prompt = self._prompt(identity, guarded, password, guarded.table.response_timeout)
        if prompt is None:
            return Answered(given=False, why="no-user-name")
        kept = await self._store.sent(identity.key, self.place)
        sent = CodeSent(kept[1]) if kept and kept[0] == service else None
        asks = sent is None and getattr(guarded.service, "codes_ask", False)
        prompt_id = self._entropy(16).hex()
        guess = await self._store.guess(identity)
        if guess is None:
            return Answered(given=False, why="locked")
        counts = False
        if asks:
            begun = await self._begun(identity, prompt_id, self.key(identity), guarded, prompt.seconds, shares=False)
            if begun != "begun":
                await self._store.take_back(identity.key, guess)
                return Answered(given=False, why=begun)
        try:
            answer = await guarded.verify(prompt, code, sent)
            counts = isinstance(answer, Denied) and answer.why not in _NO_GUESS
            if isinstance(answer, Denied) and answer.why == "fraud":
                await self._precaution.take(Report(identity, service, prompt.application, prompt.client))
        except FactorUnreachable as error:
            return Unreachable(str(error))
        except asyncio.CancelledError:
            counts = True  # what the service found is not known
            raise
        finally:
            over = self._over(identity.key, prompt_id if asks else None, None if counts else guess)
            await asyncio.shield(self._keep(over))
        if isinstance(answer, Allowed):
            if sent:
                await self._store.forget_sent(identity.key)
            return Answered(given=True)
        if isinstance(answer, Denied):
            return Answered(given=False, why=answer.why, detail=answer.detail)
        raise FactorDown(f"{service}: the plug-in answered {type(answer).__name__}")

    async def _over(self, account: str, prompt_id: str | None, guess: Guess | None) -> None:
        """The service has judged a code: its question is over, and the guess taken back that was none."""
        with suppress(StoreDown):  # both end by themselves
            if guess is not None:
                await self._store.take_back(account, guess)
            if prompt_id is not None:
                await self._store.end_prompt(account, prompt_id)

    def _prompt(self, identity: Identity, guarded: Guarded, password: Secret, seconds: float) -> Prompt | None:
        user = user_of(identity, guarded.table.username)
        if user is None:
            return None
        shown = password if guarded.service.wants_password else None
        return Prompt(
            identity, user, self._terms.application, self._client, seconds=seconds, password=shown, phone=self.phone
        )
