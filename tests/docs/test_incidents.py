"""docs/howto/incidents.md: what it sends people to is there."""

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
