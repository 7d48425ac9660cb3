"""What queries of Prometheus ask for: enough of PromQL to read those in conf/, and no more."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_:][\w:]*|\$\w+|\d[\w.]*|=~|!~|!=|>=|<=|==|[^\s]')
_BEFORE_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "offset", "bool"}


@dataclass
class Asked:
    """The series that a query selects, by name, with what is demanded of their labels; and labels named elsewhere."""

    selectors: list = field(default_factory=list)
    labels: set = field(default_factory=set)


def read(query: str) -> Asked:
    """Raises AssertionError where it can't be read."""
    tokens, asked = [*_TOKEN.findall(query), ""], Asked()
    at = 0
    while tokens[at]:
        token, following = tokens[at], tokens[at + 1]
        if token in _BEFORE_LABELS and following == "(":
            end = tokens.index(")", at)
            asked.labels |= set(tokens[at + 2 : end]) - {","}
            at = end
        elif token == "[":
            at = tokens.index("]", at)
        elif re.match(r"[A-Za-z_:]", token) and following not in {"(", "by", "without"} and token not in _WORDS:
            wanted = []
            if following == "{":
                end = tokens.index("}", at)
                wanted = _matchers(tokens[at + 2 : end])
                at = end
            asked.selectors.append((token, wanted))
        at += 1
    assert asked.selectors, query
    assert query.count("(") == query.count(")")
    return asked


def _matchers(tokens):
    found = []
    while tokens:
        label, sign, value, *tokens = tokens
        assert re.fullmatch(r"[a-z_]+", label), label
        assert sign in {"=", "!=", "=~", "!~"}
        assert value[0] == value[-1] == '"'
        found.append((label, sign, value[1:-1]))
        if tokens:
            assert tokens[0] == ","
            tokens = tokens[1:]
    return found


def matches(labels, wanted):
    """Whether a series with these labels is selected; what a server of Prometheus adds is not looked at."""
    for label, sign, value in wanted:
        if label in {"instance", "job"}:
            continue
        has = labels.get(label, "")
        same = re.fullmatch(value, has) is not None if sign.endswith("~") else has == value
        if same == sign.startswith("!"):
            return False
    return True
