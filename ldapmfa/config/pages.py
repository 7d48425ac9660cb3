"""The pages made from the classes: conf/ldapmfa.toml, and the reference of the documentation."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ldapmfa.config import plugins
from ldapmfa.config.settings import Config, class_in

_ANOTHER: Final = "[directories.NAME]"
_ANOTHER_TEXT: Final = (
    "Further directories, each a table with the same keys as [directory]; a listener names the one behind it. "
    "NAME consists of small letters a-z, digits and hyphens."
)
_MADE: Final = "Made from ldapmfa/config/settings.py: change it there, and run"
_TYPES: Final = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    Path: "path",
    SecretStr: "string, secret",
}


def toml(value: Any) -> str:
    """`value` as it is written in the file."""
    if isinstance(value, bool | str | Path):
        return json.dumps(value if isinstance(value, bool) else str(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def example(field: FieldInfo) -> Any:
    """A right value: the one given as an example, or else the default."""
    if field.examples:
        return field.examples[0]
    return field.get_default(call_default_factory=True)


def _default(field: FieldInfo) -> str:
    """The default as written in the file, in words where it can't be."""
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    return toml(default) if default not in (None, "", {}) else "none"


def _type(annotation: Any) -> str:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if IPv4Network in parts:
        return "network"
    if get_origin(annotation) is Literal:
        return " or ".join(map(toml, parts))
    if get_origin(annotation) is tuple:
        return f"list of {_type(parts[0])}s"
    if get_origin(annotation) is dict:
        return f"table of {_type(parts[1])}s"
    if parts:  # Annotated, or optional
        return _type(parts[0])
    return _TYPES.get(annotation, "string")


def sections() -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Each table's heading, what is said of it, and its class."""
    for name, field in Config.model_fields.items():
        table = class_in(field.annotation)
        if table is None:
            raise AssertionError(name)
        if name == "factors":
            for kind, service in plugins.own_tables().items():
                yield f"[factors.{kind}]", _prose(service.__doc__), service
            continue
        if get_origin(field.annotation) is dict:
            yield _ANOTHER, _ANOTHER_TEXT, table
            continue
        yield f"[[{name}]]" if get_origin(field.annotation) is tuple else f"[{name}]", _prose(table.__doc__), table
        for key, option in table.model_fields.items():
            inner = class_in(option.annotation)
            if inner:
                yield f"[{name}.{key}]", _prose(inner.__doc__), inner


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def conf_text() -> str:
    """conf/ldapmfa.toml: every option, commented out at its default."""
    text = [
        "# ldapmfa.toml: every option, commented out at its default or, where it has none, with an example.",
        '# Lines beginning with "# " explain; take the "#" off any other line to set it.',
        "# Relative paths are relative to this file. The environment overrides it: LDAPMFA_LOGIN__CODE_DIGITS=8",
        "# sets code_digits in [login]; lists and tables are written as JSON. `ldapmfa check-config` lists mistakes.",
        f"# {_MADE} `python -m ldapmfa.config conf`.",
    ]
    for heading, prose, table in sections():
        text += ["", "", *_comment(prose), "#" + heading.replace("NAME", "other")]
        for name, field in table.model_fields.items():
            if class_in(field.annotation) or (heading == _ANOTHER and not field.is_required()):
                continue
            default = _default(field)
            value = toml(example(field))
            kind = _type(field.annotation) + ("" if value == default else f"; default: {default}")
            text += ["", *_comment(f"{_prose(field.description)} ({kind})"), f"#{name} = {value}"]
    return "\n".join(text) + "\n"


def reference_text() -> str:
    """docs/reference/configuration.md: the same as tables."""
    text = f"""\
# Configuration

<!-- {_MADE} `python -m ldapmfa.config reference`. -->

The file is `--config FILE`, else `./ldapmfa.toml`, else `/etc/ldapmfa/ldapmfa.toml`; it is TOML. Relative paths in
it are relative to the file. [conf/ldapmfa.toml](../../conf/ldapmfa.toml) has every option with its default.

An environment variable overrides the file: `LDAPMFA_`, the table, two underscores and the key, as in
`LDAPMFA_LOGIN__CODE_DIGITS=8`. Lists and tables are written as JSON:
`LDAPMFA_DIRECTORY__URIS='["ldaps://dc1.example.com"]'`. Secrets are better kept in files of their own
(`key_file`, `password_file`).

`ldapmfa check-config` lists every mistake at once, each with its line and what would be right, and then
ends with code 2.
"""
    for heading, prose, table in sections():
        text += f"\n## `{heading}`\n\n{prose}\n"
        if heading == _ANOTHER:
            continue
        text += "\n| key | type | default | meaning |\n|---|---|---|---|\n"
        for name, field in table.model_fields.items():
            kind = "table" if class_in(field.annotation) else _type(field.annotation)
            default = _default(field)
            default = default if default in {"none", "must be given"} else f"`{default}`"
            text += f"| `{name}` | {kind} | {default} | {_prose(field.description).replace('NAME', '*NAME*')} |\n"
    return text
