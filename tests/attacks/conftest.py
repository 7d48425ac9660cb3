"""Every attack that may touch a link to the directory is tried twice: with each link used once, and with recycling on."""

import pytest
from world import World, directory_settings


def pytest_generate_tests(metafunc):
    """Attacks that end before anything is sent to the directory say themselves that once is enough."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "spare_links" in metafunc.fixturenames and not any("spare_links" in mark.args[0] for mark in marks):
        metafunc.parametrize("spare_links", [0, 64], ids=["used once", "recycled"])


@pytest.fixture
def house(tmp_path, spare_links):
    """A whole proxy in memory, whose directory keeps so many links for other logins."""
    return World(tmp_path, settings=directory_settings(spare_links=spare_links))
