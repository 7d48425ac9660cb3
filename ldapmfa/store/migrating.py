"""The schema brought up to date by Alembic; imported only where it is not.

Promised here: within the connection's own transaction, all or nothing. Not in here: what the tables are (`schema`), and
how each version became the next (`migrations`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import column, func, select, table

from ldapmfa.errors import ConfigError
from ldapmfa.store.schema import METADATA

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

MIGRATIONS: Final = Path(__file__).with_name("migrations")
_COLUMNS: Final = table(
    "columns",
    *(column(name) for name in ("table_schema", "table_name", "column_name", "data_type", "collation_name")),
    schema="information_schema",
)


def upgrade(connection: Connection, *, migrate: bool) -> None:
    """Bring the schema up to date within the connection's transaction.

    ConfigError: it is of a later version, or (`migrate` false) of an earlier one.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    current, head = MigrationContext.configure(connection).get_current_revision(), script.get_current_head()
    if current == head:
        return
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise ConfigError([f"store.url: the database is of a later version ({current}) than this program ({head})"])
    if not migrate:
        older = f"the database is of version {current}, this program needs {head}: run `ldapmfa init`"
        raise ConfigError([f"store.url: {older}"])
    attributes: dict[Any, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "postgresql":
        _compare_octets(connection)


def _compare_octets(connection: Connection) -> None:
    """Let text be compared by its octets, as SQLite does, and not by rules that an operating system may change."""
    ours = select(_COLUMNS.c.table_name, _COLUMNS.c.column_name).where(
        _COLUMNS.c.table_schema == func.current_schema(),
        _COLUMNS.c.table_name.in_(METADATA.tables),
        _COLUMNS.c.data_type == "text",
        _COLUMNS.c.collation_name.is_distinct_from("C"),
    )
    changes: dict[str, list[str]] = {}
    for name, text in connection.execute(ours):
        changes.setdefault(name, []).append(f'ALTER COLUMN "{text}" TYPE text COLLATE "C"')
    for name, columns in changes.items():
        connection.exec_driver_sql(f'ALTER TABLE "{name}" {", ".join(columns)}')
