"""The figures: nothing that a client sent is in them, nothing that was counted is lost, every one is there and explained."""

import asyncio
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import promql
import pytest
import yaml
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from world import ALICE, BOB, PASSWORD, bind, search, unbind

from ldapmfa import audit, config
from ldapmfa.cli.reasons import REASONS
from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.net import driver
from ldapmfa.net.link import Server
from ldapmfa.net.metrics import catalogue
from ldapmfa.net.metrics.catalogue import ALL, Metric
from ldapmfa.net.metrics.figures import Figures, Tally
from ldapmfa.net.metrics.memory import Memory
from ldapmfa.net.metrics.page import PageFactory, Pages, open_page
from ldapmfa.net.metrics.readings import LOOK, PATIENCE, Observed, _look_at_servers, keep_asking, keep_looking, look
from ldapmfa.net.metrics.totals import UNHEARD, totals, unready, unwell
from ldapmfa.net.servers import Place

ROOT = Path(__file__).resolve().parents[2]
COUNT = Metric("ldapmfa_locks_total", "counter", "")
SOME = Metric("ldapmfa_clients", "gauge", "")


def settings(**tables):
    listen = config.Listen(endpoint="tcp:0", name="test")
    return config.Config(listen=(listen,), directory=config.Directory(uris=("ldap://directory.test",)), **tables)


def event(**changes):
    said = {"at": 1.0, "outcome": "accepted", "reason": "code", "result": 0, "reference": "", "listener": "test"}
    said |= {"client": "192.0.2.7:1", "name": "alice", "directory": "default", "application": "test", "factor": "totp"}
    return audit.LoginEnded(**{**said, **changes})


def lines(memory, path="/metrics"):
    """The series that are shown, each with its value."""
    memory.beat(1.0)
    answer = Pages({"main": memory}, directories=lambda: ["default"]).answer(path, "")
    assert answer.status == 200
    shown = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in shown)}


# -- the memory


def test_what_was_counted_is_seen_by_whoever_has_the_memory_and_by_who_comes_after():
    parents = Memory.shared()
    worker = Figures(Memory(parents.descriptor))
    worker.add(COUNT)
    worker.add(COUNT, by=2)
    assert dict(parents.items()) == {("ldapmfa_locks_total",): 3.0}
    another = Figures(Memory(parents.descriptor))
    another.add(COUNT)
    another.add(catalogue.LOGINS, "\N{SNOWMAN} application", "totp", "accepted")
    assert dict(parents.items()) == {
        ("ldapmfa_locks_total",): 4.0,
        ("ldapmfa_logins_total", "\N{SNOWMAN} application", "totp", "accepted"): 1.0,
    }


def test_an_entry_that_was_being_written_when_its_process_died_is_none():
    memory = Memory()
    memory.place(("ldapmfa_locks_total",))
    used = memory.values[0]
    memory.place(("ldapmfa_clients",))
    memory.values[0] = used
    after = Memory.__new__(Memory)
    after.values, after._octets, after._read, after._places = memory.values, memory._octets, 3, {}
    assert [key for key, _ in after.items()] == [("ldapmfa_locks_total",)]


def test_a_full_memory_loses_figures_and_fails_nobody():
    memory = Memory()
    figures = Figures(memory)
    for number in range(300):
        figures.add(Metric("x" * 20_000 + str(number), "counter", ""))
    assert 150 < len(dict(memory.items())) < 250
    late = Metric("x" * 20_000, "counter", "")
    figures.add(late)
    assert (late.name,) not in dict(memory.items())


def test_a_count_kept_elsewhere_only_adds_what_is_new():
    figures = Figures(Memory())
    for count in (3, 5, 5, 0, 2):  # it began anew at 0
        figures.reach(COUNT, count=count)
    assert dict(figures.memory.items()) == {("ldapmfa_locks_total",): 7.0}


# -- the sum of several processes


def test_counts_of_a_worker_that_is_gone_stay_and_what_it_measured_does_not():
    one, two = Memory(), Memory()
    for memory in (one, two):
        Figures(memory).add(COUNT, by=10)
        Figures(memory).set(SOME, to=4)
        memory.beat(1.0)
    assert totals([one, two]) == {("ldapmfa_locks_total",): 20, ("ldapmfa_clients",): 8}
    two.absent()
    assert totals([one, two]) == {("ldapmfa_locks_total",): 20, ("ldapmfa_clients",): 4}
    Figures(one).set(SOME, to=math.nan)
    assert ("ldapmfa_clients",) not in totals([one, two])


@pytest.mark.parametrize(("metric", "amounts_to"), [(catalogue.CLIENTS, 3), (catalogue.STORE_UP, 1), (catalogue.BUILD, 2)])
def test_each_gauge_is_merged_as_it_says(metric, amounts_to):
    memories = [Memory(), Memory()]
    for value, memory in enumerate(memories, 1):
        Figures(memory).set(metric, to=value)
        memory.beat(1.0)
    assert totals(memories) == {(metric.name,): amounts_to}


def test_a_process_is_well_while_it_is_heard_of():
    one, two = Memory(), Memory()
    one.beat(100.0)
    assert unwell({"main": one}, 100.0 + UNHEARD) == []
    assert unwell({"worker 1": one, "worker 2": two}, 112.0) == ["worker 1 was last heard of 12 s ago", "worker 2 is not there"]


def test_ready_is_whoever_has_a_store_a_server_and_open_listeners():
    figures = Figures(Memory())
    figures.memory.beat(1.0)

    def said():
        return unready(totals([figures.memory]), ["corp", "other"])

    assert said() == ["no process serves clients"]
    figures.set(catalogue.STORE_UP, to=1)
    figures.set(catalogue.LISTENING, "vpn", to=1)
    for directory, server, up in (("corp", "ldap://1", 0), ("corp", "ldap://2", 1), ("other", "ldap://3", 1), ("idle", "ldap://4", 0)):
        figures.set(catalogue.DIRECTORY_UP, directory, "directory", server, to=up)
    figures.set(catalogue.DIRECTORY_UP, "corp", "global-catalog", "ldap://5", to=1)
    assert said() == []
    figures.set(catalogue.STORE_UP, to=0)
    figures.set(catalogue.DIRECTORY_UP, "corp", "directory", "ldap://2", to=0)
    figures.set(catalogue.LISTENING, "vpn", to=0)
    assert said() == [
        "the store does not answer",
        "no server of the directory corp can be reached",
        "the listener vpn accepts nobody",
    ]


# -- what is counted


def test_every_figure_is_there_from_the_start():
    """So that a rate has a beginning, and an alert is not silent because nothing has ever happened."""
    figures = Figures(Memory())
    services = {"duo": config.ServiceTable(kind="duo")}
    login = config.settings.Login(factors=("totp", "duo"))
    trail = config.settings.Audit(to=("log", "file"), file="/var/log/ldapmfa/audit.jsonl")
    application = (config.Application(name="vpn"),)
    figures.expect(settings(factors=services, login=login, application=application, audit=trail))
    shown = lines(figures.memory)
    for metric in ALL:
        if metric.kind != "gauge" and metric not in catalogue.PROCESS:
            name = metric.name + "_count" * (metric.kind == "histogram")
            assert any(series.partition("{")[0] == name for series in shown), name
    for factor in ("totp", "duo", "none"):
        for application in ("test", "vpn"):
            assert f'ldapmfa_logins_total{{application="{application}",factor="{factor}",outcome="refused"}}' in shown
    assert 'ldapmfa_failed_open_total{service="duo"}' in shown
    assert not any(value for series, value in shown.items() if series.startswith("ldapmfa_log"))


def test_a_configuration_that_is_read_anew_changes_no_count():
    figures = Figures(Memory())
    figures.expect(settings())
    figures.recorded(event())
    figures.tallied("test", Tally(connections=3))
    before = totals([figures.memory])
    figures.expect(settings())
    assert totals([figures.memory]) == before


def test_a_login_is_counted_by_application_factor_outcome_and_reason_and_timed():
    figures = Figures(Memory())
    figures.expect(settings())
    figures.recorded(event(directory_ms=7.0, factor_ms=3.0, total_ms=11.0))
    figures.recorded(event(outcome="refused", reason="clear-text", factor=None))
    figures.recorded(event(reason="failed-open", factor="duo"))
    figures.recorded(audit.AccountChanged(at=1.0, action="enrolled", account="x", actor="y"))
    figures.stored(0.002)
    shown = lines(figures.memory)
    assert shown['ldapmfa_logins_total{application="test",factor="totp",outcome="accepted"}'] == 1
    assert shown['ldapmfa_logins_total{application="test",factor="none",outcome="refused"}'] == 1
    assert shown['ldapmfa_login_reasons_total{outcome="refused",reason="clear-text"}'] == 1
    assert shown['ldapmfa_login_stage_seconds_count{stage="directory"}'] == 1
    assert shown['ldapmfa_login_stage_seconds_bucket{le="0.005",stage="directory"}'] == 0
    assert shown['ldapmfa_login_stage_seconds_bucket{le="0.01",stage="directory"}'] == 1
    assert shown['ldapmfa_login_stage_seconds_bucket{le="+Inf",stage="store"}'] == 1
    assert shown['ldapmfa_login_stage_seconds_sum{stage="store"}'] == 0.002
    assert shown['ldapmfa_login_seconds_count{outcome="accepted"}'] == 1, "what was refused at sight took no time"
    assert shown['ldapmfa_failed_open_total{service="other"}'] == 1


def test_A43_what_is_not_known_beforehand_is_no_label():
    figures = Figures(Memory())
    figures.expect(settings())
    odd = 'alice"}\n# HELP evil'
    figures.recorded(event(application=odd, factor=odd, reason=odd, name=odd, client=odd, detail=odd, dn=odd, account=odd))
    shown = lines(figures.memory)
    assert shown['ldapmfa_logins_total{application="other",factor="other",outcome="accepted"}'] == 1
    assert shown['ldapmfa_login_reasons_total{outcome="accepted",reason="other"}'] == 1
    assert not any("alice" in series or "evil" in series for series in shown)


async def test_A43_no_name_password_or_code_of_any_login_is_in_what_is_shown(house):
    await house.open()
    figures = Figures(Memory())
    figures.expect(settings())
    for name, password in (
        (ALICE, None),
        (BOB, "hunter2-wrong123456"),
        ("cn=\N{SNOWMAN}mallory\r\n\x1b[31m,dc=example,dc=test", "S3cret!"),
        ("", "nameless"),
        (ALICE, ""),
        ("password:typed-into-the-name", "x"),
    ):
        client = house.client(address="203.0.113.99")
        client.send(bind(1, name, password if password is not None else PASSWORD + house.next_code()))
        await house.until(lambda client=client: client.front._login is None or house.waiting)
        house.advance(0.3)
        await house.until(lambda client=client: client.front._login is None)
        client.send(unbind(2))
    assert len(house.events) >= 5
    for one in house.events:
        figures.recorded(one)
    figures.tallied("test", house.listener.tally)
    shown = "\n".join(lines(figures.memory)).lower()
    for secret in ("alice", "bob", "mallory", "hunter2", "s3cret", PASSWORD.lower(), "nameless", "typed-into", "203.0.113", house.last_code()):
        assert secret not in shown
    assert figures_of(figures)["accepted"] == 1


def figures_of(figures):
    found = dict.fromkeys(catalogue.OUTCOMES, 0)
    for key, value in figures.memory.items():
        if key[0] == "ldapmfa_logins_total":
            found[key[3]] += value
    return found


async def test_clients_and_octets_are_tallied_where_they_pass(house):
    await house.open()
    client, _ = house.bound_client()
    asked = search(1)
    client.send(asked)
    came = len(client.take()[-1].raw) if client.came else 0
    tally = house.listener.tally
    assert (tally.connections, tally.from_clients, tally.requests) == (1, len(asked), 1)
    assert tally.from_directory >= came > 0
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert tally.turned_away["protocol"] == 1


async def test_how_long_a_login_waits_for_the_store_is_told(house):
    await house.open()
    took = []
    house.with_(doorway=replace(house.listener.doorway, stored=took.append))
    recall = house.store.recall

    async def slow_recall(directory, name):
        house.clock.advance(1.5)
        return await recall(directory, name)

    house.store.recall = slow_recall
    assert await house.client().log_in() == 0
    assert took == [pytest.approx(1.5)]


# -- what is looked up


class Guarded:
    state = "open"


class Port:
    connected = 1


def outlet(name, written, dropped, failing, waiting):
    return SimpleNamespace(name=name, written=written, dropped=dropped, failing=failing, waiting=waiting)


async def test_what_can_not_be_looked_at_is_said_once_and_is_no_sign_of_death(house):
    figures, logged = Figures(Memory()), []
    house.error = lambda what, **fields: logged.append((what, fields))
    looking = asyncio.ensure_future(keep_looking(SimpleNamespace(), figures, house.clock, house))
    for _ in range(3):
        await asyncio.sleep(0)
        house.clock.advance(LOOK)
        assert unwell({"main": figures.memory}, time.monotonic()) == []
    looking.cancel()
    await asyncio.wait([looking])
    assert [what for what, _ in logged] == ["bug"]


async def test_a_look_writes_down_how_things_are(house):
    await house.open()
    house.client()
    figures = Figures(Memory())
    observed = Observed(
        house.store, house.budget, house.clients, [1, 2], {"duo": Guarded()}, {"default": house.directory}, {"test": Port()},
        {"test": house.listener.tally}, {},
        SimpleNamespace(outlets=[outlet("file", 40, 3, "disk full", 7), outlet("syslog", 0, 0, None, 0)]),
        SimpleNamespace(
            others=("database", "directory/default"), offsets={"database": -1.5}, alarmed={"database"}, steps=2
        ),
    )
    look(observed, figures)
    shown = lines(figures.memory)
    assert 'ldapmfa_clock_ahead_seconds{of="directory/default"}' not in shown, "nobody could ask it"
    expected = {
        "ldapmfa_clients": 1,
        "ldapmfa_clients_limit": house.budget.connections,
        "ldapmfa_pending_prompts": 2,
        'ldapmfa_breaker{service="duo",state="open"}': 1,
        'ldapmfa_breaker{service="duo",state="closed"}': 0,
        'ldapmfa_directory_up{directory="default",role="directory",server="ldap://directory.test:389"}': 0,
        'ldapmfa_directory_servers{condition="unknown",directory="default"}': 1,
        'ldapmfa_directory_servers{condition="up",directory="default"}': 0,
        'ldapmfa_directory_spare_links{directory="default"}': 0,
        'ldapmfa_listening{listener="test"}': 1,
        'ldapmfa_connections_total{listener="test"}': 1,
        'ldapmfa_audit_dropped_total{to="store"}': 0,
        'ldapmfa_audit_dropped_total{to="file"}': 3,
        'ldapmfa_audit_written_total{to="file"}': 40,
        'ldapmfa_audit_waiting{to="file"}': 7,
        'ldapmfa_audit_up{to="file"}': 0,
        'ldapmfa_audit_up{to="syslog"}': 1,
        "ldapmfa_clock_set_total": 2,
        'ldapmfa_clock_ahead_seconds{of="database"}': -1.5,
        'ldapmfa_clock_differs{of="database"}': 1,
        'ldapmfa_clock_differs{of="directory/default"}': 0,
    }
    assert {series: shown[series] for series in expected} == expected


async def test_servers_come_and_go_and_are_not_measured_any_more(house):
    figures = Figures(Memory())
    servers = house.directory._servers

    def seen():
        with figures.look():
            _look_at_servers(house.directory, "default", figures)
        shown = lines(figures.memory)
        return {series.split('server="')[1][:-2]: up for series, up in shown.items() if series.startswith("ldapmfa_directory_up{")}

    one = servers.choose()
    servers.well(one)
    assert seen() == {"ldap://directory.test:389": 1}
    other = Server("other.test", 389, ldaps=False)
    servers.replace([Place(other)])
    servers.down(other, "says the test")
    assert seen() == {"ldap://other.test:389": 0}
    servers.replace([Place(one), Place(other)])
    servers.well(one, synchronised=False)
    assert seen() == {"ldap://directory.test:389": 1, "ldap://other.test:389": 0}


def test_what_is_not_measured_any_more_is_not_shown_and_what_is_measured_elsewhere_is():
    figures = Figures(Memory())
    for services in ({"duo", "entra"}, {"entra"}, {"entra"}):
        with figures.look():
            for name in services:
                figures.set(catalogue.BREAKER, name, "open", to=1)
        figures.set(catalogue.STORE_UP, to=1)
    shown = lines(figures.memory)
    assert [series for series in shown if "breaker" in series] == ['ldapmfa_breaker{service="entra",state="open"}']
    assert shown["ldapmfa_store_up"] == 1


def test_what_came_of_the_last_reload_is_shown():
    pages = Pages({}, directories=list, reloaded=lambda: (False, 1234.5))
    page = pages.answer("/metrics", "").body.decode()
    assert "ldapmfa_config_last_reload_successful 0.0\n" in page
    assert "ldapmfa_config_last_reload_success_timestamp_seconds 1234.5\n" in page


@pytest.mark.parametrize("trouble", ["down", "hangs"])
async def test_a_store_that_fails_or_hangs_is_down_until_it_answers(house, trouble):
    await house.open()
    figures, answers = Figures(Memory()), house.store.notices

    async def broken():
        if trouble == "down":
            raise StoreDown("says the test")
        await asyncio.get_running_loop().create_future()

    def up():
        return dict(figures.memory.items()).get(("ldapmfa_store_up",))

    house.store.notices = broken
    asking = asyncio.ensure_future(keep_asking(house.store, figures, house.clock))
    await asyncio.sleep(0)
    house.clock.advance(PATIENCE)
    await house.until(lambda: up() == 0)
    house.store.notices = answers
    house.clock.advance(2.0)
    await house.until(lambda: up() == 1)
    asking.cancel()
    await asyncio.wait([asking])


async def test_a_lock_is_counted_once(house):
    await house.open(wrong_codes=2)
    for locks in (0, 1, 1):
        assert await house.client().log_in(password=PASSWORD + "000000") == 49
        assert house.store.locks == locks


# -- the page


class Connection:
    def __init__(self, memory=None, clock=None, **options):
        self.logged = []
        self.clock = clock or Clock()
        self.factory = PageFactory(Pages({"main": memory or Memory()}, directories=lambda: ["default"], **options), self.clock, self)
        self.connect()

    def connect(self):
        self.protocol, self.transport = self.factory.buildProtocol(None), StringTransport()
        self.transport.abortConnection = self.transport.loseConnection
        self.protocol.makeConnection(self.transport)

    def error(self, what, **fields):
        self.logged.append((what, fields))

    def get(self, request=b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        for octet in range(0, len(request), 7):
            self.protocol.dataReceived(request[octet : octet + 7])
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        return head.decode(), body


def request(first, *fields):
    return b"\r\n".join((first, b"Host: localhost", *fields, b"", b""))


def test_the_page_answers_one_request_and_closes():
    head, body = Connection().get()
    assert head.startswith("HTTP/1.1 200 OK")
    assert "Connection: close" in head
    assert f"Content-Length: {len(body)}" in head
    assert b"# TYPE ldapmfa_logins_total counter" in body


def test_a_head_request_is_answered_without_a_body():
    head, body = Connection().get(request(b"HEAD /metrics HTTP/1.1"))
    assert head.startswith("HTTP/1.1 200")
    assert body == b""
    assert re.search(r"Content-Length: \d{3,}", head)


def test_openmetrics_is_spoken_to_who_asks_for_it():
    head, body = Connection().get(request(b"GET /metrics HTTP/1.1", b"ACCEPT: application/openmetrics-text; version=1.0.0"))
    assert "application/openmetrics-text" in head
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"GET /metrics?x=1 HTTP/1.0", 200),
        (b"POST /metrics HTTP/1.1", 405),
        (b"DELETE /healthz HTTP/1.1", 405),
        (b"GET / HTTP/1.1", 404),
        (b"GET /metrics/../../etc/passwd HTTP/1.1", 404),
        (b"GET http://elsewhere.test/metrics HTTP/1.1", 400),
        (b"GET /metrics HTTP/2", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /\xff HTTP/1.1", 400),
    ],
)
def test_nothing_else_is_served(first, status):
    connection = Connection()
    head, _ = connection.get(request(first))
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert connection.transport.disconnecting
    assert connection.logged == []


def test_A41_a_head_without_an_end_is_cut_off():
    connection = Connection()
    head, _ = connection.get(b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 3000)
    assert head.startswith("HTTP/1.1 431")
    assert connection.transport.disconnecting
    assert connection.protocol._head == b""


def test_A41_who_takes_too_long_is_cut_off_however_busy():
    connection = Connection()
    for _ in range(12):
        connection.protocol.dataReceived(b"X")
        assert not connection.transport.disconnecting or connection.clock.seconds() >= 10
        connection.clock.advance(1)
    assert connection.transport.disconnecting


def test_A41_there_are_few_connections_at_once():
    connection = Connection()
    opened = []
    for _ in range(40):
        connection.connect()
        opened.append((connection.protocol, connection.transport))
    assert sum(not transport.disconnecting for _, transport in opened) == 31
    for protocol, _ in opened:
        protocol.connectionLost()
    connection.connect()
    assert not connection.transport.disconnecting


def test_health_is_told_in_words():
    memory = Memory()
    head, body = Connection(memory).get(request(b"GET /healthz HTTP/1.1"))
    assert head.startswith("HTTP/1.1 503")
    assert json.loads(body) == {"status": "not well", "problems": ["main is not there"]}
    head, body = Connection(memory, stopping=lambda: True).get(request(b"GET /readyz HTTP/1.1"))
    assert head.startswith("HTTP/1.1 503")
    assert json.loads(body)["problems"] == ["it is stopping"]


def test_a_bug_is_no_traceback_for_whoever_looks():
    def bug():
        raise RuntimeError("with a secret")

    connection = Connection(stopping=bug)
    head, body = connection.get(request(b"GET /readyz HTTP/1.1"))
    assert head.startswith("HTTP/1.1 500")
    assert body == b""
    assert connection.logged[0][0] == "bug"
    assert "secret" not in str(connection.logged)


async def test_an_endpoint_that_is_taken_is_a_mistake_with_its_key():
    from twisted.internet import reactor

    with pytest.raises(ConfigError, match=r"metrics.endpoint: unix:/no/such/directory/x can't be listened on"):
        await open_page(reactor, "unix:/no/such/directory/x", Pages({}, directories=list), None)


# -- the documentation


def test_the_reference_is_up_to_date():
    assert (ROOT / "docs/reference/metrics.md").read_text() == catalogue.reference_text(), "run `make docs`"


def test_the_reasons_are_those_of_the_audit_trail():
    reasons = [reason for reasons in catalogue.REASONS_OF.values() for reason in reasons]
    assert len(reasons) == len(set(reasons))
    assert set(reasons) == set(REASONS), "ldapmfa/net/metrics/catalogue.py has one too many, or one too few"
    assert {reason for _, reason in driver._REASONS} <= set(catalogue.REASONS_OF["broken"])


# -- what is made of the figures


def queries():
    """Every query of the dashboard and the alert rules, by where it stands."""
    dashboard = json.loads((ROOT / "conf/grafana/ldapmfa.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for alert in alerts():
        yield alert["alert"], alert["expr"]


def alerts():
    groups = yaml.safe_load((ROOT / "conf/prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_figure_is_looked_at():
    names = {name for _, query in queries() for name, _ in promql.read(query).selectors}
    names |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    expected = {metric.name for metric in ALL}
    expected -= {"ldapmfa_process_virtual_memory_bytes", "ldapmfa_process_start_time_seconds"}
    assert expected <= names


def test_queries_name_only_labels_that_there_are():
    labels = {metric.name: set(metric.labels) for metric in ALL if metric.kind != "histogram"}
    labels |= {f"{metric.name}_bucket": {*metric.labels, "le"} for metric in ALL if metric.kind == "histogram"}
    labels["up"] = set()
    for place, query in queries():
        asked = promql.read(query)
        for name, wanted in asked.selectors:
            assert {label for label, _, _ in wanted} <= labels[name] | {"instance", "job"}, (place, name)
        known = set().union(*(labels[name] for name, _ in asked.selectors))
        assert asked.labels <= known | {"instance"}, place


def test_every_alert_says_how_grave_it_is_and_leads_to_a_page():
    for alert in alerts():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        notes = alert["annotations"]
        known = {"instance", *re.findall(r"[a-z]+", " ".join(promql.read(alert["expr"]).labels))}
        for name, _ in promql.read(alert["expr"]).selectors:
            known |= {label for metric in ALL if metric.name == name for label in metric.labels}
        assert set(re.findall(r"\$labels\.(\w+)", notes["summary"])) <= known, alert["alert"]
        page, _, anchor = notes["runbook"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, notes["runbook"]
    assert len({alert["alert"] for alert in alerts()}) == len(alerts())


def test_every_alert_is_in_the_documentation():
    page = (ROOT / "docs/howto/monitor.md").read_text()
    assert [alert["alert"] for alert in alerts() if f"`{alert['alert']}`" not in page] == []


def test_names_are_as_prometheus_wants_them():
    for metric in ALL:
        assert re.fullmatch(r"ldapmfa_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.bounds) == (metric.kind == "histogram")
    assert len({metric.name for metric in ALL}) == len(ALL)
