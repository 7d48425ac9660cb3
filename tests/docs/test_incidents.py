"""docs/howto/incidents.md: what it sends people to is there, and alarms lead to a section of it."""

from __future__ import annotations

import re
from pathlib import Path

from ldapmfa.cli.reasons import REASONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/howto/incidents.md").read_text(encoding="utf-8")
#: What is nobody's mistake but the system's: each must lead somewhere.
BROKEN = {"directory-down", "directory-refuses", "deadline", "store-down", "factor-down", "broken", "bug", "too-many-logins"}


def test_the_decision_tree_names_reasons_that_exist_and_all_that_mean_broken():
    tree = PAGE.partition("## Nobody can log in")[2].partition("\n## ")[0]
    named = {word for cells in re.findall(r"^ *\| (`.+?) \|", tree, re.MULTILINE) for word in re.findall(r"`([a-z-]+)`", cells)}
    assert named <= set(REASONS)
    assert named >= BROKEN


def test_every_alarm_leads_to_a_section():
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    linked = set()
    for file in (ROOT / "conf").rglob("*.y*ml"):
        linked |= set(re.findall(r"incidents(?:\.md|\.html)?#([\w-]+)", file.read_text(encoding="utf-8")))
    assert linked <= anchors
