"""The configuration's own dangers, and its files: who may read what is secret, and who may change what is trusted.

Promised here: files are looked at, never opened for writing. Not in here: what is inside certificates (`certificates`)
and the store (`stores`).
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from ldapmfa.cli import online
from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.cli.doctor.patient import Patient
from ldapmfa.config import Config

_CONFIGURATION: Final = Area("configuration")
_FILES: Final = Area("files")
#: Keys of files that everybody may read: certificates.
_PUBLIC: Final = ("ca_file", "certificate")


def configuration(patient: Patient) -> Iterator[Finding]:
    """Mistakes in files that it names, and what is none, and yet dangerous. Others keep the doctor from beginning."""
    for mistake in patient.mistakes:
        yield _CONFIGURATION.broken("mistakes", mistake, "It would not start like this: change what is named.")
    dangers = online.dangers(patient.config)
    for danger in dangers:
        where, _, what = danger.partition(": ")
        yield _CONFIGURATION.warning(where, what, f"Change {where} in {patient.config.source}, if you can.")
    if not dangers and not patient.mistakes:
        yield _CONFIGURATION.ok("mistakes", f"{patient.config.source}: none, and nothing that is dangerous")


def files(patient: Patient) -> Iterator[Finding]:
    """Modes and owners."""
    config = patient.config
    for mistake in online.key_mistakes(config):
        yield _FILES.broken("store.key_file", mistake, f"chmod 600 {config.store.key_file}")
    owner = _owner_of_store(config)
    named = dict(_named(config))
    seen = 0
    for key, path in named.items():
        problems = list(_look_at(key, path, owner))
        yield from problems
        seen += not problems
    if config.source:
        problems = list(_look_at("configuration", config.source, owner, secret=_has_secrets(config)))
        yield from problems
        seen += not problems
    yield _FILES.ok("modes", f"{seen} of {len(named) + bool(config.source)} files are as they should be")


def _look_at(key: str, path: Path, owner: int | None, *, secret: bool | None = None) -> Iterator[Finding]:
    """One file; who runs the service is who owns the store, if that is known."""
    try:
        found = path.stat()
    except OSError as failed:
        yield _FILES.broken(key, f"{path}: {failed.strerror}", f"See that {path} is there, and may be looked at.")
        return
    if secret is None:
        secret = not key.rpartition(".")[2].startswith(_PUBLIC) and "ca_file" not in key
    mode = stat.S_IMODE(found.st_mode)
    if secret and mode & 0o007:
        fix = f"chmod {mode & 0o770:o} {path}"
        yield _FILES.broken(key, f"{path} holds a secret, and everybody may read it (mode {mode:o})", fix)
    elif mode & stat.S_IWOTH:
        yield _FILES.broken(key, f"{path} can be changed by everybody (mode {mode:o})", f"chmod o-w {path}")
    elif secret and mode & stat.S_IWGRP:
        yield _FILES.warning(key, f"{path} can be changed by its group (mode {mode:o})", f"chmod g-w {path}")
    if owner is not None and not _may_read(found, owner):
        name = _name(owner)
        yield _FILES.broken(
            key,
            f"{path} can't be read by {name}, who owns the store and so runs the service",
            f"chown {name} {path}, or chgrp it to a group of {name} and chmod g+r",
        )
    above = path.parent.stat()
    if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        fix = f"chmod o-w {path.parent}"
        yield _FILES.broken(key, f"everybody may put another file in the place of {path}", fix)


def _owner_of_store(config: Config) -> int | None:
    """Whoever owns the database, and so runs the service; None if there is none yet, or it is root."""
    file = config.store.sqlite_file
    try:
        return (file.stat().st_uid or None) if file else None
    except OSError:
        return None


def _may_read(found: os.stat_result, user: int) -> bool:
    mode = found.st_mode
    if found.st_uid == user:
        return bool(mode & stat.S_IRUSR)
    try:
        known = pwd.getpwuid(user)
        groups = os.getgrouplist(known.pw_name, known.pw_gid)
    except KeyError:
        groups = []
    return bool(mode & (stat.S_IRGRP if found.st_gid in groups else stat.S_IROTH))


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user id {user}"


def _named(config: Config) -> Iterator[tuple[str, Path]]:
    """Every file that the configuration names, by its key, and the database."""
    if config.store.sqlite_file and config.store.sqlite_file.exists():
        yield "store.url", config.store.sqlite_file
    yield from _paths(config, "")


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _paths(one, f"{key}.{name}")
    elif isinstance(value, tuple):
        for number, one in enumerate(value):
            yield from _paths(one, f"{key}[{number}]")


def _has_secrets(value: Any) -> bool:
    """Whether a secret stands in the configuration itself."""
    if isinstance(value, SecretStr):
        return True
    if isinstance(value, BaseModel):
        return any(_has_secrets(getattr(value, name)) for name in type(value).model_fields)
    if isinstance(value, dict):
        return any(_has_secrets(one) for one in value.values())
    return isinstance(value, tuple) and any(_has_secrets(one) for one in value)
