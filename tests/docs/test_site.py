"""The site of docs/, as far as no MkDocs is needed: `make lint` builds it, and fails at a link that leads nowhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("hooks", ROOT / "docs/site/hooks.py")
hooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hooks)


def test_every_page_has_its_place_in_the_menu():
    """docs/site/mkdocs.yml names them; hooks.py adds the decisions."""
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "docs/site/mkdocs.yml").read_text(), re.MULTILINE)
    expected = {hooks.in_site(page) for page in hooks.pages()}
    assert set(listed) == {page for page in expected if not re.match(r"adr/\d", page)}
    assert len(listed) == len(set(listed))


def test_the_ci_builds_the_site_strictly():
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert "\t$(site)" in lint
    assert re.search(r"^site = .*mkdocs build --strict", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "make lint" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/howto/a.md", "[x](../index.md#y)", "[x](../index.md#y)"),
        ("docs/howto/a.md", "[x](#y)", "[x](#y)"),
        ("docs/howto/a.md", "![x](a.svg)", "![x](a.svg)"),
        ("docs/howto/clients/a.md", "[x](../../../conf/b.toml)", "[x](../../source/conf/b.toml.txt)"),
        ("docs/index.md", "[x](../README.md#y)", "[x](project/readme.md#y)"),
        ("docs/index.md", "[x](attacks.py)", "[x](source/docs/attacks.py.txt)"),
        ("README.md", "[x](docs/howto/a.md)", "[x](../howto/a.md)"),
        ("README.md", "[x](SECURITY.md)", "[x](security.md)"),
        ("README.md", "[x](LICENSE)", "[x](../source/LICENSE.txt)"),
        ("docs/newsfragments/README.md", "[x](../index.md)", "[x](../index.md)"),
        ("docs/a.md", "[x](https://example.com/../b) [y](mailto:a@example.com) [z](/b)", None),
        ("docs/a.md", "`[x](../b)` ``a`[x](../b)``", None),
        ("docs/a.md", "```\n[x](../b)\n```\n", None),
        ("docs/a.md", "````\n```\n[x](../b)\n```\n````\n", None),
    ],
)
def test_a_link_leads_to_the_same_file_in_the_site(page, text, expected):
    assert hooks.rewritten(text, page) == (expected or text)


def test_what_is_linked_to_is_found():
    text = "[x](../conf/b.toml) `[y](../c)` [z](https://example.com) [b](d.md#e)\n"
    assert hooks.targets(text, "docs/a.md") == {"conf/b.toml", "docs/d.md"}


@pytest.mark.parametrize("page", hooks.pages())
def test_every_page_has_one_title(page):
    """The menu shows it."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# .", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("picture", [file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.svg")])
def test_a_picture_says_what_it_shows_and_fetches_nothing(picture):
    text = (ROOT / picture).read_text(encoding="utf-8")
    assert "<title" in text
    assert re.findall(r"(?:href|src|url)\W{1,3}(?:https?:)?//", text) == []
