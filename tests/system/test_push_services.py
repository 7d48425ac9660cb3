"""What becomes of prompts whose client or proxy goes, and of logins while a service is away, in the process itself."""

import collections
import contextlib
import signal
import time

import pytest
from fakes.duo import Duo
from fakes.webhook import Approvals
from system.proxy import Proxy
from system.servers.common import wait_for
from system.services import AtWebhook
from system.test_many_pushes import sockets
from system.wire import Raw, bind

from ldapmfa.wire import ldap

pytestmark = pytest.mark.xdist_group("push-services")


def log_in(proxy, name, typed=None):
    with Raw(proxy.host, proxy.port) as raw:
        user = proxy.directory.user(name)
        return raw.code(bind(1, user.dn, typed or user.password))


@contextlib.contextmanager
def asking(proxy, program, names):
    """Connections whose binds wait until somebody presses a button."""
    before = collections.Counter(program.actions())["start"]
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in names]
        for raw, name in zip(raws, names, strict=True):
            user = proxy.directory.user(name)
            raw.send(bind(1, user.dn, user.password))
        wait_for(lambda: program.actions().count("start") == before + len(names), 20)
        wait_for(lambda: len({asked[1] for asked in program.asked if asked[0] == "poll"}) >= before + len(names), 20)
        yield raws


def transactions(program, action):
    return [transaction for name, transaction, _ in program.asked if name == action]


# -- who leaves


@pytest.fixture
def program(tmp_path):
    """A webhook's program; nobody ever presses a button."""
    with Approvals(tmp_path, tls=False, host="127.0.0.1") as program:
        yield program


LOGIN = 'factors = ["webhook", "hotp"]\nprompts = 1000\ncode = "delimiter"'
NAMES = [f"bulk13{number:02d}" for number in range(20)]


def test_A09_a_client_that_leaves_takes_its_prompt_back_and_nothing_is_left(slapd, program, tmp_path):
    services = {"webhook": program.table | {"poll_seconds": 0.2, "connections": 100}}
    with Proxy(slapd, tmp_path / "proxy", login=LOGIN, services=services, to_directory=f'uris = ["{slapd.uri}"]\nspare_links = 0') as proxy:
        with asking(proxy, program, NAMES[:1]):
            pass
        wait_for(lambda: program.actions().count("cancel") == 1)
        pid = proxy.process.popen.pid
        before = sockets(pid) - program.connections
        for times in (1, 2):  # the same accounts again: no prompt stays open
            with asking(proxy, program, NAMES):
                assert sockets(pid) >= before + 2 * len(NAMES)
            wait_for(lambda times=times: program.actions().count("cancel") == 1 + times * len(NAMES), 10)
            wait_for(lambda: sockets(pid) <= before + program.connections, 10)
        assert sorted(transactions(program, "cancel")) == sorted(transactions(program, "start"))
        assert {record["reason"] for record in proxy.records()} == {"client-left"}
        polls = program.actions().count("poll")
        time.sleep(0.5)
        assert program.actions().count("poll") == polls


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_takes_prompts_back_and_takes_seconds(slapd, program, tmp_path, workers):
    services = {"webhook": program.table | {"poll_seconds": 0.2}}
    with (
        Proxy(slapd, tmp_path / "proxy", login=LOGIN, services=services, workers=workers) as proxy,
        asking(proxy, program, NAMES) as raws,
    ):
        began = time.monotonic()
        proxy.process.popen.send_signal(signal.SIGTERM)
        for raw in raws:
            assert ldap.read_result(raw.frame()).code == ldap.UNAVAILABLE
        assert proxy.process.popen.wait(15) == 0
        assert time.monotonic() - began < 10
        assert {(record["outcome"], record["reason"]) for record in proxy.records()} == {("broken", "stopping")}
        assert sorted(transactions(program, "cancel")) == sorted(transactions(program, "start"))


# -- a service that is away


def test_a_service_that_is_away_costs_its_users_milliseconds_and_heals_by_itself(slapd, tmp_path, server_cache):
    with AtWebhook(tmp_path, server_cache) as site:
        services = {"webhook": site.settings | {"probe_seconds": 0.2}}
        with Proxy(slapd, tmp_path / "proxy", login=LOGIN, services=services) as proxy:
            with site.owner("yes"):
                assert log_in(proxy, "alice") == ldap.SUCCESS
            site.stop()
            assert [log_in(proxy, "alice") for _ in range(10)] == [ldap.UNAVAILABLE] * 10
            gone = proxy.records()[1:]
            assert {record["reason"] for record in gone} == {"factor-down"}
            # a machine that has other things to do may be late for one of them
            assert sorted(record["factor_ms"] for record in gone[3:])[4] < 50
            [opened] = proxy.logged("service away")
            assert opened["level"] == "error"
            site.start()
            with site.owner("yes"):
                wait_for(lambda: log_in(proxy, "alice") == ldap.SUCCESS, 15)
                assert log_in(proxy, "bob") == ldap.SUCCESS
            assert len(proxy.logged("service back")) == 1


def test_A24_an_outage_opens_where_that_is_configured_and_is_an_alarm(slapd, tmp_path, server_cache):
    with AtWebhook(tmp_path, server_cache) as site:
        services = {"webhook": site.settings | {"probe_seconds": 0.2, "fail_mode": "open"}}
        with Proxy(slapd, tmp_path / "proxy", login=LOGIN, services=services) as proxy:
            proxy.enrol("bob")
            site.stop()
            assert log_in(proxy, "alice", "wrong") == ldap.INVALID_CREDENTIALS
            assert [log_in(proxy, "alice") for _ in range(6)] == [ldap.SUCCESS] * 6
            events = [event for event in proxy.events() if getattr(event, "reason", "") == "failed-open"]
            assert [(event.factor, event.outcome) for event in events] == [("webhook", "accepted")] * 6
            alarms = proxy.logged("let in without a second factor")
            assert [(alarm["service"], alarm["level"]) for alarm in alarms] == [("webhook", "critical")] * 6
            # who has a code does not come in without it
            assert log_in(proxy, "bob") == ldap.UNAVAILABLE
            assert log_in(proxy, "bob", f"{slapd.user('bob').password},{proxy.tokens['bob'].code()}") == ldap.SUCCESS
            site.start()
            with site.owner("no"):
                wait_for(lambda: log_in(proxy, "alice") == ldap.INVALID_CREDENTIALS, 15)
            assert proxy.records()[-1]["reason"] == "denied"


def test_A24_nothing_else_opens(slapd, tmp_path):
    """Each would, if it were taken for an outage; no breaker is in between."""
    with Duo(tmp_path) as duo:
        services = {"duo": duo.settings() | {"fail_mode": "open", "failures": 100, "response_timeout": 1}}
        with Proxy(slapd, tmp_path / "proxy", login='factors = ["duo"]\nprompts = 1000', services=services) as proxy:
            for path in ("/auth/v2/preauth", "/auth/v2/auth", "/auth/v2"):
                for kind, options in (
                    ("status", {"status": 400}), ("status", {"status": 401}), ("status", {"status": 403}),
                    ("status", {"status": 404}), ("garbage", {}), ("nonsense", {}), ("redirect", {}), ("huge", {}),
                ):  # fmt: skip
                    duo.web.disturb(kind, path=path, **options)
                    assert log_in(proxy, "alice") == ldap.UNAVAILABLE, (path, kind, options)
                    duo.web.calm()
            # the prompt may be on the phone: neither a connection that is cut then, nor silence, opens
            for kind in ("broken", "cut", "slow"):
                duo.web.disturb(kind, path="/auth/v2/auth")
                assert log_in(proxy, "alice") == ldap.UNAVAILABLE, kind
                duo.web.calm()
            # asks to be left alone, and is
            duo.web.disturb("status", status=429, headers={"Retry-After": "60"}, times=1)
            requests = len(duo.web.requests)
            assert [log_in(proxy, "alice") for _ in range(3)] == [ldap.UNAVAILABLE] * 3
            assert len(duo.web.requests) == requests + 1
            assert {record["reason"] for record in proxy.records()} == {"factor-down"}
            assert not proxy.logged("let in without a second factor")


@pytest.mark.parametrize("certificate", ["stranger", "expired", "other-name"])
def test_A24_a_certificate_that_is_not_accepted_does_not_open(slapd, tmp_path, certificate):
    with Duo(tmp_path, certificate=certificate) as duo:
        services = {"duo": duo.settings() | {"fail_mode": "open", "probe_seconds": 0.2}}
        with Proxy(slapd, tmp_path / "proxy", login='factors = ["duo"]', services=services) as proxy:
            codes = [log_in(proxy, "alice") for _ in range(3)]
            wait_for(lambda: proxy.logged("service away"))
            time.sleep(0.5)  # some probes
            assert [*codes, log_in(proxy, "alice")] == [ldap.UNAVAILABLE] * 4
            assert not proxy.logged("let in without a second factor")
            assert not duo.web.requests
