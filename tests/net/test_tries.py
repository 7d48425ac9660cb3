"""What the configuration says of guesses reaches those who count."""

import os
from ipaddress import ip_address

from world import Notebook

from ldapmfa.config import Config
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit, Tried
from ldapmfa.net import service
from ldapmfa.net.tries import Try
from ldapmfa.store.seal import Seal


def config(path, **throttle):
    listen = ({"endpoint": "tcp:0"},)
    store = {"url": f"sqlite:///{path}/state.db", "key_file": path / "key"}
    workers = {"workers": 2}
    return Config(listen=listen, directory={"uris": ("ldap://[::1]",)}, store=store, throttle=throttle, service=workers)


class Known(Notebook):
    """Everybody has been wrong four times, and of all from there a thousand were."""

    async def tried(self, directory, name, source, password, limit):
        counted = type("Counted", (), {"who": name})
        return counted, Tried(4, 1000)


async def test_A22_the_limits_are_the_configurations(tmp_path):
    tries = service.tries(config(tmp_path), Known(), None)
    assert tries.limit == PasswordLimit(4)
    limits = {
        "wrong_passwords": 7,
        "wrong_password_seconds": 60,
        "source_wrong_passwords": 8,
        "wrong_passwords_a_minute": 9,
        "gateways": ["192.0.2.0/24"],
    }
    tries = service.tries(config(tmp_path, **limits), Known(), None)
    assert tries.limit == PasswordLimit(7, 60, 8, 9)
    may = {address: await tries.begin("ad", "ann", address and ip_address(address), Secret(b"x")) for address in ("192.0.2.7", "198.51.100.9", None)}
    assert [isinstance(each, Try) for each in may.values()] == [True, False, True]


def test_A22_it_can_be_turned_off(tmp_path):
    assert service.tries(config(tmp_path, wrong_passwords=0), Known(), None) is None


async def test_A20_the_store_is_told_of_the_limits_of_codes(tmp_path):
    Seal.create(tmp_path / "key", entropy=os.urandom)
    store = await service.open_store(config(tmp_path, wrong_codes=3, lock_seconds=4, longest_lock_seconds=5))
    await store.close()
    assert (store._limit.wrong_codes, store._limit.seconds, store._limit.longest) == (3, 4, 5)
