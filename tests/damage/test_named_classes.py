"""Each class of corruption that docs and promises name, by its name: noticed, named, and never given out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from chained import CAST
from ministore import Trainer, noise
from smallrepo import Small, add, copied, is_clean, opened, records, report, restored, write_at, wrong_answers

import ciuic
from ciuic.codec import Codec
from ciuic.errors import (
    CiuicError,
    ClockDisagrees,
    DamagedData,
    DamagedRef,
    MissingObject,
    StorageError,
    UnsupportedFormat,
)
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.recipe import Recipe, encode_recipe
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.objects.tree import ChildEntry, TensorEntry, Tree, encode_tree
from ciuic.store.fsck import FsckReport
from ciuic.store.gc import collect
from ciuic.store.index import Place
from ciuic.store.pack import Pack
from ciuic.store.pack_format import RECORD_LENGTH, RecordHeader
from ciuic.store.reflog import SLOT, LogRecord, decode_log, encode_record

MAIN = "refs/heads/main"


def names_damage(small: Small, *snapshots: str) -> FsckReport:
    """fsck is not clean and names these snapshots; no answer is wrong, with an index and without."""
    for index in (True, False):
        assert wrong_answers(small, opened(small.path, index=index)) == []
        outcome = report(opened(small.path, index=index))
        assert isinstance(outcome, FsckReport) and not outcome.ok
        assert set(outcome.damaged_snapshots) == set(snapshots)
    return outcome


def pack_of(small: Small, id: bytes) -> tuple[Pack, int]:
    """The pack that an object stands in, and its offset."""
    store = opened(small.path, index=False)
    with store.shared():
        pack, offset, _ = store.locate(id)
    return pack, offset


def frozen(small: Small) -> bytes:
    """A chunk that all snapshots share, and nothing rests on."""
    return digest(b"frozen" * 5)


# Packs


def test_pack_missing(small: Small) -> None:
    """A file that somebody deleted is named, with the snapshots that needed it."""
    pack, _ = pack_of(small, frozen(small))
    Path(pack.path).unlink()
    names_damage(small, *small.states)
    with pytest.raises(MissingObject, match=r"is in no pack of .*fsck"):
        restored(opened(small.path, index=True), list(small.states)[-1])


def cut(data: bytes) -> bytes:
    return data[:-100]


def garbage_appended(data: bytes) -> bytes:
    return data + noise("garbage", 100)


def page_zeroed(data: bytes) -> bytes:
    """A sector of it, since packs of this size have no whole page of records."""
    return data[:512] + bytes(512) + data[1024:]


@pytest.mark.parametrize("damage", [cut, garbage_appended, page_zeroed], ids=lambda damage: damage.__name__)
def test_pack_as_a_whole(small: Small, damage: Callable[[bytes], bytes]) -> None:
    """Each pack in turn."""
    for path in small.files("packs"):
        data = path.read_bytes()
        path.write_bytes(damage(data))
        for index in (True, False):
            assert wrong_answers(small, opened(small.path, index=index)) == []
            assert not is_clean(report(opened(small.path, index=index)))
        path.write_bytes(data)


@pytest.mark.parametrize("part", ["payload", "record header", "footer", "trailer"])
def test_pack_flip(small: Small, part: str) -> None:
    """One bit in each part of a pack. Its record header is damage too, though the footer repeats it: a salvage would
    need it."""
    pack, offset = pack_of(small, frozen(small))
    position = {
        "payload": offset + RECORD_LENGTH,
        "record header": offset + 30,
        "footer": pack.rows[-1].end + 100,
        "trailer": pack.length - 20,
    }[part]
    byte = Path(pack.path).read_bytes()[position]
    write_at(pack.path, bytes([byte ^ 4]), position)
    assert wrong_answers(small, opened(small.path, index=True)) == []
    assert not is_clean(report(opened(small.path, index=True)))


def test_fsck_reads_the_headers_of_records_with_a_base(small: Small) -> None:
    """A flipped bit in the header of a delta went unnoticed: only its footer's copy was looked at. The salvage of a
    pack that had lost its footer too would have lost the record."""
    for path in small.files("packs"):
        store = opened(small.path, index=False)
        pack = Pack(store.fs, str(path), path.stem, store.repository_id)
        for row in pack.rows:
            if row.header.base != NO_ID:
                write_at(path, bytes([row.header.width ^ 8]), row.offset + 6)
                outcome = report(opened(small.path, index=True))
                assert isinstance(outcome, FsckReport)
                assert any("header does not match" in problem for problem in outcome.problems), row
                write_at(path, bytes([row.header.width]), row.offset + 6)
    assert is_clean(report(opened(small.path, index=True)))


def test_pack_wrong_name(small: Small) -> None:
    """A pack's name is the hash of its footer."""
    pack, _ = pack_of(small, frozen(small))
    Path(pack.path).rename(Path(pack.path).with_name(f"{digest(b'other').hex()}.pack"))
    problems = names_damage(small, *small.states).problems
    assert any("does not match its name" in problem for problem in problems)


def test_pack_records_swapped(small: Small) -> None:
    """Two records of one length, each with a sound header and a sound checksum, in each other's place."""
    (a, b) = b"a" * 700, b"b" * 700
    with records(Trainer(small.path)) as session:
        for raw in (a, b):
            add(session, raw, Codec.RAW, raw)
    pack, first = pack_of(small, digest(a))
    second = pack.by_id[digest(b)].offset
    data = Path(pack.path).read_bytes()
    length = RECORD_LENGTH + len(a)
    write_at(pack.path, data[second : second + length], first)
    write_at(pack.path, data[first : first + length], second)
    for index in (True, False):
        store = opened(small.path, index=index)
        with store.shared(), pytest.raises(DamagedData, match="another object stands here"):
            store.read(Kind.CHUNK, digest(a))
        assert not is_clean(report(opened(small.path, index=index)))


def test_pack_twice(small: Small) -> None:
    """A second copy under another name is refused, and the first one serves."""
    pack, _ = pack_of(small, frozen(small))
    shutil.copy(pack.path, Path(pack.path).with_name(f"{digest(b'copy').hex()}.pack"))
    outcome = names_damage(small)
    assert len(outcome.problems) == 1


def test_packs_of_two_repositories_mixed(small: Small, foreign: Small) -> None:
    """Each pack says whose it is."""
    for path in foreign.files("packs"):
        shutil.copy(path, small.path / "packs")
    outcome = names_damage(small)
    assert len(outcome.problems) == len(foreign.files("packs"))


# The index. Each row is made to lie with a checksum that holds, as a bug of ours would.


@pytest.mark.parametrize("lie", ["missing pack", "wrong offset", "other record", "wrong length", "wrong depth"])
def test_index_lies(small: Small, lie: str) -> None:
    """A row is a hint: what stands there says itself what it is."""
    trainer = Trainer(small.path)
    store = trainer.store
    with store.shared():
        ids = [row.header.id for name in store.present for row in store.pack(name).rows]
        places = {id: store.index.place(id) for id in ids}
        other = places[frozen(small)]
        assert other is not None and all(places.values())
        lies = {
            "missing pack": lambda place: place._replace(pack=digest(b"nowhere").hex()),
            "wrong offset": lambda place: place._replace(offset=place.offset + 64),
            "other record": lambda place: Place(other.pack, other.offset, other.stored_length, place.depth),
            "wrong length": lambda place: place._replace(stored_length=1 << 40),
            "wrong depth": lambda place: place._replace(depth=0),
        }
        rows = [(id, lies[lie](place)) for id, place in places.items()]
        store.index.update(store.generation, dropped=ids)
        for id, place in rows:
            known = place.pack in store.present
            store.index.update(
                store.generation,
                {place.pack: [(id, place.offset, place.stored_length, place.depth)]},
                dropped_packs=() if known else [place.pack],
            )
    store = opened(small.path, index=True)
    assert wrong_answers(small, store) == []
    for snapshot, state in small.states.items():
        found = restored(store, snapshot)
        assert {name: found[name] for name in state} == state, "the footers are asked instead"


def test_index_stale(small: Small, tmp_path: Path) -> None:
    """As it was before the last commit, stamp and all."""
    shutil.copytree(small.path / "index", tmp_path / "old")
    trainer = Trainer(small.path)
    state = {"new": noise("new", 90)}
    snapshot = trainer.commit(state)
    shutil.rmtree(small.path / "index")
    (tmp_path / "old").rename(small.path / "index")
    assert Trainer(small.path).load(snapshot) == state
    assert wrong_answers(small, opened(small.path, index=True)) == []


def test_index_foreign(small: Small, foreign: Small) -> None:
    """Another repository's."""
    shutil.rmtree(small.path / "index")
    shutil.copytree(foreign.path / "index", small.path / "index")
    for snapshot, state in small.states.items():
        found = restored(opened(small.path, index=True), snapshot)
        assert {name: found[name] for name in state} == state


# Objects. Their hashes hold: a writer of ours does not make them.


class Stranger:
    """Writes objects of its choice, and a snapshot on main that names them."""

    def __init__(self, small: Small) -> None:
        self.small = small
        self.trainer = Trainer(small.path)

    def objects(self, *objects: tuple[Kind, bytes]) -> list[bytes]:
        ids = [object_id(kind, raw) for kind, raw in objects]
        with records(self.trainer) as session:
            for id, (kind, raw) in zip(ids, objects, strict=True):
                session.add(kind, id, raw, codec=Codec.RAW, raw_length=len(raw))
        return ids

    def snapshot(self, root: bytes) -> str:
        raw = encode_snapshot(honest(self.small, {"model": root.hex()}))
        (id,) = self.objects((Kind.SNAPSHOT, raw))
        self.trainer.set("main", id.hex())
        return id.hex()


def honest(small: Small, tree: dict[str, str]) -> Snapshot:
    import datetime

    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    return Snapshot("", 9, None, now, "", {}, {}, (), tree, ("model",), {"model": 1}, 0)


def module(**chunks: TensorEntry) -> bytes:
    return encode_tree(Tree("module", tuple(chunks.items())))


def test_tree_missing(small: Small) -> None:
    """The snapshot is there, its tree in no pack."""
    snapshot = Stranger(small).snapshot(digest(b"no tree"))
    with pytest.raises(MissingObject, match="model: tree"):
        restored(opened(small.path, index=True), snapshot)
    names_damage(small, snapshot)


def test_tree_cycle(small: Small) -> None:
    """Ids are hashes, so a tree cannot hold itself. One that comes as near as can be, 400 trees deep, is refused, and
    not followed until the stack ends.

    Each tree was once allowed as many losses as there was room for before those below it had taken theirs: fsck wrote
    down 20 million of them.
    """
    stranger = Stranger(small)
    chain: list[tuple[Kind, bytes]] = [(Kind.TREE, encode_tree(Tree("dict")))]
    for _ in range(400):
        id = object_id(Kind.TREE, chain[-1][1])
        chain.append((Kind.TREE, encode_tree(Tree("dict", (("a", ChildEntry(id)), ("b", ChildEntry(id)))))))
    snapshot = stranger.snapshot(stranger.objects(*chain)[-1])
    with pytest.raises(DamagedData, match="nested more than"):
        restored(opened(small.path, index=True), snapshot)
    names_damage(small, snapshot)


@pytest.mark.parametrize("kind", [Kind.CHUNK, Kind.SNAPSHOT, Kind.RECIPE])
def test_object_of_the_wrong_kind(small: Small, kind: Kind) -> None:
    """A tree's bytes as a chunk, a snapshot, a recipe: their id is another one, so no tree is found; and an object of
    that kind in place of a tree is none."""
    stranger = Stranger(small)
    (id,) = stranger.objects((kind, module()))
    snapshot = stranger.snapshot(id)
    with pytest.raises((DamagedData, MissingObject)):
        restored(opened(small.path, index=True), snapshot)
    assert wrong_answers(small, opened(small.path, index=True)) == []
    outcome = report(opened(small.path, index=True))
    assert not is_clean(outcome)


def small_tensor(id: bytes, *, dtype: str = "float32", shape: tuple[int, ...] = (4,)) -> TensorEntry:
    return TensorEntry(dtype, shape, 4096, (id,))


def based(stranger: Stranger, raw: bytes, stored: bytes, base: bytes, depth: int, codec: int = Codec.DELTA) -> bytes:
    """A chunk's record that says what it is told to say."""
    id = digest(raw)
    with records(stranger.trainer) as session:
        session.copy(RecordHeader(Kind.CHUNK, codec, 4, depth, len(stored), len(raw), id, base, digest(stored)), stored)
    return id


def refused(small: Small, snapshot: str, match: str) -> None:
    """By a restore, with the tensor's name and the chunk's number; by fsck, which names the snapshot."""
    for index in (True, False):
        with pytest.raises((DamagedData, MissingObject), match=rf"(?s)model/w, chunk 0: .*{match}"):
            restored(opened(small.path, index=index), snapshot)
    names_damage(small, snapshot)


def test_delta_base_missing(small: Small) -> None:
    """A delta to a chunk that is nowhere."""
    stranger = Stranger(small)
    id = based(stranger, noise("w", 16), b"\2" * 40, digest(b"gone"), 1)
    refused(small, stranger.snapshot(*stranger.objects((Kind.TREE, module(w=small_tensor(id))))), "is in no pack")


def test_recipe_missing(small: Small) -> None:
    """A prediction whose recipe is nowhere."""
    stranger = Stranger(small)
    id = based(stranger, noise("w", 16), b"\2" * 40, digest(b"gone"), 1, Codec.PREDICTED)
    refused(small, stranger.snapshot(*stranger.objects((Kind.TREE, module(w=small_tensor(id))))), "recipe")


def test_chunks_in_a_circle(small: Small) -> None:
    """Each a delta to the other: depths cannot get smaller in a circle, so one of the two is refused."""
    stranger = Stranger(small)
    a, b = noise("a", 16), noise("b", 16)
    based(stranger, a, b"\2" * 40, digest(b), 2)
    based(stranger, b, b"\2" * 40, digest(a), 1)
    refused(small, stranger.snapshot(*stranger.objects((Kind.TREE, module(w=small_tensor(digest(a)))))), "depth")


def test_chunk_that_rests_on_itself(small: Small) -> None:
    """With a recipe: twice over."""
    stranger = Stranger(small)
    raw = noise("w", 16)
    (recipe,) = stranger.objects((Kind.RECIPE, encode_recipe(Recipe("cast", (digest(raw),) * 2, CAST))))
    based(stranger, raw, b"", recipe, 3, Codec.DERIVED)
    refused(small, stranger.snapshot(*stranger.objects((Kind.TREE, module(w=small_tensor(digest(raw)))))), "depth")


def test_chain_too_deep(small: Small) -> None:
    """All 255 depths are followed; a record cannot say a larger one, so deeper chains cannot be told."""
    stranger = Stranger(small)
    ids = [digest(noise("bottom", 16))]
    with records(stranger.trainer) as session:
        add(session, noise("bottom", 16), Codec.RAW, noise("bottom", 16))
        for depth in [*range(1, 256), 255]:
            stored = noise(("stored", depth), 40)
            raw = noise((depth, len(ids)), 16)
            header = RecordHeader(Kind.CHUNK, Codec.DELTA, 4, depth, 40, 16, digest(raw), ids[-1], digest(stored))
            session.copy(header, stored)
            ids.append(digest(raw))
    refused(small, stranger.snapshot(*stranger.objects((Kind.TREE, module(w=small_tensor(ids[-1]))))), "depth")


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 4), (4096,)])
def test_shape_that_disagrees_with_the_bytes(small: Small, shape: tuple[int, ...]) -> None:
    """Of a tree whose number of chunks fits, the chunk has another length."""
    stranger = Stranger(small)
    (id,) = stranger.objects((Kind.CHUNK, noise("w", 16)))
    entry = TensorEntry("float32", shape, 16384, (id,))
    snapshot = stranger.snapshot(*stranger.objects((Kind.TREE, module(w=entry))))
    with pytest.raises(DamagedData, match="model/w, chunk 0: not as long as its tensor says"):
        restored(opened(small.path, index=True), snapshot)
    assert not is_clean(report(opened(small.path, index=True)))


def test_dtype_that_disagrees_with_the_bytes(small: Small) -> None:
    """As many elements of another width."""
    stranger = Stranger(small)
    (id,) = stranger.objects((Kind.CHUNK, noise("w", 16)))
    snapshot = stranger.snapshot(*stranger.objects((Kind.TREE, module(w=small_tensor(id, dtype="float64")))))
    with pytest.raises(DamagedData, match="model/w, chunk 0: not as long as its tensor says"):
        restored(opened(small.path, index=True), snapshot)
    assert not is_clean(report(opened(small.path, index=True)))


# Logs, refs, clocks, formats


def test_log_record_torn(small: Small) -> None:
    """Half of a sector that was never acknowledged is set aside, and the next commit takes its place."""
    path = small.path / MAIN
    record = LogRecord(9, 1, "-", "0" * 64, "a", "b")
    for torn in (encode_record(MAIN, record)[:200], bytes(SLOT), bytes(16) + b"x" * 300 + bytes(196)):
        before = path.read_bytes()
        path.write_bytes(before + torn)
        assert is_clean(report(opened(small.path, index=True)))
        trainer = Trainer(small.path)
        assert trainer.tip() == small.refs[MAIN][-1]
        snapshot = trainer.commit({"w": noise(len(torn))})
        assert trainer.tip() == snapshot
        assert len(path.read_bytes()) == len(before) + SLOT
        small.refs[MAIN].append(snapshot)


def test_log_shorter_than_it_was(small: Small) -> None:
    """The index remembers the last record: gc does not take what it led to for garbage."""
    os.truncate(small.path / MAIN, SLOT)
    with pytest.raises(DamagedRef, match="the log ends before record"):
        collect(opened(small.path, index=True))
    assert any("the log ends before" in problem for problem in names_damage_of_refs(small))


def names_damage_of_refs(small: Small) -> tuple[str, ...]:
    outcome = report(opened(small.path, index=True))
    assert isinstance(outcome, FsckReport)
    return outcome.problems


def test_ref_to_a_missing_snapshot(small: Small) -> None:
    """It is named; the other branches are as they were, and gc deletes nothing."""
    trainer = Trainer(small.path)
    trainer.set("main", digest(b"nowhere").hex())
    trainer = Trainer(small.path)
    with pytest.raises(MissingObject):
        ciuic.Repo(small.path).resolve("main")
    assert ciuic.Repo(small.path).resolve("side").id == small.refs["refs/heads/side"][-1]
    before = {path: path.read_bytes() for path in small.files("packs")}
    with pytest.raises(CiuicError):
        collect(trainer.store)
    assert before == {path: path.read_bytes() for path in small.files("packs")}
    names_damage(small, digest(b"nowhere").hex())


@pytest.mark.parametrize("shift", [timedelta(days=-3650), timedelta(days=3650)], ids=["set back", "far ahead"])
def test_clock(small: Small, shift: timedelta) -> None:
    """Logs whose newest record is ten years away: gc judges no age, commits and reads go on."""
    for name in (MAIN, "refs/heads/side", "refs/tags/v1", "HEAD"):
        path = small.path / name
        moved = int(shift.total_seconds()) * 10**9
        shifted = [
            encode_record(name, replace(each, time_ns=each.time_ns - moved))
            for each in decode_log(name, path.read_bytes())
        ]
        path.write_bytes(b"".join(shifted))
    shutil.rmtree(small.path / "index")
    with pytest.raises(ClockDisagrees, match="3650 days away"):
        collect(opened(small.path, index=True))
    trainer = Trainer(small.path)
    assert wrong_answers(small, trainer.store) == []
    collect(trainer.store, trust_clock=True, expire=timedelta(days=36500))
    assert wrong_answers(small, trainer.store) == []
    state = {"w": noise("after")}
    assert trainer.load(trainer.commit(state)) == state


@pytest.mark.parametrize("line", ["ciuic 2", "ciuic 99999999999999999999"])
def test_format_from_the_future(small: Small, line: str) -> None:
    """Refused before anything else is looked at."""
    path = small.path / "format"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    with pytest.raises(UnsupportedFormat, match="Upgrade ciuic"):
        ciuic.Repo(small.path)


def test_feature_from_the_future(small: Small) -> None:
    """A name that this reader does not know."""
    path = small.path / "format"
    path.write_text(path.read_text().replace("features", "features holograms"))
    with pytest.raises(UnsupportedFormat, match="holograms"):
        ciuic.Repo(small.path)


@pytest.mark.parametrize("name", ["HEAD", MAIN])
def test_a_damaged_head_stops_only_who_needs_it(small: Small, name: str) -> None:
    """A repository could not be opened once the log of HEAD's branch was damaged: not even fsck could say so."""
    write_at(small.path / name, b"X", SLOT + 100)
    repo = ciuic.Repo(small.path)
    assert not repo.fsck().ok
    side = repo.resolve("side")
    assert side.id == small.refs["refs/heads/side"][-1]
    assert {key: repo.load(side)["model"][key] for key in ("step",)} == {"step": 2}
    with pytest.raises(DamagedRef):
        repo.commit(extra={"x": 1})
    with pytest.raises(DamagedRef):
        repo.gc()


# What an error names


@pytest.mark.parametrize("index", [True, False], ids=["indexed", "no index"])
def test_the_error_names_tensor_chunk_pack_and_offset(small: Small, *, index: bool) -> None:
    """For every chunk of the newest snapshot that rests on nothing, and whatever it is that is damaged below others."""
    newest = list(small.states)[-1]
    for path in small.files("packs"):
        store = opened(small.path, index=False)
        for row in Pack(store.fs, str(path), path.stem, store.repository_id).rows:
            if row.header.kind is not Kind.CHUNK or not row.header.stored_length:
                continue
            byte = path.read_bytes()[row.end - 1]
            write_at(path, bytes([byte ^ 1]), row.end - 1)
            try:
                restored(opened(small.path, index=index), newest)
            except DamagedData as error:
                text = str(error)
                assert text.startswith(("model/", "optimizer/")) and ", chunk 0: " in text
                assert f"{path} at offset {row.offset}" in text and row.header.id.hex()[:12] in text
                outcome = report(opened(small.path, index=index))
                assert isinstance(outcome, FsckReport)
                assert any(f"{path} at offset {row.offset}" in problem for problem in outcome.problems)
            write_at(path, bytes([byte]), row.end - 1)


def test_an_unreadable_sector_is_named_like_damage(intact: Small, tmp_path: Path) -> None:
    """EIO in the middle of a pack: the file and the reason, from every operation."""
    small = copied(intact, tmp_path / "repo")
    bad, _ = pack_of(small, frozen(small))
    store = opened(small.path, index=True)
    read_at, read_into = store.fs.read_at, store.fs.read_into

    class BadSector(type(store.fs)):  # type: ignore[misc]
        def read_at(self, descriptor: int, length: int, offset: int, path: str) -> bytes:
            if path == bad.path:
                raise StorageError(f"{path}: Input/output error. Check the disk.")
            return read_at(descriptor, length, offset, path)

        def read_into(self, descriptor: int, buffers: list[memoryview], offset: int, path: str) -> int:
            if path == bad.path:
                raise StorageError(f"{path}: Input/output error. Check the disk.")
            return read_into(descriptor, buffers, offset, path)

    store.fs = BadSector()
    with pytest.raises(CiuicError, match=r"Input/output error|is in no pack"):
        restored(store, list(small.states)[-1])
    assert any("Input/output" in problem for problem in report(store).problems)  # type: ignore[union-attr]
