"""Retention is tested on the store alone: no torch, tiny states, in memory where the machine has a folder for that."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where a sync costs nothing, if there is one."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("retention")
        return
    folder = Path(tempfile.mkdtemp(prefix="ciuic-retention-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
