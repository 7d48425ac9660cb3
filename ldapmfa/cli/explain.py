"""`ldapmfa explain`: which rule a login falls under and why, what it would be asked, and how it would end.

Not in here: what finds that out (`ldapmfa.cli.pretence`), and `ldapmfa user test`, which plays a login in earnest.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from ldapmfa.cli.accounts import in_reactor
from ldapmfa.cli.command import Command, Failed, answer, load, say
from ldapmfa.cli.rows import local
from ldapmfa.cli.user import complete_name
from ldapmfa.wire.proxy import plain

if TYPE_CHECKING:
    from ldapmfa.cli.pretence import Explained


def complete_listener(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Names of listeners that begin as typed."""
    try:
        with ctx.scope(cleanup=False):
            names = [listen.name for listen in load(check_files=False).listen]
    except Exception:  # noqa: BLE001 - nobody reads an error between two strokes of the Tab key
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(
    cls=Command,
    examples=(
        r"ldapmfa explain --name 'CORP\eve' --from 10.1.2.3 --listener vpn",
        'ldapmfa explain --name eve@example.com --at "2026-03-01 22:00" --json',
        'ldapmfa explain --dn "cn=Eve,ou=staff,dc=example,dc=com" --group "cn=vpn,ou=groups,dc=example,dc=com"',
    ),
)
@click.option("--name", metavar="NAME", shell_complete=complete_name, help="Who logs in: a DN, a userPrincipalName, or "
              "an account name, at Active Directory also with its domain before it.")  # fmt: skip
@click.option("--from", "address", metavar="ADDRESS", help="The client's address; default: none is known.")
@click.option("--listener", metavar="NAME", shell_complete=complete_listener, help="Default: the first.")
@click.option("--at", metavar="TIME", help="When: by the local clock, or ISO 8601; default: now.")
@click.option("--certificate", metavar="ENTRY", help="The client's certificate, as an application names it "
              "(dns:NAME, subject:DN, sha256:FINGERPRINT); default: none.")  # fmt: skip
@click.option("--dn", metavar="DN", help="Describe the account instead of looking it up: its DN.")
@click.option("--account", "accounts", metavar="NAME", multiple=True, help="With --dn: its account name.")
@click.option("--upn", metavar="NAME", help="With --dn: its userPrincipalName.")
@click.option("--group", "groups", metavar="GROUP", multiple=True, help="With --dn: a group it is in.")
@click.option("--flag", "flags", metavar="FLAG", multiple=True, help="With --dn: a flag it has, as rules write it.")
def explain(
    *,
    name: str | None,
    address: str | None,
    listener: str | None,
    at: str | None,
    certificate: str | None,
    dn: str | None,
    accounts: tuple[str, ...],
    upn: str | None,
    groups: tuple[str, ...],
    flags: tuple[str, ...],
) -> None:
    """Say which rule a login falls under, and how it would end.

    Every rule is shown in its order, with what it misses; then the exemptions, what is demanded, what the store knows,
    and what would become of a bind with the password alone, with a code, and from elsewhere. It is decided by what
    decides about logins. Nothing is changed, nobody is asked, and no password is needed: whether it is right, and
    whether the directory lets the account in at all, is not said.

    NAME is looked up by the directory's service_account. Without one, --dn describes the account. Exit code 0: it is
    explained, however it would end.
    """
    config = load()
    if (name is None) == (dn is None):
        raise Failed(2, "give --name, or describe the account by --dn")
    if dn is None and (accounts or upn or groups or flags):
        raise Failed(2, "--account, --upn, --group and --flag describe an account: they go with --dn, not with --name")
    known = {listen.name: listen for listen in config.listen}
    if listener and listener not in known:
        raise Failed(2, f"--listener: {config.source} has no listener {listener}, only {', '.join(known)}")
    try:
        client = plain(ip_address(address)) if address else None
    except ValueError:
        raise Failed(2, f"--from: {address} is not an IP address") from None
    from ldapmfa.cli import pretence  # noqa: PLC0415 - takes long
    from ldapmfa.core.application import Peer  # noqa: PLC0415 - takes long

    stated = pretence.Stated(dn, accounts, upn, groups, frozenset(flags)) if dn else None
    listen = known[listener] if listener else config.listen[0]
    asked = pretence.Asked(name, stated, listen, Peer(listen.name, client, pretence.shown_by(certificate)), at)
    found = in_reactor(lambda reactor: pretence.explain(config, asked, reactor))
    value = pretence.as_value(found)
    answer(value, lambda: say("\n".join(_lines(found, value))))


# -- for a person


def _lines(found: Explained, value: dict[str, Any]) -> Iterator[str]:
    """All of it, for a person."""
    from ldapmfa.cli.pretence import elsewhere, said  # noqa: PLC0415 - takes long

    account, store = value["account"], value["store"]
    yield f"{account['dn']}"
    yield f"  key          {account['key'] or 'as described; the store has none of that DN'}"
    yield f"  names        {', '.join(account['accounts']) or 'none'}; userPrincipalName {account['upn'] or 'none'}"
    yield f"  groups       {'; '.join(account['groups']) or 'none of those that rules name'}"
    yield f"  flags        {', '.join(account['flags']) or 'none'}"
    yield f"  login        from {value['from'] or 'no address'} at {value['listener']}, {local(found.at.seconds)}"
    yield f"  application  {value['application']}, directory {value['directory']}"
    yield ""
    yield from _told_applications(value)
    yield from _told_rules(value)
    yield ""
    yield f"It demands {said(found.decision)}."
    if found.decision.action == "factors":
        yield from _told_factors(value)
    yield ""
    yield "The store knows:"
    yield f"  factors      {', '.join(store['factors']) or 'none'}"
    states = [name for name in ("locked", "blocked") if store[name]]
    yield f"  state        {' and '.join(states) or 'neither locked nor blocked'}"
    yield f"  bypass       {'one login is granted without a second factor' if store['bypass'] else 'none'}"
    yield f"  asked by     {store['method'] or 'as the configuration says'}"
    grace = ", in its grace" if store["in_grace"] and not store["factors"] else ""
    yield f"  first seen   {local(found.status.first_seen)}{grace}"
    yield ""
    named = {"password": "With the password alone", "code": "With a code", "outage": "While no service can be reached"}
    for name, play in found.plays.items():
        yield f"{named[name]}: {play.sentence()}"
    for place, other in elsewhere(found):
        yield f"From {place}: {said(other)}."


def _told_applications(value: dict[str, Any]) -> Iterator[str]:
    for one in value["applications"]:
        counts = one["name"] == value["application"]
        covers = "covers it, and counts" if counts else "covers it, behind one that counts"
        yield f"[[application]] {one['name']}: {covers if one['covers'] else 'does not cover it'}"
        yield from (f"     {'yes' if each['holds'] else 'no'}: {each['what']}" for each in one["conditions"])


def _told_rules(value: dict[str, Any]) -> Iterator[str]:
    if not value["rules"]:
        yield "No rules are configured."
    for number, rule in enumerate(value["rules"], 1):
        state = "applies, and decides" if rule["decides"] else "would apply, but an earlier one decides"
        yield f"{number}. {rule['name']} ({rule['action']}): {state if rule['applies'] else 'does not apply'}"
        for missed in rule["misses"]:
            yield f"     {missed}"
    for entry in value["exempt"]:
        where = "everywhere" if entry["networks"] is None else " or ".join(entry["networks"])
        yield f"[[exempt]] {entry['account']}, from {where}: {'covers it' if entry['covers'] else 'not from there'}"


def _told_factors(value: dict[str, Any]) -> Iterator[str]:
    ways = [f"{one['service']}{' by ' + one['method'] if one['method'] else ''}" for one in value["asks"]]
    yield f"  asked        {', then '.join(ways) or 'nobody: codes are typed'}"
    own = "whatever is enrolled" if value["codes"]["own"] is None else ", ".join(value["codes"]["own"])
    yield f"  codes        of {', '.join([own or 'none here', *value['codes']['services']])}"
    modes = ", ".join(f"{name} {mode}" for name, mode in value["fail_mode"].items())
    yield f"  fail mode    {modes or 'closed'}"
    reuse, late = value["reuse_seconds"], value["late_approval_seconds"]
    yield f"  reuse        an equal bind within {reuse:g} s" if reuse else "  reuse        none"
    if late:
        yield f"  late         an approval counts for {late:g} s after its client has left"
    yield f"  unenrolled   {value['unenrolled']}"
