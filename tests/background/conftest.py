"""Runs whose snapshots are taken in the background."""

import time

import pytest
import torch

import ciuic
from ciuic.capture.copying import Copy


@pytest.fixture
def opened():
    """``opened(repository or manager)`` registers it to be closed at the end of the test."""
    made = []
    yield lambda each: made.append(each) or each
    for each in made:
        each.close()


@pytest.fixture
def repo(tmp_path, opened):
    return opened(ciuic.Repo.init(tmp_path / "run", chunk_size=4096))


@pytest.fixture
def slow_copy(monkeypatch):
    """Every ordered tensor takes a while to copy, so that whoever does not wait for it is caught."""
    plain = Copy._copy

    def slowly(self, leaf):
        plain(self, leaf)
        if leaf in self._later:
            time.sleep(0.002)

    monkeypatch.setattr(Copy, "_copy", slowly)


@pytest.fixture
def train():
    """``train(model, optimizer)``: one step on new random data."""

    def step(model, optimizer, inputs=64):
        optimizer.zero_grad()
        model(torch.randn(8, inputs)).square().mean().backward()
        optimizer.step()

    return step


@pytest.fixture
def warnings_of(caplog):
    """The log warnings since the last call."""

    def take():
        messages = [record.getMessage() for record in caplog.records if record.name == "ciuic"]
        caplog.clear()
        return messages

    return take
