"""What an administrator does once: `ldapmfa init`, `check-config`, `key rotate`, `completion`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ldapmfa.cli.accounts import in_reactor, on_accounts
from ldapmfa.cli.command import Command, Failed, Group, actor, answer, given, load, say, warn
from ldapmfa.errors import ConfigError

if TYPE_CHECKING:
    from ldapmfa.accounts import Accounts
    from ldapmfa.cli.services import Health
    from ldapmfa.config import Config

#: A configuration there belongs to the systemd unit, whose state lies elsewhere.
_SYSTEM: Final = Path("/etc/ldapmfa")
_STATE: Final = Path("/var/lib/ldapmfa")

_TEMPLATE: Final = """\
# The configuration of ldapmfa. Relative paths are relative to this file; every option is explained in the sources'
# conf/ldapmfa.toml. `ldapmfa check-config` lists mistakes, `ldapmfa check-config --online` tries the directory too.

[[listen]]
endpoint = {endpoint}
# for clients on other machines: "tcp:636", and
#tls = "ldaps"
#certificate = "cert.pem"
#key = "key.pem"

[directory]
uris = [{uri}]
# who signed its certificate, if that is no authority of this system's:
#ca_file = "ca.pem"

# an account that may read others: `ldapmfa user enrol` then finds accounts by name
#[directory.service_account]
#dn = "cn=ldapmfa,ou=services,dc=example,dc=com"
#password_file = "service-account.password"

[store]
url = {url}
key_file = {key_file}

[login]
factors = ["totp", "recovery"]
code = "suffix"          # the code right behind the password; or "delimiter", with delimiter = ","

[metrics]                  # for Prometheus, and for the health checks of load balancers: this machine's alone
endpoint = "tcp:9389:interface=127.0.0.1"

# accounts that need no code, such as the clients' own service accounts
#[[exempt]]
#account = "cn=svc,ou=services,dc=example,dc=com"
#networks = ["10.1.0.0/16"]
"""


# -- init


@click.command(
    cls=Command,
    examples=(
        "ldapmfa init --uri ldaps://dc1.example.com",
        "ldapmfa init --uri ldap://127.0.0.1:10389 --endpoint tcp:3389:interface=127.0.0.1",
        "sudo ldapmfa init --config /etc/ldapmfa/ldapmfa.toml --uri ldaps://dc1.example.com",
    ),
)
@click.option("--uri", metavar="URI", help="A server of the directory; default: an example to be replaced.")
@click.option("--endpoint", metavar="ENDPOINT", help="Where to listen; default: tcp:3389:interface=127.0.0.1.")
def init(uri: str | None, endpoint: str | None) -> None:
    """Make configuration, key and store.

    Only what is missing is made. Nothing that exists is changed: with a configuration, only the key file and the
    store that it names are made. The key file seals every secret in the store: keep a copy of it, apart from the
    store's.
    """
    file, written = _configuration(uri, endpoint)
    settings = load(check_files=False)
    made = [file] if written else []
    key_file = settings.store.key_file
    _make_key(key_file, made)
    sqlite_file = settings.store.sqlite_file
    new_store = sqlite_file is not None and not sqlite_file.exists()
    asyncio.run(_make_store(settings))
    if sqlite_file and new_store:
        made.append(sqlite_file)
        give_to_service(sqlite_file)
    steps = _next_steps(settings, example=written and uri is None)
    value = {"config": str(file), "made": [str(path) for path in made], "next": steps}

    def show() -> None:
        for path in made:
            say(f"made {path}")
        if not made:
            say(f"{file}: everything is there already, nothing was changed")
        say("\nNext:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1)))

    answer(value, show)


def _configuration(uri: str | None, endpoint: str | None) -> tuple[Path, bool]:
    """The configuration, and whether it was written now."""
    from ldapmfa import config  # noqa: PLC0415 - takes long

    places = (given().config,) if given().config else config.PLACES
    existing = next((place for place in places if place and os.path.lexists(place)), None)
    if existing:
        if uri or endpoint:
            name = "--uri" if uri else "--endpoint"
            raise Failed(2, f"{name}: {existing} exists, and is not changed: edit it, or name another with --config")
        return existing.absolute(), False
    for name, value, parse in (
        ("--uri", uri, config.DirectoryUri.parse),
        ("--endpoint", endpoint, config.Endpoint.parse),
    ):
        try:
            if value is not None:
                parse(value)
        except ValueError as wrong:
            raise Failed(2, f"{name}: {wrong}") from None
    file = (given().config or config.PLACES[0]).absolute()
    state = _STATE if file.parent == _SYSTEM else None
    text = _TEMPLATE.format(
        endpoint=json.dumps(endpoint or "tcp:3389:interface=127.0.0.1", ensure_ascii=False),
        uri=json.dumps(uri or "ldaps://dc1.example.com", ensure_ascii=False),
        url=json.dumps(f"sqlite:///{state / 'state.db' if state else 'state.db'}"),
        key_file=json.dumps(str(state / "store.key") if state else "store.key"),
    )
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise ConfigError([f"{file}: the configuration can't be written: {error.strerror}"]) from None
    try:
        config.load(file, check_files=False)
    except ConfigError:
        file.unlink()
        raise
    given().config = file
    return file, True


def _make_key(path: Path, made: list[Path]) -> None:
    from ldapmfa.store.seal import Seal  # noqa: PLC0415 - takes long

    if os.path.lexists(path):
        Seal(path, entropy=os.urandom)
        return
    Seal.create(path, entropy=os.urandom)
    made.append(path)
    give_to_service(path)


async def _make_store(settings: Config) -> None:
    from ldapmfa.net import service  # noqa: PLC0415 - takes long

    store = await service.open_store(settings, migrate=True)
    await store.close()


def give_to_service(path: Path) -> None:
    """What root makes in a directory of the service's user is that user's, or the service could not read it."""
    owner = path.parent.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        # that user may have put something else there meanwhile: only what is root's, and nothing but this name's
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and status.st_uid == 0 and status.st_nlink == 1:
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                os.close(descriptor)


def _next_steps(settings: Config, *, example: bool) -> list[str]:
    file = given().source
    option = "" if file == Path("ldapmfa.toml").absolute() else f" --config {file}"
    edit = [f"set directory.uris in {file} to your directory's"] if example else []
    return [
        *edit,
        f"ldapmfa check-config --online{option}",
        f"ldapmfa user enrol NAME{option}",
        f"ldapmfa run{option}" if file and file.parent != _SYSTEM else "systemctl enable --now ldapmfa",
        f"keep a copy of {settings.store.key_file} in a safe place, apart from the store's",
    ]


# -- check-config


@click.command(
    cls=Command,
    name="check-config",
    examples=(
        "ldapmfa check-config",
        "ldapmfa check-config --online",
        "ldapmfa check-config --skip-ports --config /etc/ldapmfa/ldapmfa.toml",
    ),
)
@click.option("--online", is_flag=True, help="Try every directory's servers and every service too.")
@click.option("--skip-ports", is_flag=True, help="Do not try the ports: the service is running and has them.")
def check_config(*, online: bool, skip_ports: bool) -> None:
    """List all mistakes of the configuration.

    They are listed at once, each with its key and what would be right. With --online every server is looked up,
    connected to, its certificate verified, and asked what it is: one that can tell nobody's identity is refused. The
    service account, if any, is bound, and looks for the groups that rules name. Every service is asked for its health,
    which verifies our keys there, its certificate and its clock, and asks nobody. A PostgreSQL store is opened, and
    asked for settings that endanger what is kept in it.
    """
    from ldapmfa.cli import online as checks  # noqa: PLC0415 - takes long

    settings = load(check_ports=not skip_ports)
    mistakes = checks.key_mistakes(settings)
    warnings = checks.warnings(settings)
    servers: list[checks.Checked] = []
    services: list[Health] = []
    if online:
        from ldapmfa.cli import services as trials  # noqa: PLC0415 - takes long

        servers = in_reactor(lambda reactor: checks.check(settings, reactor))
        services = asyncio.run(trials.check(settings))
        mistakes += [problem for server in servers for problem in server.mistakes]
        warnings += [warning for server in servers for warning in server.warnings]
        warnings += asyncio.run(checks.store_risks(settings))
    for warning in () if given().json else warnings:
        warn(warning)
    source = str(settings.source)
    broken = [problem for server in servers for problem in server.broken]
    broken += [problem for service in services for problem in service.broken]
    if mistakes:
        raise ConfigError(mistakes + broken)
    if broken:
        raise Failed(3, *(f"{source}: {problem}" for problem in broken))
    value = {
        "config": source,
        "listeners": [listen.name for listen in settings.listen],
        "servers": [server.as_dict() for server in servers],
        "services": [service.as_dict() for service in services],
        "warnings": warnings,
    }

    def show() -> None:
        for server in servers:
            say(f"{server.directory}: {server.server}: {server.summary}")
        for service in services:
            say(f"{service.service}: {service.kind}: {service.found}")
        say(f"{source}: no mistakes")

    answer(value, show)


# -- key


@click.group(cls=Group)
def key() -> None:
    """The key that seals secrets in the store."""


@key.command(examples=("ldapmfa key rotate",))
def rotate() -> None:
    """Change to a new key.

    Every secret in the store is sealed with the new key, and the old one is forgotten. The service may be running: it
    notices. Stopped half-way, everything still opens, and it may be run again. Copies of the store made before need
    the old key file: keep one with them.
    """
    from ldapmfa.store.seal import Seal  # noqa: PLC0415 - takes long

    path = load().store.key_file

    async def work(accounts: Accounts) -> str:
        return await accounts.as_admin(actor()).rotate_key(Seal(path, entropy=os.urandom))

    new = on_accounts(work)
    answer({"key": new, "key_file": str(path)}, lambda: say(f"{path} now holds the key {new}: keep a new copy of it"))


# -- completion


@click.command(
    cls=Command,
    examples=(
        'eval "$(ldapmfa completion bash)"',
        "ldapmfa completion zsh > ~/.zfunc/_ldapmfa",
        "ldapmfa completion fish > ~/.config/fish/completions/ldapmfa.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    It completes commands, options, account names and factor ids by the Tab key. Names and ids are read from the store,
    if that is a SQLite file that you may read.
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    found = get_completion_class(shell)
    if found is None:
        raise Failed(2, f"there is no completion for {shell}")
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "ldapmfa", "_LDAPMFA_COMPLETE").source())
