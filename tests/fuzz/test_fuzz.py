"""The fuzzers' two minutes, and the inputs that earlier ones found.

`FUZZ_SECONDS=10` shortens the two minutes for who works on something else; `python -m tests.fuzz` has more to offer.
"""

from __future__ import annotations

import os

import pytest
from system.servers.common import unavailable

from fuzz import run
from fuzz.conversation import Shell, script
from fuzz.seeds import SEEDS
from fuzz.targets import target
from ldapmfa.core.session import Rules, State

SECONDS = run.shares(list(run.NAMES), float(os.environ.get("FUZZ_SECONDS", "120")))


def test_every_target_has_seeds_and_a_share():
    assert set(SEEDS) == set(run.NAMES)
    assert all(callable(target(name)) for name in run.NAMES)


@pytest.mark.parametrize("name", run.NAMES)
def test_inputs_that_were_found_earlier_raise_nothing(name):
    kept = sorted((run.CORPUS / name).iterdir())
    assert kept
    play = target(name)
    for octets in (*SEEDS[name], *(one.read_bytes() for one in kept)):
        play(octets)


def test_the_seeds_of_the_conversation_come_to_every_state():
    states, commands = set(), 0
    for octets in SEEDS["session"]:
        shell = Shell(Rules(starttls=True))
        for step in script(octets[1:]):
            commands += len(shell.play(step))
            states.add(shell.session.state)
    assert states == set(State)
    assert commands > 100


def test_a_broken_promise_is_told_with_its_input(tmp_path, monkeypatch):
    if why := run.unavailable():
        unavailable(why)
    broken = tmp_path / "child.py"
    broken.write_text(
        "import sys, atheris\n"
        "def target(data):\n"
        "    if data: raise ValueError('the promise')\n"
        "atheris.Setup([sys.argv[0], *sys.argv[2:]], target)\n"
        "atheris.Fuzz()\n"
    )
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "ldap.dict").write_text('"x"\n')
    outcome = run.fuzz("radius", 5)
    assert "the promise" in outcome.raised
    assert outcome.input


@pytest.mark.parametrize("name", run.NAMES)
def test_nothing_is_raised_whatever_the_octets(name):
    if why := run.unavailable():
        unavailable(why)
    outcome = run.fuzz(name, SECONDS[name])
    print(outcome.line())
    assert not outcome.raised, outcome.line()
    assert outcome.executions > 0
