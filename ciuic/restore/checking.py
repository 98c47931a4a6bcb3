"""The first pass of a restore: the stored bytes of records against their checksums. Nothing is decoded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ciuic.errors import CiuicError, DamagedData, StorageError
from ciuic.objects.ids import digest
from ciuic.restore.holding import looked_up
from ciuic.restore.threads import in_order, threads_for
from ciuic.store.chains import Record
from ciuic.store.pack_format import RECORD_LENGTH, encode_record_header

if TYPE_CHECKING:
    from ciuic.restore.stored_chunks import StoredChunks

RUN_BYTES = 2 << 20
MOST_GAP = 32 << 10
"""Bytes between two records that are read rather than skipped."""


def check(sources: Iterable[StoredChunks]) -> None:
    """Check every stored byte that the sources rest on against its checksum, each once. Under the shared lock.

    DamagedData or MissingObject names the first tensor and chunk that can be had from no copy.
    """
    wanted: dict[bytes, tuple[StoredChunks, int]] = {}
    held: list[tuple[StoredChunks, int, Record]] = []
    others: list[tuple[StoredChunks, int]] = []
    for source in sources:
        source.hold()
        for index, id in enumerate(source.chunks):
            if id in wanted and wanted[id][0].length(wanted[id][1]) == source.length(index):
                continue
            wanted[id] = source, index
            record = source.record(index)
            if record is None:
                others.append((source, index))
            else:
                source.check_length(index, record.header.raw_length)
                held.append((source, index, record))
    _check(held)
    for batch in looked_up(others):
        _check(batch)


def _check(batch: Sequence[tuple[StoredChunks, int, Record]]) -> None:
    failures = damaged(record for _, _, record in batch)
    if not failures:
        return
    for source, index, record in batch:
        below = [each for each in closure([record]) if (each.pack.name, each.offset) in failures]
        if below:
            for each in below:
                source.store.forget(each.header.id, each.pack.name)
            source.let_go(index)
            source.read_anew(index)  # by other copies, or it says what is lost


def closure(records: Iterable[Record]) -> list[Record]:
    """The records and all that they rest on, each once."""
    seen: dict[int, Record] = {}
    stack = list(records)
    while stack:
        record = stack.pop()
        if id(record) not in seen:
            seen[id(record)] = record
            stack += record.bases
    return list(seen.values())


def damaged(records: Iterable[Record]) -> dict[tuple[str, int], CiuicError]:
    """Of the records and all that they rest on, those whose stored bytes are not what they were: by pack and offset.

    Each is read once, in file order, neighbours with one read.
    """
    standing = {(record.pack.name, record.offset): record for record in closure(records)}
    order = [standing[place] for place in sorted(standing)]
    checker = _Checker()
    threads = threads_for(sum(record.header.stored_length for record in order))
    failures: dict[tuple[str, int], CiuicError] = {}
    for found in in_order(checker.check, _runs(order), threads=threads):
        failures.update(found)
    return failures


def _end(record: Record) -> int:
    return record.offset + RECORD_LENGTH + record.header.stored_length


def _runs(order: Iterable[Record]) -> Iterator[list[Record]]:
    """Neighbours of one pack together, up to RUN_BYTES unless a single record is longer."""
    run: list[Record] = []
    for record in order:
        if run and (
            record.pack is not run[-1].pack
            or record.offset - _end(run[-1]) > MOST_GAP
            or _end(record) - run[0].offset > RUN_BYTES
        ):
            yield run
            run = []
        run.append(record)
    if run:
        yield run


class _Checker:
    """One buffer a thread."""

    def __init__(self) -> None:
        self._own = threading.local()

    def _buffer(self, nbytes: int) -> memoryview:
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None or len(buffer) < nbytes:
            buffer = self._own.buffer = memoryview(bytearray(max(nbytes, RUN_BYTES)))
        return buffer[:nbytes]

    def check(self, run: list[Record]) -> dict[tuple[str, int], CiuicError]:
        """Those of a run of neighbours that are damaged."""
        first = run[0]
        if _end(run[-1]) > first.pack.length:
            where = f"{first.pack.path} at offset {first.offset}"
            cut: CiuicError = DamagedData(f"{where}: the pack ends before its records do. Run `ciuic fsck`.")
            return self._one_by_one(run, cut)
        data = self._buffer(_end(run[-1]) - first.offset)
        try:
            got = first.pack.read_into(data, first.offset)
        except StorageError as error:
            return self._one_by_one(run, error)
        failures: dict[tuple[str, int], CiuicError] = {}
        for record in run:
            start = record.offset - first.offset
            where = f"{record.pack.path} at offset {record.offset}"
            if _end(record) - first.offset > got:
                problem = f"{where}: the pack ends before its records do. Run `ciuic fsck`."
            elif data[start : start + RECORD_LENGTH] != encode_record_header(record.header):
                problem = f"{where}: the record's header does not match its footer. Run `ciuic fsck`."
            elif digest(data[start + RECORD_LENGTH : _end(record) - first.offset]) != record.header.stored_checksum:
                header = record.header
                problem = f"{where}: {header.kind.name.lower()} {header.id.hex()[:12]} does not match its checksum."
            else:
                continue
            failures[record.pack.name, record.offset] = DamagedData(problem)
        return failures

    def _one_by_one(self, run: list[Record], error: CiuicError) -> dict[tuple[str, int], CiuicError]:
        """A read that failed as a whole says nothing about the single records."""
        if len(run) == 1:
            return {(run[0].pack.name, run[0].offset): error}
        failures: dict[tuple[str, int], CiuicError] = {}
        for record in run:
            failures.update(self.check([record]))
        return failures
