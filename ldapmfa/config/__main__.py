"""`python -m ldapmfa.config conf` prints conf/ldapmfa.toml; `reference` docs/reference/configuration.md."""

from __future__ import annotations

import sys

from ldapmfa.config.pages import conf_text, reference_text

sys.stdout.write({"conf": conf_text, "reference": reference_text}[sys.argv[1]]())
