"""Makes `random_sketch` and `sketch_programs` importable by every agent's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "sketch"))
