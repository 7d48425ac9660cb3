"""Secrets encrypted at rest, bound to their row, with keys from a file.

Promised here: AES-256-GCM with the row's name as associated data, so that a sealed secret that is moved to
another row does not open; keys that only their owner can read; a key file that is either the old or the new
one whenever the machine stops. Not in here: which rows there are (`Store.reseal` goes through them).

A rotation is three steps, of which each may be the last one for a while: `add_key`, `Store.reseal`, `drop_before`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import stat
from typing import IO, TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError, StoreDown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: What a line of the key file starts with; "1" stands for AES-256-GCM.
MARK: Final = "ldapmfa-key-1"
_VERSION: Final = b"\x01"
_ID: Final = 4
_NONCE: Final = 12
_KEY: Final = 32
#: What others than a file's owner might do with it.
_SHARED: Final = stat.S_IRWXG | stat.S_IRWXO


class SealBroken(StoreDown):
    """A sealed secret does not open: moved to another row, altered, or its key is gone."""


def _mistake(text: str) -> ConfigError:
    return ConfigError([f"store.key_file: {text}"])


class Seal:
    """Seals and opens secrets; notices by itself that another process has rotated the keys.

    `entropy` gives that many random octets. ConfigError: the file is missing, open to others, or not a key file.
    """

    def __init__(self, path: Path, *, entropy: Callable[[int], bytes]) -> None:
        self._path = path
        self._entropy = entropy
        self._derived: dict[str, bytes] = {}
        self._load()

    @classmethod
    def create(cls, path: Path, *, entropy: Callable[[int], bytes]) -> Seal:
        """Write a key file with one key, and use it. ConfigError: there is a file already, or it can't be written."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _mistake(f"{path} can't be created: {error.strerror}") from None
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            _write(file, [_new_line(entropy)])
        _sync_directory(path)
        return cls(path, entropy=entropy)

    @property
    def newest(self) -> str:
        """The id of the key that `seal` uses, as in the key file."""
        return next(iter(self._keys)).hex()

    def seal(self, plaintext: Secret, row: str) -> bytes:
        """`plaintext` for the row called `row`, under the newest key. StoreDown: the key file can't be read."""
        self._reload()
        key_id, key = next(iter(self._keys.items()))
        header = _VERSION + key_id
        nonce = self._entropy(_NONCE)
        return header + nonce + key.encrypt(nonce, plaintext.reveal(), header + row.encode())

    def open(self, blob: bytes, row: str) -> Secret:
        """What was sealed for `row`. SealBroken: this was not."""
        header, nonce, ciphertext = blob[: 1 + _ID], blob[1 + _ID : 1 + _ID + _NONCE], blob[1 + _ID + _NONCE :]
        if header[:1] != _VERSION or len(nonce) < _NONCE:
            raise SealBroken(f"{row} is not sealed in a way this version knows")
        if header[1:] not in self._keys:
            self._reload()
        if header[1:] not in self._keys:
            raise SealBroken(f"{row} is sealed with the key {header[1:].hex()}, which store.key_file does not hold")
        try:
            return Secret(self._keys[header[1:]].decrypt(nonce, ciphertext, header + row.encode()))
        except InvalidTag:
            raise SealBroken(f"{row} was altered, or belongs to another row") from None

    def keyed_hash(self, purpose: str, *parts: bytes) -> str:
        """A hash of `parts`, as hexadecimal digits, that only who has the newest key can make (RFC 2104, RFC 5869)."""
        self._reload()
        octets = next(iter(self._octets.values()))
        if purpose not in self._derived:
            hkdf = HKDF(algorithm=hashes.SHA256(), length=_KEY, salt=None, info=b"ldapmfa/" + purpose.encode())
            self._derived[purpose] = hkdf.derive(octets)
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._derived[purpose], message, "sha256").hex()

    @staticmethod
    def key_of(blob: bytes) -> str:
        """The id of the key that `blob` is sealed with."""
        return blob[1 : 1 + _ID].hex()

    def add_key(self) -> str:
        """Put a new key first in the file; what is sealed from now on uses it. Gives its id."""
        self._rewrite(lambda lines: [_new_line(self._entropy), *lines])
        return self.newest

    def drop_before(self, key_id: str) -> None:
        """Forget the keys older than `key_id`: the one `Store.reseal` said that everything is sealed with, at least."""

        def kept(lines: list[str]) -> list[str]:
            ids = [line.split()[1].lower() for line in lines]
            if key_id not in ids:
                raise _mistake(f"{self._path} does not hold the key {key_id}")
            return lines[: ids.index(key_id) + 1]

        self._rewrite(kept)

    def _reload(self) -> None:
        """Read the file again if it is another one than last time."""
        try:
            if _stamp(self._path.stat()) != self._stamp:
                self._load()
        except (OSError, ConfigError) as error:
            raise StoreDown(f"the key file can't be read again: {error}") from None

    def _load(self) -> None:
        lines, status = _read(self._path)
        self._octets = dict(_parsed(self._path, lines))
        self._keys = {identifier: AESGCM(octets) for identifier, octets in self._octets.items()}
        self._derived = {}
        self._stamp = _stamp(status)

    def _rewrite(self, change: Callable[[list[str]], list[str]]) -> None:
        """Replace the file in one step, with its owner and mode. The temporary file is the lock."""
        path = self._path.resolve()
        temporary = path.with_name(path.name + ".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise _mistake(f"{temporary} exists: a rotation is under way; if none is, remove that file") from None
        except OSError as error:
            raise _mistake(f"{temporary} can't be created: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                lines, status = _read(path)
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
                # the operator may rotate as root, the service must still be able to read
                os.fchown(descriptor, status.st_uid, status.st_gid)
                _write(file, change(lines))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path)
        self._load()


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _new_line(entropy: Callable[[int], bytes]) -> str:
    return f"{MARK} {entropy(_ID).hex()} {base64.b64encode(entropy(_KEY)).decode('ascii')}"


def _read(path: Path) -> tuple[list[str], os.stat_result]:
    """The lines of the key file, and whose it is. ConfigError: not there, or not for its owner alone."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (_SHARED - stat.S_IRGRP if _is_credential(path) else _SHARED):
                raise _mistake(f"{path} can be used by others than its owner: chmod 600 {path}")
            return file.read().splitlines(), status
    except OSError as error:
        raise _mistake(f"{path} can't be read: {error.strerror}") from None


def _is_credential(path: Path) -> bool:
    """Whether systemd made the file for this service alone: what looks like its group's right is the service's then.

    It is root's, and read by virtue of an ACL, whose mask stands where a group's rights do (acl(5)).
    """
    return str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY")


def _parsed(path: Path, lines: list[str]) -> list[tuple[bytes, bytes]]:
    """The keys by id, newest first; a mistake is named by its line, never by its text."""
    keys: dict[bytes, bytes] = {}
    for number, line in enumerate(lines, 1):
        try:
            mark, key_id, key = line.split()
            identifier, octets = bytes.fromhex(key_id), base64.b64decode(key, validate=True)
        except (ValueError, binascii.Error):
            mark, identifier, octets = "", b"", b""
        if mark != MARK or len(identifier) != _ID or len(octets) != _KEY or identifier in keys:
            raise _mistake(f"line {number} of {path} is not `{MARK} <id, 8 hex digits> <key, base64 of 32 octets>`")
        keys[identifier] = octets
    if not keys:
        raise _mistake(f"{path} holds no key")
    return list(keys.items())


def _write(file: IO[str], lines: list[str]) -> None:
    file.writelines(f"{line}\n" for line in lines)
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make the entry of a new or renamed file durable."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
