"""What the configuration says of applications, rules and factors, as the values that logins and sessions go by.

Promised here: nothing is decided, opened or asked; what the configuration leaves out is what its tables say. Not in
here: connections, and what runs (`service`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from zoneinfo import ZoneInfo

from ldapmfa.config import Application, Config, Listen
from ldapmfa.config.applications import windows
from ldapmfa.core.application import Peer, Recognition
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.rules import Moment, Rule
from ldapmfa.core.secret import CodeForm
from ldapmfa.core.session import DENIABLE, Rules
from ldapmfa.factors.breaker import Guarded
from ldapmfa.net.asking import Terms
from ldapmfa.net.moment import moment

#: Seconds within which most services have answered what needs nobody's thumb.
SERVICE_FLOOR: Final = 1.0


def policy(
    config: Config,
    services: Mapping[str, Guarded],
    listen: Listen | None = None,
    application: Application | None = None,
) -> Policy:
    """Who must show what at `listen`, in `application` or where none covers a client; and how they are asked."""
    login = config.login
    table = application or Application(name=listen.name if listen else "")
    offered = {name: _service_rule(name, guarded, table.fail_mode) for name, guarded in services.items()}
    # what was handed over beside the configuration, such as the demo's, is asked everywhere
    named = [*(table.factors or login.factors), *(name for name in services if name not in config.factors)]
    reuses = reuse(listen, application)
    return Policy(
        exempt=tuple(Exempt(entry.account, entry.networks, entry.directory) for entry in config.exempt),
        unenrolled=table.require_user_match or login.require_user_match,
        services=tuple(offered[name] for name in named if name in offered),
        reuses=reuses.reuse_seconds > 0 or reuses.late_seconds > 0,
        kinds=frozenset(named) - frozenset(offered),
        grace_seconds=login.grace_days * 86400,
        tells=table.tell_password_state,
        application=table.name,
        rules=rules(config),
        others=tuple(rule for name, rule in offered.items() if name not in named),
    )


def _service_rule(name: str, guarded: Guarded, fail_mode: str | None) -> ServiceRule:
    return ServiceRule(
        name,
        tuple(guarded.service.methods),
        guarded.service.takes_codes,
        (fail_mode or guarded.table.fail_mode) == "open",
        guarded.table.directory,
    )


def rules(config: Config) -> tuple[Rule, ...]:
    """The rules of the configuration, in its order."""
    return tuple(
        Rule(
            name=table.name,
            action=table.action,
            factors=table.factors,
            applications=None if table.applications is None else frozenset(table.applications),
            directory=table.directory,
            groups=table.groups,
            ous=table.ous,
            flags=None if table.flags is None else frozenset(table.flags),
            networks=table.networks,
            hours=windows(table),
        )
        for table in config.rule
    )


def reuse(listen: Listen | None, application: Application | None) -> Terms:
    """For what a success counts again: as the application says, else as its listener does."""

    def said(key: str) -> Any:
        tables = [table for table in (application, listen) if table is not None]
        return next((value for table in tables if (value := getattr(table, key)) is not None), None)

    return Terms(
        "",
        reuse_seconds=said("reuse_seconds") or 0.0,
        reuse_uses=said("reuse_uses") or 1,
        late_seconds=said("late_approval_seconds") or 0.0,
    )


def application_of(config: Config, peer: Peer) -> Application | None:
    """The application that covers `peer`; None: its listener's settings count."""
    return next((table for table in config.application if recognition(table).covers(peer)), None)


def deadline(config: Config, listen: Listen, application: Application | None = None) -> float:
    """Seconds after which a login at `listen` is answered, whoever has not."""
    said = [application.deadline if application else None, listen.deadline, config.login.deadline]
    return next(seconds for seconds in said if seconds is not None)


def moment_of(config: Config, seconds: float) -> Moment:
    """The moment `seconds` after the epoch, by the clock that the rules of the configuration go by."""
    zone = config.login.timezone
    return moment(seconds, ZoneInfo(zone) if zone else None)


def recognition(application: Application) -> Recognition:
    """What an application's clients are recognised by."""
    listeners = application.listeners
    return Recognition(
        None if listeners is None else frozenset(listeners), application.networks, application.certificates
    )


def refusal_floor(config: Config) -> float:
    """Seconds before which no bind is refused: more where services are asked, whose time tells a right password."""
    floor = config.login.refusal_floor
    return max(floor, SERVICE_FLOOR) if any(name in config.factors for name in config.every_factor) else floor


def terms(config: Config, listen: Listen, application: Application | None = None) -> Terms:
    """How often logins ask at `listen`, in `application` or where none covers a client, and what counts again."""
    login = config.login
    tables = [repr(config.factors[name]) for name in config.every_factor if name in config.factors]
    stated: list[Any] = [login, listen, application, *config.exempt, *config.rule]
    said = [*tables, *(table.model_dump_json() if table else "" for table in stated)]
    return replace(
        reuse(listen, application),
        application=application.name if application else listen.name,
        fingerprint=hashlib.sha256("\0".join(said).encode()).hexdigest(),
        prompts=login.prompts,
        prompt_seconds=login.prompt_seconds,
    )


def code_form(config: Config, listen: Listen) -> CodeForm:
    """Where a listener expects the code, or a keyword, which means something only where there are services."""
    form = config.code_form(listen)
    asks = any(name in config.factors for name in config.every_factor)
    return CodeForm(
        form.digits,
        form.delimiter.encode() if form.style == "delimiter" else None,
        {word.lower().encode(): method for word, method in config.login.keywords.items()} if asks else {},
        form.delimiter.encode(),
    )


def session_rules(config: Config, listen: Listen, application: Application | None = None) -> Rules:
    """What sessions at `listen` may do, in `application` or where none covers a client."""
    limits, table = config.limits, application or Application(name=listen.name)
    return Rules(
        starttls=listen.tls == "starttls",
        tls_required=listen.tls_required,
        form=code_form(config, listen),
        frame_before_bind=limits.frame_before_bind,
        frame_after_bind=limits.frame_after_bind,
        held_requests=limits.held_requests,
        held_octets=limits.held_bytes,
        anonymous=table.anonymous,
        read_only=table.read_only,
        denied_operations=frozenset(DENIABLE[word] for word in table.denied_operations),
        denied_attributes=frozenset(table.denied_attributes),
    )
