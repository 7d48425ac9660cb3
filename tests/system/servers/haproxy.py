"""HAProxy with the file of conf/haproxy/, before nodes on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .common import Process, answers_tcp, free_port, require

if TYPE_CHECKING:
    from typing import Self

NEEDS = (("/usr/sbin/haproxy", "haproxy"),)
EXAMPLE = Path(__file__).resolve().parents[3] / "conf" / "haproxy" / "haproxy.cfg"


class HAProxy:
    """The example as it stands, but for its addresses: it listens on `port`, and `nodes` are the ports behind it."""

    host = "127.0.0.1"

    def __init__(self, directory: Path, nodes: list[int]) -> None:
        require(*NEEDS)
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.log, self.file = free_port(), directory / "haproxy.log", directory / "haproxy.cfg"
        text = EXAMPLE.read_text()
        places = {"bind :636": f"bind {self.host}:{self.port}"}
        places |= {f"10.0.0.1{n}:636": f"{self.host}:{port}" for n, port in enumerate(nodes, 1)}
        for written, here in places.items():
            assert text.count(written) == 1, written
            text = text.replace(written, here)
        self.file.write_text(text)

    def __enter__(self) -> Self:
        self.process = Process(["/usr/sbin/haproxy", "-db", "-f", self.file], self.log)
        self.process.wait_until(lambda: answers_tcp(self.host, self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
