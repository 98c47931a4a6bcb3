"""What fails in the writer, in its start, or in the thread that keeps it: no snapshot is lost, doubled or misplaced."""

import logging
import os
import signal
import sys

import pytest
from trainers import descriptors, steps, until

from ciuic.errors import StorageError, WriterFailed
from ciuic.history.following import Position
from ciuic.objects.state_tree import Value
from ciuic.writer import child as children
from ciuic.writer import keeper


@pytest.fixture
def broken_log():
    """``broken_log(word)``: the program's own filter raises at messages with that word."""
    made = []

    def make(word):
        def filter(record):
            if word in record.getMessage():
                raise RuntimeError("a filter of the program's")
            return True

        made.append(filter)
        logging.getLogger("ciuic").addFilter(filter)

    yield make
    for each in made:
        logging.getLogger("ciuic").removeFilter(each)


def test_the_repository_cannot_be_opened_for_a_while(trainer, program, repo):
    """The job that says where to go fails over it; the next one goes there all the same."""
    first = repo.commit_components({"extra": Value(0)}, (), step=1)
    repo.commit_components({"extra": Value(1)}, (), step=2)
    body = """
        original, opened = storing.Store, []
        def open_store(*arguments):
            opened.append(1)
            if len(opened) <= 4:
                raise storing.StorageError("EIO for a moment")
            return original(*arguments)
        storing.Store = open_store
    """
    one = trainer(start_up=program(body))
    lost, next = one.submit(11, position=Position(None, "main", first.id, None)), one.submit(12)
    assert isinstance(lost.exception(60), StorageError) and next.result(60).parents == (first.id,)
    one.finish()
    assert steps(repo, "main") == [2, 1] and steps(repo, "main-step-1") == [12, 1]


def test_and_the_writer_dies_before_it_can(trainer, program, repo):
    """Its successor hears of the position from the trainer."""
    first = repo.commit_components({"extra": Value(0)}, (), step=1)
    repo.commit_components({"extra": Value(1)}, (), step=2)
    body = """
        if once("first"):
            def open_store(*arguments):
                raise storing.StorageError("EIO")
            storing.Store = open_store
            original = storing.Storing.store
            def store(self, message, descriptors):
                if message["job"] == 2:
                    die()
                original(self, message, descriptors)
            storing.Storing.store = store
    """
    one = trainer(start_up=program(body))
    lost, next = one.submit(11, position=Position(None, "main", first.id, None)), one.submit(12)
    assert isinstance(lost.exception(60), StorageError) and next.result(60).parents == (first.id,)
    one.finish()
    assert steps(repo, "main-step-1") == [12, 1]


@pytest.mark.parametrize("error", ["MemoryError()", "StorageError('index')", "ValueError('a bug')"])
def test_what_fails_after_the_branch_has_moved(trainer, program, repo, error):
    """The snapshot is published: once, and as such."""
    repo.commit_components({"extra": Value(0)}, (), step=0)
    body = f"""
        from ciuic.errors import StorageError
        from ciuic.store.store import Store
        original = Store.index_commit
        def index_commit(self, *arguments):
            if once("failed"):
                raise {error}
            return original(self, *arguments)
        Store.index_commit = index_commit
    """
    one = trainer(start_up=program(body))
    assert [one.submit(step).result(60).step for step in (1, 2)] == [1, 2]
    one.finish()
    assert steps(repo) == [2, 1, 0] and one.counts["published"] == 2
    assert repo.fsck(read_data=True).problems == ()


def test_a_filter_of_the_programs_raises(trainer, repo, broken_log):
    """At the word that a writer died: another one takes over all the same."""
    broken_log("died")
    one = trainer()
    one.submit(1).result(60)
    os.kill(one.writer.pid, signal.SIGSTOP)
    pending = one.submit(2)
    assert pending.staged(60)
    os.kill(one.writer.pid, signal.SIGKILL)
    assert pending.result(60).step == 2 and one.submit(3).result(60).step == 3
    one.finish()
    assert steps(repo) == [3, 2, 1]


def test_the_thread_fails(trainer, repo, monkeypatch):
    """Its jobs fail, with their slots free; the next one starts another thread, and goes on where the last one was."""
    first = repo.commit_components({"extra": Value(0)}, (), step=0)
    one = trainer()
    at = Position(None, "main", first.id, None)
    repo.commit_components({"extra": Value(1)}, (), step=1)
    one.submit(10, position=at).result(60)
    pid = one.writer.pid
    real = keeper.Keeper._died

    def failing(self, child):
        monkeypatch.setattr(keeper.Keeper, "_died", real)
        raise KeyError("a bug of ours")

    monkeypatch.setattr(keeper.Keeper, "_died", failing)
    os.kill(pid, signal.SIGSTOP)
    lost = one.submit(11)
    assert lost.staged(60)
    os.kill(pid, signal.SIGKILL)
    assert isinstance(lost.exception(60), WriterFailed)
    until(lambda: one.slots[1].released == 1)
    assert one.submit(12).result(60).step == 12
    one.finish()
    assert steps(repo, "main-step-0") == [12, 10, 0] and steps(repo, "main") == [1, 0]


def test_no_process_for_a_moment(trainer, repo, monkeypatch, warnings_of):
    """What was staged waits for the next try."""
    real, refused = keeper.Child, []

    def flaky(*arguments):
        if len(refused) < 2:
            refused.append(1)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*arguments)

    monkeypatch.setattr(keeper, "Child", flaky)
    one = trainer()
    pendings = [one.submit(step) for step in (1, 2)]
    assert [pending.result(60).step for pending in pendings] == [1, 2]
    one.finish()
    assert len(warnings_of()) == 2 and one.counts == {"published": 2}


def test_a_long_path_to_import_from(trainer, repo, monkeypatch):
    """More than a socket takes at once: the process is told all the same."""
    monkeypatch.setattr(sys, "path", [*sys.path, *(f"/nowhere/{number}/{'x' * 1000}" for number in range(2000))])
    one = trainer()
    assert one.submit(1).result(60).step == 1
    one.finish()
    assert one.counts == {"published": 1}


def test_no_descriptor_for_a_line(repo, path, monkeypatch):
    """The start fails, and nothing stays open."""

    def none_left():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(children.socket, "socketpair", none_left)
    before = descriptors()
    with pytest.raises(OSError):
        children.Child(None, {"repository": str(path)})
    assert descriptors() == before and os.listdir(path / "tmp") == []


def test_no_descriptor_in_the_writer(trainer, program, repo):
    """The kernel drops those that came with an order: it fails, and the next one is stored, from the same slot."""
    body = """
        original, taken = storing.Storing.store, []
        def store(self, message, descriptors):
            for each in taken:
                os.close(each)
            taken.clear()
            original(self, message, descriptors)
            if message["job"] == 1:
                try:
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    pass
                os.mkdir({marks!r})
        storing.Storing.store = store
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    """
    marks = os.path.join(repo.path, "..", "full")
    one = trainer(start_up=program(body.format(marks=marks)))
    one.submit(1).result(60)
    until(lambda: os.path.isdir(marks))
    error = one.submit(2).exception(60)
    assert isinstance(error, StorageError) and "ulimit" in str(error)
    assert one.submit(3, slot=one.slots[1]).result(60).step == 3
    one.finish()
    assert steps(repo) == [3, 1] and one.counts == {"published": 2, "failed": 1}


def test_a_log_whose_sync_failed_is_written_anew(trainer, program, repo):
    """The writer dies in the pause after it; its successor does not take the next sync's word for the same file."""
    repo.commit_components({"extra": Value(0)}, (), step=0)
    body = """
        from ciuic.store.fs import typed
        files = {}
        class Failing(Faulty):
            def sync(self, descriptor, path):
                if path.endswith("refs/heads/main"):
                    mark = os.path.join(MARKS, "inode")
                    inode = str(os.fstat(descriptor).st_ino)
                    if not os.path.exists(mark):
                        open(mark, "w").write(inode)
                        raise typed(OSError(5, "EIO"), path)
                    if open(mark).read() == inode:
                        open(os.path.join(MARKS, "again"), "w").close()
                super().sync(descriptor, path)
        storing.CountingFileSystem = Failing
        if once("first"):
            storing.time.sleep = lambda seconds: die()
    """.replace("MARKS", repr(os.path.dirname(str(repo.path))))
    one = trainer(start_up=program(body))
    inode = os.stat(os.path.join(repo.path, "refs/heads/main")).st_ino
    assert [one.submit(step).result(60).step for step in (1, 2)] == [1, 2]
    one.finish()
    assert steps(repo) == [2, 1, 0] and one.counts["writer_deaths"] == 1
    assert os.stat(os.path.join(repo.path, "refs/heads/main")).st_ino != inode
    assert not os.path.exists(os.path.join(repo.path, "..", "again"))


def test_a_silent_writer_that_was_killed_may_have_published(trainer, program, repo, monkeypatch):
    """The error says so."""
    monkeypatch.setattr(keeper, "SILENT_S", 0.2)
    body = """
        class Stopping(storing.Following):
            def _moved(self, position):
                os.kill(os.getpid(), signal.SIGSTOP)
        storing.Following = Stopping
    """
    one = trainer(start_up=program(body))
    pending = one.submit(1)
    until(lambda: steps(repo) == [1])
    one.writer.close(0.5)
    assert "may have been published" in str(pending.exception(0))
