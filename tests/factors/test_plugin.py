"""The example plug-in of a distribution of its own: found by its entry point, configured, and used like our services."""

import asyncio
import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest
from fakes.web import Web, as_json, nobody

import ldapmfa.factors
from ldapmfa import config
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError, FactorDown, FactorUnreachable
from ldapmfa.factors.service import Allowed, Denied, Prompt, Service, Tools, Waiting

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "plugin"
PAGE = ROOT / "docs" / "howto" / "write-your-own-factor.md"
ALICE = Identity("corp", "uuid:1", "uid=alice,dc=example,dc=com", ("alice",))
PROMPT = Prompt(ALICE, "alice", "vpn", "192.0.2.1", seconds=5)
KEY = "an example of a key"


def blocks(language):
    """The blocks of code in the how-to."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def can_build():
    """Whether there is a setuptools that makes wheels by itself."""
    try:
        return tuple(map(int, version("setuptools").split(".")[:2])) >= (70, 1)
    except (PackageNotFoundError, ValueError):
        return False


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The distribution, put where Python finds it, with the metadata that an installer would write."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    place = tmp_path / "site"
    info = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    shutil.copy(SOURCE / "ldapmfa_doorbell.py", place)
    monkeypatch.syspath_prepend(place)
    yield importlib.import_module("ldapmfa_doorbell")
    del sys.modules["ldapmfa_doorbell"]


def load(tmp_path, text):
    """The configuration of the how-to, completed."""
    (tmp_path / "bells.key").write_text(f"{KEY}\n")
    (tmp_path / "store.key").write_text("")
    text = text.replace("/etc/ldapmfa/", "")
    file = tmp_path / "ldapmfa.toml"
    file.write_text(
        '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n[directory]\nuris = ["ldap://127.0.0.1"]\n'
        f'[store]\nurl = "sqlite:///state.db"\nkey_file = "store.key"\n{text}'
    )
    return config.load(file)


def service(plugin, **table):
    return plugin.Doorbell(plugin.DoorbellTable(kind="doorbell", key=KEY, **table), Tools())


class Bells(Web):
    """The bells' service: `pressed` is what the looks find, one after another, the last one again and again."""

    def __init__(self, directory):
        super().__init__(directory, self._reply)
        self.pressed, self.rings = [None], {}

    async def _reply(self, request):
        assert request.headers["authorization"] == f"Bearer {KEY}"
        match request.method, request.target.split("/")[1:]:
            case "POST", ["rings"]:
                self.rings["17"] = request.json()
                return as_json({"ring": "17"}, 201) if request.json()["user"] == "alice" else as_json({}, 404)
            case "GET", ["rings", ring] if ring in self.rings:
                pressed = self.pressed.pop(0) if len(self.pressed) > 1 else self.pressed[0]
                return as_json({"ring": ring, "pressed": pressed})
            case "DELETE", ["rings", ring]:
                del self.rings[ring]
                return as_json({})
            case "GET", ["health"]:
                return as_json({})
        raise AssertionError(request.target)


# -- the distribution


def test_it_is_found_by_its_entry_point_and_has_all_that_a_service_has(plugin):
    (entry,) = entry_points(group="ldapmfa.factors", name="doorbell")
    assert entry.load() is plugin.Doorbell
    names = {name for name in (*vars(Service), *Service.__annotations__) if not name.startswith("_")}
    assert {name for name in names if not hasattr(plugin.Doorbell, name)} == set()


def test_the_configuration_of_the_how_to_makes_one(plugin, tmp_path):
    (text,) = [block for block in blocks("text") if "[factors.doorbell]" in block]
    loaded = load(tmp_path, text)
    made = ldapmfa.factors.load_services(loaded.login.factors, loaded.factors, lambda _: Tools())
    assert isinstance(made["doorbell"], plugin.Doorbell)
    assert KEY not in repr(loaded)


def test_two_of_a_kind_have_names_of_their_own(plugin, tmp_path):
    loaded = load(
        tmp_path,
        '[login]\nfactors = ["totp", "upstairs", "downstairs"]\n'
        '[factors.upstairs]\nkind = "doorbell"\nurl = "https://a.example.com"\nkey_file = "bells.key"\n'
        '[factors.downstairs]\nkind = "doorbell"\nurl = "https://b.example.com"\nkey_file = "bells.key"\n',
    )
    made = ldapmfa.factors.load_services(loaded.login.factors, loaded.factors, lambda _: Tools())
    assert list(made) == ["upstairs", "downstairs"]


def test_its_mistakes_are_told_like_ours(plugin, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[login]\nfactors = ["doorbell"]\n[factors.doorbell]\nurl = "http://x"\nkeyfile = "bells.key"\n')
    assert ["factors.doorbell.url" in mistake for mistake in caught.value.mistakes].count(True) == 1
    assert ["factors.doorbell.keyfile" in mistake for mistake in caught.value.mistakes].count(True) == 1
    loaded = load(tmp_path, '[login]\nfactors = ["doorbell"]\n[factors.doorbell]\nurl = "https://x"\n')
    with pytest.raises(ConfigError, match=r"factors\.doorbell: can't be used: needs key_file or key"):
        ldapmfa.factors.load_services(loaded.login.factors, loaded.factors, lambda _: Tools())


def test_without_the_distribution_there_is_no_such_factor(tmp_path):
    with pytest.raises(ConfigError, match="no such factor"):
        load(tmp_path, '[factors.doorbell]\nurl = "https://x"\n')


@pytest.mark.skipif(not can_build(), reason="pip would have to fetch setuptools")
def test_pip_installs_it(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    command += ["--disable-pip-version-check", "--target", tmp_path / "site", tmp_path / "source"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (info,) = (tmp_path / "site").glob("*.dist-info")
    assert "doorbell = ldapmfa_doorbell:Doorbell" in (info / "entry_points.txt").read_text()
    assert (tmp_path / "site" / "ldapmfa_doorbell.py").exists()


# -- the how-to


def test_the_how_to_shows_the_very_files():
    (module,) = blocks("python")
    assert module == (SOURCE / "ldapmfa_doorbell.py").read_text(encoding="utf-8")
    assert (SOURCE / "pyproject.toml").read_text(encoding="utf-8") in blocks("text")


def test_the_how_to_explains_every_part_of_the_interface():
    page = PAGE.read_text(encoding="utf-8")
    for name in (*vars(Service), *Service.__annotations__):
        assert name.startswith("_") or f"`{name}" in page, name


# -- what it does


@pytest.mark.parametrize(("pressed", "answer"), [("yes", Allowed("ring")), ("no", Denied("denied", "pressed no"))])
async def test_it_rings_and_obeys(plugin, tmp_path, monkeypatch, pressed, answer):
    monkeypatch.setattr(plugin, "PAUSE", 0.01)
    async with Bells(tmp_path) as bells:
        bells.pressed = [None, None, pressed]
        bell = service(plugin, url=bells.url, ca_file=bells.ca_file)
        assert await bell.health()
        waiting = await bell.start(PROMPT)
        assert bells.rings["17"] == {"user": "alice", "text": "vpn from 192.0.2.1"}
        assert await bell.wait(PROMPT, waiting) == answer
        await bell.cancel(PROMPT, waiting)
        assert bells.rings == {}
        assert await bell.start(Prompt(ALICE, "bob", "vpn")) == Denied("not-enrolled")
        assert (await bell.verify(PROMPT, Secret(b"123456"), None)).why == "no-method"
        await bell.close()


@pytest.mark.parametrize("pressed", [True, 1, "true", "YES", "", ["yes"], {}])
async def test_A25_only_its_own_yes_is_one(plugin, tmp_path, pressed):
    async with Bells(tmp_path) as bells:
        bells.pressed = [pressed]
        bell = service(plugin, url=bells.url, ca_file=bells.ca_file)
        with pytest.raises(FactorDown, match="not about this ring"):
            await bell.wait(PROMPT, await bell.start(PROMPT))
        await bell.close()


async def test_A25_a_yes_to_another_ring_is_none(plugin, tmp_path):
    async with Bells(tmp_path) as bells:
        bell = service(plugin, url=bells.url, ca_file=bells.ca_file)
        await bell.start(PROMPT)
        bells.disturb("garbage", body=json.dumps({"ring": "17", "pressed": "yes"}).encode())
        with pytest.raises(FactorDown, match="not about this ring"):
            await bell.wait(PROMPT, Waiting("18"))
        await bell.close()


async def test_A24_only_an_outage_at_the_start_opens(plugin, tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "PAUSE", 0.01)
    async with Bells(tmp_path) as bells:
        bell = service(plugin, url=bells.url, ca_file=bells.ca_file)
        waiting = await bell.start(PROMPT)
        bells.disturb("status", status=503)
        with pytest.raises(FactorUnreachable):
            await bell.start(PROMPT)
        brief = Prompt(ALICE, "alice", "vpn", seconds=0.1)
        assert await bell.wait(brief, waiting) == Denied("no-answer")
        bells.disturb("status", status=500, times=2)
        bells.pressed = ["yes"]
        bells.disturb("status", status=401)
        for asked in (bell.start(PROMPT), bell.wait(PROMPT, waiting), bell.health()):
            with pytest.raises(FactorDown) as caught:
                await asked
            assert type(caught.value) is FactorDown
        await bell.cancel(PROMPT, waiting)
        await bell.close()
    with nobody() as port:
        bell = service(plugin, url=f"https://127.0.0.1:{port}")
        await bell.cancel(PROMPT, Waiting("17"))
        with pytest.raises(FactorUnreachable):
            await asyncio.wait_for(bell.start(PROMPT), 5)
        await bell.close()
