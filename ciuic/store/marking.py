"""Which records are live: one bit a footer row, set by walking from snapshots. Memory is a byte a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ciuic.errors import DamagedData, MissingObject
from ciuic.objects.ids import NO_ID, Kind
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry
from ciuic.store.object_reader import read_snapshot, read_tree
from ciuic.store.pack import Pack
from ciuic.store.pack_format import FooterRow
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store


class Marks:
    """Live records by pack. Of several copies the one that the index names is marked."""

    def __init__(self, store: Store, prunes: Mapping[str, frozenset[str]]) -> None:
        self.store = store
        self.prunes = prunes
        self.bits: dict[str, bytearray] = {}
        self.snapshots = 0
        self.pruned = 0
        self.live_bytes = 0
        self._row_numbers: dict[str, dict[bytes, int]] = {}

    def walk(self, snapshots: Iterable[str]) -> None:
        """Mark everything that the snapshots and their ancestors need; MissingObject or DamagedData stops it."""
        stack = [bytes.fromhex(snapshot) for snapshot in snapshots]
        while stack:
            id = stack.pop()
            if not self._mark(id, Kind.SNAPSHOT):
                continue
            snapshot = read_snapshot(self.store, id)
            self.snapshots += 1
            stack += [bytes.fromhex(parent) for parent in snapshot.parents]
            gone = self.prunes.get(snapshot.id, frozenset())
            if gone:
                self.pruned += 1
            if WHOLE not in gone:
                self._trees([bytes.fromhex(tree) for name, tree in snapshot.tree.items() if name not in gone])

    def _trees(self, stack: list[bytes]) -> None:
        while stack:
            id = stack.pop()
            if not self._mark(id, Kind.TREE):
                continue
            tree = read_tree(self.store, id)
            stack += [child for _, child in tree.modules]
            for _, entry in tree.entries:
                if isinstance(entry, ChildEntry):
                    stack.append(entry.id)
                elif isinstance(entry, (TensorEntry, BlobEntry)):
                    for chunk in entry.chunks:
                        self._mark(chunk, Kind.CHUNK)

    def _mark(self, id: bytes, kind: Kind) -> bool:
        """Set the bit of one copy, and of the delta bases below it; False when it was set."""
        fresh = False
        while True:
            pack, number = self._find(id, kind)
            bits = self.bits.setdefault(pack.name, bytearray(len(pack.rows)))
            if bits[number]:
                return fresh
            bits[number] = 1
            fresh = True
            header = pack.rows[number].header
            self.live_bytes += header.stored_length
            if header.base == NO_ID:
                return fresh
            id, kind = header.base, Kind.CHUNK

    def _find(self, id: bytes, kind: Kind) -> tuple[Pack, int]:
        place = self.store.place(id)
        if place is not None:
            try:
                pack = self.store.pack(place.pack)
                return pack, self._numbers(pack)[id]
            except (KeyError, DamagedData, FileNotFoundError):
                pass
        for pack, _ in self.store.copies(id):
            return pack, self._numbers(pack)[id]
        raise MissingObject(
            f"{kind.name.lower()} {id.hex()[:12]}, which a snapshot needs, is in no pack. gc deleted nothing. "
            "`ciuic fsck` names the snapshots that lack something; prune them, and gc goes on without them."
        )

    def spare_copies(self) -> None:
        """Of an object with several copies gc keeps the one that is marked: read it, and keep others if it is damaged.

        Memory is an id for each record that is dead or a second copy.
        """
        spare = {row.header.id for pack in self._readable() for row, live in self._rows(pack) if not live}
        for pack in self._readable():
            for row, live in self._rows(pack):
                if live and row.header.id in spare and not _intact(pack, row):
                    self._mark_intact_copies(row.header.id)

    def _readable(self) -> Iterator[Pack]:
        for name in sorted(self.store.present):
            try:
                pack = self.store.pack(name)
                if pack.rows:
                    yield pack
            except DamagedData:
                continue

    def _rows(self, pack: Pack) -> Iterable[tuple[FooterRow, int]]:
        return zip(pack.rows, self.bits.get(pack.name) or bytes(len(pack.rows)), strict=True)

    def _mark_intact_copies(self, id: bytes) -> None:
        for pack, row in self.store.copies(id):
            if _intact(pack, row):
                self.bits.setdefault(pack.name, bytearray(len(pack.rows)))[self._numbers(pack)[id]] = 1

    def _numbers(self, pack: Pack) -> dict[bytes, int]:
        numbers = self._row_numbers.get(pack.name)
        if numbers is None:
            if len(self._row_numbers) > 64:
                self._row_numbers.clear()
            numbers = {row.header.id: number for number, row in enumerate(pack.rows)}
            self._row_numbers[pack.name] = numbers
        return numbers

    def live_rows(self, pack: Pack) -> list[FooterRow]:
        return [row for row, live in self._rows(pack) if live]


def _intact(pack: Pack, row: FooterRow) -> bool:
    try:
        pack.raw(row.offset, row.header.stored_length, row.header.id)
    except DamagedData:
        return False
    return True
