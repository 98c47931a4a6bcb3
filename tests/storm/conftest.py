"""The machinery of the store's, the model's and the writer's tests serves here too."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = [str(HERE), *(str(HERE.parent / name) for name in ("model", "store", "writer"))]
sys.path[:0] = [each for each in FOLDERS if each not in sys.path]
