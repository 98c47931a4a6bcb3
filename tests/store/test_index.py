"""P6: the index may be missing, old, truncated, random, foreign or held: answers stay right and the process lives."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from ministore import Trainer, noise, output, python

from ciuic.objects.ids import digest
from ciuic.store.footer_index import FooterIndex
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.index import CHECK_LENGTH, OBJECT, ROW, Index

STATE: dict[str, object] = {"w": noise("w", 9000), "z": bytes(9000), "v": [1, 2]}


def index_folder(trainer: Trainer) -> Path:
    return Path(trainer.store.path, "index")


def restamp(trainer: Trainer) -> None:
    """Vouch for whatever data.mdb is, as only an attacker or a very unlikely crash does."""
    data = index_folder(trainer) / "data.mdb"
    stamp = trainer.store._lmdb_index._stamp(os.stat(data), trainer.store.read_generation())
    (index_folder(trainer) / "stamp").write_bytes(stamp)


def deleted(trainer: Trainer, tmp: Path) -> None:
    folder = index_folder(trainer)
    folder.unlink() if folder.is_file() else shutil.rmtree(folder)


def file_deleted(name: str) -> Callable[[Trainer, Path], None]:
    def damage(trainer: Trainer, tmp: Path) -> None:
        (index_folder(trainer) / name).unlink(missing_ok=True)

    return damage


def truncated_to(length: int) -> Callable[[Trainer, Path], None]:
    def damage(trainer: Trainer, tmp: Path) -> None:
        os.truncate(index_folder(trainer) / "data.mdb", length)

    return damage


def random_bytes(trainer: Trainer, tmp: Path) -> None:
    (index_folder(trainer) / "data.mdb").write_bytes(noise("index", 40960))


def zeros(trainer: Trainer, tmp: Path) -> None:
    (index_folder(trainer) / "data.mdb").write_bytes(bytes(40960))


def foreign(trainer: Trainer, tmp: Path) -> None:
    other = Trainer.create(tmp / "other")
    other.commit({"w": noise("theirs")})
    shutil.rmtree(index_folder(trainer))
    shutil.copytree(index_folder(other), index_folder(trainer))


def foreign_and_vouched_for(trainer: Trainer, tmp: Path) -> None:
    foreign(trainer, tmp)
    restamp(trainer)


def random_and_vouched_for(trainer: Trainer, tmp: Path) -> None:
    random_bytes(trainer, tmp)
    restamp(trainer)


def stamp_garbled(trainer: Trainer, tmp: Path) -> None:
    (index_folder(trainer) / "stamp").write_bytes(noise("stamp", 200))


def stamp_enormous(trainer: Trainer, tmp: Path) -> None:
    (index_folder(trainer) / "stamp").write_bytes(bytes(100_000))


def a_file(trainer: Trainer, tmp: Path) -> None:
    deleted(trainer, tmp)
    index_folder(trainer).write_bytes(b"not a folder")


def folders_in_it(trainer: Trainer, tmp: Path) -> None:
    shutil.rmtree(index_folder(trainer))
    for name in ("data.mdb", "lock.mdb", "stamp", "lock"):
        (index_folder(trainer) / name).mkdir(parents=True)


DAMAGE: dict[str, Callable[[Trainer, Path], None]] = {
    "deleted": deleted,
    "data deleted": file_deleted("data.mdb"),
    "lmdb lock deleted": file_deleted("lock.mdb"),
    "lock deleted": file_deleted("lock"),
    "stamp deleted": file_deleted("stamp"),
    "emptied": truncated_to(0),
    "truncated": truncated_to(5000),
    "grown": truncated_to(1 << 20),
    "random": random_bytes,
    "zeros": zeros,
    "foreign": foreign,
    "foreign and vouched for": foreign_and_vouched_for,
    "random and vouched for": random_and_vouched_for,
    "stamp garbled": stamp_garbled,
    "stamp enormous": stamp_enormous,
    "a file": a_file,
    "folders in it": folders_in_it,
}


@pytest.mark.parametrize("new_process", [True, False], ids=["new process", "open process"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_states(
    trainer: Trainer, tmp_path: Path, damage: Callable[[Trainer, Path], None], *, new_process: bool
) -> None:
    """Whatever became of the index between two commands: loads, commits, gc and fsck give the right answers.

    A process that has it open as well as a new one.
    """
    snapshot = trainer.commit(STATE)
    damage(trainer, tmp_path)
    view = Trainer(trainer.store.path) if new_process else trainer
    assert view.load(snapshot) == STATE
    damage(view, tmp_path / "again")
    before = sum(path.stat().st_size for path in view.packs())
    second = view.commit({**STATE, "new": noise("new")})
    assert sum(path.stat().st_size for path in view.packs()) < before + 6000  # what was known still is
    damage(view, tmp_path / "third")
    assert collect(view.store).freed_packs == 0
    assert view.load(second) == {**STATE, "new": noise("new")}
    assert check(view.store, read_data=True).ok


@pytest.fixture(autouse=True)
def _other_folder(tmp_path: Path) -> None:
    for name in ("again", "third"):
        (tmp_path / name).mkdir()


def test_old(trainer: Trainer, tmp_path: Path) -> None:
    """An index from before the last commits, put back with its times: what came since is found, what went is not."""
    first = trainer.commit(STATE)
    shutil.copytree(index_folder(trainer), tmp_path / "old")
    second = trainer.commit({"w": noise("second")})
    trainer.set("main", first)
    shutil.rmtree(index_folder(trainer))
    shutil.copytree(tmp_path / "old", index_folder(trainer))
    restamp(trainer)
    again = Trainer(trainer.store.path)
    assert again.load(second) == {"w": noise("second")}
    assert again.load(first) == STATE


def rows(trainer: Trainer, change: Callable[[bytes, bytes], bytes]) -> None:
    """Change every object row of the index, and vouch for the result."""
    path = str(index_folder(trainer))
    with contextlib.closing(lmdb.open(path)) as environment, environment.begin(write=True) as transaction:
        for key, value in list(transaction.cursor()):
            if key[:1] == OBJECT:
                transaction.put(key, change(key, value))
    restamp(trainer)


WRONG_ROWS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "no checksum": lambda key, value: value[:-CHECK_LENGTH] + b"\0\0\0\0",
    "short": lambda key, value: value[:5],
    "empty": lambda key, value: b"",
    "wrong offset": lambda key, value: _row(key, value, 64, 0),
    "beyond the pack": lambda key, value: _row(key, value, 1 << 40, 0),
    "enormous": lambda key, value: _row(key, value, 0, 1 << 60),
    "no such pack": lambda key, value: _row(key, value, 0, 0, pack=bytes(32)),
}


def _row(key: bytes, value: bytes, offset: int, length: int, pack: bytes | None = None) -> bytes:
    own, own_offset, own_length, depth = ROW.unpack(value[:-CHECK_LENGTH])
    data = ROW.pack(pack or own, own_offset + offset, own_length + length, depth)
    return data + digest(key + data)[:CHECK_LENGTH]


@pytest.mark.parametrize("change", WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_wrong_rows(tmp_path: Path, change: Callable[[bytes, bytes], bytes]) -> None:
    """Rows that are wrong behind a stamp that fits, with and without a sound checksum, mislead nobody."""
    snapshot = output(python(
        "import sys; from ministore import Trainer\n"
        "t = Trainer.create(sys.argv[1]); print(t.commit(eval(sys.argv[2])))", tmp_path / "repo", repr(STATE)
    ))  # fmt: skip
    trainer = Trainer(tmp_path / "repo")
    rows(trainer, change)
    assert trainer.load(snapshot) == STATE
    again = Trainer(trainer.store.path)
    second = again.commit(STATE)
    assert again.load(second) == STATE
    collect(again.store)
    assert check(again.store, read_data=True).ok


STUCK = """
import sys, os, signal
from ministore import Trainer
trainer = Trainer(sys.argv[1])
trainer.tip()
index = trainer.store._lmdb_index
with index.locked(), index.environment.begin(write=True) as transaction:
    transaction.put(b"Ostuck", b"x")
    print("inside", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def stuck_process(trainer: Trainer) -> subprocess.Popen[str]:
    child = python(STUCK, trainer.store.path)
    assert child.stdout is not None
    assert child.stdout.readline() == "inside\n"
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    return child


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGCONT], ids=["killed", "continued"])
def test_stopped_inside_a_transaction(
    trainer: Trainer, end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process stopped inside a write transaction hangs nobody; afterwards, however it ends, all is right."""
    monkeypatch.setattr("ciuic.store.index.LOCK_TIMEOUT_S", 0.05)
    first = trainer.commit(STATE)
    child = stuck_process(trainer)
    try:
        second = trainer.commit({**STATE, "v": 2})
        assert isinstance(trainer.store.index, FooterIndex)
        assert trainer.load(first) == STATE
        collect(trainer.store)
        again = Trainer(trainer.store.path)
        third = again.commit({**STATE, "v": 3})
        assert len(again.packs()) == 3
    finally:
        child.send_signal(end)
        child.communicate(timeout=20)
    for view in (trainer, again, Trainer(trainer.store.path)):
        assert view.load(second)["v"] == 2
        assert view.load(third)["v"] == 3
        assert not isinstance(view.store.index, FooterIndex)
    assert check(trainer.store, read_data=True).ok


READING = """
import sys
from ministore import Trainer
trainer = Trainer(sys.argv[1])
for line in sys.stdin:
    print(sorted(trainer.load(line.strip())), flush=True)
"""


def test_rebuilt_under_a_reader(trainer: Trainer, tmp_path: Path) -> None:
    """A process has the index open while others delete, truncate and rebuild it: it goes on with right answers."""
    snapshot = trainer.commit(STATE)
    reader = python(READING, trainer.store.path, stdin=subprocess.PIPE)
    assert reader.stdin is not None
    assert reader.stdout is not None
    changes = [DAMAGE[name] for name in ("deleted", "truncated", "emptied", "random", "grown", "stamp garbled")]
    for number, damage in enumerate([*changes, lambda trainer, tmp: None]):
        reader.stdin.write(snapshot + "\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "['v', 'w', 'z']\n"
        damage(trainer, tmp_path)
        if number % 2:
            Trainer(trainer.store.path).load(snapshot)  # another process builds it anew first
    assert reader.communicate(timeout=20) == ("", "")


def test_two_stores_in_one_process(trainer: Trainer) -> None:
    """LMDB must not open a file twice in one process: two stores share one environment, also across a rebuild."""
    snapshot = trainer.commit(STATE)
    other = Trainer(trainer.store.path)
    for _ in range(3):
        assert trainer.load(snapshot) == other.load(snapshot) == STATE
        assert isinstance(trainer.store.index, Index)
        assert isinstance(other.store.index, Index)
        assert trainer.store.index._environment is other.store.index._environment
        shutil.rmtree(index_folder(trainer))


FORKED = """
import os, sys
from ministore import Trainer, noise
trainer = Trainer(sys.argv[1])
first = trainer.commit({"w": noise(1)})
children = []
for number in range(3):
    if os.fork() == 0:
        assert trainer.load(first) == {"w": noise(1)}
        for round_ in range(5):
            trainer.commit_to(f"child-{number}", {"w": noise((number, round_))})
        assert type(trainer.store.index).__name__ == "Index"
        os._exit(0)
trainer.commit({"w": noise(2)})
for _ in range(3):
    _, status = os.wait()
    assert status == 0
print(len(trainer.store.refs.listing("refs/heads/")), type(trainer.store.index).__name__)
"""


def test_fork(trainer: Trainer) -> None:
    """After a fork the child opens the index anew and both use it: LMDB's environment must not cross a fork."""
    assert output(python(FORKED, trainer.store.path)) == "4 Index"
    assert check(trainer.store, read_data=True).ok


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_not_writable(trainer: Trainer) -> None:
    """An index that this user may not write: everything works from the footers."""
    snapshot = trainer.commit(STATE)
    deleted(trainer, Path())
    index_folder(trainer).mkdir(mode=0o500)
    again = Trainer(trainer.store.path)
    assert again.load(snapshot) == STATE
    assert again.load(again.commit({"w": b"1"})) == {"w": b"1"}


def test_no_room_for_the_map(trainer: Trainer) -> None:
    """Under an address-space limit a smaller map is taken, or none; the answers stay right."""
    snapshot = trainer.commit(STATE)
    code = """
import resource, sys
from ministore import Trainer
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
trainer = Trainer(sys.argv[1])
print(sorted(trainer.load(sys.argv[2])), len(trainer.commit({"w": b"1"})))
"""
    assert output(python(code, trainer.store.path, snapshot)) == "['v', 'w', 'z'] 64"
