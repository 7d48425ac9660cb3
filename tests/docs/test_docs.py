"""What the pages say is true of the code: links, settings, configurations, commands, reasons, the table of a session."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import click
import pytest
from pydantic import BaseModel

from ldapmfa import config
from ldapmfa.cli import root
from ldapmfa.cli.command import DefaultGroup
from ldapmfa.cli.reasons import REASONS
from ldapmfa.config.plugins import own_tables
from ldapmfa.core import session

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Text that is shown or written elsewhere, and that must be as fit for strangers as the pages.
TEXTS = sorted([*PAGES, *(file for file in (ROOT / "conf").rglob("*") if file.is_file()), *(ROOT / "systemd").iterdir()])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")


def named(files):
    return [pytest.param(file, id=file.relative_to(ROOT).as_posix()) for file in files]


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def anchors(file):
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in words}


# -- links


@pytest.mark.parametrize("page", named(PAGES))
def test_every_link_leads_somewhere(page):
    broken = []
    for target in _LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", named(PAGES))
def test_every_test_that_is_named_in_a_link_is_in_its_file(page):
    """Named by how it begins, or by its module."""
    links = re.findall(r"\[([^\]\n]*)\]\(([^)\s]*tests/[^)\s]+\.py)\)", page.read_text(encoding="utf-8"))
    for words, target in links:
        file = page.parent / target
        code = file.read_text(encoding="utf-8")
        for name in re.findall(r"\btest_\w+", words):
            assert name == file.stem or f"def {name}" in code, (name, target)


def test_every_page_is_reached_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = _LINK.findall(without_code(page.read_text(encoding="utf-8")))
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in links if ":" not in link]
    alone = {page for page in PAGES if page.is_relative_to(ROOT / "docs" / "reference")}
    alone |= {page for page in PAGES if page.parent.name == "newsfragments"} | {ROOT / "CHANGELOG.md"}
    assert set(PAGES) - seen - alone == set()


# -- settings


def tables(model, heading):
    for name, field in model.model_fields.items():
        inner = [part for part in walked(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        yield heading, name
        for table in inner:
            yield from tables(table, f"{heading}.{name}".lstrip("."))


def walked(annotation):
    yield annotation
    for part in get_args(annotation):
        yield from walked(part)


def test_every_setting_is_in_the_reference():
    page = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    sections = {}
    for part in page.split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        sections[heading.strip("`[] ")] = text
    missing = [
        f"{heading}.{name}"
        for heading, name in tables(config.Config, "")
        if heading and not heading.startswith(("directories", "factors")) and f"| `{name}` |" not in sections.get(heading, "")
    ]
    missing += [
        f"factors.{kind}.{name}"
        for kind, table in own_tables().items()
        for name in table.model_fields
        if f"| `{name}` |" not in sections.get(f"factors.{kind}", "")
    ]
    assert not missing
    assert set(config.Config.model_fields) <= {heading.partition(".")[0] for heading in sections}


def blocks(language):
    for page in PAGES:
        for number, (name, text) in enumerate(_FENCE.findall(page.read_text(encoding="utf-8")), 1):
            if name in language:
                yield pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}:{number}")


@pytest.mark.parametrize("text", list(blocks({"toml"})))
def test_every_configuration_loads(text, tmp_path):
    """A fragment is completed by what it does not say."""
    given = tomllib.loads(text)
    if "listen" not in given:
        text += '\n[[listen]]\nendpoint = "tcp:3389:interface=127.0.0.1"\n'
    if "directory" not in given:
        text += '\n[directory]\nuris = ["ldaps://dc1.example.com"]\n'
    file = tmp_path / "ldapmfa.toml"
    file.write_text(text, encoding="utf-8")
    config.load(file, check_files=False)


# -- commands


def command_lines():
    """Every `ldapmfa ...` in a block of commands or between backticks, a line each, from its program on."""
    program = re.compile(r"(?:^|[\s(|])(?:\S*/)?ldapmfa(?= )")
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs" / "reference"):
            continue
        text = page.read_text(encoding="utf-8")
        found = [line for name, block in _FENCE.findall(text) if name in {"sh", "console"} for line in block.splitlines()]
        found += [line for line in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)) if re.match(r"(sudo .*)?ldapmfa ", line)]
        for line in (line.partition(" #")[0] for line in found):
            if "twistd" in line:  # its plug-in's command line, not ours
                continue
            for match in program.finditer(line):
                if re.search(r"(-u|-o|-g|/) ?$", line[: match.end() - len("ldapmfa")]):  # the user of that name
                    continue
                rest = re.split(r"[|>;)]", line[match.end() :])[0].strip()
                yield pytest.param(rest, id=f"{page.relative_to(ROOT).as_posix()}: {rest}")


def options_of(command):
    return {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}


def mistake(line):
    """What is wrong with the words behind `ldapmfa`, as far as click knows without running it."""
    command = root
    words = iter(shlex.split(line))
    given = []
    for word in words:
        options = options_of(command)
        if isinstance(command, DefaultGroup) and word not in {*options, *command.commands, "--help"}:
            command = command.commands[command.default]
            options = options_of(command)
        if word.startswith("-") and word != "--help":
            option, _, value = word.partition("=")
            if not isinstance(options.get(option), click.Option):
                return f"no option {option} in {command.name}"
            if not options[option].is_flag and not value and next(words, None) is None:
                return f"{option} needs a value"
        elif isinstance(command, click.Group) and word.isalpha() and word.isupper():
            return ""  # COMMAND, in a sentence
        elif isinstance(command, click.Group) and word != "--help":
            if word not in command.commands:
                return f"no command {word}"
            command = command.commands[word]
        else:
            given.append(word)
    most = sum(1 if param.nargs == 1 else 99 for param in command.params if isinstance(param, click.Argument))
    return f"too many words: {given}" if len([word for word in given if word != "--help"]) > most else ""


@pytest.mark.parametrize("line", list(command_lines()))
def test_every_command_exists(line):
    assert mistake(line) == ""


@pytest.mark.parametrize(
    "line", ["usr list", "user enrol alice --kindd totp", "audit --ref", "audit --reff X", "audit a b", "run now", "--colour", "user show a b"]
)
def test_a_command_that_does_not_exist_is_noticed(line):
    assert mistake(line)


def test_some_commands_were_found():
    assert len(list(command_lines())) > 60


# -- what the pages repeat


def test_every_reason_is_explained_to_those_who_troubleshoot():
    page = (ROOT / "docs/howto/troubleshoot.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
    assert told == set(REASONS)


#: What the design page calls what the rules do.
WORDS = {
    "_bind": "bind",
    "_bind_again": "close",
    "_unknown": "close",
    "_leave": "leave",
    "_ignore": "ignore",
    "_hold": "hold",
    "_relay": "relay",
    "_relay_abandon": "relay",
    "_search_anonymously": "rootDSE",
    "_read_anonymously": "if open",
    "_refuse_anonymous": "refuse",
    "_extended": "extended",
}


def test_the_table_of_a_session_is_the_table_of_rules():
    page = (ROOT / "docs/explanation/design.md").read_text(encoding="utf-8")
    states = list(session.State)
    for request in session.Request:
        row = [WORDS[session.RULES[state, request].__name__] for state in states]
        assert f"| {request.name} | {' | '.join(row)} |" in page
    assert f"| request | {' | '.join(state.name for state in states)} |" in page


def test_the_diagram_of_a_session_names_its_states():
    diagram = (ROOT / "docs/explanation/session.svg").read_text(encoding="utf-8")
    assert set(re.findall(r">([A-Z]{5,})<", diagram)) == {state.name for state in session.State}


def test_the_threat_model_names_tests_that_exist():
    """`python3 docs/attacks.py` mends it."""
    spec = importlib.util.spec_from_file_location("attacks", ROOT / "docs" / "attacks.py")
    attacks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(attacks)
    page = attacks.PAGE.read_text(encoding="utf-8").partition(attacks.MARK)[2]
    found = attacks.tests()
    exist = {name for files in found.values() for names in files.values() for name in names}
    assert set(re.findall(r"`(test_\w+)`", page)) <= exist
    missing = set(re.findall(r"A\d\d", page.rpartition("**Without a test")[2]))
    assert missing & set(found) == set()
    assert set(found) <= set(attacks.attacks())
    assert attacks.attacks() == [f"A{number:02}" for number in range(1, len(attacks.attacks()) + 1)]


# -- what does not belong there

#: Paths of a machine, hosts of package indexes, and what is said about ourselves while we work.
FORBIDDEN = re.compile(
    r"/wor[k]/|/far[m]/|/tm[p]/venv|[.]librar[y]|\.\./share[d]|issues sho[w]|pyp[i]\.org|pythonhoste[d]|artifactor[y]",
    re.IGNORECASE,
)


@pytest.mark.parametrize("file", named(TEXTS))
def test_nothing_of_the_workshop_is_told(file):
    assert FORBIDDEN.findall(file.read_text(encoding="utf-8")) == []
