"""Statistics: what snapshots said when they were written, summed up, and codecs of the future."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import ciuic
from ciuic.objects.encoding import decode, encode
from ciuic.objects.ids import Kind, digest, object_id
from ciuic.objects.snapshot import COSTS, Snapshot, Storage, encode_snapshot
from ciuic.store.store import Store

NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)


@pytest.fixture
def place(tmp_path: Path) -> str:
    ciuic.Repo.init(tmp_path / "run")
    return str(tmp_path / "run")


def publish(place: str, storage: Storage | None, **changes: Any) -> str:
    """A snapshot on main as a writer leaves it; None for one from before storage was counted."""
    repo, store = ciuic.Repo(place), Store(place)
    tip = repo.branches().get("main")
    values: dict[str, Any] = {
        "id": "", "step": 1, "epoch": None, "timestamp": NOW, "message": "", "metrics": {}, "config": {},
        "parents": (tip,) if tip else (), "tree": {"model": "0" * 64, "optimizer": "1" * 64}, "contains": (),
        "raw_bytes": {"model": 1000, "optimizer": 2000}, "added_bytes": 0, "storage": storage or {}, **changes,
    }  # fmt: skip
    raw = encode_snapshot(Snapshot(**values))
    if storage is None:
        raw = encode({name: value for name, value in decode(raw).items() if name != "storage"})
    id = object_id(Kind.SNAPSHOT, raw)
    with store.shared():
        session = store.new_packs()
        session.add(Kind.SNAPSHOT, id, raw, codec=0, raw_length=len(raw))
        store.index_commit(session.publish(), {})
        store.move_ref("refs/heads/main", id.hex(), "commit")
    return id.hex()


FIRST: Storage = {"weights": {"planes": (1000, 800)}, "first moment": {"raw": (1000, 1000)}}
SECOND: Storage = {
    "other": {"identical": (50, 0)},
    "weights": {"delta": (700, 200), "raw": (100, 100), "planes": (200, 150)},
    "first moment": {"raw": (1000, 1000)},
    "second moment": {"spline": (9, 3), "predicted": (991, 2)},
}


def test_a_repository_that_is_new(place: str) -> None:
    """Nothing to sum up."""
    stats = ciuic.Repo(place).stats()
    assert (stats.saving, stats.silent) == ({}, 0)


def test_the_saving_is_the_sum_over_the_snapshots(place: str) -> None:
    """Raw and stored by part and kind, in the order in which people expect them, names of the future last."""
    publish(place, FIRST)
    publish(place, SECOND)
    saving = ciuic.Repo(place).stats().saving
    assert saving == {
        "weights": {"delta": (700, 200), "planes": (1200, 950), "raw": (100, 100)},
        "first moment": {"raw": (2000, 2000)},
        "second moment": {"predicted": (991, 2), "spline": (9, 3)},
        "other": {"identical": (50, 0)},
    }
    assert list(saving) == ["weights", "first moment", "second moment", "other"]
    assert [list(kinds) for kinds in saving.values()] == [
        ["delta", "planes", "raw"], ["raw"], ["predicted", "spline"], ["identical"],
    ]  # fmt: skip


def test_old_snapshots_are_read_and_counted(place: str) -> None:
    """Those that do not say how they are stored; one that holds nothing has nothing to say."""
    publish(place, None)
    publish(place, FIRST)
    publish(place, None)
    publish(place, {}, raw_bytes={}, tree={})
    stats = ciuic.Repo(place).stats()
    assert (stats.snapshots, stats.silent, stats.saving) == (4, 2, FIRST)


def test_a_snapshot_that_two_branches_share_counts_once(place: str) -> None:
    """As its raw bytes do; one that nothing reaches does not count."""
    shared = publish(place, FIRST)
    repo = ciuic.Repo(place)
    repo.branch("other")
    publish(place, SECOND)
    repo.reset("other")
    stats = repo.stats()
    assert (stats.snapshots, stats.saving) == (1, FIRST)
    assert repo.head().snapshot == shared


def test_what_is_pruned_whole_counts_no_more(place: str) -> None:
    """In part: it counts as it was written."""
    pruned, partly, old = publish(place, FIRST), publish(place, SECOND), publish(place, None)
    repo = ciuic.Repo(place)
    for id in (pruned, old):
        repo.prune(id)
    repo.prune(partly, "optimizer")
    stats = repo.stats()
    assert (stats.pruned, stats.silent, stats.raw_by_component) == (3, 0, {"model": 1000})
    assert stats.saving == SECOND


def test_a_codec_of_the_future_has_a_number_for_a_name(place: str) -> None:
    """Chunks in a codec that this version does not know are counted all the same."""
    store = Store(place)
    with store.shared():
        session = store.new_packs()
        for codec, raw in ((0, b"known"), (200, b"from the future"), (200, b"one more")):
            session.add(Kind.CHUNK, digest(raw), raw[:3], codec=codec, raw_length=len(raw))
        store.index_commit(session.publish(), {})
    assert ciuic.Repo(place).stats().by_codec == {"raw": (5, 3), "codec 200": (23, 6)}


def test_the_check_is_a_cost(place: str) -> None:
    """Between encoding and writing; snapshots that do not have it are summed up without."""
    publish(place, FIRST, cost={"write": 4.0, "check": 3.0, "encode": 2.0})
    publish(place, FIRST, cost={"write": 1.0, "encode": 2.0})
    repo = ciuic.Repo(place)
    assert list(repo.resolve("HEAD~").cost) == ["encode", "check", "write"] == list(COSTS[-3:])
    costs = repo.stats().costs
    assert {name: cost.snapshots for name, cost in costs.items()} == {"encode": 2, "check": 1, "write": 2}
