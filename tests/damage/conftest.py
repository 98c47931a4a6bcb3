"""A small repository for each test, to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from smallrepo import Small, build, copied


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Not to be written to."""
    return build(tmp_path_factory.mktemp("intact") / "repo")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Another repository with the same branches and steps. Not to be written to."""
    return build(tmp_path_factory.mktemp("foreign") / "repo", seed=1)


@pytest.fixture
def small(intact: Small, tmp_path: Path) -> Small:
    return copied(intact, tmp_path / "repo")
