"""The areas that are looked at, each a function from the patient to findings.

Promised here: an area that can't be looked at says so, and the others are; a check that itself fails is a finding, not
a traceback. Not in here: the imitation of programs (`imitation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ldapmfa.cli.doctor import certificates, directories, files, machine, process, stores
from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.cli.doctor.patient import Patient

__all__ = ["LOOK", "Patient"]

Look = Callable[[Patient], Iterator[Finding]]


def _safely(name: str, look: Look) -> Look:
    """`look`, which may fail: then the rest of its area was not looked at."""

    def careful(patient: Patient) -> Iterator[Finding]:
        try:
            yield from look(patient)
        except Exception as failed:  # noqa: BLE001 - the other areas are looked at all the same
            # the type alone: the text may hold anything
            yield Area(name).skipped("the rest", f"the doctor failed here ({type(failed).__name__}); report it")

    return careful


LOOK: Final[dict[str, Look]] = {
    name: _safely(name, look)
    for name, look in {
        "configuration": files.configuration,
        "files": files.files,
        "certificates": certificates.certificates,
        "directories": directories.directories,
        "clock": directories.clock,
        "store": stores.store,
        "services": machine.services,
        "limits": machine.limits,
        "process": process.process,
    }.items()
}
