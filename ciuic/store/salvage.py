"""What can be read of a damaged repository: records found by scanning, and logs without their damaged slots.

Nothing is taken on trust: a record counts when its own checksums hold, and its reader compares ids as ever.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ciuic.errors import DamagedData, DamagedRef, StorageError
from ciuic.objects.ids import digest
from ciuic.store.fs import FileSystem
from ciuic.store.index import Index
from ciuic.store.pack import Footer, Pack, Placed
from ciuic.store.pack_format import (
    FOOTER,
    FOOTER_MAGIC,
    RECORD_LENGTH,
    RECORD_MAGIC,
    TRAILER_LENGTH,
    FooterRow,
    RecordHeader,
    decode_record_header,
    decode_trailer,
)
from ciuic.store.reflog import (
    MOST_LOG_BYTES,
    NOTHING,
    SLOT,
    LogRecord,
    RefLog,
    decode_log,
    decode_record,
    is_torn,
)
from ciuic.store.refs import NOTES, PRUNES, Refs
from ciuic.store.store import Store

WINDOW = 8 << 20
MOST_IN_VAIN = 16
"""Times the length of a pack that is read for records that turn out to be none: headers can be made to overlap."""
MOST_CORRECTED = 32
"""Damaged slots of one log in which a wrong bit is looked for: each takes some ten milliseconds."""
TABS = 6
"""Between the fields of a record."""
SECTOR = 4096
START_OF_RECORD = re.compile(rb"(?=[0-9a-f]{32}\t[0-9])")
LOST_RECORD = "repair: this record was damaged; the one after it names its value"


class SalvagedPack(Pack):
    """A pack whose records are found by scanning when its footer or its header does not hold.

    ``problem``: what is wrong with its footer or header, "" for nothing. ``headless``: ids of records whose own headers
    are damaged, and which the footer vouches for.
    """

    problem = ""
    headless: set[bytes]

    def _read_footer(self) -> Footer:
        try:
            return super()._read_footer()
        except (DamagedData, StorageError) as error:
            self.problem = str(error)
        if self._is_foreign():
            self.problem = f"{self.path}: this pack belongs to another repository, or to a newer ciuic."
            return Footer(())
        return Footer(tuple(self._scan()))

    def stored(self, offset: int, stored_length: int) -> tuple[RecordHeader, memoryview]:
        try:
            return super().stored(offset, stored_length)
        except DamagedData:
            row = None if self._footer is None else next((row for row in self.rows if row.offset == offset), None)
            if row is None or row.header.stored_length != stored_length:
                raise
            payload = memoryview(bytearray(stored_length))
            self.read_payload(row, payload)
            if digest(payload) != row.header.stored_checksum:
                raise
            self.headless.add(row.header.id)
            return row.header, payload.toreadonly()

    def check_header(self, record: Placed) -> None:
        try:
            super().check_header(record)
        except DamagedData:
            self.headless.add(record.header.id)

    def _is_foreign(self) -> bool:
        """Whether the footer is as it was written, and yet not one of this repository's."""
        try:
            end = self.fs.read_at(self._descriptor, TRAILER_LENGTH, max(0, self.length - TRAILER_LENGTH), self.path)
            offset, length, name = decode_trailer(end, self.length, self.path)
            footer = self.fs.read_at(self._descriptor, length, offset, self.path)
        except (DamagedData, StorageError):
            return False
        if digest(footer) != name:
            return False
        magic, version, _flags, owner, _count = FOOTER.unpack_from(footer)
        return (magic, version, owner) != (FOOTER_MAGIC, 1, self.repository_id)

    def _scan(self) -> Iterator[FooterRow]:
        """Every record that is whole, in file order, each id once; at any offset, since bytes may have been lost."""
        position = in_vain = 0
        seen: set[bytes] = set()
        for found in self._magics():
            if found < position:
                continue
            try:
                head = decode_record_header(self._readable(found, RECORD_LENGTH), self.path)
            except (DamagedData, StorageError):
                continue
            if in_vain > MOST_IN_VAIN * self.length:
                return
            try:
                header, _ = self.stored(found, head.stored_length)
            except (DamagedData, StorageError):
                in_vain += head.stored_length
                continue
            row = FooterRow(header, found)
            position = row.end
            if header.id not in seen:
                seen.add(header.id)
                yield row

    def _magics(self) -> Iterator[int]:
        """Offsets at which a record may begin."""
        start = 0
        while start < self.length:
            data = self._readable(start, WINDOW + len(RECORD_MAGIC) - 1)
            found = data.find(RECORD_MAGIC)
            while found >= 0:
                yield start + found
                found = data.find(RECORD_MAGIC, found + 1)
            start += WINDOW

    def _readable(self, start: int, length: int) -> bytes:
        """Bytes of the file, with zeros for sectors that cannot be read."""
        return readable(self.fs, self._descriptor, start, length, self.path)


def readable(fs: FileSystem, descriptor: int, start: int, length: int, path: str) -> bytes:
    """Bytes of a file, with zeros for sectors that cannot be read."""
    try:
        return fs.read_at(descriptor, length, start, path)
    except StorageError:
        if length <= SECTOR:
            return bytes(min(length, max(0, fs.size(descriptor) - start)))
    half = max(SECTOR, length // 2 // SECTOR * SECTOR)
    return readable(fs, descriptor, start, half, path) + readable(fs, descriptor, start + half, length - half, path)


@dataclass(frozen=True)
class SalvagedLog:
    """``records`` that can be saved, in order and without a gap in their numbers; ``damaged``: the file is not that.

    ``lost``: records that cannot be; ``corrected``: those of which one bit was wrong; ``end_lost``: the newest is lost.
    """

    records: tuple[LogRecord, ...]
    damaged: bool = True
    lost: int = 0
    corrected: int = 0
    end_lost: bool = False


def salvage_log(name: str, data: bytes) -> SalvagedLog:
    """The records of a log whose checksums hold, wherever they stand in it, by their numbers.

    A slot in which a single bit is wrong is corrected: its checksum says when it is right. Where a record does not go
    on from the one before, one is put in between with the value that it names, so that gc keeps that. The newest
    record keeps its number.
    """
    with contextlib.suppress(DamagedRef):
        return SalvagedLog(tuple(decode_log(name, data)), damaged=False)
    found: dict[int, tuple[int, LogRecord]] = {}
    standing: set[int] = set()
    for match in START_OF_RECORD.finditer(data):
        record = decode_record(name, data[match.start() : match.start() + SLOT])
        if record is not None:
            found.setdefault(record.sequence, (match.start(), record))
            standing.add(match.start())
    moved = any(offset % SLOT for offset in standing)
    bad = [start for start in range(0, len(data), SLOT) if start not in standing]
    if bad and bad[-1] + SLOT >= len(data) and is_torn(data[bad[-1] :]):
        data = data[: bad.pop()]
    corrected = 0
    likely = [start for start in bad if data.count(b"\t", start, start + SLOT) >= TABS - 1]
    for start in () if moved else likely[:MOST_CORRECTED]:
        record = _corrected(name, data[start : start + SLOT])
        if record is not None and record.sequence not in found:
            found[record.sequence] = start, record
            corrected += 1
    order = [found[sequence] for sequence in sorted(found)]
    if not order:
        slots = -(-len(data) // SLOT)
        return SalvagedLog((), lost=slots, end_lost=bool(slots))
    records = [record for _, record in order]
    before = order[0][0] // SLOT if not moved else int(records[0].old != NOTHING)
    after = (len(data) - 1 - max(standing | {order[-1][0]})) // SLOT
    gaps = records[-1].sequence - records[0].sequence + 1 - len(records)
    filled = _filled(records, bool(before)) if name not in (PRUNES, NOTES) else records
    first = filled[-1].sequence - len(filled) + 1
    numbered = tuple(replace(record, sequence=first + place) for place, record in enumerate(filled))
    return SalvagedLog(numbered, lost=before + gaps + after, corrected=corrected, end_lost=after > 0)


def _filled(records: list[LogRecord], begun_before: bool) -> list[LogRecord]:
    """With a record for each value that a lost one must have had."""
    result: list[LogRecord] = []
    for record in records:
        before = result[-1].new if result else NOTHING
        gap = begun_before if not result else record.sequence > result[-1].sequence + 1
        if gap and record.old != before:
            time = result[-1].time_ns if result else record.time_ns
            result.append(LogRecord(record.sequence - 1, time, before, record.old, "ciuic", LOST_RECORD))
        result.append(record)
    return result


def _corrected(name: str, slot: bytes) -> LogRecord | None:
    """The record of a slot in which one bit is wrong; None where that is not all."""
    for position in range(len(slot)):
        for bit in range(8):
            turned = slot[:position] + bytes([slot[position] ^ 1 << bit]) + slot[position + 1 :]
            record = decode_record(name, turned)
            if record is not None:
                return record
    return None


class SalvageLog(RefLog):
    """A log as it can be saved."""

    def salvaged(self) -> SalvagedLog:
        """FileNotFoundError when there is no log."""
        try:
            descriptor = self.fs.open(self.path)
        except (StorageError, IsADirectoryError):
            return SalvagedLog((), lost=1, end_lost=True)
        try:
            size = min(self.fs.size(descriptor), MOST_LOG_BYTES)
            return salvage_log(self.name, readable(self.fs, descriptor, 0, size, self.path))
        finally:
            self.fs.close(descriptor)

    def read(self) -> list[LogRecord]:
        try:
            return list(self.salvaged().records)
        except FileNotFoundError:
            return []

    def read_on(self, before: list[LogRecord]) -> list[LogRecord]:
        """DamagedRef for a file that is larger than any log: it is not searched for records."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_size > MOST_LOG_BYTES:
                return super().read_on(before)
        return self.read()

    def last(self) -> LogRecord | None:
        records = self.read()
        return records[-1] if records else None

    settled = last


class SalvageRefs(Refs):
    def log(self, name: str) -> SalvageLog:
        log = super().log(name)
        return SalvageLog(log.fs, log.path, log.name, log.tmp, log.named)


class _NoIndex(Index):
    """LMDB is left alone, and with it all files: this view changes nothing."""

    def open(self, generation: int) -> bool:
        return False


class SalvageStore(Store):
    """A repository as it would be with everything saved that can be. For reading only."""

    refs: SalvageRefs

    def __init__(self, path: str, fs: FileSystem) -> None:
        super().__init__(path, fs)
        self.refs = SalvageRefs(fs, self.path, self.join("tmp"))
        self._lmdb_index = _NoIndex(fs, self.join("index"), self.join("tmp"))
        self.broken: dict[str, SalvagedPack] = {}
        """Packs whose footer or header does not hold; held open."""
        self.headless: dict[str, set[bytes]] = {}
        """Packs with records whose own headers are damaged."""
        self._sound: set[str] = set()

    def refresh(self) -> None:
        self._footers_serve = self.read_generation()
        super().refresh()

    def _new_pack(self, name: str, footer: Footer | None = None) -> Pack:
        if name in self.broken:
            return self.broken[name]
        pack = SalvagedPack(self.fs, f"{self.path}/packs/{name}.pack", name, self.repository_id, footer)
        pack.headless = self.headless.setdefault(name, set())
        if name not in self._sound:
            if pack.footer and pack.problem:  # it is read now, to see what it is
                self.broken[name] = pack
            else:
                self._sound.add(name)
        return pack

    def unreadable(self) -> dict[str, str]:
        """Packs that cannot even be opened, and why."""
        return {name: problem for name, problem in self.damaged_packs.items() if name not in self.broken}
