"""Kernel locks between processes: shared, exclusive, time-outs, death, fork, and gc beside a busy committer."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from ministore import Trainer, noise, output, python

from ciuic.errors import LockTimeout
from ciuic.store.fs import LOCAL
from ciuic.store.gc import collect
from ciuic.store.locks import hold


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
