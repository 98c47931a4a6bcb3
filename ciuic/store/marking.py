"""Which records are live: a byte a footer row, set by walking from snapshots, through trees, chunks and their bases.

A record is *needed* when a live tree names its chunk, and *resting* when it lives only as a base of others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ciuic.errors import DamagedData
from ciuic.objects.ids import Kind
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry
from ciuic.store.copies import Copies, Row
from ciuic.store.decoding import Decoder
from ciuic.store.object_reader import read_snapshot, read_tree
from ciuic.store.pack import Pack
from ciuic.store.pack_format import FooterRow
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store

RESTING, NEEDED = 1, 3
"""Levels of life; every live row has the bit of RESTING. A recipe has the level of the record that it belongs to."""


class Marks:
    """Live records by pack. Of several copies the shallowest is marked, so that whatever rests on the chunk can be read
    with it: a base must have a smaller depth than the record that rests on it, and a chunk's shallowest copy satisfies
    whoever another copy satisfies. For the same reason re-basing is safe beside commits: one that found a base of depth
    d has written d + 1, and any copy of depth d or less serves it.
    """

    def __init__(
        self,
        store: Store,
        prunes: Mapping[str, frozenset[str]],
        preferred: Mapping[bytes, str],
        known: Mapping[str, Snapshot] | None = None,
    ) -> None:
        """``preferred``: the pack of the copy to mark, for chunks that were copied or encoded anew. ``known``: by hex
        id, snapshots that need not be read. ``between`` is called between small pieces of work.
        """
        self.store = store
        self.prunes = prunes
        self.known = known or {}
        self.between: Callable[[], None] = lambda: None
        self.copies = Copies(store, preferred)
        self.bits: dict[str, bytearray] = {}
        self.snapshots = 0
        self.pruned = 0
        self.live_bytes = 0
        self.needed_bytes = 0

    @property
    def resting_bytes(self) -> int:
        """Stored bytes that live only as bases of others."""
        return self.live_bytes - self.needed_bytes

    def walk(self, snapshots: Iterable[str]) -> None:
        """Mark everything that the snapshots and their ancestors need; MissingObject or DamagedData stops it."""
        stack = [bytes.fromhex(snapshot) for snapshot in snapshots]
        while stack:
            id = stack.pop()
            if not self._mark(id, Kind.SNAPSHOT):
                continue
            self.between()
            snapshot = self.known.get(id.hex()) or read_snapshot(self.store, id)
            self.snapshots += 1
            stack += [bytes.fromhex(parent) for parent in snapshot.parents]
            gone = self.prunes.get(snapshot.id, frozenset())
            if gone:
                self.pruned += 1
            if WHOLE not in gone:
                self.walk_trees([bytes.fromhex(tree) for name, tree in snapshot.tree.items() if name not in gone])

    def walk_trees(self, stack: list[bytes]) -> None:
        """Mark trees and everything below them."""
        while stack:
            id = stack.pop()
            if not self._mark(id, Kind.TREE):
                continue
            self.between()
            tree = read_tree(self.store, id)
            stack += [child for _, child in tree.modules]
            for _, entry in tree.entries:
                if isinstance(entry, ChildEntry):
                    stack.append(entry.id)
                elif isinstance(entry, (TensorEntry, BlobEntry)):
                    for chunk in entry.chunks:
                        self._mark(chunk, Kind.CHUNK)

    def _mark(self, id: bytes, kind: Kind) -> bool:
        """Mark one copy as needed, and what it rests on; False when it was marked so."""
        row = self.copies.find(id, kind)
        if self.level(row) == NEEDED:
            return False
        self._mark_copy(row, NEEDED)
        return True

    def _mark_copy(self, row: Row, level: int) -> None:
        stack: list[tuple[Row, int]] = [(row, level)]
        while stack:
            row, level = stack.pop()
            bits = self.bits.setdefault(row.pack.name, bytearray(len(row.pack.rows)))
            before = bits[row.number]
            if before | level == before:
                continue
            bits[row.number] |= level
            header = row.header
            self.live_bytes += 0 if before else header.stored_length
            self.needed_bytes += header.stored_length if level == NEEDED else 0
            if self.copies.has_recipe(header):
                stack.append((self.copies.find(header.base, Kind.RECIPE), level))
            if not before:
                stack += [(base, RESTING) for base in self.copies.below(header)]

    def level(self, row: Row) -> int:
        """0 for a dead record, RESTING or NEEDED."""
        bits = self.bits.get(row.pack.name)
        return bits[row.number] if bits is not None else 0

    def spare_copies(self, trusted: Collection[str] = ()) -> None:
        """Of an object with several copies gc keeps the one that is marked: read it, and keep others if it is damaged.

        ``trusted``: packs of which every record was verified a moment ago. Memory is an id for each record that is dead
        or a second copy.
        """
        spare = {row.header.id for pack in self._readable() for row in self._rows(pack) if not self.level(row)}
        if not spare:
            return
        decoder = Decoder(self.copies)
        for pack in self._readable():
            if pack.name in trusted:
                continue
            for row in self._rows(pack):
                self.between()
                level = self.level(row)
                if level and row.header.id in spare and not decoder.intact(row):
                    for copy in self.copies.all(row.header.id):
                        if decoder.intact(copy):
                            self._mark_copy(copy, level)

    def _readable(self) -> Iterator[Pack]:
        for name in sorted(self.store.present):
            try:
                pack = self.store.pack(name)
                if pack.rows:
                    yield pack
            except DamagedData:
                continue

    def _rows(self, pack: Pack) -> Iterator[Row]:
        return (Row(pack, number) for number in range(len(pack.rows)))

    def live(self, pack: Pack) -> list[Row]:
        """The marked rows of a pack, in file order; DamagedData, also where nothing is marked, if its footer is."""
        bits = self.bits.get(pack.name) or bytes(len(pack.rows))
        return [Row(pack, number) for number, bit in enumerate(bits) if bit]

    def dead(self, pack: Pack) -> list[Row]:
        """The other rows."""
        bits = self.bits.get(pack.name) or bytes(len(pack.rows))
        return [Row(pack, number) for number, bit in enumerate(bits) if not bit]

    def live_rows(self, pack: Pack) -> list[FooterRow]:
        """The same as the footer has them."""
        return [pack.rows[row.number] for row in self.live(pack)]

    def needed(self) -> Iterator[Row]:
        """Every chunk that a live tree names, pack by pack."""
        for name in sorted(self.bits):
            for row in self.live(self.store.pack(name)):
                if row.header.kind is Kind.CHUNK and self.level(row) == NEEDED:
                    yield row
