"""Makes the sketch tests' generator and programs importable by every agent's tests: `random_sketch`, `sketch_programs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "sketch"))
