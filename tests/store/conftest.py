"""Every test of the store gets a repository of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from ministore import Trainer


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer on a new repository with chunks of 4 KiB."""
    return Trainer.create(tmp_path / "repo")
