"""Another process that writes events to a file: ``python writer_of_lines.py FILE NAME COUNT ROTATE_BYTES KEEP_FILES``."""

import sys
from pathlib import Path

from ldapmfa.audit import ConnectionRefused
from ldapmfa.net.jsonl import JsonLines

_, file, name, count, rotate_bytes, keep_files = sys.argv
lines = JsonLines(Path(file), rotate_bytes=int(rotate_bytes), keep_files=int(keep_files))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(count)):
    event = ConnectionRefused(at=1.0, listener=name, client=str(number), reason="x" * (number % 50))
    assert lines.write([event]) == 1
