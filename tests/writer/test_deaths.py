"""Whoever dies, and whenever: each job is published once, on the branch, and nothing lies about."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from trainers import ROOT, Trainer, check, running, steps, until

import ciuic
from ciuic.errors import BackgroundError, SnapshotTimeout, StorageError, StorageFull, WriterFailed
from ciuic.history.following import Position
from ciuic.writer import keeper

DIES = """
    def at(effect, path, *call):
        if effect == {effect!r} and {part!r} in path and once("died"):
            if {late}:
                call[0](*call[1:])
            die()
        return call[0](*call[1:])

    class Dying(Faulty):
        def create(self, path): return at("create", path, super().create, path)
        def write(self, d, buffers, path): return at("write", path, super().write, d, buffers, path)
        def write_at(self, d, data, o, path): return at("write_at", path, super().write_at, d, data, o, path)
        def sync(self, d, path): return at("sync", path, super().sync, d, path)
        def link(self, source, target): return at("link", target, super().link, source, target)
        def rename(self, source, target): return at("rename", target, super().rename, source, target)
    storing.CountingFileSystem = Dying
"""


def dying(effect, part, late):
    return DIES.format(effect=effect, part=part, late=late)


@pytest.mark.parametrize(
    "effect, part, late",
    [
        ("create", "tmp/pack-", True),
        ("write", "tmp/pack-", False),
        ("sync", "tmp/pack-", True),
        ("rename", "/packs/", False),
        ("rename", "/packs/", True),
        ("write_at", "/refs/heads/main", False),
        ("write_at", "/refs/heads/main", True),
        ("sync", "/refs/heads/main", True),
    ],
)
def test_the_writer_dies_at_an_effect(trainer, program, repo, warnings_of, effect, part, late):
    """Before, in, and after the move of the branch."""
    repo.commit_components({"extra": ciuic_value(0)}, (), step=0)
    one = trainer(start_up=program(dying(effect, part, late)))
    pendings = [one.submit(step) for step in (1, 2, 3)]
    assert [pending.result(60).step for pending in pendings] == [1, 2, 3]
    one.finish()
    assert steps(repo) == [3, 2, 1, 0] and repo.branches() == {"main": pendings[-1].result().id}
    assert one.counts == {"published": 3, "writer_deaths": 1}
    (message,) = warnings_of()
    assert "killed by SIGKILL" in message and "Another one takes over" in message


def ciuic_value(value):
    from ciuic.objects.state_tree import Value

    return Value(value)


@pytest.mark.parametrize("effect, late", [("create", True), ("link", False), ("link", True)])
def test_the_writer_dies_over_the_first_snapshot(trainer, program, repo, effect, late):
    """The branch's log comes about at once or not at all."""
    part = "tmp/log-" if effect == "create" else "/refs/heads/main"
    one = trainer(start_up=program(dying(effect, part, late)))
    pendings = [one.submit(step) for step in (1, 2)]
    assert [pending.result(60).step for pending in pendings] == [1, 2]
    one.finish()
    assert steps(repo) == [2, 1] and list(repo.branches()) == ["main"] and one.counts["writer_deaths"] == 1
    check(repo)


@pytest.mark.parametrize(
    "part, late", [("/main-step-1", False), ("/main-step-1", True), ("/HEAD", False), ("/HEAD", True)]
)
def test_the_writer_dies_while_it_leaves_a_branch(trainer, program, repo, part, late):
    """One new branch, and HEAD on it."""
    one = trainer()
    first = one.submit(1).result(60)
    one.submit(2).result(60)
    one.finish()
    other = trainer(start_up=program(dying("link", part, late)))
    pendings = [other.submit(11, position=Position(None, "main", first.id, None)), other.submit(12)]
    assert [pending.result(60).step for pending in pendings] == [11, 12]
    other.finish()
    assert sorted(repo.branches()) == ["main", "main-step-1"] and repo.head().branch == "main-step-1"
    assert steps(repo, "main-step-1") == [12, 11, 1] and other.counts["writer_deaths"] == 1


def test_the_branch_moved_on_after_the_writer_died(trainer, program, repo, path, warnings_of):
    """What it had published is not published again; the next job is on a branch of its own."""
    repo.commit_components({"extra": ciuic_value(0)}, (), step=0)
    body = """
        class Dying(storing.Following):
            def _moved(self, position):
                if once("died"):
                    os.kill(os.getpid(), signal.SIGSTOP)
                    die()
                super()._moved(position)
        storing.Following = Dying
    """
    one = trainer(start_up=program(body))
    pendings = [one.submit(1), one.submit(2)]
    until(lambda: one.writer.pid is not None and state_of(one.writer.pid) == "T")
    ciuic.Repo(path).commit_components({"extra": ciuic_value(5)}, (), step=100)
    os.kill(one.writer.pid, signal.SIGCONT)
    assert [pending.result(60).step for pending in pendings] == [1, 2]
    one.finish()
    assert steps(repo, "main") == [100, 1, 0] and steps(repo, "main-step-1") == [2, 1, 0]
    assert len(repo.branches()) == 2 and "Another process has moved main" in "\n".join(warnings_of())


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def test_kills_at_any_time(trainer, repo):
    """As the operating system does it."""
    one = trainer()
    pendings = []
    for step in range(24):
        pendings.append(one.submit(step, count=16))
        if step % 6 == 3:
            time.sleep(0.01 * step)
            until(lambda: one.writer.pid is not None)
            os.kill(one.writer.pid, signal.SIGKILL)
            pendings[-1].result(60)
    assert [pending.result(60).step for pending in pendings] == list(range(24))
    one.finish()
    assert steps(repo) == list(range(23, -1, -1)) and list(repo.branches()) == ["main"]
    assert one.counts["writer_deaths"] == 4


def test_an_idle_writer_dies(trainer, repo, warnings_of):
    """The next job starts another one."""
    one = trainer()
    one.submit(1).result(60)
    first = one.writer.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: one.writer.pid is None)
    assert one.submit(2).result(60).step == 2 and one.writer.pid != first
    one.finish()
    assert steps(repo) == [2, 1] and one.counts["writer_deaths"] == 1


def test_a_job_that_kills_three_writers_fails(trainer, program, repo, warnings_of):
    """It alone: those behind it go on, and so does the branch."""
    body = """
        class Deadly(storing.Storing):
            def _once(self, order):
                if order.number == 2:
                    print("last words", file=sys.stderr, flush=True)
                    die()
                return super()._once(order)
        storing.Storing = Deadly
    """
    one = trainer(start_up=program(body))
    pendings = [one.submit(step) for step in (1, 2, 3)]
    assert isinstance(pendings[1].exception(60), WriterFailed)
    assert pendings[2].result(60).parents == (pendings[0].result(60).id,)
    one.finish()
    assert one.counts == {"published": 2, "failed": 1, "writer_deaths": 3}
    assert sum("last words" in message for message in warnings_of()) == 3
    assert list(repo.branches()) == ["main"]


def test_a_job_is_given_up_that_was_published(trainer, program, repo):
    """The next one goes on from it rather than beside it."""
    repo.commit_components({"extra": ciuic_value(0)}, (), step=0)
    body = """
        class Deadly(storing.Storing):
            def _once(self, order):
                result = super()._once(order)
                if order.number == 1:
                    die()
                return result
        storing.Storing = Deadly
    """
    one = trainer(start_up=program(body))
    first, second = one.submit(1), one.submit(2)
    assert isinstance(first.exception(60), WriterFailed) and "`ciuic log`" in str(first.exception())
    assert second.result(60).step == 2
    one.finish()
    assert steps(repo) == [2, 1, 0] and list(repo.branches()) == ["main"]


def test_a_stopped_writer_is_replaced(trainer, repo, warnings_of):
    """Nothing that training does waits for it."""
    one = trainer(timeout=3)
    one.submit(1).result(60)
    os.kill(one.writer.pid, signal.SIGSTOP)
    before = time.monotonic()
    pendings = [one.submit(step) for step in range(2, 8)]
    assert all(pending.staged(10) for pending in pendings) and time.monotonic() - before < 2
    assert [pending.result(60).step for pending in pendings] == [2, 3, 4, 5, 6, 7]
    one.finish()
    assert steps(repo) == [7, 6, 5, 4, 3, 2, 1]
    assert one.counts == {"published": 7, "writer_stalls": 1}
    assert "gave no sign of life" in warnings_of()[0]


def test_a_writer_that_gets_nowhere_is_replaced(trainer, program, repo, monkeypatch, warnings_of):
    """It beats, and its storage does not answer."""
    monkeypatch.setattr(keeper, "STUCK_FACTOR", 1)
    body = """
        class Hanging(Faulty):
            def rename(self, source, target):
                if once("hung"):
                    time.sleep(1000)
                return super().rename(source, target)
        storing.CountingFileSystem = Hanging
    """
    one = trainer(start_up=program(body), timeout=3)
    assert one.submit(1).result(60).step == 1
    one.finish()
    assert one.counts == {"published": 1, "writer_stalls": 1} and "got nowhere" in warnings_of()[0]


def test_a_slow_writer_is_left_alone(trainer, program, repo, monkeypatch):
    """It gets somewhere, in its own time."""
    monkeypatch.setattr(keeper, "STUCK_FACTOR", 1)
    body = """
        class Slow(Faulty):
            def write(self, *arguments):
                for _ in range(10 if once("slow") else 0):
                    time.sleep(0.4)
                    self._progress()
                return super().write(*arguments)
        storing.CountingFileSystem = Slow
    """
    one = trainer(start_up=program(body), timeout=2)
    assert one.submit(1).result(60).step == 1
    one.finish()
    assert one.counts == {"published": 1}


def test_a_suspended_trainer_kills_no_writer(repo, path, program):
    """Its clock went on while it could not listen."""
    body = """
        class Slow(Faulty):
            def rename(self, source, target):
                time.sleep(3 if once("slow") else 0)
                return super().rename(source, target)
        storing.CountingFileSystem = Slow
    """
    process = start_trainer(
        path,
        f"""
        one.clean()
        one = Trainer({str(path)!r}, timeout=1.5, start_up={program(body)!r})
        pendings = submit(3)
        [pending.result(60) for pending in pendings]
        one.finish()
        print(dict(one.counts))
        """,
    )
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout.readline() == "{'published': 3}\n"
    process.stdout.close()
    assert process.wait(60) == 0 and steps(repo) == [2, 1, 0]


def test_a_closed_writer_that_works_is_left_to_finish(trainer, program, repo):
    """The slot is not released, since it is still being read."""
    body = """
        class Slow(Faulty):
            def rename(self, source, target):
                time.sleep(2 if once("slow") else 0)
                return super().rename(source, target)
        storing.CountingFileSystem = Slow
    """
    one = trainer(start_up=program(body))
    pending = one.submit(1)
    assert pending.staged(60)
    pid = one.writer.pid
    time.sleep(0.5)
    one.writer.close(0.1)
    assert isinstance(pending.exception(0), SnapshotTimeout) and one.slots[0].released == 0
    assert running(pid)
    until(lambda: not running(pid))
    assert steps(repo) == [1]


def test_closing_at_once_hands_over_what_was_submitted(trainer, repo):
    """Though the process has not even been started yet."""
    one = trainer()
    pendings = [one.submit(step) for step in range(5)]
    one.writer.close(0)
    assert all(isinstance(pending.exception(0), SnapshotTimeout) for pending in pendings)
    until(lambda: steps(repo) == [4, 3, 2, 1, 0])


def test_a_closed_writer_that_is_silent_is_killed(trainer, repo, monkeypatch):
    """And its jobs have failed."""
    monkeypatch.setattr(keeper, "SILENT_S", 0.5)
    one = trainer()
    one.submit(1).result(60)
    pid = one.writer.pid
    os.kill(pid, signal.SIGSTOP)
    pending = one.submit(2)
    one.writer.close(1)
    assert isinstance(pending.exception(0), WriterFailed) and not running(pid)
    assert [slot.released for slot in one.slots] == [1, 1] and steps(repo) == [1]


# What storage and memory refuse


def test_a_full_disk(trainer, program, repo, warnings_of):
    """Tried again, then failed and counted; when there is room, the next job goes on from the last one published."""
    one = trainer(start_up=program())
    one.submit(1).result(60)
    resource.prlimit(one.writer.pid, resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
    failed = one.submit(2)
    assert isinstance(failed.exception(60), StorageError)
    resource.prlimit(one.writer.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert one.submit(3).result(60).parents == (repo.resolve("main~1").id,)
    one.finish()
    assert steps(repo) == [3, 1] and one.counts == {"published": 2, "failed": 1, "retries": 3}
    messages = warnings_of()
    assert len(messages) == 4 and "another try in" in messages[0] and "was not stored" in messages[-1]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_space_left(small_disk, program):
    """The error says so; when space was freed, the next job is stored."""
    repo = ciuic.Repo.init(small_disk / "run", chunk_size=4096)
    ballast = small_disk / "ballast"
    one = Trainer(small_disk / "run", start_up=program())
    one.submit(1).result(60)
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert isinstance(one.submit(2).exception(60), StorageFull)
    left = [name for name in os.listdir(small_disk / "run" / "tmp") if not name.startswith("run-")]
    assert left == [] and steps(repo) == [1]
    ballast.unlink()
    assert one.submit(3).result(60).step == 3
    one.finish()
    one.clean()
    assert steps(repo) == [3, 1] and one.counts == {"published": 2, "failed": 1, "retries": 3}
    check(repo)


def test_a_disk_that_is_full_for_a_moment(trainer, program, repo):
    """Wherever the move of the branch fails, the snapshot is there once."""
    repo.commit_components({"extra": ciuic_value(0)}, (), step=0)
    body = """
        import errno
        class Full(Faulty):
            def sync(self, descriptor, path):
                if "refs/heads" in path and once("full"):
                    from ciuic.store.fs import typed
                    raise typed(OSError(errno.ENOSPC, "full"), path)
                super().sync(descriptor, path)
        storing.CountingFileSystem = Full
    """
    one = trainer(start_up=program(body))
    assert one.submit(1).result(60).step == 1
    assert one.submit(2).result(60).step == 2
    one.finish()
    assert steps(repo) == [2, 1, 0] and list(repo.branches()) == ["main"]
    assert one.counts == {"published": 2, "retries": 1}


def test_not_enough_memory(trainer, program, repo):
    """A slot that does not fit into the writer's address space; then it does."""
    one = trainer(start_up=program())
    one.submit(1).result(60)
    with open(f"/proc/{one.writer.pid}/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(one.writer.pid, resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))
    failed = one.submit(2, size=1 << 22)
    error = failed.exception(60)
    assert isinstance(error, (BackgroundError, StorageError)), error
    resource.prlimit(one.writer.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert one.submit(3).result(60).parents == (repo.resolve("main~1").id,)
    one.finish()
    assert one.counts["failed"] == 1 and one.counts["published"] == 2


# The trainer's end

TRAINER = """
import os, signal, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from trainers import Trainer
one = Trainer({path!r})
def submit(count):
    pendings = [one.submit(step, count=8, size=1 << 16) for step in range(count)]
    assert all(pending.staged(60) for pending in pendings)
    print(one.writer.pid, flush=True)
    return pendings
{body}
"""


def start_trainer(path, body, **options):
    tests = os.path.dirname(os.path.abspath(__file__))
    code = TRAINER.format(root=str(ROOT), tests=tests, path=str(path), body=textwrap.dedent(body))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    "body",
    [
        "submit(10); os.kill(os.getpid(), signal.SIGKILL)",
        "submit(10); os._exit(0)",
        "submit(10)",
        # a worker that was forked holds the socket, and lives on
        """
        submit(1)[0].result(60)
        if os.fork() == 0:
            os.close(1)
            time.sleep(20)
            os._exit(0)
        submit(10)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        # the writer comes to its work when the trainer is gone
        """
        submit(1)[0].result(60)
        os.kill(one.writer.pid, signal.SIGSTOP)
        if os.fork() == 0:
            os.close(1)
            time.sleep(0.5)
            os.kill(one.writer.pid, signal.SIGCONT)
            time.sleep(20)
            os._exit(0)
        submit(10)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    ],
    ids=["killed", "exit at once", "exit", "forked", "stopped"],
)
def test_the_trainer_dies(repo, path, body):
    """What was staged is published, and the process goes."""
    process = start_trainer(path, body)
    pid = int(process.stdout.readline())
    process.stdout.close()
    process.wait(60)
    until(lambda: not running(pid))
    assert steps(repo)[:10] == list(range(9, -1, -1)) and list(repo.branches()) == ["main"]
    assert os.listdir(path / "tmp") == []
    check(repo, count=8, size=1 << 16)


def test_the_trainer_dies_where_there_are_no_pidfds(repo, path, program):
    """The writer looks whose child it is."""
    command = program("del os.pidfd_open")
    body = f"""
        one.clean()
        one = Trainer({str(path)!r}, start_up={command!r})
        submit(10)
        if os.fork() == 0:
            os.close(1)
            time.sleep(20)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = start_trainer(path, body)
    pid = int(process.stdout.readline())
    process.stdout.close()
    process.wait(60)
    until(lambda: not running(pid))
    assert steps(repo) == list(range(9, -1, -1))


def test_a_system_without_pidfds_and_memory_files(trainer, program, repo, monkeypatch):
    """As on macOS, but for the kernel."""
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(os, "memfd_create")
    one = trainer(start_up=program("del os.pidfd_open; del os.memfd_create"))
    assert one.submit(1).result(60).step == 1
    os.kill(one.writer.pid, signal.SIGKILL)
    assert one.submit(2).result(60).step == 2
    one.finish()
    assert steps(repo) == [2, 1] and one.counts == {"published": 2, "writer_deaths": 1}


def test_ctrl_c_does_not_reach_the_writer(repo, path):
    """Nor does the end of the terminal."""
    process = start_trainer(path, "submit(10); time.sleep(60)", start_new_session=True, stderr=subprocess.DEVNULL)
    pid = int(process.stdout.readline())
    assert os.getpgid(pid) != process.pid and os.getsid(pid) != process.pid
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGHUP)
    os.killpg(process.pid, signal.SIGINT)
    process.stdout.close()
    process.wait(60)
    until(lambda: not running(pid))
    assert steps(repo) == list(range(9, -1, -1))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGQUIT"])
def test_signals_to_all_of_a_job_pass_the_writer_by(trainer, repo, name):
    """A scheduler warns every process of a job; what is staged after that is published too, by the same process."""
    one = trainer()
    first = one.submit(0)
    assert first.staged(60)
    pid = one.writer.pid
    os.kill(pid, getattr(signal, name))  # it may be starting still
    first.result(60)
    os.kill(pid, getattr(signal, name))
    pendings = [one.submit(step) for step in range(1, 5)]
    assert [pending.result(60).step for pending in pendings] == [1, 2, 3, 4] and one.writer.pid == pid
    one.finish()
    assert steps(repo) == [4, 3, 2, 1, 0] and one.counts == {"published": 5}


def test_staged_after_sigterm_survives_the_trainer(repo, path):
    """The writer was told to go, the trainer staged one more and died: it is there."""
    body = """
        submit(3)
        os.kill(one.writer.pid, signal.SIGTERM)
        time.sleep(0.1)
        assert one.submit(50, count=8, size=1 << 16).staged(60)
        os._exit(0)
    """
    process = start_trainer(path, body)
    pid = int(process.stdout.readline())
    process.stdout.close()
    process.wait(60)
    until(lambda: not running(pid))
    assert steps(repo) == [50, 2, 1, 0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_forgets(trainer, repo):
    """It closes what it inherited, and the parent's writer goes on."""
    from trainers import descriptors

    before = set(descriptors().values())
    one = trainer()
    one.submit(1).result(60)
    pending = one.submit(2)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            one.writer.forget()
            left = {name for name in descriptors().values() if name.startswith(("socket", "pipe", "anon"))} - before
            late = one.submit(3)
            one.writer.close(1)
            code = 0 if not left and isinstance(late.exception(0), WriterFailed) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pending.result(60).step == 2 and one.submit(4).result(60).step == 4
    one.finish()
    assert steps(repo) == [4, 2, 1]
