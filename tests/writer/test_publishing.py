"""What a writer process publishes is what a waiting commit would have."""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from trainers import Slot, check, running, state, steps

import ciuic
from ciuic.capture.placed import Placed
from ciuic.errors import RefConflict, UnsupportedState, WriterFailed
from ciuic.history.following import Position
from ciuic.objects.state_tree import Container, Value
from ciuic.writer.process import Writer


class Held:
    """A TensorSource over the bytes of a slot."""

    stable = False

    def __init__(self, data):
        self.data, self.nbytes = data, len(data)

    def read(self, start, stop):
        return self.data[start:stop]


def held(node, data):
    if isinstance(node, Container):
        return Container(node.kind, tuple((key, held(child, data)) for key, child in node.items))
    if isinstance(node, Value):
        return node
    place: Placed = node.source
    return replace(node, source=Held(data[place.offset : place.offset + place.nbytes]))


def test_a_snapshot_equals_a_waiting_commits(trainer, repo, path, tmp_path):
    """The same trees, the same words; and the answer is what the repository says."""
    one = trainer()
    pending = one.submit(7)
    assert pending.staged(60) and pending.exception(60) is None
    snapshot = pending.result()
    other = ciuic.Repo.init(tmp_path / "other", chunk_size=4096)
    data, components = state(7)
    waited = other.commit_components(
        {name: held(node, data) for name, node in components.items()},
        ("model", "extra"),
        step=7,
        message="step 7",
        metrics={"loss": 0.5},
        config={"lr": 0.1, "betas": (0.9, 0.99)},
    )
    assert snapshot == repo.resolve("main") and snapshot.id == repo.resolve("main").id
    for field in ("tree", "step", "message", "metrics", "config", "contains", "raw_bytes", "parents"):
        assert getattr(snapshot, field) == getattr(waited, field), field
    assert snapshot.timestamp.microsecond == 7 and snapshot.cost["call"] == 0.25
    assert repo.reflog("main")[0].action == "commit: step 7"
    one.finish()
    check(repo)


def test_jobs_publish_in_order(trainer, repo, warnings_of):
    """Each has the one before it as its parent, and the trainer is told where the branch is."""
    one = trainer()
    pendings = [one.submit(step) for step in range(12)]
    snapshots = [pending.result(60) for pending in pendings]
    assert [snapshot.parents for snapshot in snapshots] == [(), *((each.id,) for each in snapshots[:-1])]
    assert steps(repo) == list(range(11, -1, -1)) and list(repo.branches()) == ["main"]
    assert [position.parent for position in one.positions] == [snapshot.id for snapshot in snapshots]
    one.finish()
    assert one.counts == {"published": 12} and warnings_of() == []
    check(repo)


def test_a_slot_is_used_again_and_grows(trainer, repo):
    """Its mapping is kept from job to job; another piece of memory has another key."""
    one = trainer()
    slots = [Slot(1 << 16), Slot(1 << 16)]
    for step in range(6):
        assert one.submit(step, slot=slots[step % 2]).result(60).step == step
    assert [slot.released for slot in slots] == [3, 3]
    larger = [Slot(1 << 20) for _ in range(6)]
    for step in range(6, 12):
        one.submit(step, slot=larger[step - 6], size=1 << 18).result(60)
    maps = Path(f"/proc/{one.writer.pid}/maps").read_text().count("memfd:ciuic-writer")
    assert maps <= 4, "old mappings go"
    one.submit(12, slot=slots[0]).result(60)
    one.writer.close(60)
    for slot in slots + larger:
        os.close(slot.descriptor)
    assert steps(repo) == list(range(12, -1, -1))


def test_a_position_sends_a_job_elsewhere(trainer, repo, warnings_of):
    """After a restore of an older snapshot the writer leaves the branch, and the trainer hears of it."""
    one = trainer()
    first = one.submit(1).result(60)
    one.submit(2).result(60)
    one.submit(11, position=Position(None, "main", first.id, one.positions[-1].head)).result(60)
    one.submit(12).result(60)
    assert steps(repo, "main") == [2, 1] and steps(repo, "main-step-1") == [12, 11, 1]
    assert one.positions[-1].branch == "main-step-1" and repo.head().branch == "main-step-1"
    one.finish()
    assert "goes on on the new branch main-step-1" in "\n".join(warnings_of())


def test_a_lost_race_is_told_by_the_trainer(trainer, repo, path, warnings_of, caplog):
    """Another process moves the branch: this run goes on on a branch of its own, and says so where people look."""
    one = trainer()
    one.submit(1).result(60)
    ciuic.Repo(path).commit_components({"extra": Value(1)}, (), step=100)
    one.submit(2).result(60)
    one.submit(3).result(60)
    assert steps(repo, "main-step-1") == [3, 2, 1]
    assert [record.name for record in caplog.records] == ["ciuic"] and caplog.records[0].levelno == logging.WARNING
    assert "Another process has moved main" in warnings_of()[0]
    one.finish()


def test_two_writers_on_one_repository(trainer, repo):
    """Both runs go on, each on its own line; nothing is lost."""
    both = [trainer(), trainer()]
    empty = Position("main", "main", None, None)
    pendings = [
        one.submit(step + 100 * number, position=None if step else empty)
        for step in range(6)
        for number, one in enumerate(both)
    ]
    for pending in pendings:
        pending.result(60)
    assert {snapshot.step for snapshot in repo.log_all()} == {*range(6), *range(100, 106)}
    assert len(repo.branches()) == 2
    for one in both:
        one.finish()
    check(repo)


def test_a_snapshot_that_changes_nothing(trainer, warnings_of):
    """Is made all the same, and said and counted: it may be that the wrong model is being saved."""
    one = trainer()
    slot = Slot(1 << 16)
    one.submit(3, slot=slot).result(60)
    one.submit(3, slot=slot).result(60)
    os.close(slot.descriptor)
    one.writer.close(60)
    assert one.counts == {"published": 2, "unchanged": 1}
    assert warnings_of() == ["The snapshot of step 3 equals its parent: nothing has changed since."]


def test_what_cannot_be_stored_fails_and_the_next_job_goes_on(trainer, repo, warnings_of):
    """With the error that a waiting commit raises, from here and from the other side."""
    one = trainer()
    slot = Slot(64)
    one.slots.append(slot)
    one.submit(1).result(60)
    for node in (Value(object()), Container("dict", (("\ud800", Value(1)),))):
        pending = submit_tree(one, slot, node)
        assert isinstance(pending.exception(60), UnsupportedState)
    last = one.submit(2).result(60)
    assert last.parents == (repo.resolve("main~1").id,) and steps(repo) == [2, 1]
    one.finish()
    assert one.counts == {"published": 2, "failed": 2} and len(warnings_of()) == 2


def submit_tree(one, slot, node):
    from datetime import datetime, timezone

    from ciuic.commit.pipeline import Details
    from ciuic.writer.pending import PendingSnapshot
    from ciuic.writer.process import Job

    pending = PendingSnapshot(5)
    details = Details(step=5, timestamp=datetime.now(timezone.utc))
    one.writer.submit(
        Job(pending, details, "commit", {"extra": node}, slot.descriptor, 64, slot.key, None, slot.release)
    )
    one.jobs += 1
    return pending


def test_a_slot_that_is_smaller_than_it_is_said_to_be(trainer, repo):
    """Is refused rather than read beyond its end, which would kill the process."""
    one = trainer()
    slot = Slot(4096)
    os.ftruncate(slot.descriptor, 16)
    one.slots.append(slot)
    assert "smaller" in str(submit_tree(one, slot, Value(1)).exception(60))
    assert one.submit(2).result(60).step == 2
    one.finish()
    assert one.counts == {"published": 1, "failed": 1}


def test_a_repository_that_is_gone(trainer, repo, path, tmp_path):
    """The typed error of the other side comes out here."""
    one = trainer()
    (path / "format").rename(tmp_path / "format")
    assert isinstance(one.submit(1).exception(60), ciuic.NotARepository)
    (tmp_path / "format").rename(path / "format")
    assert one.submit(2).result(60).step == 2
    one.finish()


def test_the_process_knows_no_torch_and_stays_off_the_current_folder(trainer, repo, tmp_path, monkeypatch):
    """Modules in the current folder, and in a folder of the trainer's path, shadow nothing; neither does PYTHONPATH."""
    for name in ("lmdb", "blake3", "zstandard", "queue", "channel", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":.")
    one = trainer()
    one.submit(1).result(60)
    maps = Path(f"/proc/{one.writer.pid}/maps").read_text()
    assert "torch" not in maps
    assert os.readlink(f"/proc/{one.writer.pid}/cwd") == "/"
    one.finish()


@pytest.mark.parametrize(("priority", "nice"), [("normal", 0), ("low", 19)])
def test_low_priority(trainer, priority, nice):
    """The threads that store are nice, and where the kernel shares the CPU out among sessions, so is theirs: the writer
    took half of a training's CPU, however nice it was within its own session.
    """
    one = trainer(priority=priority)
    one.submit(1).result(60)
    assert os.getpriority(os.PRIO_PROCESS, one.writer.pid) == nice
    group = Path(f"/proc/{one.writer.pid}/autogroup")
    told = group.read_text().split() if group.exists() else []
    assert told[1:] in ([], ["nice", str(nice)])
    one.finish()


@pytest.mark.parametrize("command", [["/no/such/program"], [""], [sys.executable, "-c", "import os; os._exit(3)"]])
def test_a_writer_that_does_not_start(trainer, command, warnings_of):
    """The jobs fail, the slots are free, and training goes on; the trainer can read why."""
    one = trainer(start_up=command)
    one.writer.start()
    pendings = [one.submit(step) for step in range(3)]
    assert all(isinstance(pending.exception(60), WriterFailed) for pending in pendings)
    one.finish()
    assert one.counts["failed"] == 3
    assert any("cannot be started" in each or "exit code 3" in each for each in warnings_of())


def test_after_close(trainer, repo):
    """Closing again does nothing; a job that comes too late fails."""
    one = trainer()
    one.writer.start()
    pending = one.submit(1)
    one.writer.close(60)
    assert pending.result(0).step == 1
    one.writer.close(60)
    one.writer.close(0)
    assert isinstance(one.submit(2).exception(0), WriterFailed) and one.writer.wait(0)
    one.finish()


def test_closing_what_never_started(repo, path):
    """No process, no thread."""
    writer = Writer(str(path), moved=print, count=print)
    assert writer.wait(0) and writer.pid is None
    writer.close(0)


def test_errors_find_their_class():
    """By their kind; what is none of ours is a BackgroundError."""
    from ciuic.writer.wire import error_fields, error_of

    error = error_of(*error_fields(RefConflict("who")))
    assert type(error) is RefConflict and str(error) == "who"
    assert type(error_of(*error_fields(ZeroDivisionError("x")))) is ciuic.errors.BackgroundError
    assert "ZeroDivisionError: x" in str(error_of(*error_fields(ZeroDivisionError("x"))))


def test_nothing_is_left(trainer, repo):
    """No process, no descriptor."""
    from trainers import descriptors

    trainer().finish()
    before = descriptors()
    one = trainer(priority="low")
    for step in range(3):
        one.submit(step)
    pid = one.writer.pid
    one.finish()
    for slot in one.slots:
        os.close(slot.descriptor)
    one.slots = []
    assert descriptors() == before
    assert pid is None or not running(pid)
