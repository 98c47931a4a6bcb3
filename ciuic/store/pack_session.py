"""Writing the packs of one commit (or one repack): cut at a size limit, published under their names."""

from __future__ import annotations

import os
import time
from typing import Any

from ciuic.errors import DamagedData, StorageError
from ciuic.objects.ids import NO_ID, Kind, digest
from ciuic.store.fs import FileSystem
from ciuic.store.pack import Pack, PackWriter
from ciuic.store.pack_format import MOST_DEPTH, FooterRow, RecordHeader

MOST_RECORDS = 1 << 22
"""Of one pack: its footer is read as a whole."""
SETTLE_BYTES = 8 << 20
"""Less than that is synced with the last records, in a few milliseconds that ``write_s`` leaves out."""


class PackSession:
    """Records go to packs in ``tmp/``; ``publish`` makes them durable under their names. Never used by two threads.

    ``write_s``: seconds spent appending and syncing.
    """

    def __init__(self, fs: FileSystem, root: str, repository_id: bytes, limit: int, unsure: set[str]) -> None:
        """``unsure``: packs whose names could not be made durable; this adds to them."""
        self.fs = fs
        self.root = root
        self.repository_id = repository_id
        self.limit = limit
        self.unsure = unsure
        self.stored_bytes = 0
        self.write_s = 0.0
        self.published: dict[str, list[FooterRow]] = {}
        self._ids: set[bytes] = set()
        self._writer: PackWriter | None = None

    def __contains__(self, id: bytes) -> bool:
        return id in self._ids

    def add(
        self,
        kind: Kind,
        id: bytes,
        stored: Any,
        *,
        codec: int,
        raw_length: int,
        width: int = 1,
        depth: int = 0,
        base: bytes = NO_ID,
    ) -> None:
        """Append a record unless this session has the id already.

        ``base``: a chunk, or a recipe, on which the bytes rest. ``depth``: one more than the largest depth of those
        chunks, as they are stored now; 0 without.
        """
        if id in self._ids:
            return
        if not 0 <= depth <= MOST_DEPTH or (depth == 0) != (base == NO_ID):
            raise ValueError(f"a record of depth {depth} {'without' if base == NO_ID else 'with'} a base")
        checksum = id if kind is Kind.CHUNK and codec == 0 else digest(stored)
        length = len(memoryview(stored).cast("B"))
        self.copy(RecordHeader(kind, codec, width, depth, length, raw_length, id, base, checksum), stored)

    def copy(self, header: RecordHeader, stored: Any) -> None:
        """Append a record as it is; the caller has verified ``stored``."""
        started = time.perf_counter()
        if self._writer is None:
            self._writer = PackWriter(self.fs, self._temporary(), self.repository_id)
        self._writer.append(header, stored)
        self._ids.add(header.id)
        self.stored_bytes += header.stored_length
        if self._writer.position > self.limit or len(self._writer.rows) >= MOST_RECORDS:
            self._finish()
        self.write_s += time.perf_counter() - started

    def settle(self) -> None:
        """Sync a large pack before its last records come, so that ``write_s`` covers its data, the bulk of the work."""
        if self._writer is not None and self._writer.position - self._writer.synced > SETTLE_BYTES:
            started = time.perf_counter()
            self._writer.sync()
            self.write_s += time.perf_counter() - started

    def _temporary(self) -> str:
        return os.path.join(self.root, "tmp", f"pack-{os.getpid()}-{os.urandom(6).hex()}")

    def _finish(self) -> None:
        """Footer, sync, rename. The name is durable only after the folder's sync in ``publish``."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            name = writer.finish()
            target = os.path.join(self.root, "packs", f"{name}.pack")
            if os.path.exists(target) and name not in self.unsure and self._intact(target, name):
                self.fs.unlink(writer.path)
            else:
                self.fs.rename(writer.path, target)  # at no time is there no pack of this name
        except BaseException:
            writer.abandon()
            raise
        self.published[name] = writer.records

    def _intact(self, path: str, name: str) -> bool:
        """An existing pack of that name is read whole; a damaged one is kept in quarantine, and may be replaced."""
        try:
            pack = Pack(self.fs, path, name, self.repository_id)
            for row in pack.rows:
                pack.stored(row.offset, row.header.stored_length)
        except DamagedData:
            self.fs.link(path, os.path.join(self.root, "quarantine", f"{name}-{os.urandom(4).hex()}.pack"))
            return False
        return True

    def publish(self) -> dict[str, list[FooterRow]]:
        """Every pack is durable under its name on return: name → rows."""
        self._finish()
        folder = os.path.join(self.root, "packs")
        try:
            if self.published:
                self.fs.sync_folder(folder)
        except StorageError:
            # They stay, since another process may have relied on them; this one writes what it needs anew.
            self.unsure.update(self.published)
            raise
        return self.published

    def abandon(self) -> None:
        """Give up what is not published. Packs that were renamed stay: a retry reuses them, gc collects them."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
