"""All settings as typed, frozen classes, read from a TOML file and the environment.

Promised here: `load` gives a `Config` that is right in itself, or raises one `ConfigError` that lists every
mistake, each as a line with the file, the line's number, the key, what is wrong and what would be right; no line
shows a value that could be a secret. Not in here: whether the directory can be reached, and anything of Twisted.

`tables` is what all tables share, and what those of services do, `plugins` finds these,
`values` says what single values mean, `settings` which keys there are, and `applications` those of applications and
rules; `checks` what only several keys, files or
ports can tell, `loading` reads, `environment` too, and `pages` writes ``conf/ldapmfa.toml`` and the reference page.
"""

from __future__ import annotations

from ldapmfa.config.applications import Application, Rule
from ldapmfa.config.loading import PLACES, load
from ldapmfa.config.pages import conf_text, reference_text
from ldapmfa.config.settings import CodeForm, Config, Directory, Listen
from ldapmfa.config.tables import HttpTable, ServiceTable, Table
from ldapmfa.config.values import DirectoryUri, Endpoint

__all__ = [
    "PLACES",
    "Application",
    "CodeForm",
    "Config",
    "Directory",
    "DirectoryUri",
    "Endpoint",
    "HttpTable",
    "Listen",
    "Rule",
    "ServiceTable",
    "Table",
    "conf_text",
    "load",
    "reference_text",
]
