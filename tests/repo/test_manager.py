"""``SnapshotManager``: when it saves, and what it does when it cannot."""

import inspect
import logging
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

import ciuic
from ciuic.snapshot import Snapshot, SnapshotManager


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Every manager of a test is closed at its end."""
    made = []
    original = SnapshotManager.__init__

    def remember(self, *arguments, **options):
        original(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(SnapshotManager, "__init__", remember)
    yield
    for manager in made:
        manager.repo.close()


def saved(manager):
    return [snapshot.step for snapshot in manager.snapshots()][::-1]


@pytest.mark.parametrize(("interval", "expected"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [2, 5]), (7, [6]), (100, [])])
def test_every_nth_completed_step(path, interval, expected):
    """``auto_save_interval=100`` saves after steps 99, 199, …"""
    manager = SnapshotManager(snapshot_dir=path, auto_save_interval=interval)
    model = torch.nn.Linear(2, 2)
    for step in range(7):
        assert (manager.save(step=step, model=model) is not None) == (step in expected) == manager.due(step)
    assert saved(manager) == expected


def test_without_an_interval_only_force_saves(path):
    """And ``force`` saves at any step, with the keywords of ``commit``."""
    manager = SnapshotManager(path)
    assert manager.save(step=99) is None and not manager.due(99)
    snapshot = manager.save(step=5, extra={"x": 1}, force=True, metrics={"loss": 2.0}, message="by hand").result(60)
    assert isinstance(snapshot, Snapshot) and (snapshot.message, snapshot.metrics) == ("by hand", {"loss": 2.0})
    assert ciuic.Repo(path).resolve("HEAD") == snapshot


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_is_at_least_one(path, interval):
    """Said at once, and nothing is made."""
    with pytest.raises(ValueError, match="at least 1"):
        SnapshotManager(path, interval)
    assert not path.exists()


def test_the_folder_may_exist_and_be_empty(tmp_path):
    """As the article makes it; anything else in it is refused."""
    manager = SnapshotManager(tmp_path)
    assert not manager.has_snapshots() and manager.get_latest_snapshot() is None and manager.snapshots() == []
    assert SnapshotManager(tmp_path).repo.path == str(tmp_path)


def test_a_run_resumes(path):
    """``restore`` takes a Snapshot, an id or a revision, and the keywords of ``checkout``."""
    manager = SnapshotManager(path, 2)
    model = torch.nn.Linear(2, 2)
    for step in range(6):
        with torch.no_grad():
            model.bias.fill_(step)
        manager.save(step, model, config={"lr": 0.1}, epoch=step // 4)
    manager.close()
    again = SnapshotManager(path, 2)
    live = torch.nn.Linear(2, 2)
    latest = again.get_latest_snapshot()
    assert str(latest).startswith("Snapshot(step=5, timestamp=") and str(latest).endswith("Z)")
    for revision, step in ((latest, 5), (latest.id, 5), ("HEAD~1", 3), ("step:1", 1), ("best:loss", None)):
        if step is None:
            with pytest.raises(ciuic.UnknownRevision):
                again.restore(revision, model=live)
            continue
        snapshot = again.restore(revision, model=live, rng=False, keys="model/*")
        assert (snapshot.step, snapshot.epoch, snapshot.config) == (step, step // 4, {"lr": 0.1})
        assert live.bias.tolist() == [step, step]


def test_its_keywords_are_those_of_the_repo(path):
    """What ``save`` passes on is known to ``commit``; a wrong keyword is an error at once, not a logged failure."""
    manager = SnapshotManager(path, 1)
    with pytest.raises(TypeError, match="nonsense"):
        manager.save(0, nonsense=1)
    assert {"scheduler", "scaler", "extra", "metrics"} <= set(inspect.signature(ciuic.Repo.commit).parameters)


def unsupported():
    return {"x": object()}


def test_a_failure_is_logged_counted_and_tried_again(path, caplog):
    """Training goes on; the next tries come 1, 2, 4, … steps later, never rarer than the interval, until one works."""
    manager = SnapshotManager(path, auto_save_interval=4)
    tried = []
    for step in range(3, 20):
        due = manager.due(step)
        result = manager.save(step, extra=unsupported() if step < 15 else {"x": step})
        tried += [step] * due
        assert (result is not None) == due
        assert result is None or (result.exception(60) is None) == (step >= 15)
    assert tried == [3, 4, 6, 7, 11, 15, 19]
    assert manager.failures == 5 and saved(manager) == [15, 19]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 5
    assert (
        errors[0]
        .getMessage()
        .startswith("No snapshot at step 3 (failure 1; training goes on, next try at step 4): extra/x: cannot store")
    )


def test_an_object_that_cannot_say_its_state(path, caplog):
    """Its ``state_dict`` raises: a snapshot that failed, by the object's name, as any other. It ended the training."""

    class Shy(Stateful):
        def state_dict(self):
            raise RuntimeError("cannot now")

    manager = SnapshotManager(path, 1)
    manager.track(shy=Shy())
    manager.step()
    assert manager.failures == 1
    assert "extra/shy: the state_dict of a " in caplog.text and "Shy failed, RuntimeError: cannot now." in caplog.text
    with pytest.raises(ciuic.UnsupportedState, match="extra/shy"):
        manager.repo.commit(extra={"shy": Shy()})
    with pytest.raises(ciuic.UnsupportedState, match=r"shy: a builtins\.type cannot be restored in place"):
        manager.track(shy=Shy)  # the class, by mistake


class Stateful:
    """An object that saves and loads itself."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_on_error_raise_raises(path):
    """For who would rather stop."""
    manager = SnapshotManager(path, 1, on_error="raise")
    with pytest.raises(ciuic.UnsupportedState):
        manager.save(0, extra=unsupported())
    assert manager.failures == 1


FULL = """
import resource, signal, sys, logging
import torch
from ciuic.snapshot import SnapshotManager
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
manager = SnapshotManager(sys.argv[1], 1)
model = {"w": torch.rand(100)}
manager.save(0, model, rng=False, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
manager.save(1, {"w": torch.rand(1_000_000)}, rng=False, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
manager.save(2, {"w": torch.rand(1_000_000)}, rng=False, wait=True)
print(manager.failures, [each.step for each in manager.snapshots()])
"""


def test_a_file_that_cannot_grow(path):
    """A real failure of the operating system half-way through a pack: logged, nothing lost, nothing left behind."""
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "1 [2, 0]", done.stderr
    assert "No snapshot at step 1 (failure 1" in done.stderr and "File too large" in done.stderr
    assert os.listdir(path / "tmp") == []
    assert ciuic.Repo(path).fsck(read_data=True).problems == ()
    assert signal.getsignal(signal.SIGXFSZ) is not None and resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 0


def test_a_full_disk(path, monkeypatch):
    """ENOSPC at any write of a commit: the branch is as it was, and the next commit works."""
    import errno

    from ciuic.store import fs

    manager = SnapshotManager(path, 1)
    manager.save(0, extra={"x": 0}, rng=False, wait=True)
    original = os.writev
    left = {"writes": 0}

    def writev(descriptor, buffers):
        if left["writes"] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left["writes"] -= 1
        return original(descriptor, buffers)

    monkeypatch.setattr(fs.os, "writev", writev)
    for writes in range(3):
        left["writes"] = writes
        before = manager.repo.resolve("HEAD").id
        with pytest.raises(ciuic.StorageFull, match="Nothing that was saved is lost"):
            manager.repo.commit(extra={"x": torch.rand(100_000)}, rng=False)
            left["writes"] = 0
            manager.repo.commit(extra={"x": torch.rand(100_000)}, rng=False)
        left["writes"] = -1
        assert manager.repo.resolve("HEAD").id in (before, *(each.id for each in manager.repo.log()))
    assert manager.save(9, extra={"x": 1}, rng=False, wait=True).result().step == 9
    assert manager.repo.fsck(read_data=True).problems == ()
