"""What a configuration comes to in one process: made whole, before any of it counts, and then put in another's place.

Promised here: what the configuration left as it was is taken over, connections, breakers and caches with it. Not in
here: how each part is made (`service`), and when one arrangement takes another's place (`reloading`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ldapmfa.config import Config
from ldapmfa.factors.breaker import Guarded
from ldapmfa.net.certificates import Presented, Stamps, Watched, stamps
from ldapmfa.net.directory import Directory
from ldapmfa.net.driver import Doorway
from ldapmfa.net.ldap_front import Listener


@dataclass(frozen=True)
class Arrangement:
    """All that logins and sessions go by; `listeners` and `factories` are in the configuration's order.

    `stamps` are those of the files that tables of services and directories name, by what they are called.
    """

    config: Config
    services: Mapping[str, Guarded]
    directories: Mapping[str, Directory]
    stamps: Mapping[str, Stamps]
    doorway: Doorway
    listeners: tuple[Listener, ...]
    factories: tuple[Any, ...]
    presented: tuple[Presented, ...]
    trusted: tuple[Watched, ...]

    @property
    def watched(self) -> Iterator[Watched]:
        """The files that are looked after while it counts."""
        yield from (one.watched for one in self.presented)
        yield from self.trusted

    def services_left(self, config: Config, now: Mapping[str, Stamps]) -> dict[str, Guarded]:
        """The services of which `config` says the same, with the same files."""
        old, new = self.config.factors, config.factors
        return {
            name: guarded
            for name, guarded in self.services.items()
            if name in new and new[name] == old.get(name) and self._files_left(f"factors.{name}", now)
        }

    def directories_left(self, config: Config, now: Mapping[str, Stamps]) -> dict[str, Directory]:
        """The directories of which `config` says the same, with the same files."""
        old, new = self.config.every_directory, config.every_directory
        return {
            name: directory
            for name, directory in self.directories.items()
            if name in new and new[name] == old.get(name) and self._files_left(f"directories.{name}", now)
        }

    def _files_left(self, name: str, now: Mapping[str, Stamps]) -> bool:
        return self.stamps.get(name) == now.get(name)


def stamps_of(config: Config) -> dict[str, Stamps]:
    """The stamps of the files that each table of a service, and of a directory, names."""
    tables: dict[str, BaseModel] = {f"factors.{name}": table for name, table in config.factors.items()}
    tables |= {f"directories.{name}": table for name, table in config.every_directory.items()}
    return {name: stamps(_files(table)) for name, table in tables.items()}


def _files(table: BaseModel) -> Iterator[Path]:
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, Path):
            yield value
        elif isinstance(value, BaseModel):
            yield from _files(value)
