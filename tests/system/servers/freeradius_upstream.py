"""Debian's FreeRADIUS as the service that asks for a second factor, on a port of its own on 127.0.0.1.

What it does depends on the name: `accept` at once; `push` and `alice` after a second, as if somebody had to press a
button, and `ignored` never; `challenge` and `bob` want CODE after PASSWORD. It rejects all others. `unsigned` is accepted as versions before 3.2.5
do by themselves: without Message-Authenticator; all other answers have one, because the configuration says so, as the
how-to tells. It answers Status-Server, and takes no request without a right Message-Authenticator. No root needed.
"""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

from . import people
from .common import Process, StartError, program, require

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

NEEDS = (("freeradius", "freeradius"), ("radclient", "freeradius-utils"), ("/usr/lib/freeradius/rlm_exec.so", "freeradius"))

SECRET = "a shared secret for freeradius"
PASSWORD = people.PASSWORD
CODE = "271828"
PUSH_SECONDS = 1

CONFIGURATION = """\
prefix = /usr
libdir = /usr/lib/freeradius
name = radiusd
logdir = {directory}
run_dir = {directory}
pidfile = {directory}/radiusd.pid
db_dir = {directory}
max_request_time = 30
cleanup_delay = 5
max_requests = 16384
hostname_lookups = no
log {{ destination = stdout, auth = yes }}
security {{ max_attributes = 200, reject_delay = 0, status_server = yes }}
client loopback {{
    ipaddr = 127.0.0.1
    secret = "{secret}"
    require_message_authenticator = yes
}}
thread pool {{ start_servers = 24, max_servers = 32, min_spare_servers = 1, max_spare_servers = 32 }}
modules {{
    pap {{ }}
    exec {{ wait = yes, input_pairs = request, timeout = 20 }}
    always reject {{ rcode = reject }}
    always ok {{ rcode = ok }}
    always handled {{ rcode = handled }}
}}
listen {{ type = auth, ipaddr = 127.0.0.1, port = {port}, virtual_server = upstream }}
server upstream {{
    authorize {{
        Autz-Type Status-Server {{
            update reply {{ &Message-Authenticator := 0x00 }}
            ok
        }}
        if (&User-Name == "accept" || &User-Name == "unsigned") {{
            update control {{ &Auth-Type := Accept }}
        }}
        elsif (&User-Name == "push" || &User-Name == "alice") {{
            if ("%{{exec:/bin/sleep {push}}}" == "") {{
                update control {{ &Auth-Type := Accept }}
            }}
        }}
        elsif (&User-Name == "ignored") {{
            update control {{ &Response-Packet-Type := Do-Not-Respond }}
            handled
        }}
        elsif ((&User-Name == "challenge" || &User-Name == "bob") && !&State) {{
            update control {{ &Auth-Type := first, &Cleartext-Password := "{password}" }}
        }}
        elsif (&User-Name == "challenge" || &User-Name == "bob") {{
            update control {{ &Auth-Type := second, &Cleartext-Password := &session-state:Tmp-String-0 }}
        }}
        else {{
            update reply {{ &Reply-Message := "Nobody of that name" }}
            reject
        }}
    }}
    authenticate {{
        Auth-Type first {{
            pap
            update session-state {{ &Tmp-String-0 := "{code}" }}
            update reply {{ &Reply-Message := "Enter the code" }}
            update control {{ &Response-Packet-Type := Access-Challenge }}
            handled
        }}
        Auth-Type second {{
            pap
        }}
    }}
    post-auth {{
        if (&User-Name != "unsigned") {{
            update reply {{ &Message-Authenticator := 0x00 }}
        }}
        Post-Auth-Type Challenge {{
            update reply {{ &Message-Authenticator := 0x00 }}
        }}
        Post-Auth-Type REJECT {{
            update reply {{ &Message-Authenticator := 0x00 }}
        }}
    }}
}}
"""


class FreeRadiusUpstream:
    """`server` is what goes into the settings; `log` is what it says of itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "freeradius.log"
        self.process: Process | None = None

    def start(self) -> Self:
        require(*NEEDS)
        for attempt in (1, 2, 3):
            self.port = free_udp_port()
            (self.directory / "radiusd.conf").write_text(CONFIGURATION.format(
                directory=self.directory, secret=SECRET, port=self.port, password=PASSWORD, code=CODE, push=PUSH_SECONDS))
            try:
                self.restart()
                break
            except StartError:  # somebody else took the port meanwhile
                if attempt == 3:
                    raise
        return self

    def restart(self) -> None:
        self.stop()
        # without -f it would leave; -D: where its own dictionaries are, as -d is ours
        self._said = self.log.stat().st_size if self.log.exists() else 0
        self.process = Process(
            [program("freeradius"), "-f", "-xx", "-l", "stdout", "-d", self.directory, "-D", "/usr/share/freeradius"], self.log)
        self.process.wait_until(self._answers)

    def _answers(self) -> bool:
        # whoever answers there may be another test's server, while ours finds its port taken
        if b"Ready to process requests" not in self.log.read_bytes()[self._said :]:
            return False
        status = subprocess.run(
            ["radclient", "-r", "1", "-t", "0.2", f"127.0.0.1:{self.port}", "status", SECRET],
            input="Message-Authenticator = 0x00\n", text=True, capture_output=True, check=False,
        )
        return status.returncode == 0

    @property
    def server(self) -> str:
        """As it is written in the settings."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        if self.process:
            self.process.stop()
            self.process = None


def free_udp_port() -> int:
    """One at which nobody receives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
