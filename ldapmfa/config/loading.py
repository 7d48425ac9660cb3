"""Read the file and the environment, and list every mistake in them at once, each with its place.

Promised here: one look by pydantic finds every mistake of tables and keys; listeners that are right by themselves
are then compared with each other. What follows from a mistake may be listed as another one.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ldapmfa.audit import printable
from ldapmfa.config import plugins
from ldapmfa.config.checks import ports_taken, why_unreadable
from ldapmfa.config.pages import example, toml
from ldapmfa.config.settings import Config, class_in
from ldapmfa.config.tables import ServiceTable
from ldapmfa.config.values import Endpoint, Reading, nearest
from ldapmfa.errors import ConfigError

#: Where the file is looked for when nobody names one, in this order.
PLACES: Final = (Path("ldapmfa.toml"), Path("/etc/ldapmfa/ldapmfa.toml"))

#: Where a value stands: names of tables and keys, and numbers in lists from 0.
Where = tuple[str | int, ...]

_PREFIX: Final = "LDAPMFA_"


def load(
    path: Path | None = None, *, text: str | None = None, check_files: bool = True, check_ports: bool = False
) -> Config:
    """The configuration in `path` (default: the first of `PLACES` that exists), or ConfigError.

    With `text` that is what `path` said, once; it is not read again.

    Without `check_files` the files that it names need not exist yet: `ldapmfa init` makes some of them. With
    `check_ports` its ports must be free to listen on.
    """
    file, text = (path, text) if path and text is not None else _text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        wrong, _, place = str(error).rpartition(" (at ")
        number = re.match(r"line (\d+)", place)
        line = number[1] if number else text.count("\n") + 1
        raise ConfigError([f"{file}:{line}: not valid TOML: {printable(wrong)}"]) from None
    merged = _merged(data, _from_environment())
    config, mistakes = validated(merged, file.parent, check_files=check_files)
    if check_ports:
        mistakes += ports_taken(_endpoints(merged)).items()
    if config is None or mistakes:
        lines = {where: _line(text, data, where) for where, _ in mistakes}
        mistakes.sort(key=lambda mistake: lines[mistake[0]])
        raise ConfigError([_shown(file, lines[where], where, wrong) for where, wrong in mistakes])
    config._source, config._text = file, text  # noqa: SLF001 - its own package
    return config


def _endpoints(data: Mapping[str, Any]) -> dict[Where, Endpoint]:
    """The endpoints that are right by themselves, whatever else is mistaken, by where they stand."""
    tables: dict[Where, Any] = {("listen", number): table for number, table in enumerate(_listed(data.get("listen")))}
    tables["metrics",] = data.get("metrics")
    found: dict[Where, Endpoint] = {}
    for where, table in tables.items():
        text = table.get("endpoint") if isinstance(table, dict) else None
        with suppress(ValueError):
            if isinstance(text, str):
                found[*where, "endpoint"] = Endpoint.parse(text)
    return found


def _text(path: Path | None) -> tuple[Path, str]:
    """The file that is read, and what is in it."""
    for place in (path,) if path else PLACES:
        file = place.absolute()
        try:
            octets = file.read_bytes()
            return file, octets.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = octets[: error.start].count(b"\n") + 1
            raise ConfigError([f"{file}:{line}: not UTF-8: save the file as UTF-8"]) from None
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            if path or not missing:
                hint = "; `ldapmfa init` writes one" if missing else ""
                raise ConfigError([f"{file}: the configuration {why_unreadable(error)}{hint}"]) from None
    places = " nor ".join(str(place.absolute()) for place in PLACES)
    raise ConfigError(
        [f"no configuration: neither {places} exists; `ldapmfa init` writes one, --config FILE names another"]
    )


def _from_environment() -> Mapping[str, Any]:
    """What variables say in the file's place."""
    if not any(name.upper().startswith(_PREFIX) for name in os.environ):
        return {}
    from ldapmfa.config.environment import Environment  # noqa: PLC0415 - takes long

    return Environment(_PREFIX)()


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under`, with what `over` says in its place; tables are merged, everything else replaced."""
    result = dict(under)
    for name, value in over.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


# --- the mistakes ----------------------------------------------------------------------------------------


def validated(data: dict[str, Any], base: Path, *, check_files: bool) -> tuple[Config | None, list[tuple[Where, str]]]:
    """The configuration in `data`, unless pydantic refuses it, and what is wrong where."""
    # tables that are not given are validated too, as their defaults name files
    data = {name: {} for name, field in Config.model_fields.items() if field.default_factory} | data
    if isinstance(data["factors"], dict):
        data["factors"] = dict(data["factors"])
    classes, mistakes = _services(data)
    reading = Reading(base, check_files, _identity_names(data), *_factors(data, classes))
    for name, table in classes.items():
        given = data["factors"][name]
        try:
            made = table.model_validate(given | {"kind": plugins.kind_of(name, given)}, context=reading)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                mistakes.append((("factors", name, *error["loc"]), _explained(error, error["loc"], table)))
            made = ServiceTable.model_construct(kind=name)
        data["factors"] = data["factors"] | {name: made}
    config = None
    try:
        config = Config.model_validate(data, context=reading)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            # a list whose items are mistaken counts as too short for pydantic: the items are reported already
            if error["type"] != "too_short" or not error["input"]:
                where = tuple(part for part in error["loc"] if part != "[key]")
                mistakes.append((where, _explained(error, where)))
    return config, mistakes


def _services(data: Mapping[str, Any]) -> tuple[dict[str, type[ServiceTable]], list[tuple[Where, str]]]:
    """The class of each table of a service, and what is wrong with those that have none; they are taken out."""
    tables = data["factors"]
    if not isinstance(tables, dict):
        return {}, []
    classes: dict[str, type[ServiceTable]] = {}
    mistakes: list[tuple[Where, str]] = []
    installed = plugins.installed()
    for name, table in list(tables.items()):
        kind = plugins.kind_of(name, table)
        where: Where = ("factors", name)
        try:
            if not isinstance(table, dict):
                raise ValueError(f"must be a table: write [factors.{name}]")  # noqa: TRY004 - listed below
            if kind not in installed:
                raise ValueError(f'no such factor as "{kind}"; {nearest(kind, installed)}')
            found = plugins.table_of(plugins.loaded(installed[kind]))
            if found is None:
                raise ValueError(f"{kind} is computed here and has no settings: remove the table")
            if name != kind and name in installed:
                raise ValueError(f'is the name of another factor: call the table otherwise, "{kind}-2"')
        except ValueError as wrong:
            mistakes.append((where, str(wrong)))
            del tables[name]
        else:
            classes[name] = found
    return classes, mistakes


def _factors(data: Mapping[str, Any], classes: Mapping[str, Any]) -> tuple[set[str], set[str], set[str]]:
    """Of the factors that are spoken of: those computed here, the tables of services, and services without a table."""
    login = data["login"] if isinstance(data["login"], dict) else {}
    tables = [{"factors": login.get("factors", ("totp",))}]
    for key in ("application", "rule"):
        tables += [table for table in _listed(data.get(key)) if isinstance(table, dict)]
    named = [name for table in tables for name in _listed(table.get("factors"))]
    installed = plugins.installed()
    codes: set[str] = set()
    unset: set[str] = set()
    for name in named:
        if isinstance(name, str) and name in installed and name not in classes:
            try:
                service = plugins.table_of(plugins.loaded(installed[name])) is not None
            except ValueError:
                service = False  # `ldapmfa.factors.load` says why
            (unset if service else codes).add(name)
    known = {name for name, entry in installed.items() if name not in unset and name not in classes}
    return codes | known, set(classes), unset


def _listed(value: Any) -> list[Any]:
    """What is in a list; nothing where it is none."""
    return list(value) if isinstance(value, list | tuple) else []


def _identity_names(data: Mapping[str, Any]) -> dict[str, str]:
    """Each directory's name, and the one under which its accounts are kept."""
    others = data["directories"] if isinstance(data["directories"], dict) else {}
    tables = ({"default": data["directory"]} if "directory" in data else {}) | others
    return {
        name: str(table.get("identity_name") or name) if isinstance(table, dict) else name
        for name, table in tables.items()
    }


def _explained(error: ErrorDetails, where: Where, within: type[BaseModel] = Config) -> str:
    """What is wrong and what would be right, never showing what was written; `where` begins in the table `within`."""
    kind, table = error["type"], _table_at(where[:-1], within)
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        return f"unknown key; {nearest(str(where[-1]), table.model_fields)}"
    if kind in {"model_type", "dict_type"}:
        return (
            f"must be a table: write [{_key(where)}]"
            if isinstance(where[-1], str)
            else f"must be a table: write [[{where[-2]}]]"
        )
    name = next(part for part in reversed(where) if isinstance(part, str) and part in table.model_fields)
    field = table.model_fields[name]
    if class_in(field.annotation):
        return f"must be a list of tables, of one at least: write [[{name}]]"
    said = {
        "missing": "is missing, and needed",
        "too_short": "must not be empty",
        "string_type": "must be a string in quotes",
        "path_type": "must be a path in quotes",
        "tuple_type": "must be a list",
    }.get(kind)
    if said:
        return f"{said}, for example {name} = {toml(example(field))}"
    numbers = {"bool_type": "true or false", "int_type": "a whole number", "float_type": "a number"}
    return (
        f"must be {numbers[kind]}, without quotes" if kind in numbers else error["msg"].replace("Input should", "must")
    )


def _table_at(where: Where, table: type[BaseModel]) -> type[BaseModel]:
    """The class of the table at `where` in `table`, or of the one it is in."""
    for part in where:
        field = table.model_fields.get(str(part))
        table = (field and class_in(field.annotation)) or table
    return table


def _shown(file: Path, line: int, where: Where, wrong: str) -> str:
    """A mistake as the administrator reads it: the variable or the line, the key, and what is wrong."""
    variables = {name.upper(): name for name in os.environ}
    for length in range(len(where), 0, -1):
        name = variables.get((_PREFIX + "__".join(map(str, where[:length]))).upper())
        if name:
            return printable(f"environment variable {name}: {_key(where)}: {wrong} (lists and tables are JSON here)")
    return printable(f"{file}:{line}: {_key(where)}: {wrong}" if line else f"{file}: {_key(where)}: {wrong}")


def _key(where: Where) -> str:
    """`where` as it is spoken of: ``listen[0].endpoint``."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[\w-]+", part) else json.dumps(part))
    return text


def _line(text: str, data: Mapping[str, Any], where: Where) -> int:
    """The line of a valid TOML `text` on which what is at `where` begins, or what it would be in; 0 if nowhere.

    It is the first line whose statement must be read for it to be there, and is found by halving.
    """
    while where and not _holds(data, where):
        where = where[:-1]
    lines = text.split("\n")

    def is_there(number: int) -> bool:
        for end in range(number, len(lines) + 1):
            with suppress(tomllib.TOMLDecodeError):  # a statement goes on in the next line
                return _holds(tomllib.loads("\n".join(lines[:end]) + "\n"), where)
        return True

    return bisect_left(range(len(lines) + 1), True, key=is_there) if where else 0  # noqa: FBT003 - what is looked for


def _holds(data: Any, where: Where) -> bool:
    """Whether there is something at `where`."""
    for part in where:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return False
    return True
