"""Notes: written on snapshots after the fact, kept in a log of their own, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ciuic
from ciuic.errors import DamagedRef, InvalidNote, UnknownRevision
from ciuic.history import notes
from ciuic.history.notes import TEXT_LIMIT, assembled
from ciuic.store.gc import collect
from ciuic.store.reflog import NOTHING, SLOT, LogRecord, decode_log, encode_record
from ciuic.store.store import Store
from ciuic.testing.power_cut import Disk
from ciuic.testing.recording import EffectLog, read_log, recording

A, B = "a" * 64, "b" * 64
LONG = "".join(f"line {number}: \t\"quotes\" \\ and é, 快照, 𝕏, \x1b[31m, \x7f\n" for number in range(40))


@pytest.fixture
def repo(tmp_path: Path) -> ciuic.Repo:
    """Three snapshots, no tensors."""
    repo = ciuic.Repo.init(tmp_path / "run")
    for step in range(3):
        repo.commit(extra={"at": step}, step=step, rng=False)
    return repo


def texts(repo: ciuic.Repo) -> dict[int | None, list[str]]:
    """Step → what the notes on that snapshot say."""
    return {repo.resolve(id).step: [note.text for note in each] for id, each in repo.notes().items()}


def test_a_note_is_there_for_everybody(repo: ciuic.Repo) -> None:
    """Snapshots keep their ids; another process finds the notes, in the order in which they were written."""
    before = [snapshot.id for snapshot in repo.log()]
    note = repo.note("step:1", "the rate was too high")
    repo.note(repo.resolve("step:1"), "see run 7")
    repo.note("HEAD", "good")
    assert [snapshot.id for snapshot in repo.log()] == before
    assert texts(ciuic.Repo.open(repo.path)) == {1: ["the rate was too high", "see run 7"], 2: ["good"]}
    assert abs(note.time - datetime.now(timezone.utc)) < timedelta(hours=1)
    assert note.actor.endswith(f":{os.getpid()}")
    assert repo.fsck(read_data=True).ok


def test_a_repository_without_notes_has_none(repo: ciuic.Repo) -> None:
    """The log is made by the first note: what was there before notes is as it was."""
    assert repo.notes() == {}
    assert not (Path(repo.path) / "notes").exists()


def test_a_note_on_nothing_is_refused(repo: ciuic.Repo) -> None:
    with pytest.raises(UnknownRevision):
        repo.note("step:77", "text")
    assert not (Path(repo.path) / "notes").exists()


def test_a_note_is_taken_back(repo: ciuic.Repo) -> None:
    """By its key, once; the others stay."""
    first, second = repo.note("HEAD", "one"), repo.note("HEAD", "two")
    repo.delete_note("HEAD", first.key)
    assert texts(repo) == {2: ["two"]}
    with pytest.raises(InvalidNote, match=rf"has no note {first.key}\. `ciuic note"):
        repo.delete_note("HEAD", first.key)
    with pytest.raises(InvalidNote):
        repo.delete_note("HEAD~1", second.key)
    repo.delete_note("HEAD", second.key)
    assert repo.notes() == {}


@pytest.mark.parametrize("text", [LONG, "x" * TEXT_LIMIT, "é" * (TEXT_LIMIT // 2), "\x1b" * TEXT_LIMIT, " a  b "])
def test_longer_than_a_record(repo: ciuic.Repo, text: str) -> None:
    """A text of up to 4096 bytes comes back as it was, whatever is in it: control characters, blanks at the ends of
    parts, characters of several bytes at their seams."""
    repo.note("HEAD", text)
    assert texts(repo) == {2: [text]}
    assert (Path(repo.path) / "notes").stat().st_size % SLOT == 0


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=500))
def test_any_text(text: str) -> None:
    """Cut into parts that fit into the longest record there can be, and joined again."""
    if not text.strip() or len(text.encode()) > TEXT_LIMIT:
        return
    parts = [*notes._parts(text)]
    number = 10**18
    records = [
        LogRecord(number + place, number, A, B, "a" * 60, f"note {'0' * 16} {place + 1}/{len(parts)} {part}")
        for place, part in enumerate(parts)
    ]
    read = decode_log("notes", b"".join(encode_record("notes", record) for record in records))
    assert [note.text for note in assembled(read)[B]] == [text]


@pytest.mark.parametrize("text", ["", "  \n", "x" * (TEXT_LIMIT + 1), "é" * (TEXT_LIMIT // 2 + 1), "\ud800", None])
def test_what_is_no_note(repo: ciuic.Repo, text: str) -> None:
    """Nothing is written, and the message says what to do."""
    with pytest.raises(InvalidNote, match=r"\. (Say|Write) .*\.$"):
        repo.note("HEAD", text)
    assert repo.notes() == {}


def record(number: int, snapshot: str, action: str) -> LogRecord:
    return LogRecord(number, number, NOTHING, snapshot, "me", action)


def test_two_writers_at_once() -> None:
    """Parts of two notes stand between each other; each note is put together from its own."""
    key, other = "0" * 16, "1" * 16
    actions = [
        (A, f'note {key} 1/2 "one "'), (A, f'note {other} 1/2 "red "'), (A, f'note {other} 2/2 "blue"'),
        (A, f'note {key} 2/2 "two"'), (B, f'note {key} 1/2 "of another snapshot"'),
    ]  # fmt: skip
    found = assembled([record(number, *action) for number, action in enumerate(actions)])
    assert {id: [note.text for note in each] for id, each in found.items()} == {A: ["red blue", "one two"]}


@pytest.mark.parametrize(
    "action",
    [
        "note", "note 1 1/1 \"x\"", f"note {'0' * 16} 1/2 \"half\"", f"note {'0' * 16} 0/0 \"x\"",
        f"note {'0' * 16} 1/1 \"a\" \"b\"", f"note {'0' * 16} 1/1 [\"x\"]", f"note {'0' * 16} 2/1 \"x\"",
        f"drop {'0' * 16}", "dance",
    ],
)  # fmt: skip
def test_what_makes_no_note(action: str) -> None:
    """An unfinished note, an action of a later ciuic, nonsense with a sound checksum: ignored."""
    assert assembled([record(0, A, action)]) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.from_regex(r"(note|drop) 0{15}[01]( [0-3]/[0-3])? (\"\w{0,3}\"|\w?)", fullmatch=True), max_size=12))
def test_any_records(actions: list[str]) -> None:
    """Whatever a log says, it can be read; and no note has fewer parts than it should."""
    found = assembled([record(number, A, action) for number, action in enumerate(actions)])
    assert sum(map(len, found.values())) <= sum(" 1/" in action for action in actions)


def test_gc_keeps_notes_and_notes_keep_nothing(repo: ciuic.Repo) -> None:
    """A snapshot that nothing else holds is collected; the notes, its own too, stay."""
    gone = repo.resolve("HEAD").id
    repo.note("HEAD", "on what is thrown away")
    repo.note("HEAD~1", LONG)
    repo.reset("HEAD~1")
    report = repo.gc(expire=timedelta(0))
    assert report.snapshots == 2
    with pytest.raises(UnknownRevision):
        repo.resolve(gone)
    assert [note.text for note in repo.notes()[gone]] == ["on what is thrown away"]
    assert [note.text for note in repo.notes()[repo.resolve("HEAD").id]] == [LONG]
    assert repo.fsck(read_data=True).ok


def test_pruned_snapshots_keep_theirs(repo: ciuic.Repo) -> None:
    repo.note("HEAD~1", "gave up the state")
    repo.prune("HEAD~1")
    repo.gc()
    assert texts(repo) == {1: ["gave up the state"]}


@pytest.fixture
def noted(repo: ciuic.Repo) -> ciuic.Repo:
    repo.note("HEAD", "one")
    repo.note("HEAD", "two")
    return repo


def test_a_damaged_log_of_notes_is_found(noted: ciuic.Repo) -> None:
    """fsck says so, gc does not run, nobody is told other notes; what is not about notes works. repair saves the rest:
    what was written since, too."""
    path = Path(noted.path) / "notes"
    data = bytearray(path.read_bytes())
    data[40:60] = b"?" * 20
    path.write_bytes(data)
    with pytest.raises(DamagedRef, match="notes: record 0"):
        noted.notes()
    noted.note("HEAD~1", "three")
    with pytest.raises(DamagedRef):
        noted.gc()
    assert any("notes: record 0" in problem for problem in noted.fsck().problems)
    assert [snapshot.step for snapshot in noted.log()] == [2, 1, 0]
    noted.commit(extra={"at": 3}, step=3, rng=False)
    report = noted.repair()
    assert [(log.name, log.kept, log.lost) for log in report.logs] == [("notes", 2, 1)]
    assert texts(noted) == {2: ["two"], 1: ["three"]}
    assert noted.fsck().ok and noted.gc().snapshots == 4


def test_every_byte_of_the_log(noted: ciuic.Repo) -> None:
    """Flipped, it is an error, and never another note; cut anywhere, the log ends with a whole one."""
    data = (Path(noted.path) / "notes").read_bytes()
    for position in range(len(data)):
        flipped = data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]
        with pytest.raises(DamagedRef):
            decode_log("notes", flipped)
    for length in range(len(data)):
        read = [note.text for each in assembled(decode_log("notes", data[:length])).values() for note in each]
        assert read == ["one", "two"][: length // SLOT]


def test_a_power_cut_at_any_moment(tmp_path: Path) -> None:
    """After each effect of writing two notes and taking one back, whatever of it the disk has kept: a note is there
    whole or not at all, an acknowledged one is there, and nothing needs repair."""
    root = tmp_path / "disk"
    root.mkdir()
    log = EffectLog(tmp_path / "log", root)
    allowed: list[tuple[int, list[str]]] = []
    with recording(log):
        store = Store.create(str(root / "repo"))
        with store.shared():
            for action in (lambda: None, lambda: notes.add(store, A, "short"), lambda: notes.add(store, B, LONG[:250]),
                           lambda: notes.drop(store, A, notes.listing(store)[A][0].key)):  # fmt: skip
                action()
                effects = sum(effect.name not in ("note", "seen") for effect in read_log(log.path))
                allowed.append((effects, said(store)))
    log.close()
    images = 0
    for image in Disk(read_log(log.path)).all_images():
        if image.prefix < allowed[0][0]:
            continue
        before = max(index for index, (effects, _) in enumerate(allowed) if effects <= image.prefix)
        folder = tmp_path / "image"
        folder.mkdir()
        image.write(folder)
        assert said(Store(str(folder / "repo"))) in [answer for _, answer in allowed[before : before + 2]]
        shutil.rmtree(folder)
        images += 1
    assert images > 20


def said(store: Store) -> list[str]:
    with store.shared():
        return [note.text for each in notes.listing(store).values() for note in each]


WRITER = """
import sys
import ciuic
repo = ciuic.Repo.open(sys.argv[1])
for number in range(4):
    repo.note("HEAD", f"{sys.argv[2]}{number} " + sys.argv[2] * 500)
"""


def test_processes_that_write_at_once(repo: ciuic.Repo) -> None:
    """Each gets all of its notes in, whole, while gc runs."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, repo.path, name]) for name in "xy"]
    while any(writer.poll() is None for writer in writers):
        collect(Store(repo.path))
        writers[0].wait()
    assert [writer.wait() for writer in writers] == [0, 0]
    expected = {f"{name}{number} " + name * 500 for name in "xy" for number in range(4)}
    assert set(texts(repo)[2]) == expected and len(texts(repo)[2]) == 8
