"""`python -m ldapmfa.net.metrics` prints docs/reference/metrics.md."""

import sys

from ldapmfa.net.metrics.catalogue import reference_text

sys.stdout.write(reference_text())
