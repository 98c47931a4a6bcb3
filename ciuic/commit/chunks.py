"""Tensor bytes → chunk records: cut, hash, look up, encode, append. Threads do all but the appending."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ciuic.codec import Codec, encode
from ciuic.objects.ids import Kind, digest
from ciuic.objects.state_tree import TensorSource
from ciuic.store.pack_session import PackSession
from ciuic.store.store import Store

IN_FLIGHT_BYTES = 32 << 20
MOST_THREADS = 8
TOO_SMALL_FOR_A_THREAD = 32 << 10
"""Bytes below which handing a chunk to a thread costs more than preparing it."""


class _Chunk(NamedTuple):
    """``stored`` is None for a chunk that the repository has. ``seconds``: processor time that preparing it took."""

    id: bytes
    raw_length: int
    codec: int
    stored: Any
    seconds: float


class BytesSource:
    """A TensorSource over bytes in memory."""

    stable = True

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> Any:
        return memoryview(self.data)[start:stop]


class ChunkWriter:
    """Writes sources into a session. Memory in use is bounded by IN_FLIGHT_BYTES and a chunk or two a thread.

    ``encode_s``: seconds of processor time that hashing, looking up and encoding took, summed over threads.
    """

    def __init__(self, store: Store, session: PackSession) -> None:
        self.store = store
        self.session = session
        self.chunk_size = store.config.chunk_size
        self.encode_s = 0.0
        self.threads = max(
            1, min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        )

    def write(self, sources: Iterable[tuple[TensorSource, int]]) -> list[tuple[bytes, ...]]:
        """The chunk ids of each (source, element width), in order; the chunks are in the session on return."""
        ids: list[list[bytes]] = []
        waiting: deque[tuple[list[bytes], int, Future[_Chunk] | _Chunk]] = deque()
        in_flight = 0

        def settle() -> None:
            nonlocal in_flight
            target, width, due = waiting.popleft()
            chunk = due.result() if isinstance(due, Future) else due
            in_flight -= chunk.raw_length
            self.encode_s += chunk.seconds
            target.append(chunk.id)
            if chunk.stored is not None:
                self.session.add(
                    Kind.CHUNK,
                    chunk.id,
                    chunk.stored,
                    codec=chunk.codec,
                    raw_length=chunk.raw_length,
                    width=width,
                )

        with ThreadPoolExecutor(self.threads, thread_name_prefix="ciuic-chunk") as pool:
            try:
                for source, width in sources:
                    target: list[bytes] = []
                    ids.append(target)
                    for start, stop in self._cuts(source.nbytes):
                        small = stop - start < TOO_SMALL_FOR_A_THREAD
                        piece = (source, start, stop)
                        due = self._prepare(*piece) if small else pool.submit(self._prepare, *piece)
                        waiting.append((target, width, due))
                        in_flight += stop - start
                        while in_flight > IN_FLIGHT_BYTES or len(waiting) > 1024:
                            settle()
                while waiting:
                    settle()
            finally:
                for _, _, due in waiting:
                    if isinstance(due, Future):
                        due.cancel()
        return [tuple(target) for target in ids]

    def _cuts(self, nbytes: int) -> Iterator[tuple[int, int]]:
        for start in range(0, nbytes, self.chunk_size):
            yield start, min(start + self.chunk_size, nbytes)

    def _prepare(self, source: TensorSource, start: int, stop: int) -> _Chunk:
        started = time.thread_time()
        raw = source.read(start, stop)
        if not source.stable:
            # A private copy: another thread may write to live memory between the hash and the write.
            raw = bytes(raw)
        id = digest(raw)
        if id in self.session or self.store.known(id):
            return _Chunk(id, stop - start, Codec.RAW, None, time.thread_time() - started)
        codec, stored = encode(raw)
        return _Chunk(id, stop - start, codec, stored, time.thread_time() - started)
