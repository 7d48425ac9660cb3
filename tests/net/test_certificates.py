"""Certificates that change, or end, while the program runs."""

import asyncio
import os

import pytest
from handshakes import NOW, Certificates
from twisted.internet.task import Clock

from ldapmfa.config import Listen
from ldapmfa.errors import ConfigError
from ldapmfa.net import certificates as module
from ldapmfa.net.certificates import Presented, watch_certificates
from ldapmfa.net.directory import Directory, DirectorySettings
from ldapmfa.net.link import Server

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


class Log(list):
    """What was said."""

    def __getattr__(self, level):
        return lambda what, **fields: self.append((level, what, fields))

    @property
    def said(self):
        return [what for _, what, _ in self]


@pytest.fixture
def made(tmp_path):
    return Certificates(tmp_path)


def listen(path, **more):
    return Listen(
        endpoint="tcp:636", name="vpn", tls="ldaps", certificate=path / "cert.pem", key=path / "key.pem", **more
    )


def put(made, name, target=None, **options):
    """A new pair, in the place that the listener reads, each file in one step; what it was."""
    certificate, key = made.make(name, "localhost", **options)
    target = target or made.path
    for new, place in ((certificate, "cert.pem"), (key, "key.pem")):
        (target / f"{place}.new").write_bytes(new.read_bytes())
        (target / f"{place}.new").rename(target / place)
    return made.issued[0].serial_number


def serial(presented):
    return presented._options.certificate.get_serial_number()


def test_a_pair_that_changes_is_taken_at_the_next_look(made):
    first = put(made, "first")
    presented, log = Presented(listen(made.path)), Log()
    context = presented.getContext()
    presented.watched.look(log)
    assert (serial(presented), presented.getContext(), log) == (first, context, [])
    second = put(made, "second")
    presented.watched.look(log)
    assert serial(presented) == second
    assert presented.getContext() is not context
    assert log == [("info", "certificates renewed", {"of": "listener vpn"})]
    presented.watched.look(log)
    assert len(log) == 1


def test_A44_half_of_a_pair_or_of_a_file_changes_nothing_and_is_said_once(made):
    first = put(made, "first")
    presented, log = Presented(listen(made.path)), Log()
    certificate, key = made.make("second", "localhost")
    new = certificate.read_bytes()
    for half in (new, new[:100], b"", None):
        if half is None:
            (made.path / "cert.pem").unlink()
        else:
            (made.path / "cert.pem").write_bytes(half)
        for _ in range(3):
            presented.watched.look(log)
        assert serial(presented) == first
    assert log.said == ["certificates not renewed"] * 4
    assert {level for level, _, _ in log} == {"warning"}
    (made.path / "key.pem").write_bytes(key.read_bytes())
    (made.path / "cert.pem").write_bytes(new)
    presented.watched.look(log)
    assert serial(presented) == made.issued[0].serial_number
    assert log.said[4:] == ["certificates renewed"]


def test_what_could_not_be_read_is_tried_again_though_no_file_changes(made, monkeypatch):
    put(made, "first")
    presented, log = Presented(listen(made.path)), Log()
    second = put(made, "second")

    def refuse(*_, **__):
        raise ConfigError(["listen.key: not now"])

    with monkeypatch.context() as patched:
        patched.setattr(module, "server_context", refuse)
        presented.watched.look(log)
        presented.watched.look(log)
    presented.watched.look(log)
    assert serial(presented) == second
    assert log.said == ["certificates not renewed", "certificates renewed"]


def test_a_link_that_points_elsewhere_is_a_change(made):
    """As certbot has it (a link for each file), and Kubernetes (one for their folder)."""
    for name in ("old", "new"):
        (made.path / name).mkdir()
    first, second = put(made, "first", made.path / "old"), put(made, "second", made.path / "new")
    (made.path / "..data").symlink_to("old")
    for file in ("cert.pem", "key.pem"):
        (made.path / file).symlink_to(f"..data/{file}")
    presented, log = Presented(listen(made.path)), Log()
    assert serial(presented) == first
    (made.path / "..data.new").symlink_to("new")
    os.replace(made.path / "..data.new", made.path / "..data")  # noqa: PTH105 - as they do
    presented.watched.look(log)
    assert serial(presented) == second


def test_those_who_sign_clients_certificates_are_read_again_too(made):
    put(made, "first")
    presented, log = Presented(listen(made.path, client_ca_file=made.path / "ca.pem")), Log()
    Certificates(made.path)  # another authority
    presented.watched.look(log)
    assert log.said == ["certificates renewed"]


def test_what_a_directory_is_trusted_by_is_read_again(made):
    settings = DirectorySettings("default", "default", (Server("dc1", 636, True),), ca_file=made.path / "ca.pem")
    directory = Directory(settings, Clock(), lambda: 1)
    context = directory._context(settings.servers[0])
    directory.renew_trust()
    assert directory._context(settings.servers[0]) is not context
    context = directory._context(settings.servers[0])
    (made.path / "ca.pem").write_bytes(b"")
    with pytest.raises(ConfigError):
        directory.renew_trust()
    assert directory._context(settings.servers[0]) is context


@pytest.mark.parametrize(
    ("days", "said"),
    [(22, None), (20.5, "warning"), (7.5, "warning"), (6.5, "error"), (0.5, "error"), (-0.5, "critical")],
)
async def test_one_that_ends_soon_is_spoken_of_each_day(made, days, said):
    put(made, "first", days=999)  # which is NOW
    presented, log, clock = Presented(listen(made.path)), Log(), Clock()
    began = NOW.timestamp() - days * 86400
    task = asyncio.ensure_future(
        watch_certificates(
            lambda: [presented.watched], lambda: [presented], clock=clock, now=lambda: began + clock.seconds(), log=log
        )
    )
    for _ in range(5):
        await asyncio.sleep(0)
    assert [level for level, _, _ in log] == ([said] if said else [])
    if said:
        fields = log[0][2]
        assert (fields["listener"], fields["days"], fields["ends"]) == ("vpn", int(days), NOW.isoformat())
    for _ in range(3):  # of a day
        clock.advance(30_000)
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(log) == (2 if said else 1 if days - 90_000 / 86400 < 21 else 0)
    task.cancel()
