"""Encoding chunks anew on other bases: so that nothing has to be kept only as a base, or so that a snapshot rests on
nothing.

Only chunks that rest directly on a resting one are touched: whoever rests on them goes on doing so. Each is encoded
against the nearest needed chunk down its chain of first bases; without one, the first of its family (the chunks whose
chains end in one root) stands by itself, and the others rest on it. No chunk gets deeper than it was, so every record
that names it, also one that a commit is writing at this moment, can be read with the new copy; see ``Marks``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ciuic.codec import Codec, CodecError, Encoded, decode_into, encode
from ciuic.errors import DamagedData, MissingObject
from ciuic.objects.ids import NO_ID, Kind, digest
from ciuic.store.copies import Row
from ciuic.store.decoding import Decoder
from ciuic.store.marking import NEEDED, RESTING, Marks
from ciuic.store.pack_session import PackSession
from ciuic.thread_pool import ThreadPool

if TYPE_CHECKING:
    from ciuic.store.gc import GcReport

HELD_BYTES = 96 << 20
"""Of one family's chunks and bases, raw: its new records are held until it is known whether they save anything."""
MOST_THREADS = 8
MOST_WAITING = 16


@dataclass(frozen=True)
class RepackReport:
    """``chunks``: how many were encoded anew; ``added_bytes``: what their new copies take, until gc has freed the old.

    ``flattened``: hex id of the snapshot that stands by itself now. ``gc``: what the repack freed and kept; None after
    flattening, which frees nothing.
    """

    chunks: int
    added_bytes: int
    flattened: str | None = None
    gc: GcReport | None = None


class Target(NamedTuple):
    """A chunk to encode anew. ``root``: its family."""

    root: bytes
    depth: int
    id: bytes


@dataclass
class _Anew:
    """A chunk encoded anew, not written yet. ``base``: what it was encoded against; ``nbytes``: raw and base."""

    row: Row
    base: bytes
    due: Future[Encoded]
    nbytes: int


@dataclass
class _Family:
    """``first``: (raw length, width) → who stands alone. ``resting``: id → stored bytes of records that could go."""

    first: dict[tuple[int, int], bytes] = field(default_factory=dict)
    resting: dict[bytes, int] = field(default_factory=dict)
    held: list[_Anew] = field(default_factory=list)
    held_bytes: int = 0


class Rebasing:
    """Writes new copies into a session. ``chunks`` and ``stored_bytes``: how many there are, and what they take.

    ``decoder.damaged``: records that were found damaged; what rests on them stays as it is.
    """

    def __init__(self, marks: Marks, session: PackSession) -> None:
        self.marks = marks
        self.copies = marks.copies
        self.session = session
        self.decoder = Decoder(marks.copies)
        self.chunks = 0
        self.stored_bytes = 0
        self._depths: dict[bytes, int] = {}
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._pool = ThreadPool(max(1, min(MOST_THREADS, threads)), "ciuic-rebase")

    def rebase(self) -> None:
        """Encode anew whatever rests on a resting chunk, family by family, where that saves bytes."""
        with self._pool:
            for _, targets in groupby(sorted(self._targets()), key=lambda target: target.root):
                family = _Family()
                for target in targets:
                    self._rebase(family, target)
                self._write_if_it_saves(family)

    def flatten(self) -> None:
        """Give each needed chunk a copy that rests on nothing; DamagedData or MissingObject for one that is lost."""
        rows = (row for row in self.marks.needed() if row.header.depth)
        order = sorted(Target(self.copies.root(row.header), row.header.depth, row.header.id) for row in rows)
        with self._pool:
            waiting: deque[_Anew] = deque()
            for target in order:
                waiting.append(self._encode(self.copies.find(target.id, Kind.CHUNK), None))
                if len(waiting) > MOST_WAITING:
                    self._write(waiting.popleft())
            for each in waiting:
                self._write(each)

    def _targets(self) -> Iterator[Target]:
        """Needed chunks that rest directly on resting ones."""
        for row in self.marks.needed():
            header = row.header
            if header.base != NO_ID and any(self._rests(base) for base in self.copies.below(header)):
                yield Target(self.copies.root(header), header.depth, header.id)

    def _rests(self, row: Row) -> bool:
        return self.marks.level(row) == RESTING

    def _rebase(self, family: _Family, target: Target) -> None:
        self.marks.between()
        row = self.copies.find(target.id, Kind.CHUNK)
        base = self._base(family, row)
        try:
            anew = self._encode(row, base)
        except (DamagedData, MissingObject):  # it stays on what it rests on, and what is damaged is said
            return
        if base is None:
            family.first.setdefault(_shape(row), target.id)
        self._add_resting(family, row)
        family.held.append(anew)
        family.held_bytes += anew.nbytes
        if family.held_bytes > HELD_BYTES:
            self._write_if_it_saves(family)

    def _base(self, family: _Family, row: Row) -> Row | None:
        """The nearest needed chunk down the chain of first bases, or the one of the family that stands alone."""
        below = row
        while below.header.base != NO_ID:
            below = self.copies.below(below.header)[0]
            if self.marks.level(below) == NEEDED and _shape(below) == _shape(row):
                return below
        first = family.first.get(_shape(row))
        return None if first is None else self.copies.find(first, Kind.CHUNK)

    def _encode(self, row: Row, base: Row | None) -> _Anew:
        raw = self.decoder.raw(row)
        base_raw = None if base is None else self.decoder.raw(base)
        due = self._pool.submit(_encode, row.header.id, raw, row.header.width, base_raw)
        return _Anew(row, NO_ID if base is None else base.header.id, due, 2 * len(raw))

    def _add_resting(self, family: _Family, row: Row) -> None:
        """What lives for this chunk alone, or for others like it, down to what is needed."""
        stack = [row]
        while stack:
            header = stack.pop().header
            if header.id != row.header.id:
                family.resting[header.id] = header.stored_length
            if self.copies.has_recipe(header):
                recipe = self.copies.find(header.base, Kind.RECIPE)
                family.resting[header.base] = recipe.header.stored_length
            stack += [
                base for base in self.copies.below(header) if self._rests(base) and base.header.id not in family.resting
            ]

    def _write_if_it_saves(self, family: _Family) -> None:
        """What a resting record of two families takes counts for both: it goes when both have been encoded anew."""
        held, resting = family.held, family.resting
        family.held, family.resting, family.held_bytes = [], {}, 0
        before = sum(each.row.header.stored_length for each in held) + sum(resting.values())
        if sum(len(memoryview(each.due.result().stored).cast("B")) for each in held) <= before:
            for each in held:
                self._write(each)

    def _write(self, anew: _Anew) -> None:
        """Append a record, unless it would be deeper than it was."""
        header = anew.row.header
        encoded = anew.due.result()
        base = anew.base if encoded.codec == Codec.DELTA else NO_ID
        depth = 0 if base == NO_ID else 1 + self._depth(base)
        if depth > header.depth:
            return
        self.session.add(
            Kind.CHUNK, header.id, encoded.stored, codec=encoded.codec, raw_length=header.raw_length,
            width=header.width, depth=depth, base=base,
        )  # fmt: skip
        self._depths[header.id] = depth
        self.chunks += 1
        self.stored_bytes += len(memoryview(encoded.stored).cast("B"))

    def _depth(self, id: bytes) -> int:
        depth = self._depths.get(id)
        return self.copies.find(id, Kind.CHUNK).header.depth if depth is None else depth


def _shape(row: Row) -> tuple[int, int]:
    return row.header.raw_length, row.header.width


def _encode(id: bytes, raw: Any, width: int, base: Any) -> Encoded:
    """The smallest encoding, decoded again and compared with the id; the raw bytes if anything is wrong with it."""
    encoded = encode(raw, width, base)
    if encoded.codec == Codec.RAW:
        return encoded
    out = bytearray(base if encoded.codec == Codec.DELTA else len(raw))
    try:
        decode_into(encoded.codec, encoded.stored, memoryview(out), width)
    except CodecError:
        return Encoded(Codec.RAW, raw, 0.0)
    return encoded if digest(out) == id else Encoded(Codec.RAW, raw, 0.0)
