"""The machinery of the store's tests serves here too."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [each for each in (str(HERE), str(HERE.parent / "store")) if each not in sys.path]
