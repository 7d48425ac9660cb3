#!/usr/bin/python3
"""Create a 389 Directory Server instance inside a network namespace, and stop it.

usage: ds389_create.py INF_FILE PID_FILE   (with PREFIX in the environment)

dscreate insists on starting the new server once, on 0.0.0.0: in here nobody can see it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from namespace import loopback_up


def main():
    inf, pid_file = sys.argv[1], Path(sys.argv[2])
    loopback_up()
    subprocess.run(["dscreate", "from-file", inf], check=True)
    pid = int(pid_file.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(600):
            time.sleep(0.05)
            os.kill(pid, 0)
        sys.exit("the new instance does not end")


main()
