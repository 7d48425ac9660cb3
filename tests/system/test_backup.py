"""A backup made under load, put back while the service is stopped; then people log in, and nobody by an old code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

from system.proxy import Proxy
from system.wire import Raw, bind

from ldapmfa.wire import ldap


def command(proxy, *words, code=0):
    ran = subprocess.run(
        [sys.executable, "-m", "ldapmfa", *words, "--config", proxy.config, "--json"], capture_output=True, text=True
    )
    assert ran.returncode == code, ran.stderr
    return json.loads(ran.stdout or ran.stderr)


def result(proxy, name, typed):
    with Raw(proxy.host, proxy.port) as raw:
        raw.send(bind(1, proxy.directory.user(name).dn, typed))
        return ldap.read_result(raw.answer()[-1]).code


def test_A19_a_backup_under_load_put_back_takes_no_code_twice(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        proxy.enrol("alice", "totp")
        ended = threading.Event()
        results = []

        def log_in_again_and_again():
            while not ended.is_set():
                results.append(result(proxy, "dave", proxy.typed("dave")))

        load = threading.Thread(target=log_in_again_and_again)
        load.start()
        try:
            proxy.process.wait_until(lambda: len(results) > 5)
            made = command(proxy, "store", "backup", str(tmp_path / "copy.db"))
            before = len(results)
            proxy.process.wait_until(lambda: len(results) > before + 5)
        finally:
            ended.set()
            load.join()
        assert set(results) == {0}
        assert made["factors"] == 2

        typed = slapd.user("alice").password + proxy.tokens["alice"].now()
        assert result(proxy, "alice", typed) == 0
        refused = command(proxy, "store", "restore", str(tmp_path / "copy.db"), "--uncertain", "keep", code=2)
        assert "is in use" in refused["error"][0]

        proxy.process.stop()
        found = command(proxy, "store", "restore", str(tmp_path / "copy.db"), "--uncertain", "keep")
        assert (found["burnt"], found["uncertain"]) == (1, 1)
        assert found["last_record"] < time.time()
        proxy.start()
        assert result(proxy, "alice", typed) == 49, "used since the backup, and right still by the clock"
        assert proxy.records()[-1]["reason"] == "replayed-code"
        # a counter that has gone on further than is looked ahead: two codes find it again
        (token,) = [row["id"] for row in command(proxy, "factor", "list")["factors"] if row["kind"] == "hotp"]
        command(proxy, "factor", "resync", token, proxy.tokens["dave"].code(), proxy.tokens["dave"].code())
        assert result(proxy, "dave", proxy.typed("dave")) == 0
