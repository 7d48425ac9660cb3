"""The figures and the health of a running proxy, of one process and of several, as Prometheus and HAProxy see them."""

import contextlib
import csv
import io
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from system.proxy import ROOT, Proxy
from system.servers.common import Process, free_port, wait_for
from system.wire import Raw, bind, search

from ldapmfa.net.metrics import catalogue


class Watched(Proxy):
    """A proxy that shows its figures."""

    def __enter__(self):
        self.page = free_port()
        self.extra += f'\n[metrics]\nendpoint = "tcp:{self.page}:interface=127.0.0.1"\n'
        self.extra += '[audit]\nto = ["log", "file"]\nfile = "audit.jsonl"\n'
        return super().__enter__()

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.page}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def health(self, path):
        status, body = self.get(path)
        return status, json.loads(body)["problems"]

    def shown(self):
        """Every series by name and labels, with its value."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    def logins(self, outcome):
        return sum(value for key, value in self.shown().items() if key[0] == "ldapmfa_logins_total" and key[3] == outcome)

    def log_in(self, password=None):
        with Raw(self.host, self.port) as raw:
            code = raw.code(bind(1, self.directory.user("alice").dn, password or self.typed("alice")))
            if code == 0:
                raw.send(search(2, self.directory.user("alice").dn))
                raw.frame()
            return code


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def proxy(slapd, tmp_path_factory, request):
    with Watched(slapd, tmp_path_factory.mktemp("proxy"), workers=request.param) as proxy:
        yield proxy


def test_logins_are_counted_and_their_octets(proxy):
    before = proxy.logins("accepted"), proxy.logins("refused")
    assert [proxy.log_in() for _ in range(6)] == [0] * 6
    assert proxy.log_in("wrong") == 49
    assert (proxy.logins("accepted"), proxy.logins("refused")) == (before[0] + 6, before[1] + 1)
    listener = proxy.config.read_text().split('endpoint = "')[1].split('"')[0]
    wait_for(lambda: proxy.shown()["ldapmfa_relayed_bytes_total", listener, "directory"] > 6 * 20, 10)
    shown = proxy.shown()
    assert shown["ldapmfa_login_reasons_total", "accepted", "code"] == proxy.logins("accepted")
    for stage in catalogue.STAGES:
        assert shown["ldapmfa_login_stage_seconds_count", stage] >= 6
        assert shown["ldapmfa_login_stage_seconds_sum", stage] > 0


def test_every_figure_is_shown(proxy):
    wait_for(lambda: ("ldapmfa_store_up",) in proxy.shown(), 10)
    names = {key[0] for key in proxy.shown()}
    without = {"ldapmfa_failed_open_total", "ldapmfa_breaker"}  # there is no service
    without |= {"ldapmfa_clock_ahead_seconds"}  # nor a clock that could be asked
    expected = {metric.name + "_count" * (metric.kind == "histogram") for metric in catalogue.ALL}
    assert expected - without <= names
    processes = {key[1] for key in proxy.shown() if key[0] == "ldapmfa_process_open_fds"}
    assert processes == ({"main"} if proxy.workers == 1 else {"main", "worker 1", "worker 2"})


def test_a_proxy_that_is_well_and_ready_says_so(proxy):
    assert proxy.health("/healthz") == (200, [])
    wait_for(lambda: proxy.health("/readyz") == (200, []), 10)
    assert proxy.shown()["ldapmfa_ready",] == 1


def test_A43_nothing_that_was_typed_is_shown(proxy):
    dn, password = proxy.directory.user("alice").dn, proxy.directory.user("alice").password
    with Raw(proxy.host, proxy.port) as raw:
        raw.code(bind(1, 'cn=mallory"}\n# EVIL 1', "hunter2"))
    proxy.log_in()
    page = proxy.get("/metrics")[1]
    for word in (dn, "alice", password, "mallory", "EVIL", "hunter2", proxy.directory.service_dn):
        assert word not in page


def test_the_dashboard_and_the_alerts_find_what_they_ask_for(slapd, tmp_path):
    """Each of their selectors, in a proxy to which nothing has happened yet: an alert must not be silent for want of it."""
    (tmp_path / "secret").write_text("x" * 64)
    webhook = {"url": f"http://127.0.0.1:{free_port()}/", "secret_file": tmp_path / "secret"}
    services, login = {"webhook": webhook}, 'factors = ["hotp", "webhook"]'
    with Watched(slapd, tmp_path / "proxy", services=services, login=login, listen={"name": "vpn"}) as proxy:
        wait_for(lambda: proxy.shown().get(("ldapmfa_ready",)) == 1, 10)
        families = text_string_to_metric_families(proxy.get("/metrics")[1])
        series = [(one.name, one.labels) for family in families for one in family.samples]
    dashboard = json.loads((ROOT / "conf/grafana/ldapmfa.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    groups = yaml.safe_load((ROOT / "conf/prometheus/alerts.yml").read_text())["groups"]
    queries += [rule["expr"] for group in groups for rule in group["rules"]]
    missed = [
        (name, wanted)
        for query in queries
        for name, wanted in promql.read(query.replace("$__rate_interval", "5m")).selectors
        if name not in {"up", "ldapmfa_clock_ahead_seconds"}  # no other clock can be asked
        and not any(name == has and promql.matches(labels, wanted) for has, labels in series)
    ]
    assert missed == []


def test_haproxy_as_documented_takes_who_is_ready_and_nobody_else(proxy, tmp_path):
    page = (ROOT / "docs/howto/monitor.md").read_text()
    backend = page.split("```text\nbackend ldapmfa\n")[1].split("```")[0]
    nobody = SimpleNamespace(uri=f"ldap://127.0.0.1:{free_port()}", user=proxy.directory.user)
    port = free_port()
    with Watched(nobody, tmp_path / "proxy") as down:
        for name, node in (("10.0.0.11", proxy), ("10.0.0.12", down)):
            documented = f"{name}:636 send-proxy-v2 check port 9389 inter 2s"
            assert documented in backend
            # without the header, which these listeners do not expect
            backend = backend.replace(documented, f"127.0.0.1:{node.port} check port {node.page} inter 100ms")
        config, control = tmp_path / "haproxy.cfg", tmp_path / "haproxy.sock"
        config.write_text(
            f"global\n    stats socket {control}\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1m\n"
            f"    timeout server 1m\nfrontend ldap\n    bind 127.0.0.1:{port}\n    default_backend ldapmfa\n"
            f"backend ldapmfa\n{backend}"
        )
        haproxy = Process(["haproxy", "-db", "-f", config], tmp_path / "haproxy.log")
        try:
            wait_for(lambda: states(control) == {"a": ("UP", "200"), "b": ("DOWN", "503")}, 15)
            for _ in range(4):
                with Raw("127.0.0.1", port) as raw:
                    assert raw.code(bind(1, proxy.directory.user("alice").dn, proxy.typed("alice"))) == 0
        finally:
            haproxy.stop()


def states(control):
    """What HAProxy holds of each server, and the answer to its last check."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(control))
        asking.sendall(b"show stat\n")
        rows = csv.DictReader(io.StringIO(asking.makefile().read().removeprefix("# ")))
        return {row["svname"]: (row["status"], row["check_code"]) for row in rows if row["svname"] in {"a", "b"}}
    return {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_keeps_every_count_and_shows_what_is_new_and_what_came_of_it(slapd, tmp_path, workers):
    with Watched(slapd, tmp_path / "proxy", workers=workers, listen={"name": "ldap"}) as proxy:
        assert [proxy.log_in() for _ in range(4)] == [0] * 4
        first = proxy.shown()
        assert first["ldapmfa_config_last_reload_successful",] == 1
        proxy.config.write_text(proxy.config.read_text() + '[[application]]\nname = "vpn"\nnetworks = ["127.0.0.0/8"]\n')
        os.kill(proxy.process.popen.pid, signal.SIGHUP)
        wait_for(lambda: ("ldapmfa_logins_total", "vpn", "hotp", "refused") in proxy.shown(), 10)
        wait_for(lambda: proxy.shown()[AT] > first[AT], 10)
        assert proxy.logins("accepted") == 4
        assert proxy.log_in() == 0
        assert proxy.shown()["ldapmfa_logins_total", "vpn", "hotp", "accepted"] == 1
        good = proxy.shown()[AT]
        proxy.config.write_text(proxy.config.read_text() + "[nonsense]\n")
        os.kill(proxy.process.popen.pid, signal.SIGHUP)
        wait_for(lambda: proxy.shown()["ldapmfa_config_last_reload_successful",] == 0, 10)
        assert proxy.shown()[AT] == good
        wait_for(lambda: proxy.health("/readyz") == (200, []), 10)  # it goes on as it was
        assert proxy.health("/healthz") == (200, [])


AT = ("ldapmfa_config_last_reload_success_timestamp_seconds",)


def test_killing_a_worker_loses_no_count(slapd, tmp_path):
    with Watched(slapd, tmp_path / "proxy", workers=2) as proxy:
        for _ in range(8):
            assert proxy.log_in() == 0
        counted = proxy.logins("accepted")
        assert counted == 8
        wait_for(lambda: proxy.health("/healthz") == (200, []), 10)
        worker, pid = next(iter(proxy.children().items()))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: proxy.health("/healthz") == (503, [f"worker {worker} is not there"]), 10)
        assert proxy.logins("accepted") == counted
        assert proxy.log_in() == 0, "the other one serves"
        wait_for(lambda: proxy.health("/healthz") == (200, []), 30)
        assert proxy.logins("accepted") == counted + 1
        for _ in range(8):
            assert proxy.log_in() == 0
        assert proxy.logins("accepted") == counted + 9


def test_a_worker_whose_loop_does_not_turn_is_not_well(slapd, tmp_path):
    with Watched(slapd, tmp_path / "proxy", workers=2) as proxy:
        wait_for(lambda: proxy.health("/healthz") == (200, []), 10)
        pid = proxy.children()[1]
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: proxy.health("/healthz")[0] == 503, 20)
            assert proxy.health("/healthz")[1][0].startswith("worker 1 ")
        finally:
            with contextlib.suppress(ProcessLookupError):  # it may have been replaced by now
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: proxy.health("/healthz") == (200, []), 30)


def test_ready_it_is_no_more_without_a_directory_or_while_it_stops(slapd, tmp_path):
    nobody = SimpleNamespace(uri=f"ldap://127.0.0.1:{free_port()}", user=slapd.user, service_dn=slapd.service_dn)
    with Watched(nobody, tmp_path / "proxy", listen={"proxy_protocol_from": []}, login='factors = ["hotp"]') as proxy:
        assert proxy.log_in("secret123456") == 52
        wait_for(lambda: proxy.health("/readyz")[0] == 503, 10)
        assert proxy.health("/readyz")[1] == ["no server of the directory default can be reached"]
        assert proxy.health("/healthz") == (200, [])
        assert proxy.shown()["ldapmfa_ready",] == 0
        with Raw(proxy.host, proxy.port):  # somebody who makes the stop last
            os.kill(proxy.process.popen.pid, signal.SIGTERM)
            seen = set()
            until = time.monotonic() + 10
            while time.monotonic() < until and proxy.process.popen.poll() is None:
                try:
                    seen |= set(proxy.health("/readyz")[1])
                except OSError:
                    break
        assert "it is stopping" in seen
