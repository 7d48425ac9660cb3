"""The benchmark is no part of the installed package: it is found beside tests/."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
