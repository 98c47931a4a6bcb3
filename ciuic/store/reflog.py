"""Ref logs: append-only files of 512-byte text records. A ref and its history are one file and cannot disagree.

A record: checksum, sequence, time (ns), old, new, actor, action, separated by tabs, padded with spaces, ended by a
newline. The checksum is the first 32 hex digits of BLAKE3(log name, NUL, the rest of the record), so a log cannot pose
as another. Values are 64 hex digits, "ref:<log name>" (HEAD only) or "-" (nothing; as ``new`` it is a tombstone).

One sector is written whole or not at all. A last slot that is short, or begins or ends with zeros, is torn: it was
never acknowledged, it is set aside, and the next append takes its place. Any other bad slot is corruption, never cut.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from blake3 import blake3

from ciuic.errors import DamagedRef, LockTimeout, RefConflict, StorageError
from ciuic.objects.ids import short
from ciuic.store.fs import FileSystem
from ciuic.store.locks import hold_open, opened

SLOT = 512
CHECKSUM_DIGITS = 32
ACTOR_LIMIT = 60
NOTHING = "-"
SYMBOLIC = "ref:"
VALUE = re.compile(r"-|[0-9a-f]{64}")
HEAD_VALUE = re.compile(rf"{VALUE.pattern}|ref:refs/heads/[^\t\n\x00]{{1,100}}")
NUMBER = re.compile(r"[0-9]{1,19}")
TORN = bytes(16)  # a run of zeros; a single one may be a flipped bit of an acknowledged record
LOG_LOCK_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 1.0
MOST_LOG_BYTES = 1 << 30


@dataclass(frozen=True)
class LogRecord:
    """One change of one ref. ``old`` and ``new`` are values as written; ``time_ns`` is since 1970, UTC."""

    sequence: int
    time_ns: int
    old: str
    new: str
    actor: str
    action: str

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.time_ns / 1e9, timezone.utc)


def _checksum(log: str, rest: bytes) -> bytes:
    return blake3(log.encode() + b"\0" + rest).hexdigest()[:CHECKSUM_DIGITS].encode()


def _field(text: str, limit: int) -> bytes:
    """One line of UTF-8, at most ``limit`` bytes, cut at a character."""
    plain = re.sub(r"[\x00-\x1f\x7f]+", " ", text).strip()
    data = plain.encode("utf-8", "replace")
    return data if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore").encode() + "…".encode()


def encode_record(log: str, record: LogRecord) -> bytes:
    head = f"\t{record.sequence}\t{record.time_ns}\t{record.old}\t{record.new}\t".encode()
    head += _field(record.actor, ACTOR_LIMIT) + b"\t"
    room = SLOT - CHECKSUM_DIGITS - len(head) - 1
    rest = (head + _field(record.action, room)).ljust(SLOT - CHECKSUM_DIGITS - 1) + b"\n"
    return _checksum(log, rest) + rest


def decode_record(log: str, slot: bytes) -> LogRecord | None:
    """The record of a slot, or None when its checksum or its form does not hold."""
    rest = slot[CHECKSUM_DIGITS:]
    if len(slot) != SLOT or _checksum(log, rest) != slot[:CHECKSUM_DIGITS]:
        return None
    try:
        _, sequence, time_ns, old, new, actor, action = rest.decode("utf-8").rstrip("\n").rstrip(" ").split("\t")
        form = HEAD_VALUE if log == "HEAD" else VALUE
        if not (form.fullmatch(old) and form.fullmatch(new)):
            return None
        if not (NUMBER.fullmatch(sequence) and NUMBER.fullmatch(time_ns)):
            return None
        return LogRecord(int(sequence), int(time_ns), old, new, actor, action)
    except ValueError:
        return None


def is_torn(slot: bytes) -> bool:
    """Whether a log's last slot, which is no record, was never acknowledged as one."""
    return len(slot) < SLOT or slot.startswith(TORN) or slot.endswith(TORN)


def decode_log(log: str, data: bytes) -> list[LogRecord]:
    """All records, oldest first, without a torn last slot; DamagedRef for any other slot that is bad."""
    records: list[LogRecord] = []
    for start in range(0, len(data), SLOT):
        slot = data[start : start + SLOT]
        record = decode_record(log, slot)
        if record is None:
            last = start + SLOT >= len(data)
            if last and is_torn(slot):
                break
            raise DamagedRef(
                f"{log}: record {start // SLOT} of the log is damaged. Nothing was changed; gc will not run. "
                "Restore the file from a copy, or see what `ciuic repair` can save."
            )
        if records and record.sequence != records[-1].sequence + 1:
            raise DamagedRef(
                f"{log}: record {start // SLOT} is out of sequence. Restore the file from a copy, or see what "
                "`ciuic repair` can save."
            )
        records.append(record)
    return records


class RefLog:
    """One log file. Every change is taken under the repository's shared lock, which the caller holds.

    ``named``: (device, inode) of the log files whose name in their folder this process has made durable.
    ``failed``: the record of an append that failed when it was written or synced.
    """

    def __init__(
        self, fs: FileSystem, path: str, name: str, tmp: str, named: set[tuple[int, int]] | None = None
    ) -> None:
        self.fs = fs
        self.path = path
        self.name = name
        self.tmp = tmp
        self.named = set() if named is None else named
        self.failed: LogRecord | None = None
        self.unsure = False  # a write or a sync failed: what the disk has is unknown; not when nothing was tried

    @contextlib.contextmanager
    def _opened(self, *, write: bool = False) -> Iterator[int]:
        """A descriptor; FileNotFoundError when there is no log."""
        try:
            with opened(self.fs, self.path, write=write) as descriptor:
                yield descriptor
        except IsADirectoryError:
            raise DamagedRef(f"{self.path}: a folder stands where a log belongs. Move it away.") from None

    def read(self) -> list[LogRecord]:
        """All records, oldest first; none when there is no log."""
        try:
            with self._opened() as descriptor:
                return self._read(descriptor)
        except FileNotFoundError:
            return []

    def read_on(self, before: list[LogRecord]) -> list[LogRecord]:
        """All records, oldest first. ``before`` has been read: if the file goes on from there, only the rest is."""
        start = (len(before) - 1) * SLOT
        try:
            with self._opened() as descriptor:
                size = self.fs.size(descriptor)
                if before and start < size <= MOST_LOG_BYTES:
                    with contextlib.suppress(DamagedRef):  # told apart below, with the number of the record
                        tail = decode_log(self.name, self.fs.read_at(descriptor, size - start, start, self.path))
                        if tail and tail[0] == before[-1]:
                            return before[:-1] + tail
                return self._read(descriptor)
        except FileNotFoundError:
            return []

    def _read(self, descriptor: int) -> list[LogRecord]:
        size = self.fs.size(descriptor)
        if size > MOST_LOG_BYTES:
            raise DamagedRef(f"{self.path}: larger than any log of ours. Restore the file from a copy.")
        return decode_log(self.name, self.fs.read_at(descriptor, size, 0, self.path))

    def last(self) -> LogRecord | None:
        """The newest record, reading only the end of the file when that is sound."""
        try:
            with self._opened() as descriptor:
                return self._tail(descriptor)[0]
        except FileNotFoundError:
            return None

    def settled(self) -> LogRecord | None:
        """The newest record when no append is under way; LockTimeout when one does not end."""
        try:
            with (
                self._opened() as descriptor,
                hold_open(descriptor, self.path, exclusive=False, timeout_s=SETTLE_TIMEOUT_S),
            ):
                return self._tail(descriptor)[0]
        except FileNotFoundError:
            return None

    def _tail(self, descriptor: int) -> tuple[LogRecord | None, int]:
        """The newest record and the offset of the slot after it; the whole log is read only when its end is unsound."""
        size = self.fs.size(descriptor)
        if size and size % SLOT == 0:
            record = decode_record(self.name, self.fs.read_at(descriptor, SLOT, size - SLOT, self.path))
            if record is not None:
                return record, size
        records = self._read(descriptor)
        return (records[-1] if records else None), len(records) * SLOT

    def append(self, expected: str | None, new: str, actor: str, action: str) -> LogRecord:
        """Compare and append: durable on return. RefConflict when the value is not ``expected`` (None: whatever it is).

        1. open; 2. lock the file; 3. it is still the one at its path, whose name is durable, and it has no other one;
        4. compare;
        5. write the slot; 6. sync. A failed write or sync leaves the slot zeroed as far as can be done, and raises.
        """
        while True:
            try:
                with self._locked() as descriptor:
                    if descriptor is not None:
                        return self._append(descriptor, expected, new, actor, action)
            except FileNotFoundError:
                record = self._start(expected, new, actor, action)
                if record is not None:
                    return record

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The open and locked log; None when another file has taken its place meanwhile."""
        with (
            self._opened(write=True) as descriptor,
            hold_open(descriptor, self.path, exclusive=True, timeout_s=LOG_LOCK_TIMEOUT_S),
        ):
            here, there = os.fstat(descriptor), os.stat(self.path)
            yield descriptor if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) else None

    def _refuse_other_names(self, descriptor: int) -> None:
        """Of a file that has another name outside of ``tmp/`` nothing is changed: it may be anybody's, or a backup's.

        A log is made in ``tmp/``, and has a name there until its maker has removed it, or forever when that died.
        """
        while True:
            status = os.fstat(descriptor)
            if status.st_nlink <= 1 or status.st_nlink - self._names_in_tmp(status) <= 1:
                return
            if os.fstat(descriptor).st_nlink == status.st_nlink:  # else its maker has just removed one
                raise DamagedRef(
                    f"{self.path}: the file has another name (a hard link), and what is there would be changed, too. "
                    "Put a copy of the file in its place."
                )

    def _names_in_tmp(self, status: os.stat_result) -> int:
        count = 0
        for name in self.fs.list_folder(self.tmp):
            with contextlib.suppress(OSError):
                other = os.lstat(os.path.join(self.tmp, name))
                count += (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
        return count

    def _settle_name(self, descriptor: int) -> None:
        """Whoever made or rewrote this file may have died before the folder's sync, and its records with its name."""
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) not in self.named:
            try:
                self.fs.sync_folder(os.path.dirname(self.path))
            except StorageError:
                self.unsure = True
                raise
            self.named.add((status.st_dev, status.st_ino))

    def _append(self, descriptor: int, expected: str | None, new: str, actor: str, action: str) -> LogRecord:
        self._refuse_other_names(descriptor)
        previous, offset = self._tail(descriptor)
        old = previous.new if previous else NOTHING
        self._compare(expected, old)
        self._settle_name(descriptor)
        record = LogRecord(previous.sequence + 1 if previous else 0, time.time_ns(), old, new, actor, action)
        try:
            self.fs.write_at(descriptor, encode_record(self.name, record), offset, self.path)
            self.fs.sync(descriptor, self.path)
        except StorageError:
            self.failed, self.unsure = record, True
            self._withdraw(descriptor, offset)
            raise
        return record

    def _withdraw(self, descriptor: int, offset: int) -> None:
        """After a failed write or sync nobody may take the slot for a commit: make it read as torn."""
        with contextlib.suppress(StorageError):
            self.fs.write_at(descriptor, bytes(SLOT), offset, self.path)

    def _compare(self, expected: str | None, actual: str) -> None:
        if expected is not None and expected != actual:
            raise RefConflict(
                f"{self.name} is at {_named(actual)} and not at {_named(expected)}: another process moved it. "
                "Look at `ciuic reflog`, then decide again."
            )

    def _start(self, expected: str | None, new: str, actor: str, action: str) -> LogRecord | None:
        """A log's first record: the whole file appears at once or not at all. None when another process was faster."""
        self._compare(expected, NOTHING)
        record = LogRecord(0, time.time_ns(), NOTHING, new, actor, action)
        temporary = os.path.join(self.tmp, f"log-{os.getpid()}-{os.urandom(6).hex()}")
        self._write_temporary(temporary, [record])
        try:
            self.fs.link(temporary, self.path)
        except FileExistsError:
            return None
        finally:
            with contextlib.suppress(StorageError):  # the record counts by now; a left-over is for gc
                self.fs.remove_if_there(temporary)
        try:
            self.fs.sync_folder(os.path.dirname(self.path))
        except StorageError:
            self.failed, self.unsure = record, True
            with contextlib.suppress(StorageError, LockTimeout, FileNotFoundError), self._locked() as descriptor:
                # Not unlinked: another process may have appended, and that was acknowledged.
                if descriptor is not None and self._tail(descriptor)[0] == record:
                    self._withdraw(descriptor, 0)
            raise
        return record

    def _write_temporary(self, temporary: str, records: list[LogRecord]) -> None:
        descriptor = self.fs.create(temporary)
        try:
            self.fs.write(descriptor, [encode_record(self.name, record) for record in records], temporary)
            self.fs.sync(descriptor, temporary)
        finally:
            self.fs.close(descriptor)

    def rewrite(self, records: list[LogRecord]) -> None:
        """Replace the log, durably and as a whole. Only under the repository's exclusive lock."""
        temporary = os.path.join(self.tmp, f"log-{os.getpid()}-{os.urandom(6).hex()}")
        self._write_temporary(temporary, records)
        self.fs.rename(temporary, self.path)
        self.fs.sync_folder(os.path.dirname(self.path))

    def remove(self) -> None:
        """Remove the log, durably. Only under the repository's exclusive lock."""
        self.fs.remove_if_there(self.path)
        self.fs.sync_folder(os.path.dirname(self.path))


def _named(value: str) -> str:
    return "nothing" if value == NOTHING else value if value.startswith(SYMBOLIC) else short(value)
