"""The recorded lives, and a place in memory for what the disk may hold after them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import histories
import pytest

MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder on a file system without a disk, where there is one."""
    folder = tempfile.mkdtemp(prefix="ciuic-crash-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def trained(memory: Path) -> histories.History:
    return histories.record(histories.trained, memory / "trained")


@pytest.fixture(scope="session")
def plain(memory: Path) -> histories.History:
    return histories.record(histories.plain, memory / "plain")
