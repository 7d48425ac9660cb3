"""What may be done to an account, handed out as a capability.

Promised here: whoever holds an `Operator` can look, unlock, block and grant a bypass, whoever holds an `Admin` can also
enrol and remove, disable, and say where somebody is reached; every change is recorded with its actor, in the
transaction that makes it; no secret leaves but in `Enrolled`, whose purpose it is. "No" is a value of class `No`. Not
in here: who is given which capability, and how a name is looked up at a directory, which is a parameter.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.core.identity import Identity, NoOneAccount
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError
from ldapmfa.factors import CodeFactor, Credential, Dated, Match
from ldapmfa.store import (
    FOREVER,
    PENDING_SECONDS,
    AccountRow,
    FactorRow,
    Pending,
    PendingRow,
    RememberedRow,
    Restored,
    Store,
    Wanted,
)
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

#: Finds the one account that is called a name, at the directory.
Lookup = Callable[[str], Awaitable[Identity | NoOneAccount]]

#: How much of a factor's id names it, as long as no other begins so.
SHORT_ID: Final = 8
#: Seconds for which a bypass can be used where nothing else is said.
BYPASS_SECONDS: Final = 300.0
_NEAREST: Final = 5
#: A number as services call it (ITU-T E.164), and what people write between its digits. The rest of what a library
#: such as phonenumbers knows, which numbers are in use where, changes too often to decide who can log in.
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_BETWEEN_DIGITS: Final = re.compile(r"[ .()\-\u00a0\u2010-\u2013]")
_EVENTS: Final = 10


@dataclass(frozen=True, slots=True)
class No:
    """Not done, and why, for a person to read; `names` are the accounts that were meant, perhaps."""

    why: Literal[
        "unknown-account",
        "several-accounts",
        "bad-name",
        "already-enrolled",
        "unknown-factor",
        "wrong-codes",
        "unknown-reference",
        "no-reason",
        "blocked",
        "disabled",
        "not-blocked",
        "no-bypass",
        "bad-phone",
    ]
    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """Everybody who was ever seen or enrolled, and the enrolments that wait for somebody."""

    accounts: tuple[AccountRow, ...]
    pending: tuple[PendingRow, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """One account with its factors, what waits for it, and what happened last; `account` None: never seen yet."""

    account: AccountRow | None
    factors: tuple[FactorRow, ...]
    pending: tuple[PendingRow, ...]
    events: tuple[LoginEnded | AccountChanged, ...]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A new factor, with the secret that is shown this once; `expires` only for one that is pending."""

    id: str
    kind: str
    owner: Identity | Pending
    parameters: Mapping[str, Any]
    expires: float | None
    uri: Secret | None
    codes: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of one installation. Give away what somebody may do with it, not this.

    `directory` is the identity name of the directory whose names are enrolled; `lookup` asks it, where a service
    account can; `clock` gives seconds since the epoch, `entropy` that many random octets.
    """

    store: Store
    factors: Mapping[str, CodeFactor]
    issuer: str
    clock: Callable[[], float]
    entropy: Callable[[int], bytes]
    directory: str = "default"
    lookup: Lookup | None = None

    def as_operator(self, actor: str) -> Operator:
        """What `actor` may do who may look and unlock."""
        return Operator(self, actor)

    def as_admin(self, actor: str) -> Admin:
        """What `actor` may do who may do everything."""
        return Admin(self, actor)


def phone_number(text: str, country: str | None = None) -> str | None:
    """`text` as a number in E.164, or None: it must begin with + and the country's code.

    With a `country`'s code, of a number that begins with 0 that stands for it, and 00 for the +. A zero in parentheses
    is no part of the number, and which one was meant is not guessed.
    """
    if "(0" in text:
        return None
    number = _BETWEEN_DIGITS.sub("", text.strip())
    if country is not None and number.startswith("0"):
        number = "+" + (number[2:] if number.startswith("00") else country + number[1:])
    return number if _E164.fullmatch(number) else None


class Operator:
    """Looks, unlocks, blocks, and grants a bypass.

    A `name` is a key, DN, userPrincipalName, account name, or one typed at a login.
    """

    def __init__(self, accounts: Accounts, actor: str) -> None:
        self._accounts = accounts
        self._store = accounts.store
        self._actor = actor

    async def list(self) -> Overview:
        """Everybody."""
        return Overview(tuple(await self._store.accounts()), tuple(await self._store.pendings()))

    async def show(self, name: str, directory: str | None = None, events: int = _EVENTS) -> Details | No:
        """All that is known of one account; `directory` is an identity name."""
        meant = await self._meant(name, directory)
        if isinstance(meant, No):
            return meant
        account, pending = meant
        factors = await self._store.factors(account.key) if account else []
        keys = {account.key} if account else set()
        keys |= {waiting.owner.key for waiting in pending}
        happened = [event for key in keys for event in await self._store.events(account=key, limit=events)]
        happened.sort(key=lambda event: event.at, reverse=True)
        return Details(account, tuple(factors), pending, tuple(happened[:events]))

    async def factors(self) -> tuple[FactorRow, ...]:
        """Every factor, those pending included."""
        return tuple(await self._store.factors())

    async def unlock(self, name: str, directory: str | None = None) -> AccountRow | No:
        """Let an account try codes again; gives the account as it was before."""
        meant = await self._meant(name, directory)
        if isinstance(meant, No):
            return meant
        account, _pending = meant
        if account is None:
            return No("unknown-account", f"{name} has only a pending enrolment: nothing can be locked")
        await self._store.unlock(account.key, self._change("unlocked", account.key))
        return account

    async def block(
        self, name: str, reason: str, until: float = FOREVER, directory: str | None = None
    ) -> str | No:
        """Let nobody log in as an account until then, and drop whatever counts for it; gives its key.

        One that was never seen is looked up at the directory, where that can be done.
        """
        return await self._blocked(name, reason, until, directory, "blocked")

    async def unblock(self, name: str, reason: str, directory: str | None = None) -> AccountRow | No:
        """End an account's block, but not an administrator's; gives the account as it was before."""
        return await self._unblocked(name, reason, directory, "unblocked")

    async def grant_bypass(
        self, name: str, reason: str, seconds: float = BYPASS_SECONDS, directory: str | None = None
    ) -> str | No:
        """Let an account log in without a second factor, once, within so many seconds; gives its key."""
        owner = await self._whose(name, directory)
        if isinstance(owner, No) or not reason.strip():
            return owner if isinstance(owner, No) else _no_reason("granted a bypass")
        key = owner if isinstance(owner, str) else owner.key
        change = self._change("bypass-granted", key, f"{seconds:g} seconds: {reason}")
        match await self._store.grant_bypass(owner, seconds, reason, change):
            case "blocked":
                return No("blocked", f"{name} is blocked: a bypass would be of no use")
            case "unknown":
                return No("unknown-account", f"{name} has just gone")
        return key

    async def revoke_bypass(self, name: str, reason: str, directory: str | None = None) -> str | No:
        """Take a bypass back that was not used; gives the account's key."""
        account = await self._seen(name, directory)
        if isinstance(account, No) or not reason.strip():
            return account if isinstance(account, No) else _no_reason("denied a bypass")
        if not await self._store.revoke_bypass(account.key, self._change("bypass-revoked", account.key, reason)):
            return No("no-bypass", f"{name} has no bypass that could still be used")
        return account.key

    async def remembered(self, name: str | None = None, directory: str | None = None) -> tuple[RememberedRow, ...] | No:
        """The successes that still count for further binds, of one account or of all."""
        if name is None:
            return tuple(await self._store.remembered())
        account = await self._seen(name, directory)
        return account if isinstance(account, No) else tuple(await self._store.remembered(account.key))

    async def forget_remembered(self, name: str | None = None, directory: str | None = None) -> int | No:
        """Let no success of one account, or of any, count again; gives how many did."""
        key = None
        if name is not None:
            account = await self._seen(name, directory)
            if isinstance(account, No):
                return account
            key = account.key
        return await self._store.forget_remembered(key, self._change("remembered-forgotten", key or "*"))

    async def refusal(self, reference: str) -> LoginEnded | No:
        """What a refusal's reference code stands for."""
        code = "".join(char for char in reference.upper() if char.isalnum())
        for event in await self._store.events(reference=code, limit=1) if code else ():
            if isinstance(event, LoginEnded):
                return event
        return No("unknown-reference", f"nothing is recorded under the reference {reference}")

    async def events(self, limit: int) -> tuple[LoginEnded | AccountChanged, ...]:
        """What happened last, newest first."""
        return tuple(await self._store.events(limit=limit))

    async def wanted(self, wanted: Wanted, account: str | None) -> Wanted | No:
        """`wanted`, of one account alone: one that has a name, or one that is gone, by its key, DN or GUID."""
        if account is None:
            return wanted
        meant = await self._meant(account, None)
        if isinstance(meant, No):
            if meant.why != "unknown-account":
                return meant
            return replace(wanted, recorded=_as_recorded(account))
        found, pending = meant
        keys = {waiting.owner.key for waiting in pending} | ({found.key} if found else set())
        return replace(wanted, accounts=frozenset(keys))

    def search(self, wanted: Wanted, *, newest_first: bool = True) -> AsyncIterator[LoginEnded | AccountChanged]:
        """All that happened and is wanted, one by one."""
        return self._store.search(wanted, newest_first=newest_first)

    async def clear_caches(self) -> int:
        """Have every process forget what it keeps of directories; gives how often that was done."""
        return await self._store.clear_caches(self._change("caches-cleared", "*"))

    # -- below

    def _change(self, action: str, account: str, detail: str = "") -> AccountChanged:
        return AccountChanged(
            at=self._accounts.clock(), action=action, account=account, actor=self._actor, detail=detail
        )

    async def _meant(self, name: str, directory: str | None) -> tuple[AccountRow | None, tuple[PendingRow, ...]] | No:
        """The one account that is called `name`, if it was ever seen, and what waits for it."""
        rows = await self._store.find(directory, name)
        pendings = await self._store.pendings()
        called = [row for row in pendings if directory in (None, row.owner.directory) and _is_called(row.owner, name)]
        places = {row.directory for row in rows} | {row.owner.directory for row in called}
        if len(rows) > 1 or len(places) > 1:
            names = [f"{row.key} ({row.dn})" for row in rows]
            names += sorted({f"{row.owner.key} (pending)" for row in called})
            return No("several-accounts", f"{name} is the name of several: use one of their keys", tuple(names))
        if not rows and not called:
            nearest = await self._nearest(name)
            return No("unknown-account", f"nobody called {name} is enrolled or has logged in", nearest)
        waiting = {row.factor.id: row for row in called}
        for account in rows:
            owners = _owners(account)
            waiting |= {row.factor.id: row for row in pendings if row.owner in owners}
        return (rows[0] if rows else None), tuple(waiting.values())

    async def _seen(self, name: str, directory: str | None) -> AccountRow | No:
        """The one account that is called `name`, which must have been seen."""
        meant = await self._meant(name, directory)
        if isinstance(meant, No):
            return meant
        return meant[0] or No("unknown-account", f"{name} has only a pending enrolment: let them log in once before")

    async def _whose(self, name: str, directory: str | None) -> str | Identity | No:
        """The key of the account that is called `name`; of one never seen, what the directory says, if it is asked."""
        account = await self._seen(name, directory)
        if isinstance(account, AccountRow):
            return account.key
        if account.why != "unknown-account" or self._accounts.lookup is None:
            return account
        found = await self._owner(name)
        return found if isinstance(found, Identity | No) else account

    async def _blocked(
        self, name: str, reason: str, until: float, directory: str | None, action: Literal["blocked", "disabled"]
    ) -> str | No:
        owner = await self._whose(name, directory)
        if isinstance(owner, No) or not reason.strip():
            return owner if isinstance(owner, No) else _no_reason(action)
        key = owner if isinstance(owner, str) else owner.key
        change = self._change(action, key, reason)
        if not await self._store.block(owner, until, reason, change, disables=action == "disabled"):
            return No("unknown-account", f"{name} has just gone")
        return key

    async def _unblocked(
        self, name: str, reason: str, directory: str | None, action: Literal["unblocked", "enabled"]
    ) -> AccountRow | No:
        account = await self._seen(name, directory)
        if isinstance(account, No) or not reason.strip():
            return account if isinstance(account, No) else _no_reason(action)
        change = self._change(action, account.key, reason)
        match await self._store.unblock(account.key, change, enables=action == "enabled"):
            case "not-blocked":
                return No("not-blocked", f"{name} is not blocked")
            case "disabled":
                return No("disabled", f"{name} is disabled by an administrator: `ldapmfa user enable {name}` ends that")
        return account

    async def _owner(self, name: str) -> Identity | Pending | No:
        """Who is called `name`, for the directory, or for who logs in one day."""
        is_dn = "=" in name
        if is_dn:
            try:
                dn.normalise(name)
            except dn.DnError as broken:
                return No("bad-name", f"{name} is not a distinguished name: {broken}")
        if self._accounts.lookup:
            found = await self._accounts.lookup(name)
            if isinstance(found, Identity):
                return found
            if not found.matches:
                return No("unknown-account", f"the directory has no account called {name}")
            return No("several-accounts", f"{name} matches several accounts: use a DN", found.matches)
        if "\\" in name and not is_dn:
            after = name.rpartition("\\")[2]
            return No("bad-name", f"{name} names a domain too: write the account's name alone, {after}")
        if not name.strip():
            return No("bad-name", "the name is empty")
        attribute: Literal["dn", "userPrincipalName", "account"] = (
            "dn" if is_dn else "userPrincipalName" if "@" in name else "account"
        )
        return Pending(self._accounts.directory, attribute, name)

    async def _nearest(self, name: str) -> tuple[str, ...]:
        everybody = await self.list()
        aliases = [alias for row in everybody.accounts for alias in (row.dn, row.upn, *row.accounts) if alias]
        names = {alias.casefold(): alias for alias in aliases}
        names |= {row.owner.value.casefold(): row.owner.value for row in everybody.pending}
        return tuple(names[near] for near in difflib.get_close_matches(name.casefold(), names, _NEAREST))


class Admin(Operator):
    """Does everything: enrols, removes, resynchronises, says how somebody is asked, rotates the key."""

    async def set_method(self, name: str, method: str | None, directory: str | None = None) -> str | No:
        """How the owner of an account is asked who types the password alone; None: in the configured order.

        Gives the account's key. An account that was never seen is looked up at the directory, where that can be done.
        """
        owner = await self._whose(name, directory)
        if isinstance(owner, No):
            return owner
        key = owner if isinstance(owner, str) else owner.key
        change = self._change("method-set", key, method or "none")
        await self._store.set_method(owner, method, change)
        return key

    async def disable(self, name: str, reason: str, directory: str | None = None) -> str | No:
        """Let nobody log in as an account until an administrator enables it; gives its key."""
        return await self._blocked(name, reason, FOREVER, directory, "disabled")

    async def enable(self, name: str, reason: str, directory: str | None = None) -> AccountRow | No:
        """End an account's block, whoever made it; gives the account as it was before."""
        return await self._unblocked(name, reason, directory, "enabled")

    async def set_phone(
        self, name: str | Identity, phone: str | None, directory: str | None = None
    ) -> tuple[str, str | None] | No:
        """The number at which services reach an account's owner, None to forget it; gives its key and the number."""
        number = None if phone is None else phone_number(phone)
        if phone is not None and number is None:
            return No("bad-phone", f"{phone} is no number in E.164: + and the country's code, as in +49 30 123456")
        owner = name if isinstance(name, Identity) else await self._whose(name, directory)
        if isinstance(owner, No):
            return owner
        key = owner if isinstance(owner, str) else owner.key
        if not await self._store.set_phone(owner, number, self._change("phone-set", key, number or "none")):
            return No("unknown-account", f"{name} has just gone")
        return key, number

    async def enrol(
        self, name: str | Identity, kind: str, options: Mapping[str, Any], *, label: str = "", add: bool = False
    ) -> Enrolled | No:
        """Make a factor for the account called `name` at the directory, or found there, or one that waits for it.

        `options` are the factor's. Unless to `add`, an account that has one of this kind is refused. ConfigError: the
        kind or an option is wrong.
        """
        accounts = self._accounts
        factor = self._factor_of(kind)
        owner = name if isinstance(name, Identity) else await self._owner(name)
        if isinstance(owner, No):
            return owner
        if not add and kind in await self._kinds(owner):
            who = name.dn if isinstance(name, Identity) else name
            return No("already-enrolled", f"{who} has a factor of the kind {kind} already")
        new = factor.new(
            entropy=accounts.entropy, account=_shown(owner), issuer=accounts.issuer, options=dict(options)
        )
        now = accounts.clock()
        pending = isinstance(owner, Pending)
        key = _normalised(owner).key if isinstance(owner, Pending) else owner.key
        change = self._change("enrolled", key, f"{kind}, pending" if pending else kind)
        factor_id = await self._store.enrol(owner, new, label, change)
        return Enrolled(
            id=factor_id,
            kind=kind,
            owner=owner,
            parameters=new.parameters,
            expires=now + PENDING_SECONDS if pending else None,
            uri=new.uri,
            codes=new.codes,
        )

    async def unenrol(self, name: str, directory: str | None = None) -> int | No:
        """Forget all factors of an account, and all that wait for it; gives how many there were."""
        meant = await self._meant(name, directory)
        if isinstance(meant, No):
            return meant
        account, pending = meant
        removed = 0
        if account:
            removed += await self._store.unenrol(account.key, self._change("unenrolled", account.key))
        for owner in {waiting.owner for waiting in pending}:
            removed += await self._store.unenrol(owner, self._change("unenrolled", owner.key))
        return removed

    async def remove_factor(self, factor_id: str) -> FactorRow | No:
        """Forget one factor, by its id or as much of it as names it; gives what it was."""
        found = await self._factor(factor_id)
        if isinstance(found, No):
            return found
        change = self._change("factor-removed", found.account or "pending", f"{found.kind} {found.id}")
        if not await self._store.remove_factor(found.id, change):
            return No("unknown-factor", f"the factor {found.id} has just gone")
        return found

    async def resync(self, factor_id: str, first: str, second: str) -> FactorRow | No:
        """Find a token that has drifted by two consecutive codes, and use them up."""
        found = await self._factor(factor_id)
        if isinstance(found, No):
            return found
        factor, now = self._factor_of(found.kind), self._accounts.clock()

        def match(credential: Credential) -> Match | None:
            return factor.resynchronise(credential, first, second, now)

        change = self._change("resynchronised", found.account or "pending", f"{found.kind} {found.id}")
        if not await self._store.resynchronise(found.id, match, change):
            text = f"these are not two consecutive unused codes of the factor {found.id}, or its clock is too far off"
            return No("wrong-codes", text)
        return found

    async def rotate_key(self, seal: Seal) -> str:
        """Seal everything with a new key, and forget the old ones; gives the new key's id.

        Stopped anywhere, what is sealed still opens, and it may be run again.
        """
        seal.add_key()
        oldest = await self._store.reseal()
        seal.drop_before(oldest)
        self._store.note(self._change("key-rotated", "*", seal.newest))
        return seal.newest

    async def open_all(self) -> int:
        """Open every secret in the store; gives how many. SealBroken: one does not open."""
        return await self._store.open_all()

    async def changed_since(self, at: float) -> list[AccountChanged]:
        """What was done to accounts after `at`, oldest first."""
        return await self._store.changed_since(at)

    async def restored(self, *, keep: bool | None) -> Restored:
        """Take as used what may have been used since the backup that the store was put back from.

        `keep` the factors of which that can't be known, or remove them; None: ask, where there are any.
        """

        def used_until(credential: Credential) -> int | None:
            factor: object = self._accounts.factors.get(credential.kind)
            return factor.used_until(credential, self._accounts.clock()) if isinstance(factor, Dated) else None

        return await self._store.restored(used_until, self._change("restored", "*"), keep=keep)

    # -- below

    def _factor_of(self, kind: str) -> CodeFactor:
        factor = self._accounts.factors.get(kind)
        if factor is None:
            known = ", ".join(self._accounts.factors)
            raise ConfigError([f'login.factors: does not have "{kind}", only {known}: add it there'])
        return factor

    async def _factor(self, factor_id: str) -> FactorRow | No:
        rows = await self._store.factors()
        short = factor_id.lower()
        found = [row for row in rows if row.id == short or (len(short) >= SHORT_ID and row.id.startswith(short))]
        if len(found) == 1:
            return found[0]
        return No("unknown-factor", f"there is no factor {factor_id}; `ldapmfa factor list` shows them")

    async def _kinds(self, owner: Identity | Pending) -> set[str]:
        """The kinds of factor that `owner` has, or that wait for it."""
        pendings = await self._store.pendings()
        if isinstance(owner, Identity):
            owners = _owners(owner)
            kinds = {row.kind for row in await self._store.factors(owner.key)}
        else:
            owners = {_normalised(owner)}
            known = await self._store.find(owner.directory, owner.value)
            kinds = {kind for row in known if _owners(row) & owners for kind in row.factors}
        return kinds | {row.factor.kind for row in pendings if row.owner in owners}


def _no_reason(done: str) -> No:
    return No("no-reason", f"say why: nobody is {done} without a reason")


def _normalised(owner: Pending) -> Pending:
    """`owner` as the store keeps it."""
    value = dn.normalise(owner.value) if owner.attribute == "dn" else owner.value.casefold()
    return replace(owner, value=value)


def _owners(account: AccountRow | Identity) -> set[Pending]:
    """Every owner that an enrolment for this account could wait for."""
    owners = {_normalised(Pending(account.directory, "account", name)) for name in account.accounts}
    if account.upn:
        owners.add(_normalised(Pending(account.directory, "userPrincipalName", account.upn)))
    with contextlib.suppress(dn.DnError):  # nothing can wait for a DN that can't be read
        owners.add(_normalised(Pending(account.directory, "dn", account.dn)))
    return owners


def _as_recorded(account: str) -> tuple[str, ...]:
    """How an account may be recorded that is not known: as it is given, or by its GUID as people and AD write that."""
    try:
        guid = uuid.UUID(account)
    except ValueError:
        return (account,)
    return account.lower(), str(guid), guid.hex, guid.bytes_le.hex()


def _is_called(owner: Pending, name: str) -> bool:
    if owner.attribute == "dn":
        return name == owner.key or dn.same(name, owner.value)
    return name == owner.key or name.casefold() == owner.value


def _shown(owner: Identity | Pending) -> str:
    """What an authenticator app shows beside the issuer."""
    if isinstance(owner, Pending):
        return owner.value
    return owner.upn or (owner.accounts[0] if len(owner.accounts) == 1 else owner.dn)
