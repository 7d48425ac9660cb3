"""A login that has not happened, played by what decides, for `ldapmfa explain`.

It is the very procedure of a login (`ldapmfa.core.login`) with pretended answers: the password is right, whoever is
asked says yes, and the store is only read. Nothing is changed, and nobody is asked. Not in here: a login in earnest
(`ldapmfa.cli.trial`), and how this is shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from ldapmfa.cli.accounts import lookup_at
from ldapmfa.cli.command import Failed
from ldapmfa.cli.reasons import explained
from ldapmfa.cli.rows import moment as iso
from ldapmfa.config import Config, Listen
from ldapmfa.core import questions as q
from ldapmfa.core.application import Certificate, Peer
from ldapmfa.core.identity import FLAGS, CannotIdentify, Identity, NoOneAccount, sid_octets
from ldapmfa.core.login import ServiceUnreachable, login
from ldapmfa.core.policy import Choice, Decision, Policy
from ldapmfa.core.rules import Address, Circumstances, Moment, Network, Rule
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.factors.breaker import Guarded
from ldapmfa.net import assembly, service
from ldapmfa.net.directory import Directory
from ldapmfa.net.driver import run
from ldapmfa.net.moment import moment
from ldapmfa.store import Status, Store
from ldapmfa.wire import dn, ldap

#: What stands for the password, which no code or keyword can be a part of.
_PASSWORD: Final = b"(the password)"


@dataclass(frozen=True, slots=True)
class Door:
    """What is said of logins by whoever decides about them: an application, or a listener.

    `reuse_seconds` and `late_seconds` are for how long an earlier success, or a late approval, counts for an equal
    bind; `zone` is by whose clock rules have their hours, None: this machine's. `applications` are all there are, with
    whether each covers the client, and the conditions that hold or fail.
    """

    application: str
    policy: Policy
    form: CodeForm
    reuse_seconds: float = 0.0
    late_seconds: float = 0.0
    zone: tzinfo | None = None
    applications: tuple[tuple[str, bool, list[tuple[bool, str]]], ...] = ()


def _application(config: Config, listen: Listen, peer: Peer, services: Mapping[str, Guarded]) -> Door:
    """At which application a login through `listen` by `peer` is, and what holds there."""
    application = assembly.application_of(config, peer)
    terms = assembly.terms(config, listen, application)
    zone = config.login.timezone
    recognised = [(table.name, assembly.recognition(table)) for table in config.application]
    return Door(
        terms.application,
        assembly.policy(config, services, listen, application),
        assembly.code_form(config, listen),
        terms.reuse_seconds,
        terms.late_seconds,
        ZoneInfo(zone) if zone else None,
        tuple((name, one.covers(peer), one.why(peer)) for name, one in recognised),
    )


def shown_by(certificate: str | None) -> Certificate | None:
    """A certificate of which only that is known by which the configuration may name it."""
    if certificate is None:
        return None
    kind, _, value = certificate.partition(":")
    match kind.lower():
        case "dns":
            return Certificate("", (f"dns:{value}",), "")
        case "sha256":
            return Certificate("", (), value.replace(":", "").lower())
        case "subject":
            return Certificate(value, (), "")
    raise Failed(2, f'--certificate: {certificate} must be "dns:NAME", "subject:DN" or "sha256:FINGERPRINT"')


@dataclass(frozen=True, slots=True)
class Stated:
    """An account as the administrator describes it, where no service account can look it up."""

    dn: str
    accounts: tuple[str, ...] = ()
    upn: str | None = None
    groups: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()


def stated(
    name: str, accounts: tuple[str, ...], upn: str | None, groups: Iterable[str], flags: Iterable[str]
) -> Stated:
    """The account that is described. Failed: by what is no DN, group or flag."""
    _name("--dn", name, or_sid=False)
    for group in groups:
        _name("--group", group, or_sid=True)
    for flag in flags:
        if flag not in ("computer", *FLAGS):
            raise Failed(2, f"--flag: {flag} is no flag; known are computer, {', '.join(FLAGS)}")
    return Stated(name, accounts, upn, tuple(groups), frozenset(flags))


def _name(option: str, name: str, *, or_sid: bool) -> None:
    try:
        dn.normalise(name)
    except dn.DnError as wrong:
        with suppress(ValueError):
            if or_sid and sid_octets(name):
                return
        raise Failed(2, f"{option}: {name} is not a distinguished name{' or a SID' * or_sid}: {wrong}") from None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be explained: `at` None is now."""

    name: str | None
    stated: Stated | None
    listen: Listen
    peer: Peer
    at: str | None


@dataclass
class Play:
    """How a login would go: what was done on the way, how it ended, and why."""

    steps: list[str] = field(default_factory=list)
    outcome: str = ""
    reason: str = ""
    meaning: str = ""

    def sentence(self) -> str:
        """The whole in plain words."""
        end = f"{self.outcome} ({self.reason}). {self.meaning}"
        return f"{'; '.join(self.steps)}; then {end}" if self.steps else end


@dataclass(frozen=True, slots=True)
class Explained:
    """All that is told of one login that has not happened."""

    asked: Asked
    door: Door
    directory: str
    identity: Identity
    at: Moment
    groups: AbstractSet[str]
    decision: Decision
    status: Status
    plays: Mapping[str, Play]


# -- playing it


class _Pretence:
    """Answers what a login asks, as if the password were right and everybody willing; it only reads."""

    def __init__(
        self, store: Store, identity: Identity, groups: AbstractSet[str], status: Status, *, reachable: bool
    ) -> None:
        self._store = store
        self._identity = identity
        self._groups = groups
        self._status = status
        self._reachable = reachable
        self.steps: list[str] = []

    async def answer(self, question: q.Question) -> Any:
        """What is pretended."""
        match question:
            case q.RecallName(name):
                return q.Remembered(await self._store.recall(self._identity.directory, name))
            case q.VerifyPassword(password):
                if password.reveal() == _PASSWORD:
                    return q.PasswordAnswer(ldap.SUCCESS, "", b"")
                self.steps.append("what looks like a code is taken for a part of the password, the next time no more")
                return q.PasswordAnswer(ldap.INVALID_CREDENTIALS, "", b"")
            case q.Identify():
                return self._identity
            case q.FindGroups():
                return self._groups
            case q.VerifyAtService(_, service):
                self.steps.append(f"the code is given to {service}" + ("" if self._reachable else ", in vain"))
                return q.Answered(given=True) if self._reachable else q.Unreachable("it can't be reached")
            case q.StartPrompt(_, choice):
                self.steps.append(f"the owner is asked by {_way(choice)}" + ("" if self._reachable else ", in vain"))
                return q.Asked() if self._reachable else q.Unreachable(f"{choice.service} can't be reached")
            case q.AwaitApproval():
                self.steps[-1] += " and approves"
                return q.Approval(given=True)
            case q.MayOpen(service):
                self.steps.append(f"{service} is let open by fail_mode, for some minutes of an outage")
                return True
        return self._answer_of_store(question)

    def _answer_of_store(self, question: q.Question) -> Any:
        match question:
            case q.LookUp(_, kinds):
                return self._standing(kinds)
            case q.VerifyCode(_, _, kinds):
                return self._compared(kinds)
            case q.UseBypass():
                return self._status.bypass and not self._status.blocked and not self._status.locked
            case q.Admit() if self._status.blocked:
                return "blocked"
        return None  # nothing counts from before, and nothing else bars a success

    def _standing(self, kinds: AbstractSet[str] | None) -> q.Standing:
        status = self._status
        return q.Standing(
            status.enrolled,
            status.locked,
            status.method,
            blocked=status.blocked,
            bypass=status.bypass,
            first_seen=status.first_seen,
            counts=kinds is None or bool(status.kinds & kinds),
        )

    def _compared(self, kinds: AbstractSet[str] | None) -> q.CodeAnswer:
        status = self._status
        own = sorted(status.kinds if kinds is None else status.kinds & kinds)
        if status.blocked or status.locked:
            return q.CodeAnswer("blocked" if status.blocked else "locked")
        if not own:
            return q.CodeAnswer("not-enrolled")
        self.steps.append(f"the code is compared with the account's own {' and '.join(own)}, and is right")
        return q.CodeAnswer("accepted", own[0])


def _way(choice: Choice) -> str:
    more = [f"for {choice.method}"] * bool(choice.method) + [f"on {choice.device}"] * bool(choice.device)
    return " ".join([choice.service, *more])


async def _played(store: Store, found: Explained, typed: bytes, *, reachable: bool = True) -> Play:
    """How a login would end at which `typed` is what was typed into the password field."""
    door, identity = found.door, found.identity
    name = found.asked.name or identity.dn
    client = found.asked.peer.address
    attempt = q.Attempt(name, Secret(typed), identity.directory, client, door.form, door.policy, found.at)
    pretence = _Pretence(store, identity, found.groups, found.status, reachable=reachable)
    play = Play(pretence.steps)
    try:
        verdict = await run(login(attempt), pretence.answer)
    except ServiceUnreachable:
        play.outcome, play.reason = "broken, which means no", "factor-down"
    else:
        play.outcome = "let in" if isinstance(verdict, q.Accepted) else "refused"
        play.reason = verdict.reason
    play.meaning = explained(play.reason).meaning
    return play


async def _plays(store: Store, found: Explained) -> dict[str, Play]:
    """With the password alone, with a code behind it, and while no service can be reached."""
    form = found.door.form
    code = (form.delimiter or b"") + b"0" * form.digits
    plays = {
        "password": await _played(store, found, _PASSWORD),
        "code": await _played(store, found, _PASSWORD + code),
    }
    if found.decision.policy.services and found.decision.action == "factors":
        plays["outage"] = await _played(store, found, _PASSWORD, reachable=False)
    return plays


async def explain(config: Config, asked: Asked, reactor: Any) -> Explained:
    """Find out whose login it would be, and play it. Failed: that can't be found out."""
    directory = service.directories(config, reactor)[asked.listen.directory]
    store = await service.open_store(config, migrate=False)
    services: dict[str, Guarded] = {}
    try:
        services = service.load_services(config, reactor, lambda coroutine: coroutine.close())
        door = _application(config, asked.listen, asked.peer, services)
        at = moment(_seconds(asked.at, door.zone), door.zone)
        name = directory.settings.identity_name
        named = door.policy.groups(name)
        if asked.stated:
            identity = await _stated(store, name, asked.stated)
            groups: AbstractSet[str] = frozenset(one for one in named if _is_among(one, asked.stated.groups))
        else:
            identity = await _looked_up(asked, directory)
            groups = await directory.groups(None, identity, named) if named else frozenset()
        decision = door.policy.decide(identity, asked.peer.address, at, groups)
        status = await store.status(identity)
        found = Explained(asked, door, asked.listen.directory, identity, at, groups, decision, status, {})
        return replace(found, plays=await _plays(store, found))
    finally:
        for guarded in services.values():
            await guarded.service.close()
        await store.close()


async def _looked_up(asked: Asked, directory: Directory) -> Identity:

    lookup = lookup_at(directory)
    place = "directory" if directory.settings.name == "default" else f"directories.{directory.settings.name}"
    if lookup is None:
        raise Failed(
            2,
            f"{asked.name}: nobody can look it up: configure {place}.service_account, or describe the account by"
            " --dn, and where rules look at them --account, --upn, --group and --flag",
        )
    found = await lookup(asked.name or "")
    if isinstance(found, NoOneAccount):
        several = [f"  {match}" for match in found.matches]
        if several:
            raise Failed(1, f"{asked.name} matches several accounts: use a DN", *several)
        raise Failed(1, f"the service account sees no account called {asked.name}")
    return found


async def _stated(store: Store, directory: str, stated: Stated) -> Identity:
    """The account that is described; with the key it has in the store, if exactly one account there has this DN."""
    rows = await store.find(directory, stated.dn)
    key = rows[0].key.removeprefix(f"{directory}/") if len(rows) == 1 else "stated:"
    return Identity(directory, key, stated.dn, stated.accounts, stated.upn, flags=stated.flags)


def _is_among(group: str, stated: Iterable[str]) -> bool:

    return any(group == one or dn.same(group, one) for one in stated)


def _seconds(at: str | None, zone: tzinfo | None) -> float:
    """Seconds since the epoch; a time without a zone is by the clock of `zone`."""
    if at is None:
        return time.time()
    try:
        told = datetime.fromisoformat(at)
    except ValueError:
        raise Failed(2, f'--at: {at} is no time, such as "2026-03-01 22:00" or 2026-03-01T22:00:00Z') from None
    return (told if told.tzinfo else told.replace(tzinfo=zone)).timestamp()


# -- from where it would differ


def elsewhere(found: Explained) -> Iterator[tuple[str, Decision]]:
    """The networks that are named, and all others, from which it would be decided otherwise than from here."""
    policy, identity = found.door.policy, found.identity
    networks = [network for entry in policy.exempt for network in entry.networks or ()]
    networks += [network for rule in policy.rules for network in rule.networks or ()]
    here = said(found.decision)
    places = {str(network): _typical(network, networks) for network in networks}
    for place, client in (*places.items(), ("anywhere else", None)):
        try:
            decision = policy.decide(identity, client, found.at, found.groups)
        except CannotIdentify:
            continue  # a login from there would be broken; what the rule misses says why
        if networks and said(decision) != here:
            yield place, decision


def _typical(network: Network, networks: Iterable[Network]) -> Address:
    """An address of `network` that is in none of the smaller ones, if its first or last is."""
    smaller = [one for one in networks if one.version == network.version and one.prefixlen > network.prefixlen]
    first, last = network[0], network[-1]
    return last if any(first in one for one in smaller) and not any(last in one for one in smaller) else first


# -- the whole of it

_ACTIONS: Final = {
    "exempt": "no second factor, by [[exempt]]",
    "password-only": "the password alone",
    "refuse": "nobody is let in",
    "factors": "a second factor",
}


def said(decision: Decision) -> str:
    """What is demanded, and by what."""
    demand = _ACTIONS[decision.action]
    return f"{demand}, by the rule {decision.rule}" if decision.rule else demand


def _rules(found: Explained) -> list[dict[str, Any]]:

    policy = found.door.policy
    login = Circumstances(found.identity, found.asked.peer.address, policy.application, found.at, found.groups)
    rules = [(rule, _misses(rule, login)) for rule in policy.rules]
    first = next((rule for rule, missed in rules if not missed), None)
    return [
        {
            "name": rule.name,
            "action": rule.action,
            "factors": list(rule.factors),
            "applies": not missed,
            "decides": rule is first,
            "misses": missed,
        }
        for rule, missed in rules
    ]


def _misses(rule: Rule, login: Circumstances) -> list[str]:
    """What a rule misses; of one behind the one that decides it may be that this can't be said."""
    try:
        return rule.misses(login)
    except CannotIdentify as why:
        return [str(why)]


def _exempt(found: Explained) -> list[dict[str, Any]]:
    client, identity = found.asked.peer.address, found.identity
    return [
        {
            "account": entry.account,
            "networks": None if entry.networks is None else [str(network) for network in entry.networks],
            "covers": entry.covers(client, identity.directory),
        }
        for entry in found.door.policy.exempt
        if entry.is_account(identity)
    ]


def as_value(found: Explained) -> dict[str, Any]:
    """All of it, for JSON."""
    asked, door, identity, status = found.asked, found.door, found.identity, found.status
    policy = found.decision.policy
    choices = policy.choices(identity.directory, None, status.method)
    own = None if policy.kinds is None else sorted(policy.kinds)
    return {
        "name": asked.name,
        "from": str(asked.peer.address) if asked.peer.address else None,
        "listener": asked.listen.name,
        "application": door.application,
        "applications": [
            {"name": name, "covers": covers, "conditions": [{"holds": holds, "what": what} for holds, what in why]}
            for name, covers, why in door.applications
        ],
        "directory": found.directory,
        "at": iso(found.at.seconds),
        "account": {
            "key": identity.key if identity.id != "stated:" else None,
            "dn": identity.dn,
            "accounts": list(identity.accounts),
            "upn": identity.upn,
            "groups": sorted(found.groups),
            "flags": sorted(identity.flags),
        },
        "rules": _rules(found),
        "exempt": _exempt(found),
        "decision": {"action": found.decision.action, "rule": found.decision.rule or None},
        "asks": [{"service": one.service, "method": one.method, "device": one.device} for one in choices],
        "codes": {"own": own, "services": policy.code_services(identity.directory)},
        "fail_mode": {rule.name: "open" if rule.opens else "closed" for rule in policy.services},
        "reuse_seconds": door.reuse_seconds,
        "late_approval_seconds": door.late_seconds,
        "unenrolled": policy.unenrolled,
        "store": {
            "factors": sorted(status.kinds),
            "locked": status.locked,
            "blocked": status.blocked,
            "bypass": status.bypass,
            "method": status.method,
            "first_seen": iso(status.first_seen),
            "in_grace": policy.grace(found.at, status.first_seen) > 0,
        },
        "would": {
            name: {"steps": play.steps, "outcome": play.outcome, "reason": play.reason, "meaning": play.meaning}
            for name, play in found.plays.items()
        },
        "elsewhere": [
            {"from": place, "action": other.action, "rule": other.rule or None} for place, other in elsewhere(found)
        ],
    }
