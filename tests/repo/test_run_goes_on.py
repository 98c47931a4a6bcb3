"""A run goes on: interruptions, forks, collected snapshots and failing disks under a trainer that keeps committing."""

import errno
import os
import sys
import threading
from datetime import timedelta

import pytest

import ciuic
from ciuic.errors import StorageError
from ciuic.history.following import Following
from ciuic.store import reflog
from ciuic.store.fs import FileSystem
from ciuic.store.store import Store

NOW = timedelta(0)


class Hooked(FileSystem):
    """``hook(effect, path)`` is called before a sync or a link ("sync", "link"), and after it ("synced", "linked")."""

    hook = None

    def _tell(self, effect, path):
        if self.hook is not None:
            self.hook(effect, path)

    def sync(self, descriptor, path):
        self._tell("sync", path)
        super().sync(descriptor, path)
        self._tell("synced", path)

    def link(self, source, target):
        self._tell("link", target)
        super().link(source, target)
        self._tell("linked", target)


@pytest.fixture
def fs():
    return Hooked()


@pytest.fixture
def trainer(repo, path, fs):
    """A repository object whose file effects can be interrupted."""
    trainer = ciuic.Repo(path)
    trainer._store = trainer._saving._store = Store(os.fspath(path), fs)
    trainer._following = trainer._saving._following = Following(trainer._store)
    return trainer


def once(fs, effect, ending, action):
    """Do ``action`` at the first such effect."""

    def hook(happening, path):
        if happening == effect and path.endswith(ending):
            fs.hook = None
            action()

    fs.hook = hook


def clean(path):
    for repo in (ciuic.Repo(path), ciuic.Repo(path)):
        repo.gc(expire=NOW)
        assert repo.fsck(read_data=True).problems == ()


@pytest.mark.parametrize("way", ["committed", "restored", "detached", "deleted"])
def test_the_snapshot_a_trainer_stands_on_was_collected(repo, path, commit, warnings_of, way):
    """Somebody resets the branch and lets gc forget: each later save of the trainer failed, for ever."""
    commit(repo, 1)
    second = commit(repo, 2)
    if way == "restored":
        repo = ciuic.Repo(path)
        repo.restore("step:2", extra={})
    elif way == "detached":
        repo = ciuic.Repo(path)
        repo.switch(second)
    elif way == "deleted":
        repo.branch("exp")
        repo.switch("exp")
        second = commit(repo, 3)
    other = ciuic.Repo(path)
    if way == "deleted":
        other.switch("main")
        other.delete_branch("exp")
    else:
        other.switch("main")
        other.reset("main~1")
    assert other.gc(expire=NOW).freed_packs >= 1
    with pytest.raises(ciuic.UnknownRevision):
        other.resolve(second.id)
    warnings_of()
    third = commit(repo, 13)
    assert third.parents == ()
    assert any("was collected: the next one begins a new history" in message for message in warnings_of())
    fourth = commit(repo, 14)
    assert fourth.parents == (third.id,) and warnings_of() == []
    branch = next(name for name, id in other.branches().items() if id == fourth.id)
    assert [each.step for each in ciuic.Repo(path).log(branch)] == [14, 13]
    assert {1, 13, 14} <= {each.step for each in ciuic.Repo(path).log_all()}
    clean(path)
    assert commit(repo, 15).parents == (fourth.id,)
    assert [each.step for each in repo.log(branch)] == [15, 14, 13]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("first", [False, True])
def test_a_fork_while_an_append_is_in_its_sync(trainer, fs, commit, warnings_of, monkeypatch, first):
    """A data loader's worker, started at that moment, kept the log's lock for as long as it lived."""
    monkeypatch.setattr(reflog, "LOG_LOCK_TIMEOUT_S", 2.0)
    if not first:
        commit(trainer, 0)
    waiting, ending = os.pipe()
    children = []

    def fork():
        child = os.fork()
        if child == 0:
            os.close(ending)
            os.read(waiting, 1)  # lives on until the parent is done
            os._exit(0)
        children.append(child)

    once(fs, "linked" if first else "sync", "/refs/heads/main", fork)
    commit(trainer, 1)
    assert children
    try:
        commit(trainer, 2)
        commit(trainer, 3)
        assert trainer.gc(expire=NOW).snapshots == 3 + (not first)
        commit(trainer, 4)
    finally:
        os.close(ending)
        os.waitpid(children[0], 0)
        os.close(waiting)
    assert list(trainer.branches()) == ["main"] and warnings_of() == []


@pytest.mark.parametrize("effect", ["synced", "sync"])
def test_an_interruption_after_the_record_is_there(trainer, fs, path, commit, warnings_of, effect):
    """Ctrl-C arrives as the sync returns: the snapshot is durable, and the run goes on from it, on its branch."""
    commit(trainer, 1)

    def interrupt():
        raise KeyboardInterrupt

    once(fs, effect, "/refs/heads/main", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commit(trainer, 2)
    interrupted = ciuic.Repo(path).resolve("main")
    assert interrupted.step == 2
    assert commit(trainer, 3).parents == (interrupted.id,)
    commit(trainer, 4)
    assert [each.step for each in trainer.log()] == [4, 3, 2, 1]
    assert list(trainer.branches()) == ["main"] and trainer.head().branch == "main" and warnings_of() == []
    clean(path)


def test_a_restore_after_an_interruption(trainer, fs, path, commit):
    """What was restored is what the run goes on from, not what was interrupted before."""
    first = commit(trainer, 1)

    def interrupt():
        raise KeyboardInterrupt

    once(fs, "synced", "/refs/heads/main", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commit(trainer, 2)
    trainer.restore("main~1", extra={})
    assert commit(trainer, 12).parents == (first.id,)
    assert ciuic.Repo(path).resolve("main").step == 2
    clean(path)


def test_an_interruption_of_the_first_commit(trainer, fs, path, commit, warnings_of):
    """As the new log gets its name."""

    def interrupt():
        raise KeyboardInterrupt

    once(fs, "linked", "/refs/heads/main", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commit(trainer, 1)
    commit(trainer, 2)
    assert [each.step for each in trainer.log()] == [2, 1]
    assert list(trainer.branches()) == ["main"] and warnings_of() == []
    clean(path)


@pytest.mark.parametrize("effect, ending", [("linked", "/main-step-1"), ("link", "/HEAD"), ("linked", "/HEAD")])
def test_an_interruption_while_a_branch_is_left(trainer, fs, path, commit, warnings_of, effect, ending):
    """One new branch, whichever of its two records the interruption followed; the next run resumes there."""
    commit(trainer, 1)
    commit(trainer, 2)
    trainer.restore("main~1", extra={})

    def interrupt():
        raise KeyboardInterrupt

    once(fs, effect, ending, interrupt)
    with pytest.raises(KeyboardInterrupt):
        commit(trainer, 12)
    commit(trainer, 13)
    assert sorted(trainer.branches()) == ["main", "main-step-1"]
    assert [each.step for each in trainer.log("main-step-1")] == [13, 12, 1]
    assert "main-step-1" in warnings_of()[0]
    assert trainer.head().branch == "main-step-1"
    clean(path)


def test_an_interruption_before_the_record(trainer, fs, path, commit, warnings_of):
    """Nothing was saved: the next commit has the parent that the interrupted one would have had."""
    first = commit(trainer, 1)

    def interrupt():
        raise KeyboardInterrupt

    fs.hook = lambda effect, path: interrupt() if effect == "sync" and "pack-" in path else None
    with pytest.raises(KeyboardInterrupt):
        commit(trainer, 2)
    fs.hook = None
    assert commit(trainer, 3).parents == (first.id,)
    assert list(trainer.branches()) == ["main"] and warnings_of() == []
    clean(path)


@pytest.mark.parametrize("effect", ["link", "sync"])
def test_head_that_cannot_be_moved(trainer, fs, path, commit, warnings_of, effect):
    """The new branch is durable when HEAD's log fails: an error made each further save another branch."""
    if effect == "sync":  # HEAD has a log
        commit(trainer, 0)
        trainer.branch("aside")
        trainer.switch("aside")
        trainer.switch("main")
    first = commit(trainer, 1)
    commit(trainer, 2)
    trainer.restore(first, extra={})

    def fail():
        raise StorageError(f"HEAD: {os.strerror(errno.EIO)}")

    once(fs, effect, "/HEAD", fail)
    left = commit(trainer, 12)
    assert fs.hook is None and left.parents == (first.id,)
    (gone, stays) = warnings_of()
    assert "goes on on the new branch main-step-1" in gone and "HEAD stays where it was" in stays
    last = commit(trainer, 13)
    assert last.parents == (left.id,) and warnings_of() == []
    assert set(trainer.branches()) - {"aside"} == {"main", "main-step-1"}
    assert trainer.branches()["main-step-1"] == last.id and ciuic.Repo(path).head().branch == "main"
    clean(path)


def test_threads_that_read_while_one_commits(repo, commit):
    """One object, its view renewed by each call: a reader met "missing" objects and sets that changed under it."""
    commit(repo, 0)
    done = threading.Event()
    errors = []

    def read():
        while not done.is_set():
            try:
                snapshot = repo.resolve("HEAD")
                assert repo.load(snapshot)["extra"]["at"] == snapshot.step
                assert repo.resolve(snapshot.id[:12]).id == snapshot.id
                assert next(repo.log(snapshot.id, limit=2)).step == snapshot.step
                assert repo.stats()
            except BaseException as error:
                errors.append(error)
                return

    def upkeep():
        while not done.is_set():
            try:
                repo.gc()
                assert repo.fsck().problems == ()
            except BaseException as error:
                errors.append(error)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=action) for action in (read, read, upkeep)]
    try:
        for thread in threads:
            thread.start()
        for step in range(1, 60):
            commit(repo, step)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
    assert [each.step for each in repo.log()] == list(range(59, -1, -1)) and list(repo.branches()) == ["main"]
