"""Retention beside a run: what it protects, when it collects, how it makes room, and that its failures harm nothing."""

from __future__ import annotations

import errno
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from runs import Run, whole

from ciuic.errors import Pruned
from ciuic.repo import Repo
from ciuic.retention import engine
from ciuic.retention import review as review_module
from ciuic.retention.applying import FEW, record_prunes
from ciuic.retention.policies import KeepLast
from ciuic.retention.reading import Reader
from ciuic.retention.review import review
from ciuic.store.fs import FileSystem, typed_errors
from ciuic.store.gc import collect, repack
from ciuic.store.reflog import SLOT
from ciuic.store.store import Store
from ciuic.testing.recording import EffectLog, read_log, recording

ALL = frozenset("*")


def steps(run: Run) -> list[int]:
    """Those that have their state."""
    with run.store.shared():
        history = Reader(run.store).history()
        return sorted(history.snapshots[id].step or 0 for id in history.whole())


def prune(run: Run) -> None:
    """As after a snapshot, on main."""
    run.retention._branch = "main"
    run.retention._prune(run.following.position.parent)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten snapshots, and no policy yet."""
    made = Run(tmp_path / "repo")
    made.ids = [made.commit(step) for step in range(10)]  # type: ignore[attr-defined]
    return made


def test_many_prunes_are_one_write(run: Run) -> None:
    """Not a sync each; few are appended. Either way each has its record, and all are in the log's order."""
    snapshots = run.ids  # type: ignore[attr-defined]
    path = Path(run.path, "prunes")
    record_prunes(run.store, {each.id: ALL for each in snapshots[:2]}, 1.0)
    before = path.stat().st_ino
    record_prunes(run.store, {snapshots[2].id: ALL}, 1.0)
    assert path.stat().st_ino == before and path.stat().st_size == 3 * SLOT
    record_prunes(run.store, {each.id: frozenset(("model", "optimizer")) for each in snapshots[3 : 4 + FEW]}, 1.0)
    assert path.stat().st_ino != before and path.stat().st_size == (3 + 2 * (FEW + 1)) * SLOT
    prunes = Store(run.path).refs.prunes()
    assert prunes == run.store.refs.prunes()
    assert [len(prunes[each.id]) for each in snapshots[: 4 + FEW]] == [1, 1, 1] + [2] * (FEW + 1)


@pytest.mark.parametrize("number", [FEW, 2 * FEW])
def test_what_is_named_meanwhile_is_spared(run: Run, number: int) -> None:
    """Between the choice and its records somebody tags a snapshot, goes to one, or makes a branch there: what had been
    chosen was given up all the same, a tag that had just been acknowledged among it."""
    ids = [each.id for each in run.ids[:number]]  # type: ignore[attr-defined]
    repo = Repo(run.path)
    repo.tag("kept", ids[-1])
    repo.branch("from-here", ids[-2])
    repo.switch(ids[-3])
    going = record_prunes(run.store, dict.fromkeys(ids, ALL), 1.0)
    assert set(going) == set(run.store.refs.prunes()) == set(ids[:-3])


def test_a_review_says_what_was_spared(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its time, and what it tells is what it has done."""
    third = run.ids[3]  # type: ignore[attr-defined]
    looked = review_module._collected

    def tagged_meanwhile(*arguments: Any) -> Any:
        run.tag("late", third)
        return looked(*arguments)

    monkeypatch.setattr(review_module, "_collected", tagged_meanwhile)
    report = review(run.store, [KeepLast(2)], dry_run=False)
    assert [each.step for each, _ in report.kept] == [9, 8, 3] and third.id not in run.store.refs.prunes()
    assert [each.step for each, _ in report.pruned] == [7, 6, 5, 4, 2, 1, 0]


def test_collected_snapshots_are_noted_in_one_write(tmp_path: Path) -> None:
    """gc's own records, for dead snapshots in a pack that stays, once were a sync each, under the exclusive lock."""
    (tmp_path / "disk").mkdir()
    run = Run(tmp_path / "disk" / "repo")
    ids = [run.commit(step).id for step in range(40)]
    repack(run.store)
    run.store.refs.set("refs/heads/main", ids[36], "reset")
    log = EffectLog(tmp_path / "log", tmp_path / "disk")
    with recording(log):
        collect(run.store, expire=timedelta(0))
    log.close()
    assert run.store.refs.buried() == {*ids[37:]}
    effects = read_log(tmp_path / "log")
    assert [effect.name for effect in effects if "repo/prunes" in (effect.path, effect.target)] == ["rename"]


def test_the_state_of_a_pruned_snapshot_is_gone_and_its_place_is_not(run: Run) -> None:
    """Restoring it is a typed error; its step and metrics are in the log; ids are as they were."""
    review(run.store, [KeepLast(2)], dry_run=False)
    collect(run.store)
    first = run.ids[0]  # type: ignore[attr-defined]
    assert isinstance(run.contents(first), Pruned)
    assert run.contents(run.ids[9]) == whole(9)  # type: ignore[attr-defined]
    with run.store.shared():
        assert Reader(run.store).history().snapshots[first.id].metrics == first.metrics


def test_the_parent_of_a_running_trainer_stays(run: Run) -> None:
    """Also when it is no branch's tip: a run that went back has it as its next parent."""
    third = run.ids[3]  # type: ignore[attr-defined]
    run.following.restored(third, "main")
    run.retention = engine.Retention(run.store, [KeepLast(1)])
    prune(run)
    assert steps(run) == [3, 9]


def test_a_stricter_run_prunes_its_own_branch(run: Run) -> None:
    """Two trainers, each with its own policies: the one that keeps a single snapshot took the other one's, too."""
    stricter = Run(run.path, ["keep-last=1"])
    stricter.following.restored(run.ids[4], "main")  # type: ignore[attr-defined]
    for step in range(20, 25):
        stricter.commit(step)
    assert steps(run) == [*range(10), 24]
    run.retention = engine.Retention(run.store, [KeepLast(1000)])
    run.commit(10)
    assert steps(run) == [*range(11), 24]
    run.retention = engine.Retention(run.store, [KeepLast(3)])
    run.commit(11)
    assert steps(run) == [0, 1, 2, 3, 4, 9, 10, 11, 24]  # what both come from, neither gives up
    review(run.store, [KeepLast(3)], dry_run=False)
    assert steps(run) == [3, 4, 9, 10, 11, 24]


def test_the_newest_intact_snapshot_stays_when_the_tip_is_damaged(run: Run) -> None:
    """A tip that lost its pack is no snapshot to go back to: the one before it is kept beside it."""
    tip = run.ids[9]  # type: ignore[attr-defined]
    with run.store.shared():
        tree = bytes.fromhex(tip.tree["model"])
        place = run.store.place(tree)
        assert place is not None
        snapshot_pack = run.store.place(bytes.fromhex(tip.id))
    path = Path(run.path, "packs", f"{place.pack}.pack")
    data = bytearray(path.read_bytes())
    payload = next(iter(whole(9)["model/w"][2:]))
    at = data.find(payload[:64])
    data[at + 100] ^= 1
    path.write_bytes(data)
    assert snapshot_pack is not None
    report = review(Store(run.path), [KeepLast(1)], dry_run=False)
    assert [(each.step, why) for each, why in report.kept] == [
        (9, ("HEAD", "keep-last=1")),
        (8, ("newest intact of main",)),
    ]


def test_a_reader_in_the_way_means_later(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """No word is lost about it, nothing is pruned, and the next snapshot's turn makes it good."""
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_S", 0.01)
    run.retention = engine.Retention(run.store, [KeepLast(1)])
    with Store(run.path).shared():
        run.retention._guarded(lambda: prune(run))
        assert len(steps(run)) == 10
    run.commit(10)
    assert steps(run) == [10] and caplog.records == []


def test_it_collects_when_there_is_enough_to_gain(run: Run) -> None:
    """Not after each snapshot: a share of what stays has to be garbage, and the last collection some time ago."""
    run.retention = engine.Retention(run.store, [KeepLast(8)])
    run.commit(10)
    assert run.retention.collections == 1  # three of ten
    run.commit(11)
    assert run.retention.collections == 1 and steps(run) == [*range(4, 12)]
    run.retention.finish(600)
    assert run.retention.collections == 2


def test_the_more_garbage_the_more_time(run: Run) -> None:
    """A run that saves faster than a tenth of its time collects left more and more: 146 MiB of what should be 5."""
    run.retention = engine.Retention(run.store, [KeepLast(2)])
    prune(run)
    ended = time.monotonic() - 2000
    for garbage, collections in ((0.8, 0), (4.0, 1)):
        run.retention._took, run.retention._ended = 1000.0, ended  # a third of the time
        run.retention._garbage = int(run.pack_bytes() * garbage / (1 + garbage))
        run.retention._collect_if_due()
        assert run.retention.collections == collections


def test_a_collection_gives_way_to_a_snapshot_that_waits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice; then it is done all the same."""
    monkeypatch.setattr(engine, "PATIENCE_S", -1.0)
    run.retention = engine.Retention(run.store, [KeepLast(2)], waiting=lambda: True)
    prune(run)
    before = run.pack_bytes()
    for collections in (0, 0, 1):
        run.retention._collect()
        assert run.retention.collections == collections
    assert run.pack_bytes() < before / 2


def test_no_time_at_the_end_leaves_it_to_the_next_run(run: Run, caplog: Any) -> None:
    """Nothing is half done, and it is said: a run's end left many times what its policies keep, in silence."""
    run.retention = engine.Retention(run.store, [KeepLast(2)])
    prune(run)
    before = run.pack_bytes()
    run.retention.finish(-1.0)
    assert run.retention.collections == 0 and run.pack_bytes() == before
    assert "of what retention let go is not collected yet" in caplog.text and "`ciuic gc`" in caplog.text
    assert "Collecting what" not in caplog.text
    again = Run(run.path, ["keep-last=2"])
    again.commit(10)
    collect(again.store)
    assert steps(again) == [9, 10] and again.contents(again.commit(11)) == whole(11)


def test_an_end_that_takes_its_time_says_why(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A program that seems to hang at its end would be killed."""
    monkeypatch.setattr(engine, "SILENCE_S", -1.0)
    run.retention = engine.Retention(run.store, [KeepLast(2)])
    prune(run)
    run.retention.finish(600)
    assert run.retention.collections == 1
    assert [each.getMessage() for each in caplog.records if "Collecting what retention let go" in each.getMessage()]


class SmallDisk(FileSystem):
    """So many bytes for packs and logs, and no more."""

    def __init__(self, root: Path, capacity: int) -> None:
        self.root, self.capacity = root, capacity

    def free_bytes(self, path: str) -> int:
        used = sum(
            os.stat(os.path.join(folder, name)).st_size
            for folder, _, names in os.walk(self.root)
            for name in names
            if os.path.basename(folder) in ("packs", "tmp", "trash")
        )
        return max(0, self.capacity - used)

    def write(self, descriptor: int, buffers: list[Any], path: str) -> int:
        if sum(len(memoryview(each).cast("B")) for each in buffers) > self.free_bytes(path):
            with typed_errors(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, buffers, path)


def test_room_is_made_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """First by collecting, then by giving up the oldest of what the policies would keep, with a warning that names it.

    Twenty times what the disk takes is saved, not one snapshot fails, and the newest is always there.
    """
    monkeypatch.setattr("ciuic.retention.forecast.MARGIN_BYTES", 100_000)
    disk = SmallDisk(tmp_path / "repo", 600_000)
    run = Run(tmp_path / "repo", ["keep-last=1000"], disk, nbytes=30_000)
    with caplog.at_level(logging.WARNING, "ciuic"):
        for step in range(40):
            snapshot = run.commit(step)
            assert run.contents(snapshot) == whole(step, 30_000)
    left = steps(run)
    assert left == [*range(left[0], 40)] and left[0] > 0
    assert "The disk is nearly full" in caplog.text and "Free some space, or keep less" in caplog.text


def test_a_full_disk_and_a_reader_in_the_way_give_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be freed, so each round gave up as much again, until hardly a snapshot was left."""
    monkeypatch.setattr("ciuic.retention.forecast.MARGIN_BYTES", 100_000)
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_S", 0.01)
    disk = SmallDisk(tmp_path / "repo", 10_000_000)
    run = Run(tmp_path / "repo", [], disk, nbytes=30_000)
    for step in range(10):
        tip = run.commit(step)
    disk.capacity = disk.capacity - disk.free_bytes(run.path) + 150_000
    run.retention = engine.Retention(run.store, [KeepLast(1000)])
    with Store(run.path).shared():
        for _ in range(3):
            run.retention.make_room(60_000, tip.id, "main", full=True)
    assert steps(run) == [*range(10)]
    run.retention.make_room(60_000, tip.id, "main", full=True)
    assert steps(run) != [*range(10)] and steps(run)[-1] == 9


def test_without_policies_nothing_is_ever_given_up(tmp_path: Path) -> None:
    """A full disk is then for a person."""
    import ciuic

    disk = SmallDisk(tmp_path / "repo", 300_000)
    run = Run(tmp_path / "repo", [], disk, nbytes=30_000)
    with pytest.raises(ciuic.StorageFull):
        for step in range(40):
            run.commit(step)
    assert not Path(run.path, "prunes").exists()


def test_what_goes_wrong_is_said_once_and_harms_no_snapshot(run: Run, caplog: Any) -> None:
    """A damaged log: nothing is pruned, snapshots go on, one line tells."""
    path = Path(run.path, "prunes")
    record_prunes(run.store, {each.id: ALL for each in run.ids[:3]}, 1.0)  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[SLOT + 100] ^= 1
    path.write_bytes(data)
    run.retention = engine.Retention(run.store, [KeepLast(1)])
    with caplog.at_level(logging.WARNING, "ciuic"):
        run.commit(10)
        run.commit(11)
    assert [record.getMessage()[:42] for record in caplog.records] == ["Retention: nothing was pruned or collected"]


class Broken(KeepLast):
    """A policy with a mistake in it."""

    def keeps(self, line: Any) -> Any:
        raise KeyError("loss")


def test_a_mistake_in_a_policy_harms_no_snapshot(run: Run, caplog: Any) -> None:
    """The same: the snapshot is there, and the log says what went wrong."""
    run.retention = engine.Retention(run.store, [Broken(1)])
    with caplog.at_level(logging.WARNING, "ciuic"):
        assert run.contents(run.commit(10)) == whole(10)
    assert len(steps(run)) == 11
    assert "nothing was pruned or collected. KeyError: 'loss'" in caplog.text
