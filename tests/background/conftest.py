"""Runs whose snapshots are taken in the background."""

import sys
import time
from pathlib import Path

import pytest
import torch

import ciuic
from ciuic.capture.copying import Copy

STORE = str(Path(__file__).parent.parent / "store")
if STORE not in sys.path:
    sys.path.append(STORE)  # small_disk


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


class SlowCopy:
    """Copies stop half-way until a step waits for them, or for a moment; while ``held``, until it is set to False."""

    held = False

    def pause(self, copy):
        until = time.monotonic() + 0.05
        while self.held or (copy._held_since is None and time.monotonic() < until):
            time.sleep(0.001)


@pytest.fixture
def slow_copy(monkeypatch):
    """Whoever does not wait for a copy under way is caught."""
    plain, slow = Copy._copy, SlowCopy()

    def slowly(self, item):
        if self._later[1:] and item is self._later[1]:
            slow.pause(self)
        plain(self, item)

    monkeypatch.setattr(Copy, "_copy", slowly)
    return slow


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
