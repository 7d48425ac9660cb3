"""A program with a configuration whose directory is never asked."""

import socket

import pytest
from cli.program import Program

CONFIGURATION = """\
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"

[directory]
uris = ["ldap://127.0.0.1:9"]

[login]
factors = ["totp", "hotp", "recovery"]
"""


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def bare(tmp_path):
    return Program(tmp_path)


@pytest.fixture
def ldapmfa(bare, port):
    bare.configure(CONFIGURATION.format(port=port))
    return bare
