"""What every command shares: how it is documented, what is given with each, how it answers, how it fails.

Promised here: `--config` and `--json` are taken before and after a command's name; exit codes are as in `EXIT_CODES`;
whatever is printed can't move a terminal's cursor. Everything that takes long to import is imported when needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from ldapmfa import __version__
from ldapmfa.audit import printable
from ldapmfa.errors import ConfigError, LdapMfaError

if TYPE_CHECKING:
    from ldapmfa.config import Config

#: What a command ends with, and when.
EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done; for a question, yes",
    1: "the answer is no: a login test was refused, a name or a reference code was not found; the doctor warns",
    2: "a mistake in the configuration or in the command line",
    3: "broken: the store or a directory can't be reached; the doctor found what does not work",
    130: "interrupted",
}


# -- what a command is


def _exit_codes(formatter: click.HelpFormatter) -> None:
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


class Command(click.Command):
    """A command with examples, a line each."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)
        self.params += _common()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and what the exit codes mean."""
        with formatter.section("Examples"):
            formatter.write("".join(f"{' ' * formatter.current_indent}{line}\n" for line in self.examples))
        _exit_codes(formatter)
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A group of commands."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += _common()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit codes mean."""
        _exit_codes(formatter)
        super().format_epilog(ctx, formatter)


class DefaultGroup(Group):
    """A group of commands, one of which is meant where none is named: what is given is that one's."""

    def __init__(self, *args: Any, default: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the default command where none is."""
        # while a word is being completed it may yet become a command's name
        named = self._names_one(args, otherwise=ctx.resilient_parsing)
        return super().parse_args(ctx, args if named else [self.default, *args])

    def _names_one(self, args: list[str], *, otherwise: bool) -> bool:
        """Whether the first word that is no option, nor an option's value, is a command, or the help is wanted."""
        valued = {name for param in self.params for name in param.opts if not getattr(param, "is_flag", False)}
        flags = {name for param in self.params for name in param.opts} - valued
        words = iter(args)
        for word in words:
            name = word.partition("=")[0]
            if word == "--help":
                return True
            if word in valued:
                next(words, None)
            elif name not in flags | valued:
                return word in self.commands
        return otherwise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and what the default one takes first."""
        found = super().shell_complete(ctx, incomplete)
        for param in self.commands[self.default].params:
            if isinstance(param, click.Argument):
                found += param.shell_complete(ctx, incomplete)
        return found


# -- what is given with every command


@dataclass
class Given:
    """What was given with whichever command; `source` is the configuration that was read, to be named in errors."""

    config: Path | None = None
    json: bool = False
    source: Path | None = None


def given() -> Given:
    """What was given with this command."""
    return click.get_current_context().find_root().ensure_object(Given)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        setattr(ctx.find_root().ensure_object(Given), str(param.name), value)


def _common() -> list[click.Parameter]:
    """`--config` and `--json`, for one command."""
    return [
        click.Option(
            ["-c", "--config"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            expose_value=False,
            callback=_keep,
            help="The configuration; default: ./ldapmfa.toml, then /etc/ldapmfa/ldapmfa.toml.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help='Answer in JSON; errors are {"error": [...]} on standard error.',
        ),
    ]


def load(*, check_files: bool = True, check_ports: bool = False) -> Config:
    """The configuration. Raises ConfigError with all its mistakes."""
    from ldapmfa import config  # noqa: PLC0415 - takes long

    loaded = config.load(given().config, check_files=check_files, check_ports=check_ports)
    given().source = loaded.source
    return loaded


def actor() -> str:
    """Who runs the command: the user of the operating system, behind sudo too."""
    import pwd  # noqa: PLC0415 - not everywhere

    # only root may say that somebody else is behind it
    sudoer = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    if sudoer:
        return sudoer
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user id {os.getuid()}"


# -- how it answers


def answer(value: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Print `value` where --json was given, else `show` it."""
    if given().json:
        # ASCII: no character of it can do anything to a terminal
        click.echo(json.dumps(value, indent=2))
    else:
        show()


def say(text: str) -> None:
    """Print text for a person, line by line."""
    click.echo("\n".join(printable(line) for line in text.split("\n")))


def warn(text: str) -> None:
    """Print a warning, to standard error."""
    click.echo(f"warning: {printable(text)}", err=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print `rows` under `headings`: as wide as the terminal, or as they need be where there is none."""
    from rich import box  # noqa: PLC0415 - takes long
    from rich.console import Console  # noqa: PLC0415 - takes long
    from rich.table import Table  # noqa: PLC0415 - takes long
    from rich.text import Text  # noqa: PLC0415 - takes long

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        # Text: nothing in it is markup
        shown.add_row(*(Text(printable(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, highlight=False).print(shown)


# -- how it fails


class Failed(Exception):  # noqa: N818 - not an error: an answer
    """The command ends with `code`, for the reasons in `lines`."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.code = code
        self.lines = lines


#: A group was called without a command: its text is the help; no exception before click 8.2.
_NO_COMMAND: Final[Any] = getattr(click.exceptions, "NoArgsIsHelpError", ())


def main(root: click.Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    given = Given()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = root.main(words, prog_name="ldapmfa", standalone_mode=False, obj=given)
    except BrokenPipeError:
        # whoever read has seen enough; nor may the interpreter complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except _NO_COMMAND as failed:
        click.echo(failed.format_message(), err=True)
        code = 2
    except Exception as failed:
        found = _explained(failed, given.source)
        if found is None:
            raise
        code, lines = found
        if as_json:
            click.echo(json.dumps({"error": lines}, indent=2), err=True)
        else:
            for line in lines:
                click.echo(f"ldapmfa: {printable(line)}", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _explained(failed: Exception, source: Path | None) -> tuple[int, list[str]] | None:
    """The exit code and the lines for what was raised."""
    from ldapmfa.core.identity import CannotIdentify  # noqa: PLC0415 - takes longer than --help may

    match failed:
        case Failed():
            return failed.code, list(failed.lines)
        case click.UsageError():
            hint = f"try `{failed.ctx.command_path} --help`" if failed.ctx else "try `ldapmfa --help`"
            return 2, [f"{failed.format_message()} ({hint})"]
        case click.ClickException():
            return 2, [failed.format_message()]
        case ConfigError():
            named = str(source) if source else ""
            return 2, [line if named in line else f"{named}: {line}" for line in failed.mistakes]
        case LdapMfaError() | CannotIdentify():
            return 3, [str(failed)]
        case OSError():
            return 3, [f"{failed.filename or 'the system'}: {failed.strerror or failed}"]
    return None


VERSION: Final = f"ldapmfa {__version__}"
