"""Repositories of small plain states: what happens to refs needs no model."""

import pytest

import ciuic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def repo(path):
    return ciuic.Repo.init(path, chunk_size=4096)


@pytest.fixture
def commit():
    """``commit(repo, step)``: a snapshot whose extra says its step."""
    return lambda repo, step, **details: repo.commit(extra={"at": step}, step=step, rng=False, **details)


@pytest.fixture
def warnings_of(caplog):
    """The log warnings since the last call."""

    def take():
        messages = [record.getMessage() for record in caplog.records if record.name == "ciuic"]
        caplog.clear()
        return messages

    return take
