"""Wrong passwords before a real Active Directory that locks accounts: its own counter is not spent."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from system.proxy import Proxy
from system.wire import Raw, bind

from ldapmfa.wire import ldap

#: Where the owner is.
ELSEWHERE = "127.0.0.2"


def log_in(proxy, name, password, source=None):
    with Raw(proxy.host, proxy.port, source=source) as raw:
        raw.send(bind(1, name, password))
        return ldap.read_result(raw.answer()[-1]).code


def counted(directory, user):
    """What the directory itself has counted, and whether it has locked the account."""
    with directory.admin() as admin:
        admin.search(user.dn, "(objectClass=*)", "BASE", attributes=["badPwdCount", "lockoutTime"])
        raw = admin.response[0]["raw_attributes"]
    count, locked = (int((raw.get(name) or [b"0"])[0]) for name in ("badPwdCount", "lockoutTime"))
    return count, locked != 0


@pytest.fixture
def victim(samba):
    user = samba.add_user("victim")
    yield user
    samba.delete_user(user)


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
@pytest.mark.parametrize("at_once", [1, 10], ids=["one after the other", "at the same moment"])
def test_A22_fifty_wrong_passwords_do_not_lock_the_account_at_the_directory(samba, tmp_path, victim, workers, at_once):
    """Under all forms of its name; and its owner logs in from elsewhere meanwhile."""
    limit = 3  # of five, for two workers may ask about one more
    assert samba.lockout_threshold == 5
    throttle = f"wrong_passwords = {limit}"
    with Proxy(samba, tmp_path / "proxy", throttle=throttle, workers=workers) as proxy:
        token = proxy.enrol_account("victim")
        assert log_in(proxy, victim.dn, victim.password + token.code(), ELSEWHERE) == 0
        forms = [victim.dn, victim.upn, "EXAMPLE\\victim", victim.dn.upper(), "victim@example.test"]
        with ThreadPoolExecutor(at_once) as pool:
            codes = list(pool.map(lambda n: log_in(proxy, forms[n % 5], f"wrong{n}x"), range(50)))
        assert codes == [49] * 50
        count, locked = counted(samba, victim)
        assert not locked
        assert limit <= count <= limit + (workers - 1 if at_once > 1 else 0)
        assert log_in(proxy, victim.upn, victim.password + token.code(), ELSEWHERE) == 0
        assert log_in(proxy, victim.dn, victim.password + token.code()) == 49, "not from where it was guessed"
        reasons = [record["reason"] for record in proxy.records()]
        assert reasons.count("password") == count
        assert reasons.count("throttled") == 51 - count


def test_A22_without_it_the_account_is_locked(samba, tmp_path, victim):
    """What the other tests keep out does happen."""
    with Proxy(samba, tmp_path / "proxy") as proxy:
        for number in range(samba.lockout_threshold):
            assert log_in(proxy, victim.dn, f"wrong{number}x") == 49
        assert counted(samba, victim)[1]
