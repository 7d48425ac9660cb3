"""Which factors are installed, and the tables of settings that services bring along.

Factors are found by their entry points; those whose class has a `Table` are services. A class is imported only where
the file, or the reference, speaks of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from ldapmfa.config.tables import ServiceTable

#: The entry-point group factors are found in; an entry's name is the kind of its factor.
GROUP: Final = "ldapmfa.factors"
#: Where ours are.
OURS: Final = "ldapmfa.factors."


def installed() -> dict[str, EntryPoint]:
    """The entry points of all factors, by kind; of two with one name ours, or else the one that comes first."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (not entry.value.startswith(OURS), entry.value)):
        found.setdefault(entry.name, entry)
    return found


def loaded(entry: EntryPoint) -> Any:
    """What constructs the factor; ValueError says why it can't be had."""
    try:
        return entry.load()
    except Exception as error:  # noqa: BLE001 - it is somebody else's module: anything may be raised
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{entry.name!r} can't be loaded from {entry.value}: {why}") from None


def table_of(found: Any) -> type[ServiceTable] | None:
    """The class of its table, if `found` is a service."""
    table = getattr(found, "Table", None)
    return table if isinstance(table, type) and issubclass(table, ServiceTable) else None


def kind_of(name: str, table: Any) -> str:
    """Which service the table [factors.`name`], as read, is of."""
    kind = table.get("kind") if isinstance(table, Mapping) else None
    return kind if isinstance(kind, str) and kind else name


def own_tables() -> dict[str, type[ServiceTable]]:
    """The tables of our own services, by kind."""
    tables = {
        name: table_of(loaded(entry))
        for name, entry in sorted(installed().items())
        if entry.value.startswith(OURS)
    }
    return {name: table for name, table in tables.items() if table}
