"""Run a target in a process of its own, and read from what libFuzzer writes how it went."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
#: The targets, each with its part of the time: the conversation has most to be found.
SHARES = {
    "session": 6,
    "requests": 3,
    "replies": 2,
    "identities": 3,
    "names": 2,
    "elements": 1,
    "proxy-headers": 1,
    "passwords": 1,
    "entra": 1,
    "privacyidea": 2,
    "json-objects": 1,
    "radius": 1,
}
NAMES = tuple(SHARES)
#: Octets of an input: enough for several messages.
LONGEST = 1024
#: Seconds that one input may take; and beyond its time that the process may take, to begin and to end.
_PATIENCE, _GRACE = 60, 120


@dataclass(frozen=True)
class Outcome:
    """What a target did. `raised`: the end of what it wrote when an input broke a promise."""

    target: str
    executions: int
    covered: int
    corpus: int
    seconds: float
    raised: str = ""
    input: str = ""

    def line(self) -> str:
        """As a line of a table."""
        figures = f"{self.target:14}{self.executions:>12,} executions{self.covered:>7} branches{self.corpus:>6} inputs kept{self.seconds:>8.0f} s"
        return figures if not self.raised else f"{figures}\n  RAISED by {self.input}:\n{self.raised}"

    def as_dict(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def unavailable() -> str:
    """Why nothing can be fuzzed here; "" if it can."""
    if importlib.util.find_spec("atheris"):
        return ""
    return f"atheris is not installed: it has no wheel for {sys.platform} with Python {sys.version.split()[0]}, or `pip install '.[test]'` was not run"


def shares(names: list[str], seconds: float) -> dict[str, float]:
    """How many of the `seconds` each of the targets gets; at least one, for libFuzzer takes 0 for without end."""
    whole = sum(SHARES[name] for name in names)
    return {name: max(1.0, seconds * SHARES[name] / whole) for name in names}


def fuzz(name: str, seconds: float, *, keep: bool = False) -> Outcome:
    """Run a target for so long; with `keep` its corpus here is replaced by the smallest that reaches as much."""
    with tempfile.TemporaryDirectory(prefix="ldapmfa-fuzz-") as directory:
        found, broken = Path(directory) / "found", Path(directory) / "broken"
        found.mkdir()
        broken.mkdir()
        _seed(name, found)
        outcome = _run(name, seconds, found, broken)
        if keep and not outcome.raised:
            _minimise(name, found, Path(directory) / "least")
    return outcome


def _seed(name: str, directory: Path) -> None:
    from fuzz.seeds import SEEDS

    for number, octets in enumerate(SEEDS[name]):
        (directory / f"seed{number:03}").write_bytes(octets)


def _run(name: str, seconds: float, found: Path, broken: Path) -> Outcome:
    words = (
        f"-max_total_time={int(seconds)}", f"-max_len={LONGEST}", f"-timeout={_PATIENCE}", "-rss_limit_mb=1024",
        "-print_final_stats=1", f"-dict={HERE / 'ldap.dict'}", f"-artifact_prefix={broken}/", "-verbosity=1",
    )  # fmt: skip
    done = _child(name, *words, str(found), *_kept(name), seconds=seconds)
    said = done.stderr
    executions = re.search(r"stat::number_of_executed_units: (\d+)", said)
    status = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", said)
    covered, corpus = map(int, status[-1]) if status else (0, 0)
    raised = ""
    artefact = next(iter(broken.iterdir()), None)
    if done.returncode or artefact or not executions:
        raised = _told(done.stdout, said)
    return Outcome(
        name,
        int(executions[1]) if executions else 0,
        covered,
        corpus,
        seconds,
        raised,
        artefact.read_bytes().hex() if artefact else "",
    )


def _told(out: str, said: str) -> str:
    """The traceback, which atheris prints, or else the end of what libFuzzer says."""
    lines = out.splitlines()[-25:] or [line for line in said.splitlines() if not line.startswith("#")][-25:]
    return "\n".join(f"    {line}" for line in lines)


def _kept(name: str) -> list[str]:
    return [str(CORPUS / name)] if (CORPUS / name).is_dir() else []


def _child(name: str, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(HERE / "child.py"), name, *words]
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=seconds + _GRACE, check=False)


def _minimise(name: str, found: Path, least: Path) -> None:
    """What the merge takes of the old and the new is the corpus from here on."""
    least.mkdir()
    again = least.with_name("again")  # a merge starts itself by its first word, and knows nothing of targets
    again.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "child.py"} {name} "$@"\n')
    again.chmod(0o755)
    words = ("-merge=1", f"-max_len={LONGEST}", str(least), *_kept(name), str(found))
    argv = [str(again), *words]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=900, env={**os.environ, "FUZZ_AGAIN": str(again)}, check=False)
    if done.returncode or not any(least.iterdir()):
        raise RuntimeError(done.stderr[-2000:])
    place = CORPUS / name
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    for new in least.iterdir():
        (place / new.name[:16]).write_bytes(new.read_bytes())
