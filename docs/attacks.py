"""Write the last part of explanation/threat-model.md: which tests keep which attack out.

A test belongs to an attack if the number stands in its name, or first in its docstring. Run it from anywhere, with no
arguments: `python3 docs/attacks.py`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
MARK = "<!-- Made by docs/attacks.py from the names of the tests: do not edit below this line. -->\n"
_NUMBER = re.compile(r"(?<![A-Za-z0-9])[Aa](\d\d)(?![0-9])")
#: What the tests of an attack leave open, in words.
PARTLY = {
    "A27": "the name forms that Samba does not take are not tried on a real Active Directory",
}


def tests() -> dict[str, dict[str, list[str]]]:
    """By attack and file, the names of its tests."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                first = (ast.get_docstring(node) or "").partition(":")[0]
                said = first if re.fullmatch(r"(A\d\d[, ]*)+", first) else ""
                for number in sorted(set(_NUMBER.findall(node.name.replace("_", " ") + " " + said))):
                    found[f"A{number}"][file.relative_to(ROOT).as_posix()].append(node.name)
    return found


def attacks() -> list[str]:
    """The numbers in the page's own tables."""
    return re.findall(r"^\| (A\d\d) \|", PAGE.read_text(encoding="utf-8").partition(MARK)[0], re.MULTILINE)


def text() -> str:
    """The generated part."""
    found = tests()
    missing = [number for number in attacks() if number not in found]
    lines = ["", "| number | tests |", "|---|---|"]
    for number in attacks():
        where = found.get(number, {})
        cells = [
            f"[{file.removeprefix('tests/')}](../../{file}): " + ", ".join(f"`{name}`" for name in names)
            for file, names in where.items()
        ]
        if number in PARTLY and cells:
            cells.append(f"*partly: {PARTLY[number]}*")
        if cells:
            lines.append(f"| {number} | {'<br>'.join(cells)} |")
    lines += ["", f"**Without a test of that name today:** {', '.join(missing) or 'none'}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(head + MARK + text(), encoding="utf-8")
