"""The command `ldapmfa doctor`: which areas are looked at, what is asked for, and how the findings are shown.

Not in here: what is looked at (`areas`, `imitation`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ldapmfa.audit import printable
from ldapmfa.cli.command import Command, Failed, answer, given, load
from ldapmfa.cli.doctor.finding import EXIT, Finding, State, summary, worst
from ldapmfa.errors import ConfigError

if TYPE_CHECKING:
    from ldapmfa.cli.doctor.conversation import Person, Step
    from ldapmfa.config import Config
    from ldapmfa.core.secret import Secret

#: In the order in which they are looked at.
AREAS: Final = (
    "configuration", "files", "certificates", "directories", "clock", "store", "services", "limits", "process"
)  # fmt: skip
PROGRAMS: Final = ("jenkins", "gitlab", "nextcloud", "sssd", "apache")
_COLOURS: Final[dict[State, str]] = {"ok": "green", "warning": "yellow", "broken": "red", "skipped": "bright_black"}


@click.command(
    cls=Command,
    examples=(
        "ldapmfa doctor",
        "ldapmfa doctor --only certificates --only directories --json",
        "ldapmfa doctor --imitate sssd --user alice --base dc=example,dc=com",
        "ldapmfa doctor --imitate all --user alice --service-account cn=ci,dc=example,dc=com --attribute uid",
    ),
)
@click.option("--only", type=click.Choice(AREAS), multiple=True, help="Look at this area only; may be repeated.")
@click.option("--imitate", type=click.Choice((*PROGRAMS, "all")), help="Instead, log in as this program does.")
@click.option("--user", metavar="NAME", help="With --imitate: who logs in, as typed in the program.")
@click.option("--base", metavar="DN", help="With --imitate: where the program looks for users; default: base_dn of the "
              "directory.")  # fmt: skip
@click.option("--attribute", default="uid", show_default=True, metavar="NAME", help="With --imitate: the attribute "
              "that holds the name.")  # fmt: skip
@click.option("--service-account", metavar="DN", help="With --imitate: the program's own account; default: the "
              "directory's service_account.")  # fmt: skip
@click.option("--service-password-file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="The file with its password; asked for if not given.")  # fmt: skip
@click.option("--no-service-account", is_flag=True, help="With --imitate: the program has none, and looks as nobody.")
@click.option("--at", metavar="URI", help="With --imitate: where the program connects (ldap:// or ldaps://); default: "
              "the listener.")  # fmt: skip
@click.option("--listener", metavar="NAME", help="With --imitate: the listener; default: the first, or that of --at.")
@click.option("--ca-file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="With --imitate: the authorities that the program trusts; default: the listener's certificate is "
              "taken, and no other.")  # fmt: skip
@click.option("--clear", is_flag=True, help="With --imitate: the program does not encrypt.")
@click.option("--patience", type=click.IntRange(1, 600), metavar="SECONDS", help="With --imitate: for how long the "
              "program waits for a bind; default: as that program does.")  # fmt: skip
def doctor(*, only: tuple[str, ...], imitate: str | None, user: str | None, **wanted: object) -> int:
    """Say what is wrong with the installation, and what to do.

    It looks at the configuration, files, certificates, directories, clock, store, services, limits and the running
    process, and changes nothing. With --imitate it is a client of the running proxy instead: it binds and searches as
    that program does, as often and as impatiently, and says in plain words what breaks. The user really logs in: the
    password and code, as typed in the program, are asked for (or read from standard input, a line for each program,
    behind the service account's password if that has no file); a code is used up, a telephone rings. Exit code 0: all
    is in order. 1: there are warnings. 2: the configuration can't be used. 3: something is broken.
    """
    mistakes: list[str] = []
    try:
        config = load()
    except ConfigError as wrong:
        mistakes = wrong.mistakes
        config = load(check_files=False)  # what is wrong with a file does not hide the rest
    if imitate is None:
        findings = list(_shown(_looked_at(config, only or AREAS, mistakes)))
    elif user is None:
        raise Failed(2, "--user: is needed with --imitate: who is to log in?")
    else:
        names = PROGRAMS if imitate == "all" else (imitate,)
        findings = list(_shown(_imitated(config, names, user, wanted)))
    value = {"state": worst(findings), "findings": [finding.as_dict() for finding in findings]}
    answer(value, lambda: click.echo(f"\n{summary(findings)}"))
    return EXIT[worst(findings)]


# -- what is looked at


def _looked_at(config: Config, names: tuple[str, ...], mistakes: list[str]) -> Iterator[Finding]:
    from ldapmfa.cli.doctor import areas  # noqa: PLC0415 - takes long

    patient = areas.Patient(config, mistakes)
    for name in AREAS:
        if name in names:
            _progress(f"looking at {name}")
            yield from areas.LOOK[name](patient)
    _progress("")


def _imitated(config: Config, names: tuple[str, ...], user: str, wanted: dict[str, object]) -> Iterator[Finding]:
    from ldapmfa.cli.doctor import imitation, programs  # noqa: PLC0415 - takes long

    at, ca_file, clear = (wanted[key] for key in ("at", "ca_file", "clear"))
    listen = imitation.listener_of(config, at, wanted["listener"])  # type: ignore[arg-type]
    place = imitation.place_of(listen, at, ca_file, clear=bool(clear))  # type: ignore[arg-type]
    directory = config.directory_of(listen)
    base = wanted["base"] or directory.base_dn
    if not base:
        raise Failed(2, "--base: is needed, for the directory's table has no base_dn")
    account = None if wanted["no_service_account"] else _service_account(config, listen.directory, wanted)
    what = imitation.Wanted(place, user, str(base), str(wanted["attribute"]), account, wanted["patience"])  # type: ignore[arg-type]
    here = imitation.installed(config, listen, place)
    for name in names:
        program = programs.PROGRAMS[name]
        typed = _asked(f"Password and code of {user}, as typed in {program.title}")
        yield from imitation.imitate(program, what, here, typed, _teller(program.title))


def _service_account(config: Config, directory: str, wanted: dict[str, object]) -> Person:
    from ldapmfa.cli.doctor.conversation import Person  # noqa: PLC0415 - takes long
    from ldapmfa.core.secret import Secret  # noqa: PLC0415 - takes long

    name, file = wanted["service_account"], wanted["service_password_file"]
    own = config.every_directory[directory].service_account
    if name is None:
        if own is None:
            raise Failed(2, "--service-account: is needed: whom does the program look for users as? Or has it none: "
                         "--no-service-account")  # fmt: skip
        return Person(own.dn, own.secret())
    if file is not None:
        return Person(str(name), Secret(Path(str(file)).read_bytes().rstrip(b"\r\n")))
    return Person(str(name), _asked(f"Password of {name}"))


def _asked(what: str) -> Secret:
    """What is typed, unseen; or the next line of standard input."""
    from ldapmfa.core.secret import Secret  # noqa: PLC0415 - takes long

    if sys.stdin.isatty():
        typed = str(click.prompt(printable(what), hide_input=True, err=True))
    else:
        typed = sys.stdin.readline().rstrip("\r\n")
        if not typed:
            raise Failed(2, f"{what}: standard input has no more lines")
    return Secret(typed.encode())


# -- how it is shown


def _shown(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Each finding, printed as soon as there is one."""
    area = ""
    for finding in findings:
        if not given().json:
            _progress("")
            if finding.area != area:
                click.echo(("\n" if area else "") + click.style(finding.area, bold=True))
            area = finding.area
            word = click.style(f"{finding.state:8}", fg=_COLOURS[finding.state])
            click.echo(f"  {word} {printable(finding.check)}: {printable(finding.found)}")
            if finding.remedy:
                click.echo(f"           -> {printable(finding.remedy)}")
        yield finding


def _teller(title: str) -> Callable[[Step], None]:
    def told(step: Step) -> None:
        _progress(f"{title} {step.text}: {step.outcome}")

    return told


def _progress(text: str) -> None:
    """What is being done, on a terminal: a line that the next one takes the place of."""
    if sys.stderr.isatty() and not given().json:
        click.echo(f"\r\x1b[K{printable(text)}", nl=False, err=True)
