"""`ldapmfa reload`: have the program that runs go by the configuration as it is now."""

from __future__ import annotations

from typing import Any

import click

from ldapmfa.cli.command import Command, Failed, answer, load, say
from ldapmfa.errors import ConfigError


@click.command(
    cls=Command,
    examples=("ldapmfa reload --check", "ldapmfa reload", "ldapmfa reload --json"),
)
@click.option("--check", is_flag=True, help="Only tell what would change, or what is wrong; nothing is applied.")
def reload(*, check: bool) -> None:
    """Have the program that runs read its configuration again.

    All of it counts then, in every process, or none: with a mistake in it (exit code 2) everything stays as it was.
    Says what changed; of a secret only that it did. Connections stay, and listeners that are still named. It is for
    the user that the program runs as, and for root; SIGHUP does the same, and tells the log alone.
    """
    from ldapmfa.net import control  # noqa: PLC0415 - takes long

    try:
        config = load()
    except ConfigError as wrong:
        raise ConfigError([*wrong.mistakes, "nothing was changed"]) from None
    path = config.control_socket
    try:
        said = control.ask(path, {"do": "reload", "check": check, "config": str(config.source)})
    except OSError as failed:
        raise Failed(3, f"{path}: {failed.strerror or failed}") from None
    if said is None:
        raise Failed(3, f"nothing runs with this configuration: nobody listens at {path}")
    if said["mistakes"]:
        nothing = [] if said["applied"] else ["nothing was changed"]
        raise Failed(3 if said["broken"] else 2, *said["mistakes"], *nothing)
    value = {"applied": said["applied"], "changes": said["changes"]}
    answer(value, lambda: _show(value))


def _show(value: dict[str, Any]) -> None:
    changes = value["changes"]
    count = f"{len(changes)} setting{'' if len(changes) == 1 else 's'}"
    say(f"reloaded: {count} changed" if value["applied"] else f"{count} would change; nothing is applied")
    for change in changes:
        say(f"  {change['key']}: {change['old']} -> {change['new']}")
