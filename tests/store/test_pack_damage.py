"""P5: no corrupted byte is ever returned. Each class of damage is detected or harmless, and only our errors escape."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ministore import Trainer, noise

from ciuic.errors import CiuicError, DamagedData, MissingObject, StorageError
from ciuic.objects.ids import Kind, digest
from ciuic.store.fs import FileSystem
from ciuic.store.fsck import check
from ciuic.store.pack import Pack
from ciuic.store.pack_format import RECORD_LENGTH

STATE: dict[str, object] = {"raw": noise("raw", 300), "zstd": bytes(3000), "value": 7}


def reopened(trainer: Trainer, *, index: bool) -> Trainer:
    """As a new process sees the repository, with the index it has or without one."""
    if not index:
        shutil.rmtree(trainer.store.join("index"))
    return Trainer(trainer.store.path)


def try_to_load(trainer: Trainer, snapshot: str) -> dict[str, object] | CiuicError:
    try:
        return trainer.load(snapshot)
    except CiuicError as error:
        return error


def only_pack(trainer: Trainer) -> Path:
    (path,) = trainer.packs()
    return path


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def emptied(data: bytes) -> bytes:
    return b""


def appended(data: bytes) -> bytes:
    return data + noise("garbage", 100)


def page_zeroed(data: bytes) -> bytes:
    return data[:4096] + bytes(4096) + data[8192:]


def all_zeros(data: bytes) -> bytes:
    return bytes(len(data))


def random_bytes(data: bytes) -> bytes:
    return noise("random", len(data))


def beginning_lost(data: bytes) -> bytes:
    return data[64:]


def twice(data: bytes) -> bytes:
    return data + data


CLASSES = [truncated, emptied, appended, page_zeroed, all_zeros, random_bytes, beginning_lost, twice]


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "no index"])
@pytest.mark.parametrize("damage", CLASSES)
def test_classes(trainer: Trainer, damage: Callable[[bytes], bytes], *, index: bool) -> None:
    """Each class of damage to a whole file: exact data or our error, and fsck is not clean."""
    state: dict[str, object] = {f"w{number}": noise(number, 4000) for number in range(4)}
    snapshot = trainer.commit(state)
    path = only_pack(trainer)
    path.write_bytes(damage(path.read_bytes()))
    again = reopened(trainer, index=index)
    loaded = try_to_load(again, snapshot)
    assert isinstance(loaded, CiuicError) or loaded == state
    assert not check(again.store, read_data=True).ok


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "no index"])
def test_missing(trainer: Trainer, *, index: bool) -> None:
    """A pack that is gone: MissingObject says so, fsck names the snapshot, other snapshots load."""
    first = trainer.commit({"w": noise(1)})
    (lost,) = trainer.packs()
    second = trainer.commit({"w": noise(2)})
    lost.unlink()
    again = reopened(trainer, index=index)
    assert isinstance(try_to_load(again, first), MissingObject)
    assert again.load(second) == {"w": noise(2)}
    report = check(again.store)
    assert report.damaged_snapshots == (first,)


def test_records_swapped(trainer: Trainer) -> None:
    """Two records of one length that changed places are both refused: each says which object it is."""
    state: dict[str, object] = {"a": noise("a", 1000), "b": noise("b", 1000)}
    snapshot = trainer.commit(state)
    path = only_pack(trainer)
    rows = Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id).rows
    a, b = (row for row in rows if row.header.raw_length == 1000)
    data = bytearray(path.read_bytes())
    data[a.offset : a.end], data[b.offset : b.end] = data[b.offset : b.end], data[a.offset : a.end]
    path.write_bytes(data)
    again = reopened(trainer, index=True)
    with pytest.raises(DamagedData, match="another object stands here"):
        again.load(snapshot)
    report = check(again.store, read_data=True)
    assert report.damaged_snapshots == (snapshot,)


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "no index"])
def test_wrong_name(trainer: Trainer, *, index: bool) -> None:
    """A pack under a name that is not its own is not believed; renamed back, everything is there again."""
    snapshot = trainer.commit(STATE)
    path = only_pack(trainer)
    wrong = path.with_name(f"{digest(b'another').hex()}.pack")
    path.rename(wrong)
    again = reopened(trainer, index=index)
    assert isinstance(try_to_load(again, snapshot), CiuicError)
    assert not check(again.store).ok
    wrong.rename(path)
    assert again.load(snapshot) == STATE


def test_duplicate_pack(trainer: Trainer) -> None:
    """A second copy of a pack under another name is refused and does no harm."""
    snapshot = trainer.commit(STATE)
    path = only_pack(trainer)
    shutil.copy(path, path.with_name(f"{digest(b'copy').hex()}.pack"))
    again = reopened(trainer, index=False)
    assert again.load(snapshot) == STATE
    assert len(check(again.store).problems) == 1


def test_another_repositorys_pack(trainer: Trainer, tmp_path: Path) -> None:
    """A pack carries its repository's id: one of another repository is refused and does no harm."""
    other = Trainer.create(tmp_path / "other")
    other.commit({"w": noise("theirs")})
    snapshot = trainer.commit(STATE)
    shutil.copy(only_pack(other), trainer.store.join("packs"))
    again = reopened(trainer, index=False)
    assert again.load(snapshot) == STATE
    assert any("header is damaged" in line or "another repository" in line for line in check(again.store).problems)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def spoil(trainer: Trainer, id: bytes) -> Path:
    """Damage the payload of an object's first copy; the pack."""
    for path in trainer.packs():
        for row in Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id).rows:
            if row.header.id == id:
                flip(path, row.offset + RECORD_LENGTH + 5)
                return path
    raise AssertionError("no such record")


def test_damaged_record_is_stored_again(trainer: Trainer) -> None:
    """A record that was found damaged loses its row: the next commit of the same bytes heals every snapshot."""
    first = trainer.commit({"frozen": noise("frozen")}, step=1)
    spoil(trainer, digest(noise("frozen")))
    with pytest.raises(DamagedData, match=r"model/frozen, chunk 0: .*\.pack at offset \d+: chunk"):
        trainer.load(first)
    second = trainer.commit({"frozen": noise("frozen")}, step=2)
    for view in (trainer, reopened(trainer, index=True), reopened(trainer, index=False)):
        assert view.load(first) == view.load(second) == {"frozen": noise("frozen")}


def test_damaged_record_is_stored_again_without_an_index(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found damaged while the index cannot be written (its lock is held): this process remembers it.

    It used to be forgotten only in the index, and the next commit relied on the damaged record again.
    """
    first = trainer.commit({"frozen": noise("frozen")})
    spoil(trainer, digest(noise("frozen")))

    def refuse(*arguments: object, **more: object) -> None:
        raise StorageError("the index cannot be written")

    monkeypatch.setattr(trainer.store._lmdb_index, "update", refuse)
    assert isinstance(try_to_load(trainer, first), DamagedData)
    second = trainer.commit({"frozen": noise("frozen")})
    monkeypatch.undo()
    assert reopened(trainer, index=False).load(second) == {"frozen": noise("frozen")}


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "no index"])
def test_second_copy_is_used(trainer: Trainer, *, index: bool) -> None:
    """Of two copies of a chunk either may be damaged: the other one is read."""
    snapshot = trainer.commit(STATE)
    id = digest(STATE["raw"])
    session = trainer.store.new_packs()
    session.add(Kind.CHUNK, id, STATE["raw"], codec=0, raw_length=300)
    session.publish()
    intact = {path: path.read_bytes() for path in trainer.packs()}
    for path in intact:
        for row in Pack(trainer.store.fs, str(path), path.stem, trainer.store.repository_id).rows:
            if row.header.id == id:
                flip(path, row.offset + RECORD_LENGTH)
        again = reopened(trainer, index=index)
        assert again.load(snapshot) == STATE
        path.write_bytes(intact[path])


def test_pack_replaced_by_an_intact_one(trainer: Trainer) -> None:
    """A process that met a damaged pack sees it healed once somebody has put the intact file back."""
    snapshot = trainer.commit(STATE)
    path = only_pack(trainer)
    intact = path.read_bytes()
    spoil(trainer, digest(STATE["raw"]))
    assert isinstance(try_to_load(trainer, snapshot), DamagedData)
    path.unlink()
    path.write_bytes(intact)
    assert trainer.load(snapshot) == STATE


class UnreadableSectors(FileSystem):
    """Reading one file fails as a bad sector does."""

    bad = ""

    def read_at(self, descriptor: int, length: int, offset: int, path: str) -> bytes:
        if path == self.bad:
            raise StorageError(f"{path}: Input/output error. Check the disk.")
        return super().read_at(descriptor, length, offset, path)


def test_unreadable_pack(tmp_path: Path) -> None:
    """A pack that the disk cannot read stops nobody who does not need it, and a second copy of what it held is used.

    One EIO in a footer used to make the whole repository unusable.
    """
    fs = UnreadableSectors()
    trainer = Trainer.create(tmp_path / "repo", fs)
    first = trainer.commit({"w": noise(1)})
    fs.bad = str(only_pack(trainer))
    again = Trainer(trainer.store.path, fs)
    shutil.rmtree(trainer.store.join("index"))
    assert isinstance(try_to_load(again, first), CiuicError)
    second = Trainer(trainer.store.path, fs)
    assert second.commit_to("other", {"w": noise(2)})
    assert any("Input/output" in line for line in check(second.store).problems)
    fs.bad = ""
    assert second.load(first) == {"w": noise(1)}


def test_missing_parts_are_typed(trainer: Trainer, tmp_path: Path) -> None:
    """A repository that lacks a file or a folder gives our errors only, from every operation.

    Copying tools drop empty folders and odd files; a raw FileNotFoundError came out.
    """
    snapshot = trainer.commit(STATE)
    for part in [*sorted(os.listdir(trainer.store.path)), "refs/heads", "refs/tags"]:
        copy = tmp_path / "copy"
        shutil.copytree(trainer.store.path, copy)
        path = copy / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        operations: list[Callable[[Trainer], object]] = [
            lambda view: view.load(snapshot),
            lambda view: view.commit({"w": noise("new")}),
            lambda view: check(view.store),
        ]
        try:
            view = Trainer(copy)
        except CiuicError:
            operations = []
        for operation in operations:
            try:
                operation(view)
            except CiuicError:
                continue
        shutil.rmtree(copy)
