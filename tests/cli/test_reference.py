"""The pages made from the commands are those in docs/."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ldapmfa.cli import root
from ldapmfa.cli.reference import commands, man, markdown

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.mark.parametrize(("name", "made"), [("cli.md", markdown), ("ldapmfa.1", man)])
def test_the_page_is_current(name, made):
    assert (PAGES / name).read_text() == made(), "run `make docs`"


def test_every_command_is_in_both():
    for context, _command in commands(root):
        assert f"`{context.command_path}" in markdown() or context.parent is None
        assert context.command_path.replace("-", r"\-") in man()


def test_the_man_page_is_well_formed():
    if shutil.which("man") is None:
        pytest.skip("not installed: man; Debian package: man-db")
    ran = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(PAGES / "ldapmfa.1")], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
