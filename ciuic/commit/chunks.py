"""Leaves → chunk records: cut, hash, look up, choose a base, encode, append. Threads do all but the appending."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ciuic.commit.adam_steps import AdamStep
from ciuic.commit.bases import MOST_DEPTH, Bases
from ciuic.commit.casts import find_masters
from ciuic.commit.coding import Chunk, Coder, Piece
from ciuic.commit.leaves import Leaf
from ciuic.objects.ids import NO_ID, Kind
from ciuic.store.pack_session import PackSession
from ciuic.store.store import Store
from ciuic.thread_pool import ThreadPool

IN_FLIGHT_BYTES = 32 << 20
MOST_THREADS = 8
TOO_SMALL_FOR_A_THREAD = 32 << 10
"""Bytes below which handing a chunk to a thread costs more than preparing it."""
KINDS = ("raw", "zstd", "planes", "delta", "derived", "predicted")
"""What ``Snapshot.storage`` calls the codecs, by number."""

Task = tuple[int, Callable[[], Sequence[Chunk]]]
"""Raw bytes, and what prepares them."""


class ChunkWriter:
    """Writes leaves into a session. Memory in use is bounded by IN_FLIGHT_BYTES and a few chunks a thread.

    ``encode_s``, ``check_s``: seconds of processor time, summed over threads, that hashing, looking up and encoding
    took, and decompressing again what was compressed. ``storage``: part → kind → [raw, stored] bytes.
    """

    def __init__(self, store: Store, session: PackSession, bases: Bases) -> None:
        self.store = store
        self.session = session
        self.chunk_size = store.config.chunk_size
        self.encode_s = 0.0
        self.check_s = 0.0
        self.storage: dict[str, dict[str, list[int]]] = {}
        self.threads = max(
            1, min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        )
        self._coder = Coder(store, session, bases)
        self._depths: dict[bytes, int] = {}
        self._ids: list[list[bytes]] = []

    def write(self, leaves: Sequence[Leaf], steps: Iterable[AdamStep] = ()) -> list[tuple[bytes, ...]]:
        """The chunk ids of each leaf, in order; the chunks are in the session on return."""
        self._ids = [[NO_ID] * -(-leaf.source.nbytes // self.chunk_size) for leaf in leaves]
        masters = find_masters(leaves) if "deltas" in self.store.features else {}
        with ThreadPool(self.threads, "ciuic-chunk") as pool:
            self._run(pool, self._independent(leaves, {step.weight.path: step for step in steps}, set(masters)))
            if masters:  # theirs come when the ids of what they are cast from are known
                numbers = {leaf.path: number for number, leaf in enumerate(leaves)}
                self._run(pool, self._casts(leaves, numbers, masters))
        return [tuple(ids) for ids in self._ids]

    def _independent(self, leaves: Sequence[Leaf], steps: Mapping[Any, AdamStep], later: set[Any]) -> Iterator[Task]:
        numbers = {leaf.path: number for number, leaf in enumerate(leaves)}
        done = {leaf.path for step in steps.values() for leaf in step.leaves}
        for number, leaf in enumerate(leaves):
            step = steps.get(leaf.path)
            if step is not None:
                for index, (start, stop) in enumerate(self._cuts(leaf)):
                    pieces = [Piece(numbers[each.path], each, index, start, stop) for each in step.leaves]
                    yield 3 * (stop - start), lambda step=step, pieces=pieces: self._coder.step(step, *pieces)  # type: ignore[misc]
            elif leaf.path not in done and leaf.path not in later:
                for index, (start, stop) in enumerate(self._cuts(leaf)):
                    piece = Piece(number, leaf, index, start, stop)
                    yield stop - start, lambda piece=piece: [self._coder.chunk(piece)]  # type: ignore[misc]

    def _casts(self, leaves: Sequence[Leaf], numbers: Mapping[Any, int], masters: Mapping[Any, Leaf]) -> Iterator[Task]:
        for number, leaf in enumerate(leaves):
            master = masters.get(leaf.path)
            if master is None:
                continue
            ids = self._ids[numbers[master.path]]
            for index, (start, stop) in enumerate(self._cuts(leaf)):
                piece = Piece(number, leaf, index, start, stop)
                own = ids[2 * index : 2 * index + 2]
                yield stop - start, lambda piece=piece, master=master, own=own: [self._coder.cast(piece, master, own)]  # type: ignore[misc]

    def _cuts(self, leaf: Leaf) -> Iterator[tuple[int, int]]:
        for start in range(0, leaf.source.nbytes, self.chunk_size):
            yield start, min(start + self.chunk_size, leaf.source.nbytes)

    def _run(self, pool: ThreadPool, tasks: Iterator[Task]) -> None:
        waiting: deque[tuple[int, Future[Sequence[Chunk]] | Sequence[Chunk]]] = deque()
        in_flight = 0
        try:
            for nbytes, prepare in tasks:
                waiting.append((nbytes, prepare() if nbytes < TOO_SMALL_FOR_A_THREAD else pool.submit(prepare)))
                in_flight += nbytes
                while in_flight > IN_FLIGHT_BYTES or len(waiting) > 1024:
                    in_flight -= self._settle(*waiting.popleft())
            while waiting:
                self._settle(*waiting.popleft())
        finally:
            for _, due in waiting:
                if isinstance(due, Future):
                    due.cancel()

    def _settle(self, nbytes: int, due: Future[Sequence[Chunk]] | Sequence[Chunk]) -> int:
        for chunk in due.result() if isinstance(due, Future) else due:
            self._add(chunk)
        return nbytes

    def _add(self, chunk: Chunk) -> None:
        """Append a chunk, one deeper than what it rests on as that is stored now."""
        piece = chunk.piece
        self.encode_s += chunk.seconds
        self.check_s += chunk.check_s
        self._ids[piece.leaf_number][piece.index] = chunk.id
        kind, stored_length = "identical", 0
        if chunk.stored is not None and chunk.id not in self.session:
            depths = [self._depth(base) for base in chunk.bases]
            depth = 1 + max((-1 if each is None else each for each in depths), default=-1)
            if None in depths or depth > MOST_DEPTH:
                return self._add(self._coder.alone(piece))
            base = chunk.base
            if chunk.recipe is not None:
                self.session.add(Kind.RECIPE, base, chunk.recipe, codec=0, raw_length=len(chunk.recipe))
            self.session.add(
                Kind.CHUNK, chunk.id, chunk.stored, codec=chunk.codec, raw_length=piece.nbytes,
                width=piece.leaf.width, depth=depth, base=base,
            )  # fmt: skip
            self._depths[chunk.id] = depth
            kind = KINDS[chunk.codec]
            stored_length = len(memoryview(chunk.stored).cast("B")) + len(chunk.recipe or b"")
        sums = self.storage.setdefault(piece.leaf.part, {}).setdefault(kind, [0, 0])
        sums[0] += piece.nbytes
        sums[1] += stored_length
        return None

    def _depth(self, id: bytes) -> int | None:
        """Of a chunk of this session, or of the repository."""
        depth = self._depths.get(id)
        if depth is None:
            header = self.store.header(id)
            depth = None if header is None else header.depth
        return depth
