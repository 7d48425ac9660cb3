"""Every figure there is: its name, what it says, and the labels it has.

Promised here: the values of each label come from the configuration or from this program, never from a client. A test
compares docs/reference/metrics.md, the dashboard and the alert rules with this. Not in here: what is counted when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
#: What several processes' values of a gauge amount to.
Merge = Literal["sum", "max", "min"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure. A counter only grows; `bounds` are a histogram's, in seconds, each the upper end of a bucket."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"
    bounds: tuple[float, ...] = ()


#: From a code that is computed here to an owner who takes a minute to look at the phone.
_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

LOGINS: Final = Metric(
    "ldapmfa_logins_total",
    "counter",
    "Binds that ended: by application, or listener where none covers the client; by the factor that accepted them, or"
    " the service that was asked, or none; and by outcome: accepted, refused, broken.",
    ("application", "factor", "outcome"),
)
REASONS: Final = Metric(
    "ldapmfa_login_reasons_total",
    "counter",
    "The same binds by the reason that the audit trail has.",
    ("outcome", "reason"),
)
LOGIN_SECONDS: Final = Metric(
    "ldapmfa_login_seconds",
    "histogram",
    "How long a login took, from its bind to its end. A refusal is held back for login.refusal_floor after that.",
    ("outcome",),
    bounds=_BOUNDS,
)
STAGE_SECONDS: Final = Metric(
    "ldapmfa_login_stage_seconds",
    "histogram",
    "How long a login waited for one stage, if it came that far: directory, factor (with the time that an owner takes,"
    " or, where codes are computed here, to use one up), store (all reading and writing that it waited for).",
    ("stage",),
    bounds=_BOUNDS,
)
FAILED_OPEN: Final = Metric(
    "ldapmfa_failed_open_total",
    "counter",
    "Logins let in without a second factor as a service could not be reached and its fail_mode is open.",
    ("service",),
)
CONNECTIONS: Final = Metric(
    "ldapmfa_connections_total", "counter", "Clients that connected, and were let in.", ("listener",)
)
TURNED_AWAY: Final = Metric(
    "ldapmfa_clients_turned_away_total",
    "counter",
    "Clients that were disconnected by us: connections (too many of all), source (too many from there), tls,"
    " certificate, proxy-header, protocol (no LDAP, or not by its rules), busy (a limit), unavailable (a time-out, or"
    " the directory left), cut-off (the account was blocked).",
    ("listener", "reason"),
)
RELAYED_OCTETS: Final = Metric(
    "ldapmfa_relayed_bytes_total", "counter", "Bytes relayed, by who sent them.", ("listener", "sender")
)
RELAYED_REQUESTS: Final = Metric(
    "ldapmfa_relayed_requests_total", "counter", "Requests relayed that are to be answered.", ("listener",)
)
CUTS: Final = Metric(
    "ldapmfa_sessions_cut_total", "counter", "Sessions ended because their account was blocked, or by an operator."
)
LOCKS: Final = Metric(
    "ldapmfa_locks_total", "counter", "Locks of accounts after too many wrong codes of factors kept here."
)
DROPPED: Final = Metric(
    "ldapmfa_audit_dropped_total",
    "counter",
    "Audit events that were lost as too many waited: for the store (never a success), or for a place of audit.to.",
    ("to",),
)
WRITTEN: Final = Metric(
    "ldapmfa_audit_written_total", "counter", "Audit events that a place of audit.to took.", ("to",)
)
CLIENTS: Final = Metric("ldapmfa_clients", "gauge", "Clients that are connected.")
CLIENTS_LIMIT: Final = Metric("ldapmfa_clients_limit", "gauge", "How many may be: limits.connections of each process.")
PENDING: Final = Metric("ldapmfa_pending_logins", "gauge", "Logins that are undecided.")
PENDING_LIMIT: Final = Metric(
    "ldapmfa_pending_logins_limit", "gauge", "How many may be: limits.pending_logins of each process."
)
PROMPTS: Final = Metric("ldapmfa_pending_prompts", "gauge", "Users who are being asked.")
BUFFERED: Final = Metric("ldapmfa_buffered_bytes", "gauge", "Bytes kept for clients, of limits.buffered_bytes.")
DIRECTORY_UP: Final = Metric(
    "ldapmfa_directory_up",
    "gauge",
    "Whether a server answers: 0 before the first check, and once a process found it down, until it is back. The role"
    " is directory, or global-catalog.",
    ("directory", "role", "server"),
    merge="min",
)
SERVERS: Final = Metric(
    "ldapmfa_directory_servers",
    "gauge",
    "How many servers of a directory are in a condition, as each process sees it: unknown (not asked yet), up,"
    " unsynchronised (behind its fellows, as it says), suspected (did not answer in time, and is being checked), down.",
    ("directory", "condition"),
)
LINKS: Final = Metric(
    "ldapmfa_directory_links", "gauge", "Connections to a server that stand, spare ones too.", ("directory", "server")
)
SPARE: Final = Metric(
    "ldapmfa_directory_spare_links", "gauge", "Those that wait, bound as nobody, for another login.", ("directory",)
)
LINKS_MADE: Final = Metric(
    "ldapmfa_directory_links_made_total", "counter", "Connections made, those of checks too.", ("directory",)
)
BREAKER: Final = Metric(
    "ldapmfa_breaker",
    "gauge",
    "How many processes have the circuit breaker before a service in this state: closed is well; open: it has failed,"
    " and no login waits for it; trial: the next login tries it.",
    ("service", "state"),
)
STORE_UP: Final = Metric(
    "ldapmfa_store_up", "gauge", "Whether the store answers, to every process.", merge="min"
)
AUDIT_UP: Final = Metric(
    "ldapmfa_audit_up", "gauge", "Whether a place of audit.to takes events, of every process.", ("to",), merge="min"
)
AUDIT_WAITING: Final = Metric("ldapmfa_audit_waiting", "gauge", "Audit events that wait for a place.", ("to",))
CLOCK_AHEAD: Final = Metric(
    "ldapmfa_clock_ahead_seconds",
    "gauge",
    "By how much another clock is ahead of this machine's, where it could be asked: database, or directory/NAME.",
    ("of",),
    merge="max",
)
CLOCK_DIFFERS: Final = Metric(
    "ldapmfa_clock_differs",
    "gauge",
    "Whether that is more than service.clock_skew_seconds, beyond doubt.",
    ("of",),
    merge="max",
)
CLOCK_SET: Final = Metric("ldapmfa_clock_set_total", "counter", "How often somebody set this machine's clock.")
STORE_WAITING: Final = Metric("ldapmfa_store_waiting", "gauge", "Calls and events that wait for the store's writer.")
NOTICES: Final = Metric(
    "ldapmfa_notices",
    "gauge",
    "Notices of fraud that are yet to be delivered: new ones, and those that were tried in vain (failing).",
    ("state",),
    merge="max",
)
LISTENING: Final = Metric(
    "ldapmfa_listening", "gauge", "Whether a listener accepts clients, in every process.", ("listener",), merge="min"
)
CERTIFICATE_END: Final = Metric(
    "ldapmfa_certificate_not_after_seconds",
    "gauge",
    "When the certificate ends that a listener shows, in seconds since the epoch.",
    ("listener",),
    merge="min",
)
BUILD: Final = Metric(
    "ldapmfa_build_info", "gauge", "Always 1; the labels say what runs.", ("version", "python"), merge="max"
)
RELOADED: Final = Metric(
    "ldapmfa_config_last_reload_successful",
    "gauge",
    "Whether the last reload of the configuration was applied; 1 if there was none.",
)
RELOADED_AT: Final = Metric(
    "ldapmfa_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When the configuration that counts was read, in seconds since the epoch.",
)
WORKERS: Final = Metric(
    "ldapmfa_processes",
    "gauge",
    "Processes that serve clients: as configured, and those that were heard of in the last ten seconds (well).",
    ("state",),
)
READY: Final = Metric("ldapmfa_ready", "gauge", "What /readyz says: 1 if a login could succeed now.")
_OF_PROCESSES: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("resident_memory_bytes", "gauge", "Memory that a process has in use."),
    ("virtual_memory_bytes", "gauge", "Memory that a process has asked for."),
    ("cpu_seconds_total", "counter", "Processor time that a process has used."),
    ("start_time_seconds", "gauge", "When a process began, in seconds since the epoch."),
    ("open_fds", "gauge", "Files and connections that a process has open."),
    ("max_fds", "gauge", "How many it may have open."),
)
PROCESS: Final = tuple(
    Metric(f"ldapmfa_process_{name}", kind, meaning, ("process",)) for name, kind, meaning in _OF_PROCESSES
)

ALL: Final = (
    LOGINS,
    REASONS,
    LOGIN_SECONDS,
    STAGE_SECONDS,
    FAILED_OPEN,
    CONNECTIONS,
    TURNED_AWAY,
    RELAYED_OCTETS,
    RELAYED_REQUESTS,
    CUTS,
    LOCKS,
    DROPPED,
    WRITTEN,
    CLOCK_SET,
    CLIENTS,
    CLIENTS_LIMIT,
    PENDING,
    PENDING_LIMIT,
    PROMPTS,
    BUFFERED,
    DIRECTORY_UP,
    SERVERS,
    LINKS,
    SPARE,
    LINKS_MADE,
    BREAKER,
    STORE_UP,
    STORE_WAITING,
    AUDIT_UP,
    AUDIT_WAITING,
    CLOCK_AHEAD,
    CLOCK_DIFFERS,
    NOTICES,
    LISTENING,
    CERTIFICATE_END,
    BUILD,
    RELOADED,
    RELOADED_AT,
    WORKERS,
    READY,
    *PROCESS,
)

#: Where audit events go that nobody names.
STORE: Final = "store"
OUTCOMES: Final = ("accepted", "refused", "broken")
STAGES: Final = ("directory", "factor", "store")
SENDERS: Final = ("client", "directory")
BREAKER_STATES: Final = ("closed", "open", "trial")
CONDITIONS: Final = ("unknown", "up", "unsynchronised", "suspected", "down")
TURNED_AWAY_FOR: Final = (
    "connections",
    "source",
    "tls",
    "certificate",
    "proxy-header",
    "protocol",
    "busy",
    "unavailable",
    "cut-off",
)
#: What stands for a label's value that is none of those known.
OTHER: Final = "other"
#: The factor of a login in which none was shown, and nobody was asked for one.
NO_FACTOR: Final = "none"

#: By outcome, why logins end (`ldapmfa.cli.reasons` explains them): a plug-in's own words are none of these.
REASONS_OF: Final = {
    "accepted": (
        "approved",
        "by-rule",
        "bypass",
        "code",
        "exempt",
        "failed-open",
        "grace",
        "late-approval",
        "password-only",
        "reused",
    ),
    "refused": (
        "account-disabled",
        "account-expired",
        "account-locked",
        "anonymous",
        "another-account",
        "asked-already",
        "blocked",
        "clear-text",
        "code-sent",
        "control",
        "denied",
        "empty-password",
        "fraud",
        "locked",
        "locked-at-service",
        "logon-hours",
        "malformed",
        "method",
        "must-change-password",
        "no-answer",
        "no-code",
        "no-entry",
        "no-method",
        "no-name",
        "no-user-name",
        "not-a-user",
        "not-enrolled",
        "other-domain",
        "password",
        "password-expired",
        "proxied-authorization",
        "replayed-code",
        "rule",
        "second-bind",
        "throttled",
        "too-many-logins",
        "too-many-prompts",
        "version",
        "workstation",
        "wrong-code",
    ),
    "broken": (
        "broken",
        "bug",
        "client-left",
        "deadline",
        "directory-down",
        "directory-refuses",
        "factor-down",
        "no-identity",
        "stopping",
        "store-down",
    ),
}


def reference_text() -> str:
    """docs/reference/metrics.md."""
    text = """\
# Metrics

<!-- Made from ldapmfa/net/metrics/catalogue.py: change it there, and run `python -m ldapmfa.net.metrics`. -->

What `/metrics` shows, for Prometheus; [monitor](../howto/monitor.md) says how to use it. Labels have values from the
configuration and from the program itself, and no others: no user's name, no client's address, no text that was sent.
What is not known there is `other`. Every series that the configuration can give is there from the start, at 0. With
several workers a figure is that of all together: counters, and gauges marked *sum*, are added up (a worker that ended
keeps its counts), of the others the lowest or highest counts.

| figure | kind | labels | meaning |
|---|---|---|---|
"""
    for metric in ALL:
        kind = metric.kind if metric.kind != "gauge" else f"gauge, *{metric.merge}*"
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        text += f"| `{metric.name}` | {kind} | {labels} | {metric.meaning} |\n"
    bounds = ", ".join(f"{bound:g}" for bound in _BOUNDS)
    text += f"""
A histogram has `_bucket` (with the label `le`), `_sum` and `_count`, in seconds; its buckets end at {bounds}.

The reasons of `ldapmfa_login_reasons_total` are those of the audit trail; [troubleshoot](../howto/troubleshoot.md)
explains them.

Kept by `test_the_reference_is_up_to_date` and `test_every_figure_is_there_from_the_start` (tests/net/test_metrics.py).
"""
    return text
