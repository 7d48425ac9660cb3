"""Real servers for the tests, each started when the first test asks for it and shared by a worker's whole session.

Tests that change an account restore it (`reset_lockout`, `delete_user`), or use one nobody else does: a bulkNNNN (the
first 60 have passwords on Samba), or one made by `add_user`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from system.servers.ds389 import Ds389
from system.servers.postgresql import Postgresql
from system.servers.samba import Samba
from system.servers.slapd import Slapd

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def server_cache(tmp_path_factory) -> Path:
    """Where provisioned trees are kept: for this run, shared by its workers.

    LDAPMFA_TEST_CACHE=DIRECTORY keeps them between runs, which saves a developer some 30 s each.
    """
    if kept := os.environ.get("LDAPMFA_TEST_CACHE"):
        return Path(kept).absolute()
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "servers"


@pytest.fixture(scope="session")
def samba(tmp_path_factory, server_cache) -> Iterator[Samba]:
    """An Active Directory domain controller."""
    yield from running(Samba(tmp_path_factory.mktemp("samba"), server_cache))


@pytest.fixture(scope="session")
def slapd(tmp_path_factory) -> Iterator[Slapd]:
    """OpenLDAP with 1,500 bulk users and a size limit of 1,000."""
    yield from running(Slapd(tmp_path_factory.mktemp("slapd")))


@pytest.fixture(scope="session")
def slapd10k(tmp_path_factory) -> Iterator[Slapd]:
    """OpenLDAP with 10,000 bulk users and no size limit."""
    yield from running(Slapd(tmp_path_factory.mktemp("slapd10k"), entries=10_000, size_limit=None))


@pytest.fixture(scope="session")
def ds389(tmp_path_factory, server_cache) -> Iterator[Ds389]:
    """389 Directory Server with 1,500 bulk users and a size limit of 1,000."""
    yield from running(Ds389(tmp_path_factory.mktemp("ds389"), server_cache))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """PostgreSQL, for databases of the tests' own."""
    yield from running(Postgresql())


def running(server):
    try:
        yield server.start()
    finally:
        server.stop()
