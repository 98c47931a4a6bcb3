"""The machinery of the store's, the model's and the writer's tests serves here too; a place in memory."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDERS = [str(HERE), *(str(HERE.parent / name) for name in ("model", "store", "writer"))]
sys.path[:0] = [each for each in FOLDERS if each not in sys.path]
MEMORY = "/dev/shm"


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a file system without a disk, where there is one: who is killed loses nothing that was written."""
    folder = tempfile.mkdtemp(prefix="ciuic-storm-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)
