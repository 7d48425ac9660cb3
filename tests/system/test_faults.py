"""Faults under load, in short: `make soak` takes its time, and has more of them.

Each is a process of its own, so that what it mounts and how many descriptors it may have are nobody else's.
"""

import json
import subprocess
import sys

import pytest
from system.proxy import ROOT
from system.servers.common import unavailable


@pytest.mark.parametrize("fault", ["kill-worker", "disk-full", "store-locked", "directory-cut", "clock"])
def test_nothing_is_lost_and_nothing_is_wrong(fault):
    words = (sys.executable, "-m", "tests.soak", "--only", fault, "--pace", "0.3", "--json")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    (row,) = json.loads(done.stdout)["faults"]
    if row["skipped"]:
        unavailable(row["skipped"])
    assert done.returncode == 0, json.dumps(row)
    assert (row["lost"], row["wrong"]) == (0, 0), row
    assert row["accepted"] > 0
    assert row["hit"] + row["cut"] > 0 or fault == "clock", "nobody felt it"
    assert row["healed"] is not None


def test_what_it_does_not_know_is_said():
    done = subprocess.run((sys.executable, "-m", "tests.soak", "--only", "plague"), cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "no such fault: plague" in done.stderr) == (2, True)
