"""`ldclt`, 389 Directory Server's load generator: a client written in C by somebody else, for the searches.

It searches without end, so processor time and searches are counted between two moments in which it is at work; how
many searches there were says the directory's monitor, as ldclt itself counts every ten seconds only.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from bench import machine
from bench.directory import ACCOUNTS, BASE, LOAD_DN, PASSWORD
from bench.site import Invalid, Site


@contextlib.contextmanager
def searching(site: Site, port: int, *, connections: int, in_flight: int) -> Iterator[None]:
    """Random people are searched for during the block. Invalid: a search failed."""
    argv = [machine.program("ldclt"), "-h", machine.LOOPBACK, "-p", str(port), "-D", LOAD_DN, "-w", PASSWORD]
    argv += ["-b", BASE, "-f", "uid=userXXXXX", "-e", "esearch,random", "-r0", f"-R{ACCOUNTS - 1}"]
    argv += ["-n", str(connections), "-q", *(["-a", str(in_flight)] if in_flight > 1 else [])]
    with machine.Process(argv, site.new_place("ldclt") / "ldclt.log") as process:
        yield
        process.popen.send_signal(signal.SIGINT)
        process.popen.wait(10)
        report = process.log.read_text(errors="replace")
    if "no error occurs" not in report:
        raise Invalid(f"ldclt reports errors:\n{report}")
