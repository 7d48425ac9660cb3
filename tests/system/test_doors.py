"""Certificates of clients on real sockets, on both reactors: recognised over StartTLS and ldaps, behind a balancer too.

A process has one reactor, and pytest's is another: each scenario runs in a process of its own, this very file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {"its certificate": "vpn", "none": "test", "a stranger's": ""}


@pytest.mark.parametrize("kind", ["ldapmfa", "asyncio"])
@pytest.mark.parametrize("way", ["starttls", "ldaps", "starttls behind a balancer", "ldaps behind a balancer"])
def test_A51_a_client_is_recognised_by_its_certificate(kind, way, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    done = subprocess.run(
        [sys.executable, __file__, kind, way, tmp_path], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.endswith("done\n")


# -- in the process


def said(port, way, context):
    """What a client is answered to a bind that is refused at once, over TLS; None if it is turned away."""
    from system.wire import Raw, bind, extended

    from ldapmfa.wire import ldap

    with Raw("127.0.0.1", port) as raw:
        if "balancer" in way:
            raw.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 5555 389\r\n")
        if "starttls" in way:
            assert raw.code(extended(1, ldap.OID_START_TLS)) == 0
        with contextlib.suppress(OSError, EOFError):
            raw.socket = context.wrap_socket(raw.socket, server_hostname="proxy.test")
            return raw.code(bind(2, "x", "y", version=2))


async def scenario(reactor, way, path):
    from ipaddress import ip_network

    from handshakes import Certificates
    from twisted.internet.protocol import Factory
    from world import World

    from ldapmfa.core.application import Recognition
    from ldapmfa.core.session import Rules
    from ldapmfa.net.budget import Budget
    from ldapmfa.net.ldap_front import Door, LdapFront
    from ldapmfa.net.proxy_protocol import ProxyHeaderFactory
    from ldapmfa.net.tls import over_tls, server_context

    made, strangers = Certificates(path), Certificates(path / "strangers")
    files = {"its certificate": made.make("vpn", "vpn.test"), "none": None, "a stranger's": strangers.make("vpn", "vpn.test")}
    serving = server_context(*made.make("proxy", "proxy.test"), client_ca=made.ca)
    world = World(None, rules=Rules(starttls="starttls" in way)).assemble().with_(tls=serving, encrypted="ldaps" in way)
    network = "192.0.2.0/24" if "balancer" in way else "127.0.0.0/8"
    vpn = Recognition(frozenset({"test"}), (ip_network(network),), ("dns:vpn.test",))
    listener = world.listener
    world.with_(doors=(Door("vpn", vpn, listener.rules, listener.policy, listener.doorway),))
    factory = Factory.forProtocol(lambda: LdapFront(world.listener))
    if "ldaps" in way:
        factory = over_tls(factory, serving, client=False)
    if "balancer" in way:
        factory = ProxyHeaderFactory(factory, (ip_network("127.0.0.0/8"),), reactor, lambda *_: None)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for shown, application in SHOWN.items():
            context = ssl.create_default_context(cafile=made.ca)
            context.minimum_version = context.maximum_version = version
            if files[shown]:
                context.load_cert_chain(*files[shown])
            del world.events[:]
            code = await asyncio.to_thread(said, port.getHost().port, way, context)
            assert code == (2 if application else None), (way, version, shown)
            assert [event.application for event in world.events] == [application] * bool(application)
    async with asyncio.timeout(10):
        while world.clients:  # noqa: ASYNC110 - in a test, at its end
            await asyncio.sleep(0.02)
    assert world.budget == Budget()
    await port.stopListening().asFuture(asyncio.get_running_loop())


def main(kind, way, path):
    if kind == "ldapmfa":
        from ldapmfa.net import reactor as ours

        ours.install()
    else:
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    from twisted.internet import reactor

    (Path(path) / "strangers").mkdir()
    failed = []

    async def run():
        try:
            async with asyncio.timeout(50):
                await scenario(reactor, way, Path(path))
        except BaseException as error:  # noqa: BLE001 - shown, and the process fails
            import traceback

            failed.append(error)
            traceback.print_exc()
        finally:
            reactor.stop()

    reactor.callLater(0, lambda: failed.append(asyncio.ensure_future(run())))
    reactor.run()
    if len(failed) == 1:
        print("done")
    return len(failed) - 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
