"""Coverage-guided fuzzing of what strangers' octets reach first: `python -m tests.fuzz --seconds 120`.

Each target in `targets`, `conversation` and `answers` takes any octets and raises if a promise of the code is broken: an
exception that is not documented, or an outcome that depends on how the input was split. Inputs that found a branch are
kept, minimised, in corpus/TARGET/.
"""

import sys
from pathlib import Path

# pytest has both on its path; `python -m` has the first
for place in Path(__file__).resolve().parents[1:3]:
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
