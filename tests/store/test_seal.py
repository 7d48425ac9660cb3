"""Secrets at rest: bound to their row, keys for their owner only, rotation."""

import base64
import os
import stat

import pytest

from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.store.seal import Seal, SealBroken

SEED = Secret(b"a seed of some octets")


def again(key_file):
    return Seal(key_file, entropy=os.urandom)


def test_what_was_sealed_opens_in_its_row_only(seal):
    blob = seal.seal(SEED, "factor/1/totp/ad/x")
    assert seal.open(blob, "factor/1/totp/ad/x") == SEED
    with pytest.raises(SealBroken, match="factor/2/totp/ad/x"):
        seal.open(blob, "factor/2/totp/ad/x")


@pytest.mark.parametrize("position", [0, 1, 5, 17, -1])
def test_one_changed_octet_and_it_does_not_open(seal, position):
    blob = bytearray(seal.seal(SEED, "row"))
    blob[position] ^= 1
    with pytest.raises(SealBroken):
        seal.open(bytes(blob), "row")


@pytest.mark.parametrize("length", [0, 1, 5, 16, 17, 32])
def test_what_was_cut_short_does_not_open(seal, length):
    with pytest.raises(SealBroken):
        seal.open(seal.seal(SEED, "row")[:length], "row")


def test_the_format(seal, key_file):
    blob = seal.seal(SEED, "row")
    assert blob[0] == 1
    assert blob[1:5].hex() == seal.newest == key_file.read_text().split()[1] == seal.key_of(blob)
    assert len(blob) == 1 + 4 + 12 + len(SEED.reveal()) + 16
    assert seal.seal(SEED, "row") != blob, "a nonce is used once"


def test_the_random_source_is_the_one_given(tmp_path):
    seal = Seal.create(tmp_path / "k", entropy=lambda n: b"\7" * n)
    assert (tmp_path / "k").read_text() == f"ldapmfa-key-1 07070707 {base64.b64encode(bytes([7] * 32)).decode()}\n"
    assert seal.seal(SEED, "row")[5:17] == b"\7" * 12


def test_a_broken_seal_is_a_broken_store():
    assert issubclass(SealBroken, StoreDown)


def test_a_new_key_file_is_for_its_owner_alone_and_never_overwritten(seal, key_file):
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match=r"store\.key_file: .* can't be created"):
        Seal.create(key_file, entropy=os.urandom)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o610, 0o700 | 0o020])
def test_a_key_file_others_can_use_is_refused(seal, key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"store\.key_file: .*chmod 600 {key_file}"):
        again(key_file)


def test_a_stricter_mode_will_do(seal, key_file):
    blob = seal.seal(SEED, "row")
    key_file.chmod(0o400)
    assert again(key_file).open(blob, "row") == SEED


KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"ldapmfa-key-2 01020304 {KEY}\n",
        f"ldapmfa-key-1 010203 {KEY}\n",
        f"ldapmfa-key-1 01020304 {KEY[:-4]}\n",
        f"ldapmfa-key-1 01020304 {KEY} x\n",
        f"ldapmfa-key-1 01020304 !{KEY}\n",
        f"ldapmfa-key-1 01020304 {KEY}\nldapmfa-key-1 01020304 {KEY}\n",
        f"ldapmfa-key-1 01020304 {KEY}\n\nldapmfa-key-1 01020305 {KEY}\n",
        "\xff\xfe\n",
    ],
)
def test_a_mistake_in_the_key_file_is_named_without_its_text(key_file, text):
    key_file.touch(0o600)
    key_file.write_text(text)
    with pytest.raises(ConfigError, match=r"store\.key_file: ") as caught:
        again(key_file)
    assert KEY[:16] not in str(caught.value)


def test_a_missing_key_file(tmp_path):
    with pytest.raises(ConfigError, match=r"store\.key_file: .* can't be read"):
        again(tmp_path / "none")


def test_rotation_adds_reseals_and_drops(seal, key_file):
    old = seal.seal(SEED, "row")
    before = seal.newest
    key = seal.add_key()
    assert key == seal.newest != before
    assert [line.split()[1] for line in key_file.read_text().splitlines()] == [key, before]
    new = seal.seal(SEED, "row")
    assert (seal.key_of(old), seal.key_of(new)) == (before, key)
    assert seal.open(old, "row") == seal.open(new, "row") == SEED
    seal.drop_before(key)
    assert seal.open(new, "row") == SEED
    with pytest.raises(SealBroken, match=f"{before}, which store.key_file does not hold"):
        seal.open(old, "row")


def test_a_rotation_elsewhere_is_noticed_when_sealing_and_when_opening(seal, key_file):
    elsewhere = again(key_file)
    key = elsewhere.add_key()
    assert seal.open(elsewhere.seal(SEED, "row"), "row") == SEED
    key = elsewhere.add_key()
    assert seal.key_of(seal.seal(SEED, "row")) == key


def test_keys_newer_than_the_one_named_are_kept(seal, key_file):
    mine = seal.add_key()
    theirs = again(key_file).add_key()
    seal.drop_before(mine)
    assert [line.split()[1] for line in key_file.read_text().splitlines()] == [theirs, mine]
    with pytest.raises(ConfigError, match="does not hold the key 00000000"):
        seal.drop_before("00000000")
    assert not key_file.with_name("key.new").exists()


def test_two_rotations_at_once_do_not_lose_a_key(seal, key_file):
    key_file.with_name("key.new").touch()
    with pytest.raises(ConfigError, match=r"key\.new exists"):
        seal.add_key()
    assert len(key_file.read_text().splitlines()) == 1


def test_a_rotation_keeps_the_mode_and_a_link(seal, key_file, tmp_path):
    key_file.chmod(0o400)
    link = tmp_path / "link"
    link.symlink_to(key_file)
    again(link).add_key()
    assert link.is_symlink()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o400
    assert len(key_file.read_text().splitlines()) == 2


def test_a_key_file_that_went_away_is_a_broken_store(seal, key_file):
    blob = seal.seal(SEED, "row")
    key_file.unlink()
    assert seal.open(blob, "row") == SEED
    with pytest.raises(StoreDown, match="can't be read again"):
        seal.seal(SEED, "row")


def test_neither_key_nor_secret_shows(seal, key_file):
    key = key_file.read_text().split()[2]
    assert key not in repr(seal) + str(seal)
    with pytest.raises(SealBroken) as caught:
        seal.open(seal.seal(SEED, "row"), "other")
    assert "seed" not in repr(caught.value)
    assert caught.value.__cause__ is None
