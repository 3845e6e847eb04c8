"""The models are the benchmarks': what is checked here is what is timed there."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
