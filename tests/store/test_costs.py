"""What a commit says that it cost, the sync that makes it honest, and sources that change under a commit."""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from faulty import Faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from ministore import Trainer, node, noise

from ciuic.commit import chunks
from ciuic.commit.bases import Bases
from ciuic.commit.chunks import ChunkWriter
from ciuic.commit.leaves import BytesSource, Leaf
from ciuic.commit.pipeline import Details, commit_snapshot
from ciuic.errors import StorageError
from ciuic.objects.ids import Kind, digest
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Value
from ciuic.store import pack, pack_session
from ciuic.store.fs import FileSystem
from ciuic.store.fsck import check
from ciuic.store.object_reader import read_snapshot

STATE: dict[str, object] = {"w": noise("w", 20_000)}


def commit(trainer: Trainer, details: Details) -> Snapshot:
    """The snapshot as a reader sees it."""
    made = commit_snapshot(
        trainer.store, {"model": node(STATE)}, details, lambda snapshot: trainer.following.advance(snapshot, "commit")
    )
    read = read_snapshot(trainer.store, bytes.fromhex(made.id))
    assert read == made
    return read


def sound(cost: Mapping[str, float]) -> bool:
    return all(math.isfinite(seconds) and seconds >= 0 for seconds in cost.values())


def test_a_commit_measures_itself(trainer: Trainer) -> None:
    """Encoding and writing are measured; what the caller has measured stands beside them, as given."""
    assert set(commit(trainer, Details()).cost) == {"encode", "check", "write"}
    cost = commit(trainer, Details(cost={"call": 0.25, "fence": 0})).cost
    assert set(cost) == {"call", "fence", "encode", "check", "write"}
    assert cost["call"] == 0.25 and cost["fence"] == 0
    assert sound(cost)


def test_the_time_is_the_caller_s(trainer: Trainer) -> None:
    """A snapshot that was taken earlier than it is written has the time of the moment that it shows."""
    moment = datetime(2025, 4, 5, 14, 23, 12, 345678, timezone.utc)
    assert commit(trainer, Details(timestamp=moment)).timestamp == moment
    before = datetime.now(timezone.utc)
    assert before <= commit(trainer, Details()).timestamp <= datetime.now(timezone.utc)


def synced(fs: Faulty) -> list[str]:
    return [line for line in fs.log if line.startswith("sync ") and f"{os.sep}tmp{os.sep}pack-" in line]


@pytest.mark.parametrize(("limit", "times"), [(1 << 20, 1), (4096, 2)])
def test_a_large_pack_is_synced_before_it_says_what_that_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, times: int
) -> None:
    """Once more than a small one, and the data of both is there."""
    Trainer.create(tmp_path)
    monkeypatch.setattr(pack_session, "SETTLE_BYTES", limit)
    fs = Faulty()
    trainer = Trainer(tmp_path, fs)
    snapshot = trainer.commit(STATE)
    assert len(synced(fs)) == times
    assert Trainer(tmp_path).load(snapshot) == STATE


@pytest.mark.parametrize("supported", [True, False])
def test_a_large_pack_is_on_its_way_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    """Stretch after stretch, each of what has been written only; a system that cannot do it goes without."""
    monkeypatch.setattr(pack, "START_WRITING_BATCH", 8192)
    if not supported:
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    stretches: list[tuple[int, int]] = []

    class Watched(FileSystem):
        def start_writing(self, descriptor: int, offset: int, length: int) -> None:
            assert offset + length <= self.size(descriptor)
            stretches.append((offset, offset + length))
            super().start_writing(descriptor, offset, length)

    Trainer.create(tmp_path)
    state: dict[str, object] = {"w": noise("large", 100_000)}
    snapshot = Trainer(tmp_path, Watched()).commit(state)
    assert len(stretches) >= 8 and stretches[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(stretches))
    assert Trainer(tmp_path).load(snapshot) == state


@pytest.mark.parametrize("failing", [0, 1])
def test_a_sync_that_fails_fails_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """Either of the two: nothing has moved, nothing lies about, and the next commit stores it all."""
    monkeypatch.setattr(pack_session, "SETTLE_BYTES", 4096)
    first = Trainer.create(tmp_path).commit({"v": 1})

    class Failing(Faulty):
        def sync(self, descriptor: int, path: str) -> None:
            self.log.append(f"sync {path}")
            if len(synced(self)) == failing + 1:
                self._fail(path)
            super().sync(descriptor, path)

    trainer = Trainer(tmp_path, Failing(number=errno.EIO, effects=()))
    with pytest.raises(StorageError):
        trainer.commit(STATE)
    assert Trainer(tmp_path).tip() == first
    assert os.listdir(trainer.store.join("tmp")) == []
    assert trainer.load(trainer.commit(STATE)) == STATE
    assert check(trainer.store, read_data=True).ok


def write(trainer: Trainer, session: Any, source: Any) -> list[tuple[bytes, ...]]:
    """The chunk ids of one source of bytes."""
    leaf = Leaf(("model", "w"), Value(None), source, 1, "uint8", (source.nbytes,))
    return ChunkWriter(trainer.store, session, Bases(trainer.store, {})).write([leaf])


class Restless:
    """A source whose memory changes as soon as something has been written."""

    stable = False

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.nbytes = len(data)

    def read(self, start: int, stop: int) -> Any:
        return memoryview(self.data)[start:stop]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40_000), st.booleans())
def test_memory_that_changes_is_copied_first(
    tmp_path_factory: pytest.TempPathFactory, length: int, noisy: bool
) -> None:
    """Whatever another thread does to live memory, each chunk is stored as it was hashed."""
    trainer = Trainer.create(tmp_path_factory.mktemp("restless") / "repo")
    source = Restless(noise(length, length) if noisy else bytes(length))
    with trainer.store.shared():
        session = trainer.store.new_packs()
        add = session.add

        def scribble_and_add(kind: Kind, id: bytes, stored: Any, **rest: Any) -> None:
            source.data[:] = os.urandom(length)
            add(kind, id, stored, **rest)

        session.add = scribble_and_add  # type: ignore[method-assign]
        (ids,) = write(trainer, session, source)
        trainer.store.index_commit(session.publish(), {})
        for id in ids:
            assert digest(trainer.store.read(Kind.CHUNK, id)) == id


@pytest.mark.parametrize("small", [0, 3000, 1 << 20])
def test_small_chunks_and_large_ones_keep_their_order(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Whether threads prepare all of them, the whole ones, or none."""
    monkeypatch.setattr(chunks, "TOO_SMALL_FOR_A_THREAD", small)
    lengths = (0, 1, 4096, 4097, 20_000, 2999, 3000, 8192, 9000)
    state: dict[str, object] = {f"w{length}": noise(length, length) for length in lengths}
    assert trainer.load(trainer.commit(state)) == state


def test_memory_that_stays_is_not_copied(trainer: Trainer) -> None:
    """What is handed to the pack is the source's own memory."""
    source = BytesSource(noise("stable", 10_000))
    session = trainer.store.new_packs()
    handed: list[memoryview] = []
    session.add = lambda kind, id, stored, **rest: handed.append(stored)  # type: ignore[method-assign]
    write(trainer, session, source)
    assert [view.obj is source.data for view in handed] == [True] * 3
