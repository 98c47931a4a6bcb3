"""The bytes of a pack: header, records, footer, trailer. Pure layout, little-endian; see docs/format.md.

header   64 bytes: magic, version, flags, repository id, zeros
record   128-byte header, then the stored bytes; starts at a multiple of 64
footer   magic, version, flags, repository id, count; then a row a record: its header verbatim, its offset
trailer  64 bytes: magic, footer offset, footer length, BLAKE3 of the footer (which is the pack's name), check
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ciuic.codec import Codec
from ciuic.errors import DamagedData
from ciuic.objects.ids import Kind, digest
from ciuic.objects.tree import MOST_CHUNK_BYTES

VERSION = 1
HEADER = struct.Struct("<8sII16s32x")
HEADER_MAGIC = b"ciuicpak"
RECORD = struct.Struct("<4sBBBBQQ32s32s32s")
RECORD_MAGIC = b"CRec"
CHECK_LENGTH = 8
RECORD_LENGTH = RECORD.size + CHECK_LENGTH
FOOTER = struct.Struct("<8sII16sQ")
FOOTER_MAGIC = b"ciuicftr"
OFFSET = struct.Struct("<Q")
ROW = struct.Struct(f"{RECORD.format}{CHECK_LENGTH}xQ")
ROW_LENGTH = ROW.size
TRAILER = struct.Struct("<8sQQ32s")
TRAILER_MAGIC = b"ciuicend"
TRAILER_LENGTH = TRAILER.size + CHECK_LENGTH
ALIGNMENT = 64
PAGE = 4096
PAGE_ALIGNED_FROM = 64 * 1024
KINDS = {int(kind): kind for kind in Kind}
MOST_DEPTH = 255
MOST_FOOTER_BYTES = 1 << 30  # a pack is cut long before: a sparse file must not allocate what it says it has
MOST_OBJECT_BYTES = 1 << 30  # of a tree or a snapshot: a damaged or hostile length must not allocate more


class RecordHeader(NamedTuple):
    """What a record says of itself. ``stored_checksum`` is the BLAKE3 of the stored bytes."""

    kind: Kind
    codec: int
    width: int
    depth: int
    stored_length: int
    raw_length: int
    id: bytes
    base: bytes
    stored_checksum: bytes


def pack_header(repository_id: bytes) -> bytes:
    return HEADER.pack(HEADER_MAGIC, VERSION, 0, repository_id)


def encode_record_header(record: RecordHeader) -> bytes:
    data = RECORD.pack(
        RECORD_MAGIC,
        record.kind,
        record.codec,
        record.width,
        record.depth,
        record.stored_length,
        record.raw_length,
        record.id,
        record.base,
        record.stored_checksum,
    )
    return data + digest(data)[:CHECK_LENGTH]


def decode_record_header(data: bytes, where: str) -> RecordHeader:
    """The header of a record, its checksum verified; DamagedData otherwise."""
    if len(data) != RECORD_LENGTH:
        raise DamagedData(f"{where}: the record is cut short. Run `ciuic fsck`.")
    if digest(data[: RECORD.size])[:CHECK_LENGTH] != data[RECORD.size :]:
        raise DamagedData(f"{where}: the record's header does not match its checksum. Run `ciuic fsck`.")
    return _header(RECORD.unpack_from(data), where)


def _header(fields: Sequence[Any], where: str) -> RecordHeader:
    magic, kind, codec, width, depth, stored, raw, id, base, checksum = fields
    if magic != RECORD_MAGIC:
        raise DamagedData(f"{where}: not a record. Run `ciuic fsck`.")
    known = KINDS.get(kind)
    if known is None:
        raise DamagedData(f"{where}: a record of unknown kind {kind}. A newer ciuic may have written it.")
    most = MOST_CHUNK_BYTES if known is Kind.CHUNK else MOST_OBJECT_BYTES
    if stored > most or raw > most:
        raise DamagedData(f"{where}: a record of {raw} bytes, which no writer makes. Run `ciuic fsck`.")
    return RecordHeader(known, codec, width, depth, stored, raw, id, base, checksum)


def record_start(position: int, record: RecordHeader) -> int:
    """Where the next record's header goes: large raw payloads start on a page of their own, to be mapped."""
    if record.codec == Codec.RAW and record.stored_length >= PAGE_ALIGNED_FROM:
        payload = -(-(position + RECORD_LENGTH) // PAGE) * PAGE
        return payload - RECORD_LENGTH
    return -(-position // ALIGNMENT) * ALIGNMENT


def encode_footer(repository_id: bytes, rows: list[tuple[bytes, int]]) -> bytes:
    """``rows``: (record header verbatim, offset) in file order."""
    head = FOOTER.pack(FOOTER_MAGIC, VERSION, 0, repository_id, len(rows))
    return head + b"".join(header + OFFSET.pack(offset) for header, offset in rows)


def encode_trailer(footer_offset: int, footer: bytes) -> bytes:
    data = TRAILER.pack(TRAILER_MAGIC, footer_offset, len(footer), digest(footer))
    return data + digest(data)[:CHECK_LENGTH]


def decode_trailer(data: bytes, file_length: int, where: str) -> tuple[int, int, bytes]:
    """(footer offset, footer length, footer hash), checked against the file's length."""
    problem = DamagedData(f"{where}: the pack's trailer is damaged. Run `ciuic fsck`.")
    if len(data) != TRAILER_LENGTH:
        raise problem
    magic, offset, length, name = TRAILER.unpack_from(data)
    if magic != TRAILER_MAGIC or digest(data[: TRAILER.size])[:CHECK_LENGTH] != data[TRAILER.size :]:
        raise problem
    if offset + length + TRAILER_LENGTH != file_length or offset < HEADER.size:
        raise problem
    # Each record has a header in the file, too.
    if not FOOTER.size <= length <= min(MOST_FOOTER_BYTES, FOOTER.size + offset // RECORD_LENGTH * ROW_LENGTH):
        raise problem
    return offset, length, name


class FooterRow(NamedTuple):
    header: RecordHeader
    offset: int

    @property
    def end(self) -> int:
        return self.offset + RECORD_LENGTH + self.header.stored_length


def decode_footer(footer: Any, repository_id: bytes, footer_offset: int, where: str) -> list[FooterRow]:
    """The rows of a footer whose hash has been checked; DamagedData for one that no writer of ours made."""
    magic, version, _flags, owner, count = FOOTER.unpack_from(footer)
    if magic != FOOTER_MAGIC or version != VERSION or len(footer) != FOOTER.size + count * ROW_LENGTH:
        raise DamagedData(f"{where}: not a footer of this format. Run `ciuic fsck`.")
    if owner != repository_id:
        raise DamagedData(f"{where}: this pack belongs to another repository. Move it back there.")
    rows = []
    position = HEADER.size
    most = MOST_CHUNK_BYTES
    for fields in ROW.iter_unpack(memoryview(footer)[FOOTER.size :]):
        magic, kind, codec, width, depth, stored, raw, id, base, checksum, offset = fields
        if magic == RECORD_MAGIC and kind in KINDS and stored <= most and raw <= most:
            header = RecordHeader(KINDS[kind], codec, width, depth, stored, raw, id, base, checksum)
        else:
            header = _header(fields[:-1], where)
        row = FooterRow(header, offset)
        if offset < position:
            raise DamagedData(f"{where}: a record outside its pack. Run `ciuic fsck`.")
        position = offset + RECORD_LENGTH + stored
        rows.append(row)
    if position > footer_offset:
        raise DamagedData(f"{where}: a record outside its pack. Run `ciuic fsck`.")
    return rows
