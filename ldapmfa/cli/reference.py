"""The pages made from the commands: `python -m ldapmfa.cli.reference cli` and `... man`.

`make docs` writes them to docs/reference/cli.md and docs/reference/ldapmfa.1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import click

from ldapmfa import __version__
from ldapmfa.cli import root
from ldapmfa.cli.command import EXIT_CODES, Command

_COMMON: Final = frozenset({"--config", "--json", "--help"})

Named = tuple[click.Context, click.Command]


def commands(command: click.Command, above: click.Context | None = None) -> Iterator[Named]:
    """`command` and all below it that is not hidden, in alphabetical order, each with a context that knows its name."""
    context = click.Context(command, info_name=command.name if above else "ldapmfa", parent=above)
    yield context, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            if not command.commands[name].hidden:
                yield from commands(command.commands[name], context)


def _paragraphs(command: click.Command) -> list[str]:
    text = " ".join(line or "\n\n" for line in (command.help or "").split("\n"))
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _options(context: click.Context, command: click.Command) -> list[tuple[str, str]]:
    """The options of its own, in order; those of every command are told once."""
    found = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    records = [param.get_help_record(context) for param in found if not _COMMON.intersection(param.opts)]
    return [record for record in records if record]


def _common(context: click.Context) -> list[tuple[str, str]]:
    records = [
        param.get_help_record(context) for param in root.get_params(context) if _COMMON.intersection(param.opts)
    ]
    return [record for record in records if record]


def markdown() -> str:
    """docs/reference/cli.md."""
    lines = [
        "# Command line",
        "",
        "<!-- Made by `make docs` from ldapmfa/cli/: change it there. -->",
        "",
    ]
    for context, command in commands(root):
        if context.parent is not None:
            lines += [f"## `{context.command_path}`", ""]
        lines += ["```", _usage(context, command), "```", ""]
        for paragraph in _paragraphs(command):
            lines += [paragraph, ""]
        options = _options(context, command)
        if options:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in options]
            lines += [""]
        if isinstance(command, Command):
            lines += ["```sh", *command.examples, "```", ""]
        if context.parent is None:
            lines += ["Every command takes, before or after its name:", "", "| option | meaning |", "|---|---|"]
            lines += [f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in _common(context)]
            lines += ["", "| exit code | meaning |", "|---|---|"]
            lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
            lines += [""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _usage(context: click.Context, command: click.Command) -> str:
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def man() -> str:
    """docs/reference/ldapmfa.1."""
    lines = [
        '.\\" Made by `make docs` from ldapmfa/cli/: change it there.',
        f'.TH LDAPMFA 1 "" "ldapmfa {__version__}" "User Commands"',
        ".SH NAME",
        r"ldapmfa \- an LDAP proxy that demands a second factor",
        ".SH SYNOPSIS",
    ]
    context = click.Context(root, info_name="ldapmfa")
    lines += [f".B {_roff(_usage(context, root))}", ".SH DESCRIPTION", *_roff_paragraphs(root)]
    lines += [".SH OPTIONS", "Every command takes these, before or after its name."]
    for option, meaning in _common(context):
        lines += [".TP", f".B {_roff(option)}", _roff(meaning)]
    lines += [".SH COMMANDS"]
    for below, command in commands(root):
        if below.parent is None:
            continue
        lines += [f".SS {_roff(_usage(below, command))}", *_roff_paragraphs(command)]
        for option, meaning in _options(below, command):
            lines += [".TP", f".B {_roff(option)}", _roff(meaning)]
        if isinstance(command, Command):
            lines += [".PP", "Examples:", ".nf", *(f"    {_roff(line)}" for line in command.examples), ".fi"]
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f".B {code}", _roff(meaning)]
    lines += [
        ".SH FILES",
        ".TP",
        ".I ./ldapmfa.toml",
        "The configuration, unless \\-\\-config names another.",
        ".TP",
        ".I /etc/ldapmfa/ldapmfa.toml",
        "The configuration, where there is none in the current directory.",
    ]
    return "\n".join(lines) + "\n"


def _roff_paragraphs(command: click.Command) -> Iterator[str]:
    for number, paragraph in enumerate(_paragraphs(command)):
        if number:
            yield ".PP"
        yield _roff(paragraph)


def _roff(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    # a line that begins with one of these is a request
    return r"\&" + text if text[:1] in {".", "'"} else text


if __name__ == "__main__":
    sys.stdout.write({"cli": markdown, "man": man}[sys.argv[1]]())
