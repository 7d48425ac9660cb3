"""Audit events as lines of a file: whole, once, for nobody else to read, whoever else writes or moves it."""

import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ldapmfa.audit import ConnectionRefused
from ldapmfa.net import jsonl
from ldapmfa.net.jsonl import JsonLines

ROOT = Path(__file__).resolve().parents[2]


def event(number, reason="no TLS"):
    return ConnectionRefused(at=1.0, listener="l", client=str(number), reason=reason)


def numbers(file):
    return [int(json.loads(line)["client"]) for line in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "audit.jsonl"


def mode(file):
    return stat.S_IMODE(file.stat().st_mode)


class TestWhoMayRead:
    @pytest.mark.parametrize("wanted", [0o600, 0o640])
    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_the_owner_and_the_group_where_that_is_wanted(self, file, wanted, umask):
        before = os.umask(umask)
        try:
            JsonLines(file, mode=wanted).write([event(1)])
        finally:
            os.umask(before)
        assert mode(file) == wanted

    @pytest.mark.parametrize("was", [0o644, 0o666, 0o660])
    def test_a_file_that_others_may_read_no_longer_is_when_it_is_written(self, file, was):
        file.write_text("")
        file.chmod(was)
        JsonLines(file).write([event(1)])
        assert mode(file) == 0o600

    @pytest.mark.parametrize(("was", "goes"), [(0o660, True), (0o664, False), (0o601, False)])
    def test_somebody_elses_file_is_written_only_if_others_can_not_read_it(self, file, monkeypatch, was, goes):
        def not_mine(descriptor, mode):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        file.write_text("")
        file.chmod(was)
        monkeypatch.setattr(os, "fchmod", not_mine)
        if goes:
            assert JsonLines(file).write([event(1)]) == 1
        else:
            with pytest.raises(PermissionError):
                JsonLines(file).write([event(1)])
            assert file.read_text() == ""

    def test_files_that_were_put_aside_are_no_more_open(self, file):
        lines = JsonLines(file, rotate_bytes=100)
        for number in range(3):
            lines.write([event(number)])
        assert {mode(one) for one in file.parent.iterdir()} == {0o600}

    def test_no_link_is_followed(self, file, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("")
        file.symlink_to(victim)
        with pytest.raises(OSError, match="symbolic link"):
            JsonLines(file).write([event(1)])
        assert victim.read_text() == ""

    def test_what_is_no_file_does_not_keep_anybody_waiting(self, file):
        os.mkfifo(file)
        reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with pytest.raises(OSError, match="no regular file"):
                JsonLines(file).write([event(1)])
        finally:
            os.close(reader)


class TestPuttingAside:
    def test_the_newest_have_the_lowest_numbers_and_the_oldest_go(self, file):
        lines = JsonLines(file, rotate_bytes=250, keep_files=2)
        for number in range(12):
            lines.write([event(number)])
        names = sorted(one.name for one in file.parent.iterdir())
        assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
        kept = [n for name in reversed(names) for n in numbers(file.parent / name)]
        assert kept == list(range(12 - len(kept), 12))
        assert all(one.stat().st_size <= 250 for one in file.parent.iterdir())

    def test_a_batch_that_is_larger_than_a_file_is_written_all_the_same(self, file):
        assert JsonLines(file, rotate_bytes=100).write([event(number) for number in range(10)]) == 10
        assert numbers(file) == list(range(10))

    def test_0_leaves_it_to_others(self, file):
        lines = JsonLines(file)
        for number in range(100):
            lines.write([event(number)])
        assert list(file.parent.iterdir()) == [file]

    def test_a_file_that_was_moved_away_is_noticed(self, file):
        """As logrotate does, with and without "create"."""
        lines = JsonLines(file)
        lines.write([event(1)])
        file.rename(file.with_name("old"))
        lines.write([event(2)])
        assert (numbers(file.with_name("old")), numbers(file)) == ([1], [2])
        file.rename(file.with_name("older"))
        file.touch(0o600)
        lines.write([event(3)])
        assert numbers(file) == [3]
        file.unlink()
        lines.write([event(4)])
        assert numbers(file) == [4]

    def test_several_processes_lose_no_line_while_each_puts_the_file_aside(self, file):
        command = [sys.executable, Path(__file__).parent / "writer_of_lines.py", file]
        names, count = ("a", "b", "c"), 300
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        writers = [
            subprocess.Popen(
                [*command, name, str(count), "2000", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=environment,
            )
            for name in names
        ]
        try:
            for writer in writers:
                assert writer.stdout.readline() == b"ready\n"
            for writer in writers:
                writer.stdin.write(b"\n")
                writer.stdin.close()
            assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
                writer.stdout.close()
        files = list(file.parent.glob("audit.jsonl*"))
        assert len(files) > 20
        lines = [json.loads(line) for one in files for line in one.read_text().splitlines()]
        assert sorted((line["listener"], int(line["client"])) for line in lines) == [
            (name, number) for name in names for number in range(count)
        ]
        assert all(one.stat().st_size <= 2000 for one in files)


class TestTrouble:
    @pytest.fixture
    def small_disk(self):
        """No file of this process can have more than 300 octets: a write is cut short there, as on a full disk."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_a_full_disk_leaves_no_torn_line_and_heals(self, file, small_disk):
        lines = JsonLines(file)
        events = [event(number) for number in range(10)]
        done = lines.write(events)
        assert 0 < done < 10
        assert numbers(file) == list(range(done))
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                lines.write(events[done:])
            assert numbers(file) == list(range(done))
        small_disk()
        assert lines.write(events[done:]) == 10 - done
        assert numbers(file) == list(range(10))

    def test_a_line_that_somebody_tore_spoils_none_of_ours(self, file):
        file.write_text('{"client":"1","rea')
        assert JsonLines(file).write([event(2), event(3)]) == 2
        assert numbers_after_first_line(file) == [2, 3]

    def test_a_torn_line_on_a_full_disk(self, file, small_disk):
        file.write_text("x" * 250)
        with pytest.raises(OSError, match="too large"):
            JsonLines(file).write([event(2)])
        small_disk()
        assert JsonLines(file).write([event(2)]) == 1
        assert numbers_after_first_line(file) == [2]

    def test_who_keeps_the_file_locked_is_not_waited_for_for_ever(self, file, monkeypatch):
        monkeypatch.setattr(jsonl, "PATIENCE", 0.05)
        lines = JsonLines(file)
        lines.write([event(1)])
        with file.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(OSError, match="keeps it locked"):
                lines.write([event(2)])
        assert lines.write([event(2)]) == 1
        assert numbers(file) == [1, 2]

    def test_a_directory_that_is_gone_comes_back(self, tmp_path):
        place = tmp_path / "log"
        lines = JsonLines(place / "audit.jsonl")
        with pytest.raises(FileNotFoundError):
            lines.write([event(1)])
        place.mkdir()
        assert lines.write([event(1)]) == 1
        lines.close()
        lines.close()
        assert lines.write([event(2)]) == 1

    def test_an_endless_name_makes_no_endless_line(self, file):
        JsonLines(file).write([event(1, "\U0001f600" * 60_000)])
        assert file.stat().st_size <= jsonl.LINE + 1
        assert numbers(file) == [1]


def numbers_after_first_line(file):
    return [int(json.loads(line)["client"]) for line in file.read_text().splitlines()[1:]]
