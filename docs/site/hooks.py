"""What the site needs beyond docs/: MkDocs calls the functions whose names begin with `on_`.

Promised here: a link that leaves docs/ leads to the same file in the site (the README and its neighbours as pages,
configurations and tests as text), and one to a file that is not there fails the build. So does a page that reads
otherwise than on GitHub, where lists and blocks of code are concerned, and one that makes a browser fetch something
from elsewhere. All decisions are listed without naming each.

Not in here: links between pages and their anchors, which MkDocs checks by itself.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).resolve().parents[2]
#: Pages that lie beside docs/, or are no part of it, by where they are in the site.
NEIGHBOURS: Final = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "docs/newsfragments/README.md": "project/news-fragments.md",
}
#: Elements whose number must be what GitHub makes of the page.
COUNTED: Final = ("li", "pre", "table", "blockquote")
# code is passed over: what looks like a link in it is none
_LINK: Final = re.compile(
    r"(?P<code>^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)`*[ ]*$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<before>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
# what a browser fetches by itself: scripts, styles, pictures
_FETCHED: Final = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]*)")
_LOG: Final = logging.getLogger("mkdocs.hooks.site")


def in_site(path: str) -> str:
    """Where the file at `path`, relative to the repository, is in the site."""
    if path in NEIGHBOURS:
        return NEIGHBOURS[path]
    if path.startswith("docs/") and path.endswith((".md", ".svg")):
        return path.removeprefix("docs/")
    # a browser shows text, and would save a test or a unit
    return f"source/{path}.txt"


def targets(text: str, path: str) -> set[str]:
    """The files, relative to the repository, to which the page at `path` links; whether or not they exist."""
    found = set()
    rewritten(text, path, lambda target: found.add(target) or target)
    return found


def rewritten(text: str, path: str, to: Callable[[str], str] = in_site) -> str:
    """The page at `path` with links that are right in the site."""
    here, there = posixpath.dirname(path), posixpath.dirname(in_site(path))

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if match["code"] or re.match(r"[a-z]+:|/", target):
            return match[0]
        place = to(posixpath.normpath(posixpath.join(here, target)))
        return f"{match['before']}{posixpath.relpath(place, there or '.')}{match['anchor'] or ''})"

    return _LINK.sub(link, text)


def pages() -> list[str]:
    """The files, relative to the repository, that are pages of the site."""
    inside = (file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))
    return [*NEIGHBOURS, *(path for path in inside if not path.startswith("docs/newsfragments/"))]


def on_config(config: Any) -> Any:
    """List the decisions."""
    for section in config.nav:
        if "Decisions" in section:
            section["Decisions"] += sorted(f"adr/{file.name}" for file in (ROOT / "docs/adr").glob("0*.md"))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the neighbours of docs/, and what pages link to."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - tests of the links need no MkDocs

    named: dict[str, str] = dict.fromkeys(NEIGHBOURS, "docs/site/mkdocs.yml")
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        named.update((target, page) for target in targets(text, page) if not in_site(target).endswith((".md", ".svg")))
    for path, page in sorted(named.items()):
        if (ROOT / path).is_file():
            files.append(File.generated(config, in_site(path), content=(ROOT / path).read_text(encoding="utf-8")))
        else:
            _LOG.warning("%s links to %s, which is no file", page, path)
    return files


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """Mend the links that leave docs/."""
    places = {place: path for path, place in NEIGHBOURS.items()}
    return rewritten(markdown, places.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def on_page_content(html: str, page: Any, **_others: Any) -> None:
    """Compare with what GitHub makes of the page: it reads Markdown by the letter of CommonMark."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - tests of the links need none

    other = MarkdownIt("commonmark", {"html": True}).enable("table").render(page.markdown)
    for element in COUNTED:
        ours, theirs = (len(re.findall(rf"<{element}[ >]", text)) for text in (html, other))
        if ours != theirs:
            _LOG.warning("%s: %d times <%s> here, %d on GitHub", page.file.src_uri, ours, element, theirs)


def on_post_page(output: str, page: Any, **_others: Any) -> None:
    """Nobody else learns who reads what."""
    for address in _FETCHED.findall(output):
        _LOG.warning("%s: a browser would fetch %s", page.file.src_uri, address)
