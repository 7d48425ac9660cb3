"""The variables ``LDAPMFA_TABLE__KEY``, as they override the file.

A room of its own, as what reads them takes long to import and there are often none.
"""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from ldapmfa.config.settings import Config
from ldapmfa.config.values import FromEnvironment


class Environment(EnvSettingsSource):
    """Every variable that begins with `prefix`; lists and tables as JSON, and what is no JSON as it stands."""

    def __init__(self, prefix: str) -> None:
        super().__init__(Config, env_prefix=prefix, env_nested_delimiter="__")  # type: ignore[arg-type]
        self.env_vars = {
            name: None if value is None else FromEnvironment(value) for name, value in self.env_vars.items()
        }

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """`value` itself where it is no JSON, so that its mistake is listed with the others."""
        try:
            return super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]
        except ValueError:
            return value
