"""The index: object id → pack, offset, length and depth of its shallowest copy.

Fast, shared between processes, disposable, and trusted by nobody.

LMDB maps its file into memory, so a damaged one can kill the process. It is therefore opened only when its stamp
(inodes, size, times, generation, engine, layout of the rows) fits, and otherwise built anew from the packs' footers.
Every row has a checksum.
Writers take a lock of our own with a time-out around LMDB's, so that a stopped process hangs nobody.
"""

from __future__ import annotations

import contextlib
import os
import struct
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import lmdb

from ciuic.errors import CiuicError, LockTimeout
from ciuic.objects.ids import digest
from ciuic.store.fs import FileSystem
from ciuic.store.locks import hold

MAP_SIZES = (1 << 36, 1 << 32, 1 << 28)
LAYOUT = 2
"""Of the rows. An index of another one is built anew."""
ROW = struct.Struct("<32sQQB")
MARK = struct.Struct("<Q16s")
CHECK_LENGTH = 4
OBJECT, PACK, LOG = b"O", b"P", b"L"
LOCK_TIMEOUT_S = 2.0


class Place(NamedTuple):
    """Where a record stands, and its depth."""

    pack: str
    offset: int
    stored_length: int
    depth: int


IndexRow = tuple[bytes, int, int, int]
"""What a pack gives the index of each record: id, offset, stored length, depth."""


class LogMark(NamedTuple):
    """A log's last sequence number and the checksum of that record, as the index last saw it: a trip-wire."""

    sequence: int
    checksum: bytes


class _Environment:
    """One LMDB environment a file and process: a second one would break the first one's locks."""

    def __init__(self, folder: str, *, create: bool) -> None:
        self.owner = os.getpid()
        for size in MAP_SIZES:
            try:
                self.lmdb = lmdb.open(
                    folder, map_size=size, max_readers=1024, readahead=False, meminit=False, create=create
                )
                break
            except (lmdb.MemoryError, MemoryError):  # an address-space limit: a smaller map may fit
                if size == MAP_SIZES[-1]:
                    raise
        self.lock_path = os.path.join(folder, "lock.mdb")
        self.lock = os.stat(self.lock_path)
        self.lmdb.reader_check()

    def lock_was_cut(self) -> bool:
        """Whether the lock file, which is mapped, has become shorter: using it, and closing it, would end in SIGBUS."""
        try:
            now = os.stat(self.lock_path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (self.lock.st_dev, self.lock.st_ino) and now.st_size < self.lock.st_size


_environments: weakref.WeakValueDictionary[tuple[int, int], _Environment] = weakref.WeakValueDictionary()
_left_to_parent: list[_Environment] = []  # never closed: in a forked child, or with a lock file that was cut


def _forget_after_fork() -> None:
    _left_to_parent.extend(_environments.values())
    _environments.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


def _checked(key: bytes, value: bytes) -> bytes:
    return value + digest(key + value)[:CHECK_LENGTH]


def _unchecked(key: bytes, data: bytes | None) -> bytes | None:
    if data is None or digest(key + data[:-CHECK_LENGTH])[:CHECK_LENGTH] != data[-CHECK_LENGTH:]:
        return None
    return data[:-CHECK_LENGTH]


class Index:
    """The LMDB index of one repository. ``open`` answers whether it can be used as it stands."""

    def __init__(self, fs: FileSystem, folder: str, tmp: str) -> None:
        self.fs = fs
        self.folder = folder
        self.tmp = tmp
        self.data_path = os.path.join(folder, "data.mdb")
        self.stamp_path = os.path.join(folder, "stamp")
        self.lock_path = os.path.join(folder, "lock")
        self._environment: _Environment | None = None

    # Opening

    def open(self, generation: int) -> bool:
        """True when the file on disk fits its stamp and is open now."""
        if self._fits(generation):
            return True
        if self._environment is None and not os.path.exists(self.data_path):
            return False
        try:  # a writer may be between its commit and its stamp
            with self.locked():
                return self._fits(generation)
        except (CiuicError, OSError):
            return False

    def _fits(self, generation: int) -> bool:
        try:
            status = os.stat(self.data_path)
            if self._stamp(status, generation) != self.fs.read_file(self.stamp_path, 4096):
                _left_to_parent.extend(each for each in _environments.values() if each.lock_was_cut())
                return False
            self._attach(status)
        except (OSError, CiuicError, lmdb.Error):
            return False
        return True

    def _attach(self, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        environment = _environments.get(key)
        if environment is None:
            environment = _Environment(self.folder, create=False)
            now = os.stat(self.data_path)
            if (now.st_dev, now.st_ino) != key:  # replaced while it was being opened
                environment.lmdb.close()
                raise LockTimeout("The index was built anew by another process just now. Try again.")
            _environments[key] = environment
        self._environment = environment

    def _stamp(self, status: os.stat_result, generation: int) -> bytes:
        lock = os.stat(os.path.join(self.folder, "lock.mdb"))
        facts = (
            lock.st_ino,  # who has another one does not see our readers
            lock.st_size,  # it is mapped, too: reading one that was cut would kill the process
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            generation,
            *lmdb.version(),
            LAYOUT,
        )
        text = " ".join(str(fact) for fact in facts).encode()
        return text + b" " + digest(text).hex()[:16].encode() + b"\n"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        if not os.path.exists(self.lock_path):
            with contextlib.suppress(FileExistsError):
                self.fs.close(self.fs.create(self.lock_path))
        with hold(self.fs, self.lock_path, exclusive=True, timeout_s=LOCK_TIMEOUT_S):
            yield

    @property
    def environment(self) -> Any:
        environment = self._environment
        if environment is None or environment.owner != os.getpid():
            raise LockTimeout("The index is not open in this process. Try again.")
        return environment.lmdb

    # Reading

    def place(self, id: bytes) -> Place | None:
        value = self._get(OBJECT + id)
        if value is None or len(value) != ROW.size:
            return None
        pack, offset, stored_length, depth = ROW.unpack(value)
        return Place(pack.hex(), offset, stored_length, depth)

    def packs(self) -> set[str]:
        """Names of the packs whose rows are all in."""
        with self.environment.begin() as transaction, transaction.cursor() as cursor:
            names = set()
            found = cursor.set_range(PACK)
            while found and cursor.key()[:1] == PACK:
                names.add(cursor.key()[1:].hex())
                found = cursor.next()
            return names

    def log_marks(self) -> dict[str, LogMark]:
        with self.environment.begin() as transaction, transaction.cursor() as cursor:
            marks = {}
            found = cursor.set_range(LOG)
            while found and cursor.key()[:1] == LOG:
                value = _unchecked(cursor.key(), cursor.value())
                if value is not None and len(value) == MARK.size:
                    marks[cursor.key()[1:].decode("utf-8", "replace")] = LogMark(*MARK.unpack(value))
                found = cursor.next()
            return marks

    def ids_with_prefix(self, prefix: bytes, odd: str, limit: int) -> list[bytes]:
        """Up to ``limit`` ids that start with ``prefix`` and then the hex digit ``odd`` (empty: none)."""
        found: list[bytes] = []
        with self.environment.begin() as transaction, transaction.cursor() as cursor:
            here = cursor.set_range(OBJECT + prefix)
            while here and cursor.key().startswith(OBJECT + prefix) and len(found) < limit:
                id = cursor.key()[1:]
                if not odd or id[len(prefix) : len(prefix) + 1].hex()[:1] == odd:
                    found.append(id)
                here = cursor.next()
        return found

    def _get(self, key: bytes) -> bytes | None:
        with self.environment.begin() as transaction:
            return _unchecked(key, transaction.get(key))

    # Writing: best effort; the truth is elsewhere

    def update(
        self,
        generation: int,
        packs: Mapping[str, Iterable[IndexRow]] | None = None,
        marks: dict[str, LogMark] | None = None,
        dropped: Iterable[bytes] = (),
        dropped_packs: Iterable[str] = (),
        dropped_logs: Iterable[str] = (),
        next_generation: int | None = None,
    ) -> None:
        """Drop what is named; then add each pack's rows and the logs' marks.

        A row gives way to that of a copy as shallow or shallower, or when its pack is not listed any more.

        ``next_generation``: a sweep is under way, and the index is good for the generation that it begins.
        """
        rows: dict[bytes, bytes] = {}
        for name, records in (packs or {}).items():
            pack = bytes.fromhex(name)
            for id, offset, stored_length, depth in records:
                key = OBJECT + id
                other = rows.get(key)
                if other is None or depth <= other[-1]:  # the last byte of a row is its depth
                    rows[key] = ROW.pack(pack, offset, stored_length, depth)
            rows[PACK + pack] = b""
        for log, mark in (marks or {}).items():
            rows[LOG + log.encode()] = MARK.pack(*mark)
        with self.locked():
            if not self._fits(generation):
                raise LockTimeout("The index changed under this writer. It will be rebuilt at the next command.")
            with self.environment.begin(write=True) as transaction:
                for id in dropped:
                    transaction.delete(OBJECT + id)
                for name in dropped_packs:
                    transaction.delete(PACK + bytes.fromhex(name))
                for log in dropped_logs:
                    transaction.delete(LOG + log.encode())
                for key in sorted(rows):
                    value = _checked(key, rows[key])
                    if not transaction.put(key, value, overwrite=False) and not self._shallower(transaction, key, rows):
                        transaction.put(key, value)
            self.write_stamp(generation if next_generation is None else next_generation)

    @staticmethod
    def _shallower(transaction: Any, key: bytes, rows: dict[bytes, bytes]) -> bool:
        """Whether the row that is there names a copy that is less deep, in a pack that is listed."""
        there = _unchecked(key, transaction.get(key)) if key[:1] == OBJECT else None
        if there is None or len(there) != ROW.size or there[-1] >= rows[key][-1]:
            return False
        pack = PACK + there[:32]
        return pack in rows or transaction.get(pack) is not None

    def write_stamp(self, generation: int) -> None:
        """Vouch for the file as it stands. Only after LMDB's own sync, and under the lock."""
        data = self._stamp(os.stat(self.data_path), generation)
        temporary = os.path.join(self.tmp, f"stamp-{os.getpid()}-{os.urandom(4).hex()}")
        descriptor = self.fs.create(temporary)
        try:
            self.fs.write(descriptor, [data], temporary)
        finally:
            self.fs.close(descriptor)
        self.fs.rename(temporary, self.stamp_path)

    def create(self, generation: int, packs: Mapping[str, Iterable[IndexRow]], marks: dict[str, LogMark]) -> None:
        """Start from nothing and fill it. The old file is unlinked, so whoever has it mapped is not disturbed."""
        self.fs.make_folder_if_missing(self.folder)
        with self.locked():
            self._environment = None
            for name in ("data.mdb", "lock.mdb", "stamp"):
                self.fs.remove_if_there(os.path.join(self.folder, name))
            environment = _Environment(self.folder, create=True)
            status = os.stat(self.data_path)
            _environments[(status.st_dev, status.st_ino)] = environment
            self._environment = environment
            self.write_stamp(generation)
        self.update(generation, packs, marks)
