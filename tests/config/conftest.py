"""A configuration file, and an environment that sets nothing."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("LDAPMFA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    """Writes a configuration, beside a key for the store, and gives its path."""
    key = tmp_path / "store.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)

    def write(text):
        path = tmp_path / "ldapmfa.toml"
        path.write_text(text)
        return path

    return write
