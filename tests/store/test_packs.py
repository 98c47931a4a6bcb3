"""A pack is written once under a temporary name, found by its name, and says everything about itself."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from ministore import Trainer, noise

from ciuic.codec import Codec
from ciuic.errors import DamagedData
from ciuic.objects.ids import NO_ID, Kind, digest
from ciuic.store.fs import LOCAL
from ciuic.store.pack import Pack, PackWriter
from ciuic.store.pack_format import (
    MOST_OBJECT_BYTES,
    RECORD_LENGTH,
    RecordHeader,
    decode_footer,
    decode_record_header,
    encode_footer,
    encode_record_header,
)
from ciuic.store.pack_session import PackSession

OWNER = bytes(range(16))


def record(stored: bytes, **other: object) -> RecordHeader:
    fields: dict[str, object] = {
        "kind": Kind.CHUNK,
        "codec": Codec.RAW,
        "width": 1,
        "depth": 0,
        "stored_length": len(stored),
        "raw_length": len(stored),
        "id": digest(stored),
        "base": NO_ID,
        "stored_checksum": digest(stored),
    }
    return RecordHeader(**{**fields, **other})  # type: ignore[arg-type]


def write(folder: Path, payloads: list[bytes]) -> Pack:
    writer = PackWriter(LOCAL, str(folder / "new"), OWNER)
    for payload in payloads:
        writer.append(record(payload), payload)
    name = writer.finish()
    (folder / "new").rename(folder / f"{name}.pack")
    return Pack(LOCAL, str(folder / f"{name}.pack"), name, OWNER)


LENGTHS = [0, 1, 63, 64, 65, 4095, 4096, 65535, 65536, 65537, 200_000, 5]


def test_reads_back(tmp_path: Path) -> None:
    """What was appended is read back, in file order, small and large payloads alike."""
    payloads = [noise(length, length) for length in LENGTHS]
    pack = write(tmp_path, payloads)
    assert [row.header.id for row in pack.rows] == [digest(payload) for payload in payloads]
    assert [bytes(pack.raw(row.offset, row.header.stored_length, row.header.id)) for row in pack.rows] == payloads


def test_alignment(tmp_path: Path) -> None:
    """Records start at multiples of 64; payloads of 64 KiB and more at a page, so that they can be mapped."""
    pack = write(tmp_path, [noise(length, length) for length in LENGTHS])
    assert [row.offset % 64 for row in pack.rows] == [0] * len(LENGTHS)
    large = [row for row in pack.rows if row.header.stored_length >= 65536]
    assert [(row.offset + RECORD_LENGTH) % 4096 for row in large] == [0, 0, 0]


def test_name_is_the_footers_hash(tmp_path: Path) -> None:
    """Anybody can check a pack's name: BLAKE3 of the footer, which the trailer locates."""
    pack = write(tmp_path, [b"one", b"two"])
    data = Path(pack.path).read_bytes()
    magic, offset, length, name, check = struct.unpack("<8sQQ32s8s", data[-64:])
    assert (magic, name.hex()) == (b"ciuicend", pack.name)
    assert blake3(data[offset : offset + length]).hexdigest() == pack.name
    assert blake3(data[-64:-8]).digest()[:8] == check


def test_salvage_by_scanning(tmp_path: Path) -> None:
    """A pack without footer and trailer still gives every record: each has a header of its own at a multiple of 64."""
    payloads = [noise(length, length) for length in LENGTHS]
    data = Path(write(tmp_path, payloads).path).read_bytes()
    found = []
    for offset in range(64, len(data), 64):
        if data[offset : offset + 4] == b"CRec":
            header = decode_record_header(data[offset : offset + RECORD_LENGTH], "scan")
            stored = data[offset + RECORD_LENGTH : offset + RECORD_LENGTH + header.stored_length]
            assert digest(stored) == header.stored_checksum
            found.append(stored)
    assert found == payloads


def test_pack_limit(trainer: Trainer) -> None:
    """A commit larger than the pack limit is cut into several packs, all of them there before the ref moves."""
    Path(trainer.store.path, "config.toml").write_text("chunk_size = 4096\npack_limit = 1048576\n")
    again = Trainer(trainer.store.path)
    state = {"w": noise("large", 3 << 20)}
    snapshot = again.commit(state)
    assert len(again.packs()) == 4
    assert again.load(snapshot) == state


def test_no_name_twice(trainer: Trainer) -> None:
    """The same records in the same order have one name: an intact pack is reused, never overwritten."""
    stored = b"the same bytes"

    def publish() -> str:
        session = trainer.store.new_packs()
        session.add(Kind.CHUNK, digest(stored), stored, codec=0, raw_length=len(stored))
        (name,) = session.publish()
        return name

    path = Path(trainer.store.path, "packs", f"{publish()}.pack")
    inode = path.stat().st_ino
    assert publish() == path.stem
    assert path.stat().st_ino == inode
    assert os.listdir(trainer.store.join("tmp")) == []


def test_damaged_pack_of_the_same_name(trainer: Trainer) -> None:
    """A damaged pack of the name that is to be published is kept in quarantine and replaced in one step.

    It used to be renamed away first: a crash in between left neither, and its other records were gone.
    """
    stored = noise("replaced")

    def publish() -> Path:
        session = trainer.store.new_packs()
        session.add(Kind.CHUNK, digest(stored), stored, codec=0, raw_length=len(stored))
        (name,) = session.publish()
        return Path(trainer.store.path, "packs", f"{name}.pack")

    path = publish()
    intact = path.read_bytes()
    damaged = bytearray(intact)
    damaged[300] ^= 1
    path.write_bytes(damaged)
    assert publish() == path
    assert path.read_bytes() == intact
    (kept,) = Path(trainer.store.path, "quarantine").iterdir()
    assert kept.read_bytes() == damaged


def test_a_failed_session_leaves_nothing(trainer: Trainer) -> None:
    """A commit that is given up removes its temporary pack."""
    session = trainer.store.new_packs()
    session.add(Kind.CHUNK, digest(b"x"), b"x", codec=0, raw_length=1)
    session.abandon()
    assert os.listdir(trainer.store.join("tmp")) == []
    assert trainer.packs() == []
    assert isinstance(session, PackSession)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stored_length": 1 << 63}, "no writer makes"),
        ({"raw_length": (1 << 26) + 1}, "no writer makes"),
        ({"kind": Kind.TREE, "raw_length": MOST_OBJECT_BYTES + 1}, "no writer makes"),
        ({"kind": 9}, "unknown kind"),
    ],
)
def test_hostile_record_header(changes: dict[str, object], problem: str) -> None:
    """A header with a sound checksum that no writer of ours makes is refused before anything is allocated for it."""
    with pytest.raises(DamagedData, match=problem):
        decode_record_header(encode_record_header(record(b"x", **changes)), "here")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([(encode_record_header(record(b"x")), 0)], "outside its pack"),
        ([(encode_record_header(record(b"x")), 4096)], "outside its pack"),
        ([(encode_record_header(record(b"x")), 64), (encode_record_header(record(b"y")), 64)], "outside its pack"),
        ([(b"\0" * RECORD_LENGTH, 64)], "not a record"),
    ],
)
def test_hostile_footer(rows: list[tuple[bytes, int]], problem: str) -> None:
    """A footer whose rows overlap or leave the file is refused, whatever its hash says."""
    with pytest.raises(DamagedData, match=problem):
        decode_footer(encode_footer(OWNER, rows), OWNER, 1000, "here")
