"""The same command again, while the writer of the run that died still has a snapshot to publish."""

import os
import signal
import threading

import torch
from test_engine import resume, until
from test_trainer_dies import TRAIN, start

import ciuic
from ciuic.snapshot import SnapshotManager
from ciuic.writer import orphans

DIES = (
    TRAIN
    + """
import signal
repo, pending = train(sys.argv[1], 2)
pending.result(60)
os.kill(repo._background()._writer.pid, signal.SIGSTOP)
model = nn.Linear(256, 256)
assert repo.commit(model, step=2, wait=False).staged(60)
say("writer", repo._background()._writer.pid)
os.kill(os.getpid(), 9)
"""
)


def test_it_waits_and_resumes_from_the_last_staged_snapshot(tmp_path, opened, warnings_of):
    """Not from the one before, on a branch of its own."""
    with start(DIES, tmp_path / "run") as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    writer = int(said.split("writer")[1])
    os.kill(writer, signal.SIGCONT)
    until(lambda: any(name.startswith(orphans.PREFIX) for name in os.listdir(tmp_path / "run/tmp")) or not up(writer))
    os.kill(writer, signal.SIGSTOP) if up(writer) else None
    threading.Timer(0.3, resume, [writer]).start()
    manager = opened(SnapshotManager(tmp_path / "run", 1))
    assert manager.get_latest_snapshot().step == 2
    manager.restore("HEAD", model=torch.nn.Linear(256, 256), strict=False)
    assert manager.save(3, torch.nn.Linear(256, 256)).result(60).step == 3
    assert [each.step for each in manager.snapshots()] == [3, 2, 1, 0] and set(manager.repo.branches()) == {"main"}
    assert os.listdir(tmp_path / "run/tmp") == []


def up(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_that_was_killed_is_not_waited_for(tmp_path, warnings_of):
    """Its file is free to take, and goes."""
    repo = ciuic.Repo.init(tmp_path / "run")
    (tmp_path / "run/tmp/orphan-12345").touch()
    repo.await_earlier_run()
    assert os.listdir(tmp_path / "run/tmp") == [] and warnings_of() == []


def test_one_that_hangs_is_left_alone_after_a_while(tmp_path, warnings_of):
    """The new run goes on, and says so."""
    ciuic.Repo.init(tmp_path / "run")
    announcement = orphans.Announcement(str(tmp_path / "run"))
    announcement.make()
    assert orphans.wait(str(tmp_path / "run"), timeout_s=0.05)
    assert "going on without it" in warnings_of()[-1]
    announcement.withdraw()
    announcement.make()
    assert os.listdir(tmp_path / "run/tmp") == [] and not orphans.wait(str(tmp_path / "run"))
