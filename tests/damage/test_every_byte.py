"""P5: every byte of a small repository flipped in turn. The answer is right, or one of our errors.

By default each byte of a pack is met by a new store that reads the object which it belongs to, and every 32nd by all
snapshots and fsck. CIUIC_DAMAGE=full does everything for each byte, three kinds of flips, with and without an index.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from smallrepo import Small, is_clean, opened, report, write_at, wrong_answers, wrong_refs

from ciuic.errors import CiuicError, DamagedData
from ciuic.objects.ids import object_id
from ciuic.store.config import Config
from ciuic.store.pack import Pack
from ciuic.store.pack_format import HEADER, FooterRow

FULL = os.environ.get("CIUIC_DAMAGE") == "full"
EVERY = 1 if FULL else 32
WAYS = tuple(itertools.product((0x01, 0x80, 0xFF), (True, False)))
"""What a byte is flipped with, and whether there is an index."""
PARTS = 4
"""Into which the bytes are dealt, so that several processes share them."""


def ways(position: int) -> tuple[tuple[int, bool], ...]:
    return WAYS if FULL else (WAYS[position % len(WAYS)],)


@contextlib.contextmanager
def flipped(path: Path, position: int, mask: int) -> Iterator[None]:
    """One byte of a file, in place, and back again; what fails inside says where it was."""
    byte = path.read_bytes()[position]
    write_at(path, bytes([byte ^ mask]), position)
    try:
        yield
    except Exception as error:
        raise AssertionError(f"byte {position} of {path.name}, {byte:#x} ^ {mask:#x}: {error!r}") from error
    finally:
        write_at(path, bytes([byte]), position)


def rows_of(small: Small, path: Path) -> tuple[FooterRow, ...]:
    store = opened(small.path, index=False)
    return Pack(store.fs, str(path), path.stem, store.repository_id).rows


def object_at(rows: tuple[FooterRow, ...], position: int) -> FooterRow:
    """The record that a byte belongs to, or any other of its pack for header, footer and trailer."""
    return next((row for row in rows if row.offset <= position < row.end), rows[position % len(rows)])


@pytest.mark.parametrize("part", range(PARTS))
def test_packs(small: Small, part: int) -> None:
    """Record headers, payloads, footers, trailers; only zeros between records may change unnoticed."""
    for path in small.files("packs"):
        rows = rows_of(small, path)
        length = path.stat().st_size
        covered = {*range(HEADER.size), *range(rows[-1].end, length)}
        covered |= {position for row in rows for position in range(row.offset, row.end)}
        for position in range(part, length, PARTS):
            row = object_at(rows, position)
            for mask, index in ways(position // PARTS):
                with flipped(path, position, mask):
                    store = opened(small.path, index=index)
                    with contextlib.suppress(CiuicError), store.shared():
                        raw = store.read(row.header.kind, row.header.id)
                        assert object_id(row.header.kind, raw) == row.header.id
                    if position // PARTS % EVERY:
                        continue
                    assert wrong_answers(small, opened(small.path, index=index)) == []
                    assert is_clean(report(opened(small.path, index=index))) is (position not in covered)
    assert_intact(small)


def test_every_record_notices_its_own_damage(small: Small) -> None:
    """Each byte of each record by itself, without other copies: it is never given out, and never taken for sound."""
    for path in small.files("packs"):
        store = opened(small.path, index=True)
        pack = Pack(store.fs, str(path), path.stem, store.repository_id)
        for row in pack.rows:
            for position in range(row.offset, row.end):
                with flipped(path, position, 1 << position % 8), pytest.raises(DamagedData, match="offset"):
                    pack.stored(row.offset, row.header.stored_length)


@pytest.mark.parametrize("name", ["HEAD", "prunes", "refs/heads/main", "refs/heads/side", "refs/tags/v1"])
def test_logs(small: Small, name: str) -> None:
    """A ref is where it is, or an error: never elsewhere. fsck names every such byte, also in older records."""
    path = small.path / name
    for position in range(path.stat().st_size):
        for mask, index in ways(position):
            with flipped(path, position, mask):
                store = opened(small.path, index=index)
                assert wrong_refs(small, store) == []
                if position % EVERY == 0:
                    assert wrong_answers(small, store) == []
                    assert not is_clean(report(store))
    assert_intact(small)


@pytest.mark.parametrize("name", ["format", "config.toml", "generation"])
def test_small_files(small: Small, name: str) -> None:
    """A changed setting may be a sound one; what is stored does not depend on it."""
    path = small.path / name
    for position in range(path.stat().st_size):
        for mask, index in ways(position):
            with flipped(path, position, mask), contextlib.suppress(CiuicError):
                store = opened(small.path, index=index)
                assert wrong_refs(small, store) == []
                assert wrong_answers(small, store) == []
                assert isinstance(store.config, Config)
    assert_intact(small)


@pytest.mark.parametrize("name", ["stamp", "data.mdb", "lock.mdb"])
def test_index(small: Small, name: str) -> None:
    """An index that was changed is built anew: no answer depends on it."""
    path = small.path / "index" / name
    step = 1 if FULL or name == "stamp" else 1021
    for position in range(0, path.stat().st_size, step):
        byte = path.read_bytes()[position]
        write_at(path, bytes([byte ^ 0xFF]), position)
        store = opened(small.path, index=True)
        del store._lmdb_index.update  # which is to be written to now
        assert wrong_answers(small, store) == wrong_refs(small, store) == [], position
    assert_intact(small)


def assert_intact(small: Small) -> None:
    """Every byte is back, and nothing that was met on the way has been kept for true."""
    for index in (True, False):
        store = opened(small.path, index=index)
        assert is_clean(report(store))
        assert wrong_answers(small, store) == wrong_refs(small, store) == []
