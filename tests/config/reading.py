"""Configurations to begin with, and what is said about wrong ones."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ldapmfa.config import load
from ldapmfa.errors import ConfigError

VERBATIM = """\
[[listen]]
endpoint = "tcp:3389:interface=127.0.0.1"

[directory]
uris = ["ldap://127.0.0.1:10389"]

[store]
url = "sqlite:///state.db"
key_file = "store.key"

[login]
factors = ["totp"]
code = "suffix"          # or "delimiter", with delimiter = ","

[[exempt]]
account = "cn=svc,ou=services,dc=example,dc=test"
networks = ["127.0.0.0/8"]
"""

LEAST = '[[listen]]\nendpoint = "tcp:3389:interface=127.0.0.1"\n[directory]\nuris = ["ldap://127.0.0.1"]\n'


def mistakes(path, **how):
    """The mistakes in `path`, each without the path's directory."""
    with pytest.raises(ConfigError) as caught:
        load(path, **how)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    assert all("\n" not in mistake for mistake in caught.value.mistakes)
    return [mistake.replace(f"{path.parent}/", "") for mistake in caught.value.mistakes]


def only(path, **how):
    found = mistakes(path, **how)
    assert len(found) == 1, found
    return found[0]


def forbid(monkeypatch, name):
    """Reading a file called `name` is forbidden, even to root."""
    read = Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)


def complaint(parse, text):
    """What `parse` says about `text`, None if it is content."""
    try:
        parse(text)
    except ValueError as mistake:
        return str(mistake)
    return None
