"""What systemd is told, and how: sd_notify(3) at any kind of socket, and never in another process's name."""

import os
import socket
import time

import pytest
from twisted.internet.task import Clock

from ldapmfa.net.systemd import Supervisor


@pytest.fixture(params=["path", "abstract"])
def heard(request, tmp_path):
    """Whoever started us: its socket, and its name in NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@ldapmfa-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(0)
        yield listener, name


def all_of(listener):
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return found


def test_what_is_told(heard):
    listener, name = heard
    supervisor = Supervisor.from_environment({"NOTIFY_SOCKET": name})
    before = time.monotonic_ns() // 1000
    supervisor.ready("Listening: vpn.")
    supervisor.reloading()
    supervisor.status("two\nlines")
    supervisor.stopping("Stopping.")
    ready, reloading, status, stopping = all_of(listener)
    assert ready == ["READY=1", "STATUS=Listening: vpn."]
    assert (reloading[0], reloading[2]) == ("RELOADING=1", "STATUS=Reading the configuration.")
    assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert status == ["STATUS=two lines"]
    assert stopping == ["STOPPING=1", "STATUS=Stopping."]


def test_the_watchdog_hears_at_half_its_time_while_all_turns(heard):
    listener, name = heard
    clock, turns = Clock(), [True]
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}
    Supervisor.from_environment(environ).watch(clock, lambda: turns[0])
    assert environ == {}  # no child speaks for us
    assert all_of(listener) == [["WATCHDOG=1"]]
    clock.advance(1.9)
    assert all_of(listener) == []
    clock.pump([0.2, 1.9, 0.2])
    assert all_of(listener) == [["WATCHDOG=1"]] * 2
    turns[0] = False
    clock.pump([2] * 5)
    assert all_of(listener) == []
    turns[0] = True
    clock.advance(2)
    assert all_of(listener) == [["WATCHDOG=1"]]


@pytest.mark.parametrize(
    "more",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
)
def test_a_watchdog_of_another_process_or_none_is_not_fed(heard, more):
    listener, name = heard
    Supervisor.from_environment({"NOTIFY_SOCKET": name, **more}).watch(Clock(), lambda: True)
    assert all_of(listener) == []


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_where_nobody_listens_nothing_breaks(environ):
    supervisor = Supervisor.from_environment({**environ, "WATCHDOG_USEC": "1000000"})
    supervisor.ready("Listening: vpn.")
    supervisor.watch(Clock(), lambda: True)
