"""The proxy under load while things fail around it, and a ledger that says what became of every request: `make soak`."""

import sys
from pathlib import Path

# pytest has both on its path; `python -m` has the first
for place in Path(__file__).resolve().parents[1:3]:
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
