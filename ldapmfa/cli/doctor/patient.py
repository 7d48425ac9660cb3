"""What is looked at: the configuration, and what several areas need to have found out once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ldapmfa.cli import online
from ldapmfa.cli.accounts import in_reactor
from ldapmfa.config import Config

if TYPE_CHECKING:
    from ldapmfa.cli.doctor.directories import Seen


@dataclass
class Patient:
    """One installation, by its configuration; `mistakes` are those that files have which it names."""

    config: Config
    mistakes: list[str] = field(default_factory=list)

    @cached_property
    def checked(self) -> list[online.Checked]:
        """Every server of every directory, tried step by step as `check-config --online` does."""
        return in_reactor(lambda reactor: online.check(self.config, reactor))

    @cached_property
    def seen(self) -> list[Seen]:
        """What each server that could be spoken to says of itself."""
        from ldapmfa.cli.doctor.directories import look_at  # noqa: PLC0415 - it looks at this in turn

        return look_at(self.config, self.checked)

    @cached_property
    def pid(self) -> int | None:
        """The running proxy of this configuration, if there is one and it may be known: the parent of its workers."""
        for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                where = (entry / "cwd").readlink()
            except OSError:
                continue
            if b"run" in words and b"ldapmfa" in b" ".join(words[:4]) and self._is_its(words, where):
                return int(entry.name)
        return None

    def _is_its(self, words: list[bytes], where: Path) -> bool:
        """Whether a command line, from the directory `where`, names this configuration."""
        source = self.config.source
        if source is None:
            return False
        options = [word for before, word in pairwise(words) if before in {b"--config", b"-c"}]
        named = [where / option.decode(errors="replace") for option in options]
        candidates = named or [where / "ldapmfa.toml", Path("/etc/ldapmfa/ldapmfa.toml")]
        found = next((path for path in candidates if path.exists()), None)
        return found is not None and found.resolve() == source.resolve()
