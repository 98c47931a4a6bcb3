"""Ref logs: compare and append, torn last slots, damage, names, failed syncs, and many writers."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from blake3 import blake3
from faulty import Faulty
from ministore import Trainer, noise, output, python

from ciuic.errors import (
    CiuicError,
    DamagedRef,
    InvalidRefName,
    ReadOnlyStorage,
    RefConflict,
    StorageError,
    StorageFull,
)
from ciuic.store.expiry import read_logs
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.reflog import NOTHING, SLOT, LogRecord, RefLog, decode_log, decode_record, encode_record
from ciuic.store.refs import HEADS, check_name
from ciuic.store.store import Store

A, B, C, D = (digit * 64 for digit in "abcd")


@pytest.fixture
def log(tmp_path: Path) -> RefLog:
    return RefLog(LOCAL, str(tmp_path / "log"), "refs/heads/main", str(tmp_path))


def values(log: RefLog) -> list[str]:
    return [record.new for record in log.read()]


def signed(log: str, rest: bytes) -> bytes:
    """A slot with a sound checksum."""
    rest = rest.ljust(SLOT - 33) + b"\n"
    return blake3(log.encode() + b"\0" + rest).hexdigest()[:32].encode() + rest


# Records


def test_appends(log: RefLog) -> None:
    """Each record says what was there before; the log is 512 bytes a record."""
    assert log.last() is None
    for value in (A, B, NOTHING, C):
        log.append(None, value, "me", "moved")
    records = log.read()
    assert [(record.sequence, record.old, record.new) for record in records] == [
        (0, NOTHING, A),
        (1, A, B),
        (2, B, NOTHING),
        (3, NOTHING, C),
    ]
    assert log.last() == records[-1]
    assert os.path.getsize(log.path) == 4 * SLOT


def test_compare(log: RefLog) -> None:
    """A log that is not where the caller last saw it does not move."""
    with pytest.raises(RefConflict):
        log.append(A, B, "me", "too early")
    log.append(NOTHING, A, "me", "made")
    for stale in (NOTHING, B):
        with pytest.raises(RefConflict):
            log.append(stale, C, "me", "too late")
    log.append(A, B, "me", "in time")
    assert values(log) == [A, B]


@pytest.mark.parametrize(
    "text",
    ["a\tb", "two\nlines\r\n", "nul\0", "é" * 400, "日本語" * 200, "x" * 5000, "\ud800", "", "  padded  ", "🦀" * 300],
)
def test_any_text_in_fields(log: RefLog, text: str) -> None:
    """Whatever a message or a host name holds, a record is one slot of one line and reads back."""
    record = log.append(None, A, text, text)
    log.append(A, B, "me", "after it")
    data = Path(log.path).read_bytes()
    assert len(data) == 2 * SLOT
    assert data.count(b"\n") == 2
    first, second = log.read()
    assert (first.new, second.new) == (A, B)
    assert (first.sequence, first.time_ns, first.old) == (record.sequence, record.time_ns, record.old)
    assert text[:10].strip().split("\t")[0].split("\n")[0].split("\0")[0] in first.action or "\ud800" in text


def test_longest_record() -> None:
    """The longest values leave room for an actor and an action; the record is still one slot."""
    longest = "ref:refs/heads/" + "x" * 100
    record = LogRecord(10**19 - 1, 10**19 - 1, longest, longest, "a" * 100, "b" * 1000)
    slot = encode_record("HEAD", record)
    assert len(slot) == SLOT
    decoded = decode_record("HEAD", slot)
    assert decoded is not None
    assert (decoded.sequence, decoded.new) == (record.sequence, longest)
    assert len(decoded.action) > 80


@pytest.mark.parametrize(
    "rest",
    [
        b"\t0\t0\t-\tref:refs/heads/x\ta\tb",  # a branch is never symbolic
        b"\t-1\t0\t-\t" + A.encode() + b"\ta\tb",
        b"\t1_0\t0\t-\t" + A.encode() + b"\ta\tb",
        b"\t0\t" + b"9" * 30 + b"\t-\t" + A.encode() + b"\ta\tb",  # a time no calendar has
        b"\t0\t0\t-\t" + A.upper().encode() + b"\ta\tb",
        b"\t0\t0\t-\t" + A.encode() + b"\ta",
        b"\t0\t0\t-\t" + A.encode() + b"\ta\tb\tc",
        b"\xff\xfe",
        b"",
    ],
)
def test_hostile_records(rest: bytes) -> None:
    """A checksum proves nothing about a stranger's file: the form is checked too."""
    with pytest.raises(DamagedRef):
        decode_log("refs/heads/main", signed("refs/heads/main", rest))


def test_a_log_cannot_pose_as_another(trainer: Trainer) -> None:
    """Two logs that changed places are both refused: the name goes into each checksum."""
    trainer.commit({"w": noise(1)})
    trainer.commit_to("other", {"w": noise(2)})
    main, other = (trainer.store.join("refs", "heads", name) for name in ("main", "other"))
    os.rename(main, main + "-aside")
    os.rename(other, main)
    os.rename(main + "-aside", other)
    for name in ("main", "other"):
        with pytest.raises(DamagedRef):
            trainer.tip(name)
    with pytest.raises(DamagedRef):
        collect(trainer.store)
    assert len(check(trainer.store).problems) >= 2


# Torn slots and damage


def three(log: RefLog) -> bytes:
    for value in (A, B, C):
        log.append(None, value, "me", "moved")
    return Path(log.path).read_bytes()


TORN = {
    "short": lambda slot: slot[:200],
    "one byte": lambda slot: slot[:1],
    "zeros": lambda slot: bytes(SLOT),
    "first half": lambda slot: slot[:256] + bytes(256),
    "second half": lambda slot: bytes(256) + slot[256:],
    "short zeros": lambda slot: bytes(100),
}


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_torn_last_slot(log: RefLog, tear) -> None:
    """A last slot that was never written whole is set aside: nothing to repair, and the next append takes its place."""
    data = three(log)
    Path(log.path).write_bytes(data[: 2 * SLOT] + tear(data[2 * SLOT :]))
    last = log.last()
    assert last is not None
    assert (values(log), last.new) == ([A, B], B)
    log.append(B, D, "me", "again")
    assert values(log) == [A, B, D]
    assert os.path.getsize(log.path) == 3 * SLOT


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_torn_first_slot(log: RefLog, tear) -> None:
    """A log of which not even the first record was written whole has no value."""
    log.append(None, A, "me", "made")
    data = Path(log.path).read_bytes()
    Path(log.path).write_bytes(tear(data))
    assert (log.last(), log.read()) == (None, [])
    log.append(NOTHING, B, "me", "made again")
    assert values(log) == [B]


def test_every_flipped_byte_is_damage(log: RefLog) -> None:
    """One flipped byte anywhere is DamagedRef, in the last slot too, also when it becomes a zero.

    A single zero byte used to count as a torn slot: a flipped bit in the padding (a space, 0x20) took the last
    acknowledged commit off its branch without a word.
    """
    data = three(log)
    for position in range(len(data)):
        for new in {data[position] ^ 1, 0}:
            damaged = bytearray(data)
            damaged[position] = new
            with pytest.raises(DamagedRef):
                decode_log(log.name, bytes(damaged))
    Path(log.path).write_bytes(data[:-5] + b"\0" + data[-4:])
    with pytest.raises(DamagedRef):
        log.last()


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("tear", [TORN["zeros"], TORN["first half"]])
def test_only_the_last_slot_can_be_torn(log: RefLog, tear, slot: int) -> None:
    """The same zeros before the last slot are corruption: never cut, never written over."""
    data = three(log)
    Path(log.path).write_bytes(data[: slot * SLOT] + tear(data[:SLOT]) + data[(slot + 1) * SLOT :])
    with pytest.raises(DamagedRef):
        log.read()


def test_out_of_sequence(log: RefLog) -> None:
    """Records that were cut out or put in between are noticed."""
    data = three(log)
    for other in (data[:SLOT] + data[2 * SLOT :], data[:SLOT] + data[:SLOT], data[SLOT : 2 * SLOT] + data[:SLOT]):
        Path(log.path).write_bytes(other)
        with pytest.raises(DamagedRef, match="out of sequence"):
            log.read()
    Path(log.path).write_bytes(data[SLOT:])  # what expiry leaves
    assert values(log) == [B, C]


def test_damage_stops_gc_and_nothing_else(trainer: Trainer) -> None:
    """A damaged log stops gc with nothing deleted, fsck names it, and other branches go on."""
    trainer.commit({"w": noise(1)})
    trainer.commit_to("other", {"w": noise(2)})
    trainer.commit_to("other", {"w": noise(3)})
    path = Path(trainer.store.join("refs", "heads", "other"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    before = trainer.packs()
    with pytest.raises(DamagedRef):
        collect(trainer.store)
    assert trainer.packs() == before
    assert any("refs/heads/other" in line for line in check(trainer.store).problems)
    assert trainer.commit({"w": noise(4)}) == trainer.tip()


# The trip-wire: the index remembers each log's last record


def test_shorter_log_trips(trainer: Trainer) -> None:
    """A log that lost its end reads well, but gc and fsck know that there was more."""
    for number in range(3):
        trainer.commit({"w": noise(number)})
    path = Path(trainer.store.join("refs", "heads", "main"))
    path.write_bytes(path.read_bytes()[: 2 * SLOT])
    with pytest.raises(DamagedRef, match="ends before record 2"):
        collect(trainer.store)
    assert not check(trainer.store).ok


def test_vanished_log_trips(trainer: Trainer) -> None:
    """A log that is gone altogether stops gc too."""
    trainer.commit({"w": noise(1)})
    os.unlink(trainer.store.join("refs", "heads", "main"))
    with pytest.raises(DamagedRef, match="ends before"):
        collect(trainer.store)
    assert len(trainer.packs()) == 1


def test_replaced_record_trips(trainer: Trainer) -> None:
    """A log that was set back and went on differently is noticed as well."""
    for number in range(3):
        trainer.commit({"w": noise(number)})
    log = trainer.store.refs.log(HEADS + "main")
    data = Path(log.path).read_bytes()
    Path(log.path).write_bytes(data[: 2 * SLOT])
    log.append(None, log.read()[0].new, "somebody", "by hand")
    with pytest.raises(DamagedRef, match="not the one"):
        collect(trainer.store)


def test_the_trip_wire_survives_the_index(trainer: Trainer) -> None:
    """A new index remembers the logs that it found; before, it remembered only those that moved after it was made."""
    for number in range(2):
        trainer.commit({"w": noise(number)})
    shutil.rmtree(trainer.store.join("index"))
    again = Trainer(trainer.store.path)
    again.tip()
    os.unlink(trainer.store.join("refs", "heads", "main"))
    with pytest.raises(DamagedRef):
        collect(again.store)


@pytest.mark.parametrize("folder", ["refs/heads", "refs/tags", "refs"])
def test_missing_folder_is_not_no_refs(trainer: Trainer, folder: str) -> None:
    """Without its folders of logs a repository looks as if nothing were needed. gc used to delete all of it."""
    trainer.commit({"w": noise(1)})
    shutil.rmtree(trainer.store.join("index"))
    shutil.rmtree(trainer.store.join(*folder.split("/")))
    again = Trainer(trainer.store.path)
    with pytest.raises(DamagedRef, match="missing"):
        collect(again.store)
    assert len(again.packs()) == 1
    assert not check(again.store).ok


@pytest.mark.parametrize("name", ["a%2fb", "main~", ".main.swp", "a%ZZ", "\udcff\udcfe"])
def test_stray_file(trainer: Trainer, name: str) -> None:
    """A file among the logs that cannot be one is named by gc and fsck, and disturbs nothing else."""
    trainer.commit({"w": noise(1)})
    Path(trainer.store.join("refs", "heads", name)).write_bytes(b"stray")
    assert list(trainer.store.refs.listing(HEADS)) == ["main"]
    with pytest.raises(DamagedRef, match="not the file of a log"):
        collect(trainer.store)
    assert not check(trainer.store).ok


def test_folder_among_logs(trainer: Trainer) -> None:
    """A folder where a log belongs is DamagedRef, not an IsADirectoryError."""
    trainer.commit({"w": noise(1)})
    os.mkdir(trainer.store.join("refs", "heads", "folder"))
    with pytest.raises(DamagedRef):
        read_logs(trainer.store)
    with pytest.raises(DamagedRef):
        trainer.set("folder", A)


# Names


@pytest.mark.parametrize("name", ["main", "feature/x", "ä/ö", "日本", "a@b", "v1.0", "a+b,c", "x" * 100, "a%2Fb", "%"])
def test_names(trainer: Trainer, name: str) -> None:
    """Branch files are flat and percent-encoded, so no name can be in the way of another one."""
    trainer.set(check_name(name), A)
    assert trainer.store.refs.listing(HEADS) == {name: A}
    (file,) = os.listdir(trainer.store.join("refs", "heads"))
    assert "/" not in file


def test_no_name_in_the_way(trainer: Trainer) -> None:
    """``a`` and ``a/b`` stand side by side, and a deleted ``a`` does not forbid ``a/b``."""
    for name in ("a", "a/b", "a%2Fb"):
        trainer.set(name, A)
    trainer.set("a", NOTHING)
    trainer.set("a/b/c", B)
    assert trainer.store.refs.listing(HEADS) == {"a/b": A, "a%2Fb": A, "a/b/c": B}


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a..b", "/a", "a/", "-a", ".a", "a/.b", "a b", "a\tb", "a\nb", "a~1", "a^", "a:b", "a?", "a*",
     "a[", "a\\b", "@", "@{1}", "a@{0}", "HEAD", "step", "best", "x" * 101, "é" * 51, "\udcff", "a.lock", "a//b", "\0"],
)  # fmt: skip
def test_bad_names(name: str) -> None:
    """What means something in a revision, a path or a shell cannot name a branch."""
    with pytest.raises(InvalidRefName):
        check_name(name)


# Failed writes and syncs


class FailingSync(FileSystem):
    """Syncs of logs, or of their folders, fail while ``failing`` says so; writes too, if told to."""

    def __init__(self) -> None:
        self.failing: str | None = None

    def sync(self, descriptor: int, path: str) -> None:
        if self.failing in ("sync", "sync and zeroing") and "refs/heads" in path:
            raise StorageError(f"{path}: Input/output error.")
        super().sync(descriptor, path)

    def write_at(self, descriptor: int, data: bytes, offset: int, path: str) -> None:
        if self.failing == "write" or (self.failing == "sync and zeroing" and not any(data)):
            raise StorageError(f"{path}: Input/output error.")
        super().write_at(descriptor, data, offset, path)

    def sync_folder(self, path: str) -> None:
        if self.failing == "folder" and path.endswith("refs/heads"):
            raise StorageError(f"{path}: Input/output error.")
        super().sync_folder(path)

    def rename(self, source: str, target: str) -> None:
        if self.failing and "refs/heads" in target:
            raise StorageError(f"{target}: Input/output error.")
        super().rename(source, target)


@pytest.mark.parametrize("failing", ["sync", "write", "sync and zeroing"])
def test_failed_append(tmp_path: Path, failing: str) -> None:
    """A commit whose log could not be synced is not acknowledged, and the branch is where it was.

    The next commit first writes the log anew, without the failed record, and stays on its branch.
    When even the slot's zeroing failed, the failed record used to survive that, and the next commit took it for another
    process's, and went on on a new branch.
    """
    fs = FailingSync()
    trainer = Trainer.create(tmp_path / "repo", fs)
    first = trainer.commit({"w": noise(1)})
    log = trainer.store.refs.log(HEADS + "main")
    inode = os.stat(log.path).st_ino
    fs.failing = failing
    for _ in range(2):
        with pytest.raises(StorageError):
            trainer.commit({"w": noise(2)})
    if failing != "sync and zeroing":
        assert Trainer(trainer.store.path).tip() == first
    assert trainer.load(first) == {"w": noise(1)}  # who only reads is not stopped
    fs.failing = None
    second = trainer.commit({"w": noise(2)})
    assert [record.new for record in log.read()] == [first, second]
    assert os.stat(log.path).st_ino != inode
    assert trainer.store.refs.listing(HEADS) == {"main": second}
    assert check(trainer.store).ok


def test_failed_folder_sync_of_the_first_commit(tmp_path: Path) -> None:
    """The very first commit fails when its new log's folder cannot be synced; the next one still makes ``main``.

    It used to find its own failed record there and to go on on ``main-2``.
    """
    fs = FailingSync()
    trainer = Trainer.create(tmp_path / "repo", fs)
    fs.failing = "folder"
    with pytest.raises(StorageError):
        trainer.commit({"w": noise(1)})
    assert Trainer(trainer.store.path).tip() is None
    fs.failing = None
    snapshot = trainer.commit({"w": noise(1)})
    assert trainer.store.refs.listing(HEADS) == {"main": snapshot}


class Recorder(FileSystem):
    """Notes what was synced and linked."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync_folder(self, path: str) -> None:
        self.synced.append(path)
        super().sync_folder(path)


def test_name_is_made_durable_by_whoever_appends(tmp_path: Path) -> None:
    """A log that another process has made, and whose name it may not have lived to sync, is appended to after that.

    A record in a file without a name would be an acknowledged commit that a power failure takes away.
    """
    Trainer.create(tmp_path / "repo").commit({"w": noise(1)})
    fs = Recorder()
    second = Trainer(tmp_path / "repo", fs)
    folder = second.store.join("refs", "heads")
    second.commit({"w": noise(2)})
    assert folder in fs.synced
    fs.synced.clear()
    second.commit({"w": noise(3)})
    assert folder not in fs.synced  # once a process is enough


def test_rewritten_while_a_committer_waits(log: RefLog) -> None:
    """A log that was replaced between open and lock is opened again: the record goes to the file that has the name."""
    three(log)
    opened = 0

    class Replacing(FileSystem):
        def open(self, path: str, *, write: bool = False) -> int:
            nonlocal opened
            descriptor = super().open(path, write=write)
            if write:
                opened += 1
                if opened == 1:
                    log.rewrite(log.read()[1:])
            return descriptor

    RefLog(Replacing(), log.path, log.name, log.tmp).append(C, D, "me", "after expiry")
    assert opened == 2
    assert values(log) == [B, C, D]


# Many writers

APPENDING = """
import sys
from ciuic.store.store import Store
store = Store(sys.argv[1])
for number in range(int(sys.argv[3])):
    with store.shared():
        record = store.move_ref("refs/heads/main", sys.argv[2] * 64, f"{sys.argv[2]} {number}")
    print(record.sequence, record.action)
"""


def test_concurrent_appends_lose_nothing(trainer: Trainer) -> None:
    """Records that several processes append at once are all there, each at the sequence number it was told."""
    children = [python(APPENDING, trainer.store.path, digit, 40) for digit in "abc"]
    acknowledged = sorted(line for child in children for line in output(child).splitlines())
    records = trainer.store.refs.log(HEADS + "main").read()
    assert len(records) == 120
    assert sorted(f"{record.sequence} {record.action}" for record in records) == acknowledged


CREATING = """
import sys
from ciuic.errors import RefConflict
from ciuic.store.store import Store
store = Store(sys.argv[1])
made = []
for number in range(30):
    with store.shared():
        try:
            store.move_ref(f"refs/heads/{number}", sys.argv[2] * 64, "made", expected="-")
            made.append(number)
        except RefConflict:
            pass
print(made)
"""


def test_two_processes_make_one_branch(trainer: Trainer) -> None:
    """Of two processes that make the same branches each branch has one winner; both are told."""
    children = {digit: python(CREATING, trainer.store.path, digit) for digit in "ab"}
    made = {digit: eval(output(child)) for digit, child in children.items()}
    assert sorted(made["a"] + made["b"]) == list(range(30))
    for digit, numbers in made.items():
        assert all(trainer.tip(str(number)) == digit * 64 for number in numbers)


def test_first_record_of_an_unconditional_log(log: RefLog) -> None:
    """Two processes that both start a log without a condition (the prunes, HEAD) both get their record in.

    The second one used to fail with RefConflict, although it had asked for no comparison.
    """

    class Faster(FileSystem):
        def link(self, source: str, target: str) -> None:
            if not os.path.exists(target):
                RefLog(LOCAL, log.path, log.name, log.tmp).append(None, A, "another", "faster")
            super().link(source, target)

    record = RefLog(Faster(), log.path, log.name, log.tmp).append(None, B, "me", "second")
    assert (record.sequence, values(log)) == (1, [A, B])
    with pytest.raises(RefConflict):
        RefLog(Faster(), log.path + "2", log.name, log.tmp).append(C, B, "me", "conditional")


def test_only_our_errors(trainer: Trainer) -> None:
    """Random bytes in any log, of any length: a typed error or a value, never anything else."""
    trainer.commit({"w": noise(1)})
    for name in ("HEAD", "prunes", "refs/heads/main"):
        for length in (1, 511, 512, 513, 1024):
            path = Path(trainer.store.join(name))
            before = path.read_bytes() if path.exists() else None
            path.write_bytes(noise(name, length))
            for operation in (trainer.store.refs.head, lambda: check(trainer.store), trainer.store.refs.prunes):
                try:
                    operation()
                except CiuicError:
                    continue
            path.unlink() if before is None else path.write_bytes(before)
    assert isinstance(trainer.store, Store)


def test_a_log_that_could_not_even_be_opened_is_not_in_doubt(trainer: Trainer) -> None:
    """On a read-only or a full disk the second attempt said that a write had failed before, and no word of the reason.

    Nothing had been written: there was nothing to be written anew, and no room for it either.
    """
    trainer.commit({"w": b"1"})
    tip = str(trainer.tip())
    for error, number, effect, branch in (
        (ReadOnlyStorage, errno.EROFS, "open", "main"),
        (StorageFull, errno.ENOSPC, "create", "new"),
    ):
        fs = Faulty(number=number, for_ever=True, effects=(effect,))
        view = Trainer(trainer.store.path, fs)
        for _ in range(2):
            fs.at = -1
            with view.store.shared():
                fs.at = fs.count
                with pytest.raises(error):
                    view.store.refs.set(f"refs/heads/{branch}", tip, "set")
            assert not view.store.refs.suspect
