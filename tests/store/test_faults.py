"""The disk fails, or the process ends, at every file effect of init, commit, branch and gc. P1, P2, P3."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from faulty import EFFECTS, READS, Faulty
from ministore import Trainer, noise, output, python

from ciuic.errors import CiuicError, NotARepository, ReadOnlyStorage, RepositoryExists, StorageError
from ciuic.store import fs as fs_module
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.reflog import NOTHING
from ciuic.store.refs import HEADS
from ciuic.store.store import Store

STATE: dict[str, object] = {"w": noise("w", 9000), "v": 1}
NEW: dict[str, object] = {"w": noise("new", 9000), "frozen": noise("w", 9000)}
FAULTS = {
    "no space for ever": {"number": errno.ENOSPC, "for_ever": True},
    "short write, no space": {"number": errno.ENOSPC, "short": True},
    "input/output error once": {"number": errno.EIO},
    "input/output error for ever": {"number": errno.EIO, "for_ever": True},
    "read-only for ever": {"number": errno.EROFS, "for_ever": True},
    "interrupted once": {"number": errno.EINTR},
}


def prepared(path: Path) -> dict[str, str]:
    """A repository with a branch, a deleted one, and something for gc to repack and to free; snapshot by branch."""
    trainer = Trainer.create(path)
    trainer.commit(STATE)
    trainer.commit_to("gone", {"w": noise("gone", 40_000), "small": noise("small")})
    trainer.commit_to("kept", {"small": noise("small")})
    trainer.set("gone", NOTHING)
    return trainer.store.refs.listing(HEADS)


def commit(trainer: Trainer) -> None:
    trainer.commit(NEW)


def first_commit_of_a_branch(trainer: Trainer) -> None:
    trainer.commit_to("new", NEW)


def branch(trainer: Trainer) -> None:
    trainer.set("new", str(trainer.tip()), expected=NOTHING)


def reset(trainer: Trainer) -> None:
    trainer.set("kept", str(trainer.tip()))


def prune(trainer: Trainer) -> None:
    with trainer.store.shared():
        trainer.store.refs.prune(str(trainer.tip("kept")), "model")


def gc(trainer: Trainer) -> None:
    collect(trainer.store, expire=timedelta(0))


OPERATIONS = [commit, first_commit_of_a_branch, branch, reset, prune, gc]


def effects(original: Path, operation: Callable[[Trainer], None], names: tuple[str, ...] = EFFECTS) -> list[str]:
    """The names of the file effects that an operation has, in order."""
    copy = original.with_name("count")
    shutil.copytree(original, copy)
    fs = Faulty(effects=names)
    operation(Trainer(copy, fs))
    shutil.rmtree(copy)
    return [line.split(" ")[0] for line in fs.log]


def still_sound(path: Path, before: dict[str, str], view: Trainer | None = None) -> None:
    """Refs are at their old or new values, every snapshot reads, fsck is clean, and the next commit works."""
    view = view or Trainer(path)
    with view.store.shared():
        refs = view.store.refs.listing(HEADS)
    for name, value in before.items():
        if refs.get(name) != value:
            assert name in ("main", "kept")
    report = check(view.store, read_data=True)
    assert report.ok, report.problems
    assert view.load(before["main"]) == STATE
    if refs.get("kept") == before["kept"] and not view.store.refs.prunes():
        assert view.load(before["kept"]) == {"small": noise("small")}
    tip = view.commit_to("main", {"w": noise("next")})
    assert view.load(tip) == {"w": noise("next")}
    assert list(view.store.refs.listing(HEADS))[:2] == ["kept", "main"]


# Each way to fail of the two that have many effects, and the two worst ones of the others.
MATRIX = [
    (operation, fault)
    for operation in OPERATIONS
    for fault in FAULTS
    if operation in (commit, gc) or fault in ("input/output error once", "no space for ever")
]


@pytest.mark.parametrize(("operation", "fault"), MATRIX)
def test_every_effect_fails(tmp_path: Path, operation: Callable[[Trainer], None], fault: str) -> None:
    """Fail the Nth effect, for every N: a typed error or success, and a sound repository for all."""
    original = tmp_path / "original"
    before = prepared(original)
    for number, name in enumerate(effects(original, operation)):
        if FAULTS[fault].get("short") and not name.startswith("write"):
            continue
        copy = tmp_path / "copy"
        shutil.copytree(original, copy)
        fs = Faulty(number, **FAULTS[fault])  # type: ignore[arg-type]
        trainer = Trainer(copy, fs)
        try:
            operation(trainer)
        except CiuicError as error:
            assert isinstance(error, StorageError), error
        fs.at = -1  # the disk is well again
        still_sound(copy, before, trainer if number % 2 else None)
        shutil.rmtree(copy)


@pytest.mark.parametrize("operation", [commit, gc])
def test_every_read_fails(tmp_path: Path, operation: Callable[[Trainer], None]) -> None:
    """Fail the Nth read, open or listing, for every N: a typed error or success, and nothing is changed wrongly."""
    original = tmp_path / "original"
    before = prepared(original)
    for number in range(len(effects(original, operation, READS))):
        copy = tmp_path / "copy"
        shutil.copytree(original, copy)
        with contextlib.suppress(CiuicError):
            operation(Trainer(copy, Faulty(number, effects=READS)))
        still_sound(copy, before)
        shutil.rmtree(copy)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_sync_succeeds_any_more(tmp_path: Path, operation: Callable[[Trainer], None]) -> None:
    """From the Nth sync on every one fails, and writes go on: nothing is acknowledged that is not durable.

    A sync is never tried again, so what the first one left unsure stays out; when the disk is well, all goes on.
    """
    syncs = ("sync", "sync_folder")
    original = tmp_path / "original"
    before = prepared(original)
    for number in range(len(effects(original, operation, syncs))):
        copy = tmp_path / "copy"
        shutil.copytree(original, copy)
        fs = Faulty(number, for_ever=True, effects=syncs)
        trainer = Trainer(copy, fs)
        with contextlib.suppress(StorageError):
            operation(trainer)
        fs.at = -1
        still_sound(copy, before, trainer if number % 2 else None)
        shutil.rmtree(copy)


CRASHING = """
import os, shutil, sys
from pathlib import Path
from faulty import Faulty
from ministore import Trainer
import test_faults
operation = getattr(test_faults, sys.argv[2])
original = Path(sys.argv[1])
before = test_faults.prepared(original)
names = test_faults.effects(original, operation)
for number, name in enumerate(names):
    for die in ("half", "after") if name.startswith("write") else ("after",):  # before one is after the one before
        copy = original.with_name("copy")
        shutil.copytree(original, copy)
        child = os.fork()
        if child == 0:
            try:
                operation(Trainer(copy, Faulty(number, die=die)))
                os._exit(1)  # it must not get here
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, (number, die)
        test_faults.still_sound(copy, before)
        shutil.rmtree(copy)
print(len(names))
"""


@pytest.mark.parametrize("operation", [commit, first_commit_of_a_branch, gc])
def test_every_effect_is_the_last(tmp_path: Path, operation: Callable[[Trainer], None]) -> None:
    """The process ends in the middle of the Nth effect, or after it, for every N: nothing needs repair."""
    assert int(output(python(CRASHING, tmp_path / "original", operation.__name__))) > 3


CRASHING_INIT = """
import os, shutil, sys
from faulty import Faulty
from ministore import Trainer
from ciuic.errors import CiuicError, NotARepository, RepositoryExists
from ciuic.store.store import Store
path = sys.argv[1]
number = 0
while True:
    fs = Faulty(number, die="after" if number % 2 else "before")
    child = os.fork()
    if child == 0:
        Store.create(path + "/a/b", fs)
        os._exit(1)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        Store(path + "/a/b")
        made = True
    except NotARepository:
        made = False
    try:
        Store.create(path + "/a/b")
        assert not made
    except RepositoryExists:
        assert made
    Trainer(path + "/a/b").commit({"w": b"1"})
    shutil.rmtree(path + "/a")
    if ended == 1:
        break
    number += 1
print(number)
"""


def test_init_ends_anywhere(tmp_path: Path) -> None:
    """An init that ends at any effect left no repository, and a second one makes it; or a whole one."""
    assert int(output(python(CRASHING_INIT, tmp_path))) > 10


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_init_fails_anywhere(tmp_path: Path, fault: dict[str, object]) -> None:
    """An init that fails says so with a typed error; afterwards it can be made, or it is there."""
    counting = Faulty()
    Store.create(str(tmp_path / "count"), counting)
    for number in range(counting.count):
        path = tmp_path / str(number) / "below"
        with contextlib.suppress(StorageError):
            Store.create(str(path), Faulty(number, **fault))  # type: ignore[arg-type]
        try:
            Store(str(path))
        except NotARepository:
            Store.create(str(path))
        else:
            with pytest.raises(RepositoryExists):
                Store.create(str(path))
        trainer = Trainer(path)
        assert trainer.load(trainer.commit(STATE)) == STATE


def test_short_writes_and_interruptions(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may write less than it was given, or be interrupted: both are gone on from."""
    writev, pwrite, pread = os.writev, os.pwrite, os.pread

    def short_writev(descriptor: int, buffers: list[memoryview]) -> int:
        return writev(descriptor, [buffers[0][: max(1, len(buffers[0]) // 3)]])

    monkeypatch.setattr(fs_module.os, "writev", short_writev)
    monkeypatch.setattr(fs_module.os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    monkeypatch.setattr(fs_module.os, "pread", lambda fd, length, offset: pread(fd, min(length, 999), offset))
    snapshots = [trainer.commit({**STATE, "v": number}) for number in range(3)]
    assert [trainer.load(snapshot)["v"] for snapshot in snapshots] == [0, 1, 2]
    assert check(trainer.store, read_data=True).ok


INTERRUPTED = """
import signal, sys
from datetime import timedelta
from ministore import Trainer, noise
from ciuic.store.fsck import check
from ciuic.store.gc import collect
count = 0
def interrupt(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
trainer = Trainer.create(sys.argv[1])
number = 0
while number < 5 or count < 50:
    number += 1
    state = {"w": noise(number, 200_000), "same": noise("same", 9000)}
    assert trainer.load(trainer.commit(state)) == state
collect(trainer.store, expire=timedelta(0))
assert check(trainer.store, read_data=True).ok
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_interrupted_all_the_time(tmp_path: Path) -> None:
    """A signal a millisecond, each of which ends the call that it meets (EINTR): commits, reads and gc go on."""
    assert output(python(INTERRUPTED, tmp_path / "repo")) == ""


# Real read-only disks; test_small_disk.py has the full ones


LIMITED = """
import resource, sys
from ministore import Trainer, noise
trainer = Trainer(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    trainer.commit({"w": noise("large", 100_000)})
except Exception as error:
    print(type(error).__name__)
print(len(trainer.commit({"w": noise("small", 5000)})), len(trainer.load(trainer.tip())["w"]))
"""


def test_file_size_limit(trainer: Trainer) -> None:
    """A file that may not grow (no root needed): a typed error, nothing left behind, and a smaller commit works."""
    trainer.commit(STATE)
    shutil.rmtree(trainer.store.join("index"))
    assert output(python(LIMITED, trainer.store.path)).splitlines() == ["StorageError", "64 5000"]
    assert os.listdir(trainer.store.join("tmp")) == []
    assert check(trainer.store, read_data=True).ok


def test_read_only_disk(tmp_path: Path) -> None:
    """On a read-only mount reading works, with and without an index, and writing says so."""
    if os.geteuid() != 0:
        pytest.skip("a read-only mount needs root; tests/cli/test_read_only.py uses a user namespace")
    trainer = Trainer.create(tmp_path / "repo")
    snapshot = trainer.commit(STATE)
    for index in (True, False):
        if not index:
            shutil.rmtree(trainer.store.join("index"))
        bind = subprocess.run(["mount", "--bind", str(tmp_path), str(tmp_path)], capture_output=True)
        if bind.returncode:
            pytest.skip("cannot mount here")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path)], check=True)
            view = Trainer(tmp_path / "repo")
            assert view.load(snapshot) == STATE
            assert check(view.store, read_data=True).ok
            assert collect(view.store, dry_run=True).freed_bytes == 0
            for operation in OPERATIONS:
                with pytest.raises(ReadOnlyStorage):
                    operation(view)
        finally:
            subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
    assert trainer.load(snapshot) == STATE
    assert trainer.commit(NEW)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write(trainer: Trainer) -> None:
    """Folders that this user may not write (no root needed): the same."""
    snapshot = trainer.commit(STATE)
    folders = [trainer.store.path, *(trainer.store.join(name) for name in ("packs", "tmp", "refs/heads", "index"))]
    for folder in folders:
        os.chmod(folder, 0o500)
    try:
        view = Trainer(trainer.store.path)
        assert view.load(snapshot) == STATE
        with pytest.raises(ReadOnlyStorage):
            view.commit(NEW)
    finally:
        for folder in folders:
            os.chmod(folder, 0o700)
