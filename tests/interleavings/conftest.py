"""Actors on a clock of their own; the machinery of the store's tests and of the model serves here too."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDERS = [str(each) for each in (HERE, HERE.parent / "model", HERE.parent / "store")]
sys.path[:0] = [each for each in FOLDERS if each not in sys.path]

from schedule import Clock  # noqa: E402


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Whoever waits for a lock does so in steps of the schedule, not in seconds; and forks bother nobody.

    What keeps forks from a process's other threads is one process's: an actor that stopped with it stopped them all.
    """
    clock = Clock()
    monkeypatch.setattr("ciuic.store.locks.time", clock)
    monkeypatch.setattr("ciuic.store.locks.no_fork", contextlib.nullcontext)
    return clock
