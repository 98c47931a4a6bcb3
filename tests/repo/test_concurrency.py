"""Threads, forks and processes on one repository."""

import os
import subprocess
import sys
import threading
import traceback

import pytest
import torch

import ciuic


def in_threads(*actions):
    """Run them all at once; the first error is raised here."""
    errors = []

    def guarded(action):
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "hangs"
    if errors:
        raise errors[0]


def in_child(action):
    """Run it in a forked child; what it raises is raised here as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        report = "child did not finish"
        try:
            action()
            report = ""
        except BaseException:
            report = traceback.format_exc()
        finally:
            os.write(writing, report.encode()[-4000:])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        report = stream.read()
    os.waitpid(child, 0)
    assert not report, report


def test_threads_committing_on_one_object_make_one_line(repo, commit, warnings_of):
    """Nothing lost, no branch beside main."""
    in_threads(*(lambda first=first: [commit(repo, first + n) for n in range(8)] for first in (0, 100, 200)))
    steps = [snapshot.step for snapshot in repo.log()]
    assert len(steps) == 24 and list(repo.branches()) == ["main"] and warnings_of() == []
    for first in (0, 100, 200):
        assert [step for step in steps if first <= step < first + 100] == list(range(first + 7, first - 1, -1))


def test_readers_never_miss_what_a_writer_has_just_published(repo, path, commit):
    """The view of a reader is older than the ref that it reads: it has to look again before it says "missing"."""
    commit(repo, 0)
    done = threading.Event()

    def write():
        try:
            for step in range(1, 60):
                repo.commit(extra={"x": torch.full((100,), float(step))}, step=step, rng=False)
        finally:
            done.set()

    def read(reader):
        while not done.is_set():
            snapshot = reader.resolve("HEAD")
            if snapshot.step:
                assert reader.load(snapshot)["extra"]["x"][0] == snapshot.step
            assert next(reader.log()).step >= snapshot.step

    in_threads(write, lambda: read(repo), lambda: read(ciuic.Repo(path)))


def test_a_view_from_before_a_commit_finds_what_is_in_it(repo, path, commit):
    """The same race, made to happen: packs are listed, then another process commits, then the ref is read."""
    commit(repo, 0)
    reader = ciuic.Repo(path)
    with reader._store.shared():
        commit(repo, 1)
        assert reader.resolve("HEAD").step == 1
        assert reader.load("HEAD")["extra"]["at"] == 1


def test_commits_and_gc_side_by_side(repo, commit):
    """Everything that was acknowledged is there in the end."""
    from datetime import timedelta

    def sweep():
        for _ in range(4):
            repo.gc(expire=timedelta(0))

    in_threads(lambda: [commit(repo, step) for step in range(20)], sweep)
    assert [snapshot.step for snapshot in repo.log()] == list(range(19, -1, -1))
    for snapshot in repo.log():
        assert repo.load(snapshot)["extra"]["at"] == snapshot.step
    assert repo.fsck(read_data=True).problems == ()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_may_use_the_repository(repo, commit, warnings_of):
    """Read, load and commit; the parent goes on, on its own line when the child was faster."""
    tensor = torch.arange(3000.0)
    repo.commit({"w": tensor}, step=0, rng=False)
    loaded = repo.load("HEAD")

    def work():
        assert repo.resolve("HEAD").step == 0
        assert torch.equal(loaded["model"]["w"], tensor)
        assert commit(repo, 1).parents == (repo.resolve("HEAD~1").id,)

    in_child(work)
    assert repo.resolve("HEAD").step == 1
    commit(repo, 2)
    assert repo.head().branch == "main" and repo.resolve("main-step-0").step == 2
    assert "Another process has moved main" in warnings_of()[0]
    in_child(lambda: repo.fsck())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_commit(repo, commit):
    """The child neither waits for a thread that it has not, nor gives up the parent's lock."""
    started, go_on = threading.Event(), threading.Event()

    class Slow:
        stable = True
        nbytes = 4

        def read(self, start, stop):
            started.set()
            assert go_on.wait(60)
            return b"1234"[start:stop]

    from ciuic.objects.state_tree import Container, Tensor

    commit(repo, 0)
    node = Container("dict", (("x", Tensor("int32", (1,), Slow())),))
    thread = threading.Thread(target=lambda: repo.commit_components({"extra": node}, ("extra.x",), step=1))
    thread.start()
    assert started.wait(60)
    try:
        in_child(lambda: commit(repo, 7))
    finally:
        go_on.set()
        thread.join(60)
    assert {snapshot.step for snapshot in repo.log_all()} == {0, 1, 7}


COMMITTER = """
import sys, logging, ciuic
repo = ciuic.Repo(sys.argv[1])
sys.stdin.readline()
for step in range(15):
    print(repo.commit(extra={"who": sys.argv[2]}, step=step, rng=False).id)
"""


def test_processes_committing_at_once_lose_nothing(repo, path, commit):
    """Every acknowledged commit is on some branch."""
    commit(repo, 100)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMITTER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in "ab"
    ]
    outputs = []
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate(timeout=100)[0].split())
        assert process.returncode == 0
    assert [len(output) for output in outputs] == [15, 15]
    assert {id for output in outputs for id in output} <= {snapshot.id for snapshot in repo.log_all()}
