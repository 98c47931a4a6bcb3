"""Kernel locks between processes: shared, exclusive, time-outs, death, fork, and gc beside a busy committer."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest
from ministore import Trainer, noise, output, python

from ciuic.errors import LockTimeout
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.gc import collect
from ciuic.store.locks import hold, opened


@pytest.fixture
def lock(tmp_path: Path) -> str:
    path = tmp_path / "lock"
    path.touch()
    return str(path)


HOLDING = """
import sys
from ciuic.store.fs import LOCAL
from ciuic.store.locks import hold
with hold(LOCAL, sys.argv[1], exclusive=sys.argv[2] == "exclusive", timeout_s=10):
    print("held", flush=True)
    sys.stdin.read()
print("released", flush=True)
"""


def holder(lock: str, how: str):
    import subprocess

    child = python(HOLDING, lock, how, stdin=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def is_free(lock: str, *, exclusive: bool) -> bool:
    try:
        with hold(LOCAL, lock, exclusive=exclusive, timeout_s=0):
            return True
    except LockTimeout:
        return False


@pytest.mark.parametrize(("how", "shared", "exclusive"), [("shared", True, False), ("exclusive", False, False)])
def test_between_processes(lock: str, how: str, *, shared: bool, exclusive: bool) -> None:
    """Shared ones go together; an exclusive one goes alone; a time-out is LockTimeout."""
    child = holder(lock, how)
    assert is_free(lock, exclusive=False) is shared
    assert is_free(lock, exclusive=True) is exclusive
    child.communicate("", timeout=20)
    assert is_free(lock, exclusive=True)


def test_killed_owner_releases(lock: str) -> None:
    """A process that was killed holds nothing: no lock file outlives its owner."""
    child = holder(lock, "exclusive")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=20)
    assert is_free(lock, exclusive=True)


def test_stopped_owner_keeps(lock: str) -> None:
    """A stopped process keeps its lock; whoever waits gives up in time."""
    child = holder(lock, "shared")
    child.send_signal(signal.SIGSTOP)
    assert not is_free(lock, exclusive=True)
    child.send_signal(signal.SIGCONT)
    child.communicate("", timeout=20)
    assert is_free(lock, exclusive=True)


FORKING = """
import os, sys, time
from ciuic.errors import LockTimeout
from ciuic.store.fs import LOCAL
from ciuic.store.locks import hold

def free():
    try:
        with hold(LOCAL, sys.argv[1], exclusive=True, timeout_s=0):
            return True
    except LockTimeout:
        return False

with hold(LOCAL, sys.argv[1], exclusive=True, timeout_s=0):
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"1" if free() else b"0")
        os.read(done[0], 1)  # outlives the parent's lock
        os._exit(0)
    print("the child holds it:", os.read(ready[0], 1) == b"1")
    # a child that leaves the block in its own way, with every finally clause
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    print("still held after a child's exit:", not free())
print("free while the child lives:", free())
os.write(done[1], b"x")
os.wait()
"""


def test_fork_while_held(lock: str) -> None:
    """A child forked under a lock neither holds nor releases it, however it ends."""
    assert output(python(FORKING, lock)).splitlines() == [
        "the child holds it: False",
        "still held after a child's exit: True",
        "free while the child lives: True",
    ]


class SlowToOpen(FileSystem):
    """Opening takes until another thread wants to fork, and a little longer."""

    def __init__(self) -> None:
        self.opened, self.forked = threading.Event(), threading.Event()

    def open(self, path: str, *, write: bool = False) -> int:
        descriptor = super().open(path, write=write)
        self.opened.set()
        self.forked.wait(0.3)  # a fork that did not wait would come now
        return descriptor


def test_a_fork_between_opening_and_locking(lock: str) -> None:
    """A worker that outlives its parent must not keep what the parent was just opening to lock it.

    A descriptor was noted only after it had been opened. A data loader's worker that another thread forked in between
    had a copy of it, and so the lock that was taken a moment later: with the trainer killed, gc waited for the worker.
    """
    fs, started, hold_on = SlowToOpen(), os.pipe(), os.pipe()
    children: list[int] = []

    def fork() -> None:
        fs.opened.wait()
        child = os.fork()
        if child == 0:
            os.write(started[1], b"x")
            os.read(hold_on[0], 1)  # outlives the lock
            os._exit(0)
        children.append(child)
        fs.forked.set()
        os.read(started[0], 1)

    thread = threading.Thread(target=fork)
    thread.start()
    with opened(fs, lock) as descriptor:
        thread.join()
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # closed without being released, as by a process that is killed
    try:
        assert is_free(lock, exclusive=True)
    finally:
        os.write(hold_on[1], b"x")
        os.waitpid(children[0], 0)


DATA_LOADER = """
import os, sys, threading, torch
from ministore import Trainer, noise
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        return torch.tensor(os.getpid())

trainer = Trainer(sys.argv[1])

def commit():
    number = 0
    while True:
        trainer.commit_to("busy", {"w": noise(number)})
        number += 1

threading.Thread(target=commit, daemon=True).start()
workers = set()
loaders = []
for _ in range(6):
    loader = iter(DataLoader(Slow(), batch_size=1, num_workers=2))
    workers |= {int(next(loader)) for _ in range(4)}
    loaders.append(loader)
print(*workers, flush=True)
sys.stdin.read()
"""


def test_workers_of_a_data_loader(trainer: Trainer) -> None:
    """Workers that were forked beside commits, and outlive a trainer that was killed, hold no lock: gc gets it."""
    import subprocess

    child = python(DATA_LOADER, trainer.store.path, stdin=subprocess.PIPE)
    assert child.stdout is not None
    workers = [int(word) for word in child.stdout.readline().split()]
    assert len(workers) >= 6
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # they would notice their parent's end, and go
    child.kill()
    child.wait()
    try:
        assert all(Path(f"/proc/{worker}").exists() for worker in workers)
        with trainer.store.exclusive(0.0):
            pass
        for name in ("lock", "gate", "refs/heads/busy", "index/lock"):
            assert is_free(trainer.store.join(name), exclusive=True)
        collect(trainer.store)
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    child.communicate(timeout=20)


FORKED_STORE = """
import os, sys
from ministore import Trainer
trainer = Trainer(sys.argv[1])
snapshot = trainer.commit({"w": b"parent"})
with trainer.store.shared():
    child = os.fork()
    if child == 0:
        # Inside the parent's block, and yet with a lock of its own.
        with trainer.store.shared():
            import fcntl
            from ciuic.store import locks
            print(len(locks._held), flush=True)
        assert trainer.load(snapshot) == {"w": b"parent"}
        trainer.commit_to("child", {"w": b"child"})
        os._exit(0)
    _, status = os.waitpid(child, 0)
after = trainer.commit({"w": b"after"})
print(os.waitstatus_to_exitcode(status), trainer.load(trainer.tip("child")), after == trainer.tip())
"""


def test_fork_inside_a_view(trainer: Trainer) -> None:
    """A child forked inside ``shared()`` takes locks of its own, and both go on committing."""
    assert output(python(FORKED_STORE, trainer.store.path)).splitlines() == ["1", "0 {'w': b'child'} True"]


COMMITTING = """
import sys, os
from ministore import Trainer, noise
trainer = Trainer(sys.argv[1])
print("ready", flush=True)
number = 0
while not os.path.exists(sys.argv[2]):
    trainer.commit_to(sys.argv[3], {"w": noise((sys.argv[3], number))})
    number += 1
print(number)
"""


def test_gc_beside_committers(trainer: Trainer, tmp_path: Path) -> None:
    """Processes that commit without a pause cannot starve gc, and gc cannot starve them."""
    stop = tmp_path / "stop"
    children = [python(COMMITTING, trainer.store.path, stop, name) for name in ("one", "two")]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for _ in range(3):
        collect(trainer.store)
    stop.touch()
    for name, child in zip(("one", "two"), children, strict=True):
        count = int(output(child))
        assert len(trainer.store.refs.log(f"refs/heads/{name}").read()) == count > 0


def test_gc_gives_up(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a reader never lets go, gc ends with LockTimeout, having released the gate; nothing was deleted."""
    monkeypatch.setattr("ciuic.store.gc.EXCLUSIVE_TIMEOUT_S", 0.05)
    trainer.commit({"w": noise(1)})
    child = holder(trainer.store.join("lock"), "shared")
    with pytest.raises(LockTimeout):
        collect(trainer.store)
    assert trainer.commit({"w": noise(2)}) == trainer.tip()
    child.communicate("", timeout=20)
    collect(trainer.store)


def test_threads_share_a_store(trainer: Trainer) -> None:
    """Threads of one process may read and commit through one store at once."""
    snapshot = trainer.commit({"w": noise("start")})
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(8):
                trainer.commit_to(f"thread-{number}", {"w": noise((number, round_)), "frozen": noise("frozen")})
                assert trainer.load(snapshot) == {"w": noise("start")}
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert all(len(trainer.store.refs.log(f"refs/heads/thread-{number}").read()) == 8 for number in range(4))
    assert os.listdir(trainer.store.join("tmp")) == []
