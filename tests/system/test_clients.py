"""Real client programs log users in through the proxy with password and code, with the files of conf/clients/."""

from __future__ import annotations

import pytest
from system.clients import PRODUCTS, Door, LoginError, start
from system.proxy import Proxy
from system.servers import people
from system.servers.common import free_port


@pytest.fixture(scope="module", params=["slapd", "samba"])
def directory(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def proxy(directory, tmp_path_factory):
    with Proxy(directory, tmp_path_factory.mktemp("proxy"), listen={"tls": "ldaps"}) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def door(directory, proxy):
    """Where the clients find LDAP."""
    return Door.of(directory, proxy.host, proxy.port, proxy.ca_file)


@pytest.fixture(scope="module", params=PRODUCTS)
def client(request, door, tmp_path_factory):
    with start(request.param, door, tmp_path_factory.mktemp(request.param)) as client:
        yield client


@pytest.fixture
def typed(proxy):
    """What a user types at a client's password prompt: the password, and a code that was not used before."""
    return proxy.typed


def test_lets_a_user_in_with_password_and_code_only(client, directory, typed):
    secret = typed("paula")
    assert not client.login("paula", directory.user("paula").password)
    assert not client.login("paula", directory.user("paula").password + "000000")
    assert not client.login("paula", "wrong" + secret)
    assert client.login("paula", secret)


@pytest.mark.parametrize("client", [name for name in PRODUCTS if name != "apache"], indirect=True)
def test_a_code_is_good_for_one_login(client, typed):
    secret = typed("carol") if client.searches else typed("paula")
    name = "carol" if client.searches else "paula"
    assert client.login(name, secret)
    assert not client.login(name, secret)


def test_refuses_an_unknown_user(client):
    assert not client.login("nobody-of-that-name", people.PASSWORD)


def test_refuses_an_empty_password(client):
    assert not client.login("paula", "")


def test_binds_as_the_user_once(client, directory, typed):
    # a client that bound twice for one login would fail with a code, which is good for one bind
    service = directory.user("svc-app").dn.lower()
    with directory.binds_seen() as seen:
        # pavel has not logged in before: Apache remembers who has
        assert client.login("pavel", typed("pavel"))
    # a bind as nobody is ours: the link of a client that has left is given back
    names = [bind.name.lower() for bind in seen if bind.name]
    assert len([name for name in names if name != service]) == 1, seen
    # those that search may have bound as the service account earlier, and kept the connection
    assert client.searches or service not in names


@pytest.mark.parametrize("client", [name for name, product in PRODUCTS.items() if product.searches], indirect=True)
@pytest.mark.parametrize("name", ["jdoe", "joerg", "tanaka"])
def test_finds_users_with_names_that_are_hard_to_write(client, typed, name):
    assert client.login(name, typed(name))


@pytest.mark.parametrize("name", ["*", "pau*", "paula)(uid=*", "paula,ou=People"])
def test_a_name_is_not_a_filter(client, name):
    assert not client.login(name, people.PASSWORD)


@pytest.mark.parametrize("client", ["apache"], indirect=True)
def test_apache_remembers_a_login(client, directory, typed):
    # Basic authentication repeats the secret with each request; its code is good for one bind
    secret = typed("dave")
    assert client.login("dave", secret)
    with directory.binds_seen() as seen:
        assert all(client.login("dave", secret) for _ in range(20))
    assert seen == []


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_examples_work_in_clear_text_too(slapd, product, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        door = Door.of(slapd, proxy.host, proxy.port, tls=False)
        with start(product, door, tmp_path) as client:
            assert not client.login("paula", slapd.user("paula").password)
            assert client.login("paula", proxy.typed("paula"))


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_door_that_nobody_answers_at_is_not_taken_for_a_refusal(slapd, product, tmp_path):
    # or every test that expects a refusal would pass on a broken set-up
    nobody = Door.of(slapd, port=free_port())
    with start(product, nobody, tmp_path) as client, pytest.raises(LoginError):
        client.login("paula", people.PASSWORD)
