"""The command line: `ldapmfa ...` parses, calls `ldapmfa.accounts`, and prints text or JSON.

Promised here: `ldapmfa --help` imports click and little else. Not in here: what may be done (`ldapmfa.accounts`), what
a login needs (`ldapmfa.core.login`), and what is right in a configuration (`ldapmfa.config`).
"""

from __future__ import annotations

import click

from ldapmfa.cli.audit import audit
from ldapmfa.cli.backup import store
from ldapmfa.cli.cache import cache
from ldapmfa.cli.command import VERSION, Group
from ldapmfa.cli.command import main as _main
from ldapmfa.cli.desk import remembered
from ldapmfa.cli.doctor.command import doctor
from ldapmfa.cli.explain import explain
from ldapmfa.cli.factor import factor
from ldapmfa.cli.fraud import fraud
from ldapmfa.cli.install import check_config, completion, init, key
from ldapmfa.cli.reload import reload
from ldapmfa.cli.service import demo, run, worker
from ldapmfa.cli.user import user


@click.group(cls=Group, epilog="Run `ldapmfa COMMAND --help` for a command's options and examples.")
@click.version_option(message=VERSION)
def root() -> None:
    """An LDAP proxy that demands a second factor before a simple bind succeeds.

    Begin with `ldapmfa demo`, or with `ldapmfa init` for a configuration of your own.
    """


for _command in (
    init, check_config, doctor, run, reload, worker, demo, user, remembered, fraud, factor, explain, audit, cache,
    store, key, completion,
):  # fmt: skip
    root.add_command(_command)


def main() -> None:
    """What the program `ldapmfa` and `python -m ldapmfa` call."""
    _main(root)
