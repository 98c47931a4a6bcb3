"""One pack: written once under a temporary name, then read for ever."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Protocol

from ciuic.codec import CodecError, decode
from ciuic.errors import DamagedData
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.store.fs import FileSystem
from ciuic.store.pack_format import (
    FOOTER,
    FOOTER_MAGIC,
    HEADER,
    RECORD_LENGTH,
    TRAILER_LENGTH,
    FooterRow,
    RecordHeader,
    decode_footer,
    decode_record_header,
    decode_trailer,
    encode_footer,
    encode_record_header,
    encode_trailer,
    pack_header,
    record_start,
)

WRITE_BATCH = 4 << 20
START_WRITING_BATCH = 8 << 20


class PackWriter:
    """Appends records to a new file. Nothing is of use before ``finish`` has returned.

    ``position`` and ``synced``: bytes appended, and how many of them have been synced.
    """

    def __init__(self, fs: FileSystem, path: str, repository_id: bytes) -> None:
        self.fs = fs
        self.path = path
        self.repository_id = repository_id
        self.rows: list[tuple[bytes, int]] = []
        self.records: list[FooterRow] = []
        self.position = HEADER.size
        self.synced = 0
        self._started = 0
        self._pending: list[Any] = [pack_header(repository_id)]
        self._pending_length = HEADER.size
        self._descriptor = fs.create(path)

    def append(self, record: RecordHeader, stored: Any) -> None:
        """Add a record. ``stored`` may be a live buffer: it is written before this returns unless it is small."""
        start = record_start(self.position, record)
        header = encode_record_header(record)
        small = record.stored_length < 4096
        self._pending += [bytes(start - self.position), header, bytes(stored) if small else stored]
        self.rows.append((header, start))
        self.records.append(FooterRow(record, start))
        end = start + RECORD_LENGTH + record.stored_length
        self._pending_length += end - self.position
        self.position = end
        if not small or self._pending_length > WRITE_BATCH:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending, self._pending_length = self._pending, [], 0
        self.fs.write(self._descriptor, pending, self.path)
        if self.position - self._started >= START_WRITING_BATCH:
            self.fs.start_writing(self._descriptor, self._started, self.position - self._started)
            self._started = self.position

    def sync(self) -> None:
        """What has been appended is durable on return, under the temporary name."""
        self._flush()
        self.fs.sync(self._descriptor, self.path)
        self.synced = self.position

    def finish(self) -> str:
        """Write footer and trailer and sync: the file's bytes are durable, its name (returned) not yet."""
        footer = encode_footer(self.repository_id, self.rows)
        self._pending += [footer, encode_trailer(self.position, footer)]
        try:
            self._flush()
            self.fs.sync(self._descriptor, self.path)
        finally:
            self.fs.close(self._descriptor)
            self._descriptor = -1
        return digest(footer).hex()

    def abandon(self) -> None:
        """Give the file up. What cannot be removed now is junk in ``tmp/`` for gc."""
        if self._descriptor >= 0:
            self.fs.close(self._descriptor)
            self._descriptor = -1
        with contextlib.suppress(Exception):
            self.fs.remove_if_there(self.path)


class Placed(Protocol):
    """A record, and where it stands in its pack: FooterRow and Record."""

    @property
    def header(self) -> RecordHeader: ...

    @property
    def offset(self) -> int: ...


class Footer:
    """What a pack lists; good for as long as there is a pack of that name."""

    def __init__(self, rows: tuple[FooterRow, ...]) -> None:
        self.rows = rows

    @functools.cached_property
    def by_id(self) -> dict[bytes, FooterRow]:
        return {row.header.id: row for row in self.rows}


class Pack:
    """An open pack. Holds its descriptor until it is garbage, so a reader outlives a sweep that unlinks the file."""

    def __init__(
        self, fs: FileSystem, path: str, name: str, repository_id: bytes, footer: Footer | None = None
    ) -> None:
        """``footer``: what an earlier look at it has found."""
        self._descriptor = -1
        self._footer = footer
        self.fs = fs
        self.path = path
        self.name = name
        self.repository_id = repository_id
        self._descriptor = fs.open(path)
        self.length = fs.size(self._descriptor)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self.fs.close(self._descriptor)

    @property
    def rows(self) -> tuple[FooterRow, ...]:
        """The footer's rows, in file order. Their hash is the pack's name, so they are as they were written."""
        return self.footer.rows

    @property
    def by_id(self) -> dict[bytes, FooterRow]:
        return self.footer.by_id

    @property
    def has_footer(self) -> bool:
        return self._footer is not None

    @property
    def footer(self) -> Footer:
        """Read when it is asked for; DamagedData when it is not what it was."""
        if self._footer is None:
            self._footer = self._read_footer()
        return self._footer

    def _read_footer(self) -> Footer:
        trailer = self.fs.read_at(self._descriptor, TRAILER_LENGTH, max(0, self.length - TRAILER_LENGTH), self.path)
        offset, length, name = decode_trailer(trailer, self.length, self.path)
        if not self.fs.read_at(self._descriptor, FOOTER.size, offset, self.path).startswith(FOOTER_MAGIC):
            raise DamagedData(f"{self.path}: the pack's footer is damaged. Run `ciuic fsck`.")
        footer = self.fs.read_at(self._descriptor, length, offset, self.path)
        if digest(footer) != name or name.hex() != self.name or len(footer) < FOOTER.size:
            raise DamagedData(f"{self.path}: the pack's footer does not match its name. Run `ciuic fsck`.")
        header = self.fs.read_at(self._descriptor, HEADER.size, 0, self.path)
        if header != pack_header(self.repository_id):
            raise DamagedData(f"{self.path}: the pack's header is damaged. Run `ciuic fsck`.")
        return Footer(tuple(decode_footer(footer, self.repository_id, offset, self.path)))

    def stored(self, offset: int, stored_length: int) -> tuple[RecordHeader, memoryview]:
        """A record's header and its stored bytes, both verified by checksum; DamagedData otherwise."""
        where = f"{self.path} at offset {offset}"
        if stored_length > self.length:
            raise DamagedData(f"{where}: a record longer than its pack. Run `ciuic fsck`.")
        data = memoryview(self.fs.read_at(self._descriptor, RECORD_LENGTH + stored_length, offset, self.path))
        header = decode_record_header(bytes(data[:RECORD_LENGTH]), where)
        payload = data[RECORD_LENGTH:]
        if header.stored_length != len(payload) or digest(payload) != header.stored_checksum:
            raise DamagedData(
                f"{where}: {header.kind.name.lower()} {header.id.hex()[:12]} does not match its checksum."
            )
        return header, payload

    def check_header(self, record: Placed) -> None:
        """DamagedData when a record says something else of itself than its footer: a salvage without that needs it."""
        header = record.header
        if self.fs.read_at(self._descriptor, RECORD_LENGTH, record.offset, self.path) != encode_record_header(header):
            where = f"{self.path} at offset {record.offset}: {header.kind.name.lower()} {header.id.hex()[:12]}"
            raise DamagedData(f"{where}: the record's header does not match its footer. Run `ciuic fsck`.")

    def read_payload(self, record: Placed, out: memoryview) -> None:
        """A record's stored bytes, unverified, straight into ``out``, which is as long as they are."""
        start = record.offset + RECORD_LENGTH
        if self.fs.read_into(self._descriptor, [out], start, self.path) != len(out):
            raise DamagedData(f"{self.path} at offset {record.offset}: the record is cut short. Run `ciuic fsck`.")

    def read_into(self, out: memoryview, offset: int) -> int:
        """Bytes of the file from ``offset`` on into ``out``, unverified; returns how many: fewer only at its end."""
        return self.fs.read_into(self._descriptor, [out], offset, self.path)

    def raw(self, offset: int, stored_length: int, id: bytes, kind: Kind | None = None) -> Any:
        """The raw bytes of an object that rests on no other, verified against ``id``; DamagedData otherwise.

        ``kind``: what it has to be.
        """
        where = f"{self.path} at offset {offset}"
        header, payload = self.stored(offset, stored_length)
        if kind is not None and header.kind is not kind and header.id == id:
            raise DamagedData(f"{where}: a {header.kind.name.lower()} stands where a {kind.name.lower()} belongs.")
        if header.id != id:
            raise DamagedData(f"{where}: another object stands here. Run `ciuic fsck`.")
        if header.base != NO_ID or header.depth:
            raise DamagedData(f"{where}: {header.kind.name.lower()} {id.hex()[:12]} rests on others.")
        try:
            raw = decode(header.codec, payload, header.raw_length, header.width)
        except CodecError as error:
            raise DamagedData(f"{where}: {header.kind.name.lower()} {id.hex()[:12]}: {error}.") from error
        # A raw chunk's checksum is its id: it has been compared already.
        compared = raw is payload and header.stored_checksum == id
        if not compared and object_id(header.kind, raw) != id:
            raise DamagedData(f"{where}: {header.kind.name.lower()} {id.hex()[:12]} does not match its id.")
        return raw
