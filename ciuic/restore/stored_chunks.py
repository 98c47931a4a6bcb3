"""The bytes behind a list of chunk ids, read when asked for, with the packs that hold them kept open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ciuic.errors import CiuicError, DamagedData, MissingObject, StorageError
from ciuic.objects.ids import Kind
from ciuic.objects.state_tree import Target
from ciuic.restore.filling import fill
from ciuic.restore.holding import Holder
from ciuic.store.chains import Record, decode_records


class StoredChunks:
    """A TensorSource over stored chunks.

    The packs are held open from the start, so that a sweep that unlinks them meanwhile takes nothing away.
    """

    stable = True

    def __init__(self, holder: Holder, path: str, nbytes: int, chunk_size: int, chunks: tuple[bytes, ...]) -> None:
        self.store = holder.store
        self.path = path
        self.nbytes = nbytes
        self.chunk_size = chunk_size
        self.chunks = chunks
        self._holder = holder
        self._records: list[Record | None] | None = None

    def hold(self) -> None:
        """Look up the chunks and keep their packs open. Under the shared lock. MissingObject for one that is nowhere.

        Damage in what says where they stand comes out when they are read: other tensors may be whole.
        """
        if self._records is None:
            self._records = [self._held(index) for index in range(len(self.chunks))]

    def _held(self, index: int) -> Record | None:
        try:
            record: Record | None = self.named(index, self._holder.record)
            return record
        except DamagedData:
            return None

    def record(self, index: int) -> Record | None:
        """The chunk's record; None when it is to be looked up."""
        return None if self._records is None else self._records[index]

    def let_go(self, index: int) -> None:
        """The chunk is to be looked up anew: what it rests on was found damaged."""
        if self._records is not None:
            self._records[index] = None

    def length(self, index: int) -> int:
        return min(self.chunk_size, self.nbytes - index * self.chunk_size)

    def check_length(self, index: int, nbytes: int) -> None:
        """DamagedData when a chunk has not the length that the tensor's shape demands."""
        if nbytes != self.length(index):
            raise DamagedData(f"{self.path}, chunk {index}: not as long as its tensor says. Run `ciuic fsck`.")

    def named(self, index: int, action: Callable[[bytes], Any]) -> Any:
        """``action(chunk id)``; damage, and a disk that cannot read, names the tensor and the chunk."""
        try:
            return action(self.chunks[index])
        except (MissingObject, DamagedData) as error:
            named = type(error)(f"{self.path}, chunk {index}: {error}")
            named.chunk = self.chunks[index]
            raise named from error
        except StorageError as error:
            raise type(error)(f"{self.path}, chunk {index}: {error}") from error

    def chunk(self, index: int) -> Any:
        """The raw bytes of one chunk, verified against its id."""
        record = self.record(index)
        if record is None:
            return self.read_anew(index)
        self.check_length(index, record.header.raw_length)
        out = bytearray(record.header.raw_length)
        try:
            decode_records([record], [memoryview(out)])
        except CiuicError:  # another copy may be intact
            return self.read_anew(index)
        return out

    def read_anew(self, index: int) -> Any:
        """The raw bytes of one chunk from whichever copy is intact."""
        with self.store.shared():
            raw = self.named(index, lambda id: self.store.read(Kind.CHUNK, id))
        self.check_length(index, len(raw))
        return raw

    def read(self, start: int, stop: int) -> Any:
        """Raw bytes ``[start, stop)``, reading only the chunks that they touch."""
        if start >= stop:
            return b""
        first = start // self.chunk_size
        if first == (stop - 1) // self.chunk_size:
            base = first * self.chunk_size
            return memoryview(self.chunk(first))[start - base : stop - base]
        out = bytearray(stop - start)
        self.read_into(memoryview(out), start)
        return out

    def read_into(self, target: memoryview, start: int = 0) -> None:
        """Fill ``target`` (writable, one byte an item) with the bytes from ``start`` on; many come in threads."""
        fill([Target(self, target, start=start)])
