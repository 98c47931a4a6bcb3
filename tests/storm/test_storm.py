"""P1 to P4, P8: two trainers, gc and readers on one repository, killed again and again. STORM_KILLS says how often."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from handle import Handle
from ledger import Ledger, Reading, digest

from ciuic.errors import MissingObject, Pruned
from ciuic.store.locks import is_held

KILLS = int(os.environ.get("STORM_KILLS", 200))
ROUNDS = -(-KILLS // 250)
"""Each on a repository of its own, so that a long storm does not spend its time with reading a long history."""
SEED = int(os.environ.get("CIUIC_SEED", 0))
HERE = Path(__file__).parent


def writers_have_ended(handle: Handle) -> bool:
    """Those of trainers that were killed: each finishes what it was given, and goes."""
    folder = handle.store.join("tmp")
    return not any(is_held(handle.store.fs, os.path.join(folder, name)) for name in os.listdir(folder))


def reachable(handle: Handle) -> set[str]:
    """From any record of any log."""
    stack = [value for values in handle.logs().values() for value in values if len(value) == 64]
    found: set[str] = set()
    while stack:
        id = stack.pop()
        if id not in found:
            found.add(id)
            stack += handle.parents(id)
    return found


def everything_is_there(handle: Handle, known: Reading) -> None:
    reached = reachable(handle)
    for id, saved in known.saved.items():
        try:
            found = handle.load(id)
        except (Pruned, MissingObject):
            assert id in known.freed
        else:
            assert digest(found) == saved
        assert id in reached or id in known.freed


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kills(folder: Path, record_property: pytest.RecordProperty, number: int) -> None:
    """Every acknowledged commit is there and comes back bit for bit, fsck is clean, and nothing is left behind."""
    handle = Handle.create(str(folder / "repo"))
    kills = -(-KILLS // ROUNDS)
    program = [sys.executable, "-W", "error", str(HERE / "storm.py"), str(folder), str(kills), str(SEED + number)]
    ended = subprocess.run(
        program, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=False
    )
    assert ended.returncode == 0, ended.stderr
    known = Ledger(str(folder / "ledger")).read()
    assert known.counts["killed"] >= kills
    assert all(known.counts[what] for what in ("saved", "frees", "swept", "looked"))
    while not writers_have_ended(handle):
        time.sleep(0.05)
    report = handle.fsck()
    assert report.ok, report.problems
    everything_is_there(handle, known)
    handle.gc(expire=True)
    everything_is_there(handle, known)
    assert [os.listdir(handle.store.join(folder)) for folder in ("tmp", "trash", "quarantine")] == [[], [], []]
    report = handle.fsck()
    assert report.ok, report.problems
    figures = dict(known.counts)
    record_property("storm", figures)
    print(f"seed {SEED + number}: {figures}, {len(known.saved) - len(known.freed)} snapshots kept, none lost")
