"""The benchmark's own arithmetic: medians, goals, bytes, and the pages made of them."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from xml.etree import ElementTree as ET

import pyotp
import pytest

from bench import distance, machine, pages
from bench.load import DONE, Logins, bind_code, code, secret
from bench.programs import approval
from bench.programs.bare_relay import boundary
from bench.programs.endless import entry
from bench.results import Measured
from bench.rows import ROWS, Figure, Goal, Row
from ldapmfa.config import ServiceTable
from ldapmfa.factors import load_services
from ldapmfa.factors.service import Allowed, Tools
from ldapmfa.wire import ber, ldap


def measured(ours, theirs, *goals):
    row = Row("one", "a row", ("haproxy", "ldapmfa"), (Figure("cpu", "µs", "CPU"),), goals, None)
    return Measured(row, {"ldapmfa": [{"cpu": x} for x in ours], "haproxy": [{"cpu": x} for x in theirs]})


def test_a_goal_compares_medians():
    one = measured([30, 10, 20], [12, 8, 10], Goal("cpu", 2.0, of="haproxy"), Goal("cpu", 19.9))
    assert [(verdict.value, verdict.met) for verdict in one.verdicts()] == [(2.0, True), (20, False)]
    assert not one.met


@pytest.mark.parametrize(("ours", "met"), [(1.69, False), (1.7, True), (2, True)])
def test_a_goal_may_be_a_least(ours, met):
    one = measured([ours], [1], Goal("cpu", least=1.7))
    assert one.met is met
    assert f"CPU {ours:.2f} µs (goal at least 1.7): {'met' if met else 'missed'}" in pages.summary(one)
    run = pages.Run([one], 1, 60.0, 0.0, "2030-01-01", {}, {})
    assert 'class="goal"' not in pages.as_svg(run)


def test_a_goal_without_figures_is_missed():
    for ours, theirs in (([], [1]), ([1], [])):
        one = measured(ours, theirs, Goal("cpu", 2.0, of="haproxy"))
        assert [(verdict.value, verdict.met) for verdict in one.verdicts()] == [(None, False)]
        assert not one.met


def test_a_peer_that_broke_has_no_median():
    one = measured([1], [1], Goal("cpu", 2.0, of="haproxy"))
    assert one.met
    one.broken["haproxy"] = "it fell over"
    assert one.median("haproxy", "cpu") is None
    assert not one.met


def test_every_goal_of_the_table_is_about_a_figure_and_a_peer_of_its_row():
    for row in ROWS:
        for goal in row.goals:
            assert goal.figure in {figure.name for figure in row.figures}
            assert goal.of is None or goal.of in row.peers
        assert "ldapmfa" in row.peers
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_pages_hold_figures_and_verdicts():
    one = measured([30.0], [10.0], Goal("cpu", 1.7, of="haproxy"))
    run = pages.Run([one], 1, 60.0, 0.0, "2030-01-01", dict.fromkeys(("processor", "cores", "system", "memory_gib", "open_files"), 2), {})
    assert "| 10.0 | 30.0 | 3.00 x HAProxy TCP relay (goal 1.7): **missed** |" in pages.as_markdown(run)
    row = json.loads(pages.as_json(run))["rows"][0]
    assert row["goals"] == [{"figure": "cpu", "most": 1.7, "of": "haproxy", "least": None, "value": 3.0, "met": False}]
    assert row["samples"]["ldapmfa"] == [{"cpu": 30.0}]
    drawn = ET.fromstring(pages.as_svg(run))
    bars = [node for node in drawn if node.tag.endswith("rect")]
    assert int(bars[1].get("width")) == pytest.approx(3 * int(bars[0].get("width")), abs=3)
    assert any(node.tag.endswith("line") for node in drawn)


async def test_the_plug_in_is_found_asks_nobody_and_approves_in_turn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(machine.ROOT / "bench" / "plugin")
    monkeypatch.setenv(approval.PLACE, str(tmp_path))
    os.mkfifo(tmp_path / approval.APPROVED)
    tables = {"bench": ServiceTable(kind="bench")}
    plugin = load_services(["bench"], tables, lambda _name: Tools())["bench"]
    asked = [await plugin.start(None) for _ in range(3)]
    waiting = [asyncio.ensure_future(plugin.wait(None, one)) for one in asked]
    await asyncio.sleep(0)
    assert (tmp_path / approval.ASKED).stat().st_size == 3
    waiting[0].cancel()
    (tmp_path / approval.APPROVED).write_bytes(b"..")
    assert await waiting[1] == Allowed("bench")
    assert not waiting[2].done()
    (tmp_path / approval.APPROVED).write_bytes(b".")
    assert await waiting[2] == Allowed("bench")


def test_codes_are_those_of_totp():
    key = base64.b32encode(secret(7)).decode()
    assert [code(secret(7), step) for step in range(50)] == [pyotp.HOTP(key).at(step) for step in range(50)]


def test_a_bind_response_is_told_by_its_code():
    answers = [ldap.result(1, ldap.BIND_REQUEST, number, "why" * number) for number in (0, 49, 53)]
    assert [bind_code(answer) for answer in answers] == [0, 49, 53]
    assert bind_code(ldap.result(1, ldap.SEARCH_REQUEST, 0)) == -1
    assert bind_code(b"") == -1


def test_the_end_of_a_search_is_told_by_its_bytes():
    assert ldap.result(77, ldap.SEARCH_REQUEST, ldap.SUCCESS).endswith(DONE)
    assert DONE not in ldap.result(77, ldap.SEARCH_REQUEST, ldap.BUSY)
    assert DONE not in entry(5, b"uid=user00000,ou=people", description=b"x" * 300)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 300, 70_000])
def test_the_relay_finds_the_last_boundary(size):
    frame = ber.tlv(ber.SEQUENCE, bytes(size))
    assert boundary(frame * 2) == 2 * len(frame)
    for cut in {1, 2, 3, len(frame) // 2, len(frame) - 1}:
        assert boundary(frame + frame[: min(cut, len(frame) - 1)]) == len(frame)


def test_connections_and_threads_are_counted():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert machine.connections_to(os.getpid(), port) == 0
        with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
            assert machine.connections_to(os.getpid(), port) == 2
    assert machine.threads(os.getpid()) >= 1


def test_logins_keep_to_a_rate_and_count_from_when_they_were_due():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            time.sleep(0.3)
            for _ in range(20):
                client, _address = listening.accept()
                client.recv(4096)
                client.sendall(ldap.result(1, ldap.BIND_REQUEST, 0))
                client.close()

        serving = threading.Thread(target=serve)
        serving.start()
        spec = {"port": listening.getsockname()[1], "dn": "cn=x", "password": "y", "at_once": 1, "rate": 50}
        done = Logins(spec).run(20)
        serving.join()
    assert done["failed"] == 0
    assert done["seconds"] >= 0.38
    assert done["p50_ms"] > 50  # those that had to wait for the first one count it


def test_processor_time_is_read_in_less_than_ticks():
    burn = "import time, threading\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        spent = machine.cpu_seconds(child.pid)
        assert 0.2 <= spent < 2
        time.sleep(0.05)
        assert machine.cpu_seconds(child.pid) - spent < 0.01
        assert machine.resident_kib(child.pid) > 1000
        child.communicate(b"\n")


async def test_a_line_holds_every_octet_back_in_both_directions_and_in_order():
    async def answer(reader, writer):
        while octets := await reader.read(100):
            writer.write(octets.upper())
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    away = await distance.line("127.0.0.1", server.sockets[0].getsockname()[1], 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", away.sockets[0].getsockname()[1])
    began = loop.time()
    for octets in (b"one ", b"two ", b"three"):
        writer.write(octets)
        await writer.drain()
    writer.write_eof()
    assert await reader.read() == b"ONE TWO THREE"
    assert loop.time() - began >= 0.04
    writer.close()
    away.close()
    server.close()
