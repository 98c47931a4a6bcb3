"""The same command again, while the writer of the run that died still has a snapshot to publish."""

import os
import signal
import threading
import time

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
os.kill(repo._saving.engine()._writer.pid, signal.SIGSTOP)
model = nn.Linear(256, 256)
staged = repo.commit(model, step=2, wait=False)
assert staged.staged(60)
say("writer", repo._saving.engine()._writer.pid)
"""
)
AT_ONCE = (
    TRAIN
    + """
import signal, subprocess
from ciuic.writer import child
real = subprocess.Popen
class Stopped(real):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if options.get("start_new_session"):
            os.kill(self.pid, signal.SIGSTOP)
            say("writer", self.pid)
child.subprocess.Popen = Stopped
repo = ciuic.Repo.init(sys.argv[1])
repo.commit(nn.Linear(256, 256), step=1)
assert repo.commit(nn.Linear(256, 256), step=2, wait=False).staged(60)
os.kill(os.getpid(), 9)
"""
)


def run(code, path, ends=-signal.SIGKILL):
    """The writer that a run leaves, stopped."""
    with start(code, path) as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == ends, errors
    return int(said.split("writer")[1].split()[0])


def resumes_from(opened, path, writer, step):
    """The next run waits for the old writer, and there is one history."""
    threading.Timer(0.3, resume, [writer]).start()
    manager = opened(SnapshotManager(path, 1))
    assert manager.get_latest_snapshot().step == step
    manager.restore("HEAD", model=torch.nn.Linear(256, 256), strict=False)
    assert manager.save(step + 1, torch.nn.Linear(256, 256)).result(60).step == step + 1
    assert manager.snapshots()[0].step == step + 1 and set(manager.repo.branches()) == {"main"}
    manager.close()
    until(lambda: os.listdir(path / "tmp") == [])


def test_it_waits_and_resumes_from_the_last_staged_snapshot(tmp_path, opened):
    """Not from the one before, on a branch of its own."""
    writer = run(DIES + "os.kill(os.getpid(), 9)\n", tmp_path / "run")
    resumes_from(opened, tmp_path / "run", writer, 2)


def test_the_trainer_dies_while_the_writer_is_starting(tmp_path, opened):
    """Before it has run a line of Python it is waited for."""
    writer = run(AT_ONCE, tmp_path / "run")
    resumes_from(opened, tmp_path / "run", writer, 2)


def test_the_trainer_executes_another_program(tmp_path, opened):
    """With the same number of process, it is no trainer any more."""
    writer = run(DIES + "os.execv('/bin/true', ['true'])\n", tmp_path / "run", ends=0)
    resumes_from(opened, tmp_path / "run", writer, 2)


def test_a_collection_in_between(tmp_path, opened):
    """It empties the folder, but for what says that a writer is at work."""
    writer = run(DIES + "os.kill(os.getpid(), 9)\n", tmp_path / "run")
    (tmp_path / "run/tmp/pack-left").touch()
    (tmp_path / "run/tmp/run-0123.writer").touch()
    ciuic.Repo(tmp_path / "run").gc()
    names = os.listdir(tmp_path / "run/tmp")
    assert len(names) == 1 and names[0].startswith("run-") and names[0].endswith(".writer")
    resumes_from(opened, tmp_path / "run", writer, 2)


def test_closed_before_it_had_finished(tmp_path, opened):
    """The same program opens the repository anew, and waits for the writer that it let go."""
    repo = opened(ciuic.Repo.init(tmp_path / "run"))
    repo.commit(torch.nn.Linear(256, 256), step=1, wait=False).result(60)
    engine = repo._saving.engine()
    writer = engine._writer.pid
    os.kill(writer, signal.SIGSTOP)
    assert repo.commit(torch.nn.Linear(256, 256), step=2, wait=False).staged(60)
    engine.close(0)
    resumes_from(opened, tmp_path / "run", writer, 2)


def test_a_forked_worker_is_no_trainer(tmp_path, opened):
    """It lives on, and the run that forked it is over."""
    code = (
        DIES
        + "if os.fork() == 0:\n    os.close(1); os.close(2); time.sleep(20); os._exit(0)\nos.kill(os.getpid(), 9)\n"
    )
    writer = run(code, tmp_path / "run")
    resumes_from(opened, tmp_path / "run", writer, 2)


def test_a_run_that_lives_is_not_waited_for(tmp_path, opened, warnings_of):
    """Two runs on one repository at a time: each looks after its own writer."""
    repo = opened(ciuic.Repo.init(tmp_path / "run"))
    repo.commit(torch.nn.Linear(256, 256), step=1, wait=False).result(60)
    os.kill(repo._saving.engine()._writer.pid, signal.SIGSTOP)
    pending = repo.commit(torch.nn.Linear(256, 256), step=2, wait=False)
    assert pending.staged(60)
    before = time.monotonic()
    ciuic.Repo(tmp_path / "run").await_earlier_run()
    assert time.monotonic() - before < 2 and len(os.listdir(tmp_path / "run/tmp")) >= 2
    os.kill(repo._saving.engine()._writer.pid, signal.SIGCONT)
    assert pending.result(60).step == 2 and warnings_of() == []


def test_one_that_was_killed_is_not_waited_for(tmp_path, warnings_of):
    """Its files are free to take, and go."""
    repo = ciuic.Repo.init(tmp_path / "run")
    for name in ("run-12345.writer", "run-12345.trainer", "run-6789.trainer.new", "run-99.trainer"):
        (tmp_path / "run/tmp" / name).touch()
    repo.await_earlier_run()
    assert os.listdir(tmp_path / "run/tmp") == [] and warnings_of() == []


def test_two_containers(tmp_path):
    """With the same numbers of processes: no name says one, and neither ends the other's wait."""
    ciuic.Repo.init(tmp_path / "run")
    one, two = (orphans.Announcement(str(tmp_path / "run")) for _ in range(2))
    assert len(os.listdir(tmp_path / "run/tmp")) == 4
    one.withdraw()
    assert sorted(os.listdir(tmp_path / "run/tmp")) == sorted(two.names()[:2])
    two.withdraw()
    assert os.listdir(tmp_path / "run/tmp") == []


def test_one_that_hangs_is_left_alone_after_a_while(tmp_path, warnings_of):
    """The new run goes on, and says so."""
    writer = run(DIES + "os.kill(os.getpid(), 9)\n", tmp_path / "run")
    assert orphans.wait(str(tmp_path / "run"), timeout_s=0.05)
    assert "going on without it" in warnings_of()[-1]
    resume(writer)
    until(lambda: os.listdir(tmp_path / "run/tmp") == [])
    assert not orphans.wait(str(tmp_path / "run"))


def test_where_no_file_can_be_made(tmp_path):
    """The writer is started all the same."""
    announcement = orphans.Announcement(str(tmp_path / "nothing"))
    assert announcement.writers() == ()
    announcement.handed_over()
    announcement.let_go()
