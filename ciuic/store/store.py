"""The store: one repository's packs, index and refs behind one consistent view."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import lmdb

from ciuic.errors import (
    CiuicError,
    DamagedData,
    LockTimeout,
    MissingObject,
    NetworkStorage,
    NotARepository,
    StorageError,
)
from ciuic.objects.ids import NO_ID, Kind
from ciuic.store.config import Config, read_config, read_format
from ciuic.store.footer_index import FooterIndex
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.index import Index, IndexRow, LogMark, Place
from ciuic.store.layout import check_parts, make, network_mount
from ciuic.store.locks import LocksUnsupported, hold
from ciuic.store.network import Mount, allowed_by_environment, refusal
from ciuic.store.open_packs import OpenPacks
from ciuic.store.pack import Footer, Pack
from ciuic.store.pack_format import FooterRow, RecordHeader
from ciuic.store.reflog import CHECKSUM_DIGITS, LogRecord, encode_record
from ciuic.store.refs import Refs

if TYPE_CHECKING:
    from ciuic.store.pack_session import PackSession
    from ciuic.store.resolving import Record

PACK_NAME = re.compile(r"([0-9a-f]{64})\.pack")
SHARED_TIMEOUT_S = 120.0


class Store:
    """Every read and change happens inside ``shared()``; what it has seen is void when ``generation`` has changed."""

    def __init__(self, path: str, fs: FileSystem = LOCAL) -> None:
        self.path = os.path.abspath(path)
        self.fs = fs
        check_parts(self.path)
        self._identity = self._seen_identity()
        self.repository_id, self.features = read_format(fs, self.path)
        self.refs = Refs(fs, self.path, self.join("tmp"))
        self.refs.before_change = self.check_writable
        self._locks_work = True
        self.generation = -1
        self.present: set[str] = set()
        self.damaged_packs: dict[str, str] = {}
        self.damaged_records: set[tuple[str, bytes]] = set()
        self.unsure_packs: set[str] = set()
        self._standing: dict[bytes, int] = {}  # chunks found to have all they rest on, and their depth
        self._footers_serve: int | None = None  # the generation for which LMDB was given up
        self.index: Index | FooterIndex = FooterIndex()
        self._lmdb_index = Index(fs, self.join("index"), self.join("tmp"))
        self._packs = OpenPacks(self._new_pack)
        self._holding = threading.local()

    @functools.cached_property
    def config(self) -> Config:
        """The settings; InvalidConfig at first use when the file is wrong."""
        return read_config(self.fs, self.join("config.toml"))

    def join(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    @functools.cached_property
    def network(self) -> Mount | None:
        """The network file system that the repository lies on, if it does."""
        return network_mount(self.fs, self.path)

    def check_writable(self) -> None:
        """NetworkStorage on a network file system, unless writing there was allowed."""
        mount = self.network
        if mount is not None and not (self._locks_work and (allowed_by_environment() or self.config.allow_network)):
            raise NetworkStorage(refusal(mount, self.path))

    @staticmethod
    def create(path: str, fs: FileSystem = LOCAL, *, chunk_size: int | None = None) -> Store:
        """Make a repository in a new or empty folder, durable on return, and open it."""
        root = os.path.abspath(path)
        make(fs, root, chunk_size)
        return Store(root, fs)

    # Locks and the view

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """The shared lock and a fresh view. Passing the gate first lets a waiting gc in. Nests within a thread."""
        depth = getattr(self._holding, "depth", 0)
        if depth and self._holding.owner == os.getpid():  # a forked child holds nothing
            self._holding.depth = depth + 1
            try:
                yield
            finally:
                self._holding.depth -= 1
            return
        if self.refs.suspect:
            # A failure here stops the next change of that log, not those who only read.
            with contextlib.suppress(StorageError, LockTimeout), self.exclusive(SHARED_TIMEOUT_S):
                self.refs.rewrite_suspects()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._complete())
            try:
                with hold(self.fs, self.join("gate"), exclusive=False, timeout_s=SHARED_TIMEOUT_S):
                    stack.enter_context(hold(self.fs, self.join("lock"), exclusive=False, timeout_s=SHARED_TIMEOUT_S))
            except LocksUnsupported:  # what a sweep takes away meanwhile is missing, and said to be
                if self.network is None:
                    raise
                self._locks_work = False
            self._holding.depth, self._holding.owner = 1, os.getpid()
            try:
                self.refresh()
                yield
            finally:
                self._holding.depth = 0
                self._packs.let_go()

    @contextlib.contextmanager
    def exclusive(self, timeout_s: float) -> Iterator[None]:
        """Nobody else reads packs or commits. LockTimeout gives both locks up."""
        self.check_writable()
        with (
            self._complete(),
            hold(self.fs, self.join("gate"), exclusive=True, timeout_s=timeout_s),
            hold(self.fs, self.join("lock"), exclusive=True, timeout_s=timeout_s),
        ):
            self._holding.depth, self._holding.owner = 1, os.getpid()
            try:
                yield
            finally:
                self._holding.depth = 0
                self._packs.let_go()

    @contextlib.contextmanager
    def _complete(self) -> Iterator[None]:
        """A part of the repository that is missing is a StorageError, and no FileNotFoundError of the caller's."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            named = str(error.filename2 or error.filename or "")
            if not named.startswith(self.path + os.sep):
                raise
            raise StorageError(
                f"{named}: {error.strerror}. Restore it from a copy; an empty folder, lock or gate may be made anew."
            ) from error

    def read_generation(self) -> int:
        """How many sweeps there have been; -1 when the file says nothing sound."""
        try:
            return int(self.fs.read_file(self.join("generation"), 64))
        except (FileNotFoundError, ValueError):
            return -1

    def list_packs(self) -> set[str]:
        names = (PACK_NAME.fullmatch(name) for name in self.fs.list_folder(self.join("packs")))
        return {match[1] for match in names if match}

    def _seen_identity(self) -> tuple[int, int, int]:
        """What changes when another repository takes this one's place."""
        try:
            status = os.stat(self.join("format"))
        except (FileNotFoundError, NotADirectoryError):
            return 0, 0, 0
        return status.st_dev, status.st_ino, status.st_ctime_ns

    def _check_identity(self) -> None:
        """What is known of a repository says nothing about one that was made in its place."""
        seen = self._seen_identity()
        if seen != self._identity:
            repository_id, features = read_format(self.fs, self.path)
            if repository_id != self.repository_id:
                raise NotARepository(f"{self.path} was replaced by another repository. Open it anew.")
            self._identity, self.features = seen, features

    def refresh(self) -> None:
        """See what other processes did: packs, sweeps, the index."""
        self._check_identity()
        generation = self.read_generation()
        if generation != self.generation:
            self._packs.clear()
            self.generation = generation
            self.refs.named.clear()
            self.damaged_packs = {}
            self.damaged_records = set()
            self._standing = {}
        self.present = self.list_packs()
        if self.network is not None:  # LMDB maps its file, and other hosts would change it
            self._use_footers()
            return
        opened = self._lmdb_index.open(generation)
        if not opened and (self._footers_serve == generation or not self._rebuild_index()):
            self._use_footers()
            return
        self.index = self._lmdb_index
        try:
            self._reconcile()
        except (CiuicError, OSError, lmdb.Error):
            self._use_footers()

    def _rebuild_index(self) -> bool:
        try:
            self._lmdb_index.create(self.generation, self._rows(self.present), self._log_marks())
        except (CiuicError, OSError, lmdb.Error):
            return False
        return True

    def _log_marks(self) -> dict[str, LogMark]:
        marks = {}
        for name in self.refs.names():
            with contextlib.suppress(CiuicError, OSError):
                last = self.refs.log(name).settled()
                if last is not None:
                    marks[name] = log_mark(name, last)
        return marks

    def _use_footers(self) -> None:
        """Go on without LMDB, in this process and until the next sweep, unless its file is found sound again."""
        self._footers_serve = self.generation
        if not isinstance(self.index, FooterIndex):
            self.index = FooterIndex()
        gone = self.index.packs() - self.present
        if gone:
            self.index = FooterIndex()
        self.index.update(self.generation, self._rows(self.present - self.index.packs()))

    def _reconcile(self) -> None:
        """The index lists exactly the packs that are present."""
        indexed = self.index.packs()
        if indexed - self.present:
            self.present = self.list_packs()  # one may have been published, and indexed, after the list was taken
        if indexed - self.present:
            if not self._rebuild_index():
                self._use_footers()
            return
        missing = self._rows(self.present - indexed)
        if missing:
            self.index.update(self.generation, missing)

    def _rows(self, names: Iterable[str]) -> dict[str, Iterable[IndexRow]]:
        rows: dict[str, Iterable[IndexRow]] = {}
        for name in names:
            try:
                rows[name] = index_rows(self.pack(name).rows)
                self.damaged_packs.pop(name, None)
            except (DamagedData, StorageError, FileNotFoundError) as error:
                self.damaged_packs[name] = str(error)
                self.close_pack(name)
        return rows

    # Reading

    def pack(self, name: str) -> Pack:
        """The open pack; FileNotFoundError when it is gone."""
        return self._packs[name]

    def _pack_for(self, kind: Kind, name: str) -> Pack:
        """The pack; for a snapshot, of which a pack mostly holds one, without making others close for it."""
        if kind is Kind.SNAPSHOT and name not in self._packs:
            return self._new_pack(name)
        return self._packs[name]

    def _new_pack(self, name: str, footer: Footer | None = None) -> Pack:
        return Pack(self.fs, f"{self.path}/packs/{name}.pack", name, self.repository_id, footer)

    def close_pack(self, name: str) -> None:
        """Open the pack anew next time: a damaged one may be replaced by an intact one of its name."""
        self._packs.close(name)

    def place(self, id: bytes) -> Place | None:
        """Where the index says that an object stands, if that pack is present."""
        try:
            place = self.index.place(id)
        except (CiuicError, lmdb.Error):  # another thread is building it anew, say
            return None
        return place if place is not None and place.pack in self.present else None

    def known(self, id: bytes) -> bool:
        """True when footers of packs that are present list the id and what it rests on: a commit may rely on it."""
        return self.header(id) is not None

    def header(self, id: bytes) -> RecordHeader | None:
        """The header of the shallowest copy of an object, if a commit may rely on it; None otherwise.

        What it rests on is listed too: gc leaves records whose bases are gone, in packs where others live.
        """
        found = self.listed(id)
        if found is None:
            return None
        header = found[1].header
        if header.depth or header.base != NO_ID:
            from ciuic.store.resolving import stands

            if not stands(self, id, self._standing):
                return None
        return header

    def listed(self, id: bytes) -> tuple[Pack, FooterRow] | None:
        """The copy that the index names, if it may be relied on, as far as its own footer says."""
        place = self.place(id)
        if place is None or place.pack in self.unsure_packs or (place.pack, id) in self.damaged_records:
            return None
        try:
            pack = self.pack(place.pack)
            row = pack.by_id.get(id)
        except (DamagedData, StorageError, FileNotFoundError):
            return None
        return None if row is None else (pack, row)

    def record(self, id: bytes, known: dict[bytes, Record] | None = None) -> Record:
        """A chunk's record with all that it rests on, its packs held open. Under the shared lock.

        ``known``: what earlier calls have found, shared between them. MissingObject, DamagedData or StorageError when
        nothing that the packs list makes it whole; no payload of a chunk is read.
        """
        from ciuic.store.resolving import resolve

        return resolve(self, id, {} if known is None else known)

    def copies(self, id: bytes) -> Iterator[tuple[Pack, FooterRow]]:
        """Every copy that a readable footer lists, the index's first. Reads all footers: for errors and gc."""
        first = self.place(id)
        order = sorted(self.present, key=lambda name: first is None or name != first.pack)
        for name in order:
            try:
                pack = self.pack(name)
                row = pack.by_id.get(id)
            except (DamagedData, StorageError, FileNotFoundError):
                continue
            if row is not None:
                yield pack, row

    def read(self, kind: Kind, id: bytes) -> Any:
        """An object's raw bytes, verified; DamagedData, MissingObject or StorageError when no intact copy is left."""
        searched = self.present
        place = self.place(id)
        damage: CiuicError | None = None
        if place is not None and place.depth and kind is Kind.CHUNK:
            return self._read_chain(id)
        if place is not None:
            try:
                return self._pack_for(kind, place.pack).raw(place.offset, place.stored_length, id, kind)
            except DamagedData as error:
                damage = error
                self.forget(id)
                self.close_pack(place.pack)
            except StorageError as error:
                damage = error
            except FileNotFoundError:
                pass
        for pack, row in self.copies(id):
            try:
                if row.header.base != NO_ID and kind is Kind.CHUNK:
                    return self._read_chain(id)
                return pack.raw(row.offset, row.header.stored_length, id, kind)
            except (DamagedData, MissingObject, StorageError) as error:
                damage = damage or error
                self.close_pack(pack.name)
        if self.look_again(searched):
            return self.read(kind, id)
        if damage is not None:
            raise damage
        raise MissingObject(
            f"{kind.name.lower()} {id.hex()[:12]} is in no pack of {self.path}. `ciuic fsck` lists what is lost."
        )

    def _read_chain(self, id: bytes) -> Any:
        from ciuic.store.chains import read_chunk

        return read_chunk(self, id)

    def locate(self, id: bytes) -> tuple[Pack, int, int]:
        """(pack, offset, stored length) of an object; the pack stays readable as long as it is held."""
        searched = self.present
        place = self.place(id)
        if place is not None:
            try:
                return self.pack(place.pack), place.offset, place.stored_length
            except FileNotFoundError:
                pass
        for pack, row in self.copies(id):
            return pack, row.offset, row.header.stored_length
        if self.look_again(searched):
            return self.locate(id)
        raise MissingObject(f"{id.hex()[:12]} is in no pack of {self.path}. `ciuic fsck` lists what is lost.")

    def look_again(self, searched: set[str]) -> bool:
        """True when packs were published since those were searched: commits go on under the shared lock."""
        if self.list_packs() <= searched:
            return False
        self.refresh()
        return True

    def forget(self, id: bytes, pack: str | None = None) -> None:
        """A damaged record loses its row, so that the next commit stores it again. Best effort beyond this process.

        ``pack``: where the damaged copy stands, when that is not the copy that the index names.
        """
        place = self.place(id)
        pack = pack or (place.pack if place is not None else None)
        if pack is not None:
            self.forget_copies([(pack, id)])

    def forget_copies(self, copies: Iterable[tuple[str, bytes]]) -> None:
        """``forget`` for many: (pack, id)."""
        self._standing = {}
        dropped = []
        for pack, id in copies:
            place = self.place(id)
            self.damaged_records.add((pack, id))
            if place is not None and place.pack == pack:
                dropped.append(id)
        if dropped:
            with contextlib.suppress(CiuicError, OSError, lmdb.Error):
                self.index.update(self.generation, dropped=dropped)

    def forget_log(self, name: str) -> None:
        """Before a log goes for good: an index that remembered it would report it as vanished for ever.

        On return that is durable, also where the index cannot be written: then it has lost its stamp.
        """
        try:
            self._lmdb_index.update(self.generation, dropped_logs=[name])
        except (CiuicError, OSError, lmdb.Error):
            self.fs.remove_if_there(self._lmdb_index.stamp_path)
            with contextlib.suppress(FileNotFoundError):
                self.fs.sync_folder(self._lmdb_index.folder)

    # Writing

    def new_packs(self) -> PackSession:
        from ciuic.store.pack_session import PackSession

        self.check_writable()
        return PackSession(self.fs, self.path, self.repository_id, self.config.pack_limit, self.unsure_packs)

    def move_ref(self, name: str, new: str, action: str, *, expected: str | None = None) -> LogRecord:
        """``Refs.set``, remembered by the index. Durable on return."""
        record = self.refs.set(name, new, action, expected=expected)
        self.index_commit({}, {name: log_mark(name, record)})
        return record

    def index_commit(self, packs: dict[str, list[FooterRow]], marks: dict[str, LogMark]) -> None:
        """Enter published packs and log marks. Best effort: the next view reconciles."""
        self.present = self.present | set(packs)  # a new set: other threads may be walking the old one
        try:
            self.index.update(self.generation, {name: index_rows(rows) for name, rows in packs.items()}, marks)
        except (CiuicError, OSError, lmdb.Error):
            self._use_footers()


def log_mark(log: str, record: LogRecord) -> LogMark:
    """The trip-wire of a log's newest record."""
    return LogMark(record.sequence, bytes.fromhex(encode_record(log, record)[:CHECKSUM_DIGITS].decode()))


def index_rows(rows: Iterable[FooterRow]) -> list[IndexRow]:
    return [(header.id, offset, header.stored_length, header.depth) for header, offset in rows]
