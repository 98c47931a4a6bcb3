"""Records as gc sees them: a row of a footer, which copy of an object to take, and what a record rests on.

Everything comes from footers and recipes; no payload of a chunk is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ciuic.codec import Codec
from ciuic.errors import DamagedData, MissingObject, StorageError
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import NO_ID, Kind
from ciuic.objects.recipe import Recipe, decode_recipe
from ciuic.store.pack import Pack
from ciuic.store.pack_format import RecordHeader
from ciuic.store.resolving import resolve
from ciuic.store.store import Store

ANY_DEPTH = 256
OPEN_PACKS = 400
OPEN_ROWS = 100_000
"""Rows of footers, some 600 bytes each, that are kept for look-ups; a footer is read anew otherwise."""
WITH_RECIPE = frozenset((Codec.DERIVED, Codec.PREDICTED))
MOST_REMEMBERED = 1 << 15


class Row(NamedTuple):
    """One copy of an object: row ``number`` of a pack's footer."""

    pack: Pack
    number: int

    @property
    def header(self) -> RecordHeader:
        return self.pack.rows[self.number].header

    @property
    def offset(self) -> int:
        return self.pack.rows[self.number].offset


class Copies:
    """Looks objects up. What it remembers is bounded."""

    def __init__(self, store: Store, preferred: Mapping[bytes, str]) -> None:
        """``preferred``: id → the pack whose copy is taken first."""
        self.store = store
        self.preferred = preferred
        self._open: OrderedDict[str, tuple[Pack, dict[bytes, int]]] = OrderedDict()
        self._open_rows = 0
        self._recipes: dict[bytes, Recipe] = {}
        self._roots: dict[bytes, bytes] = {}

    def find(self, id: bytes, kind: Kind, below: int = ANY_DEPTH) -> Row:
        """The copy to take: the one that the index names, which is the shallowest, or else the shallowest there is.

        A sweep that was cut short leaves copies without what they rest on: one that has it goes before them.
        ``below``: the depth of what rests on it. MissingObject when no copy is less deep than that.
        """
        row = self._in(self.preferred.get(id), id)
        if row is not None and row.header.depth < below:
            return row
        place = self.store.place(id)
        row = self._in(place.pack if place is not None else None, id)
        if row is not None and row.header.depth < below and (row.header.base == NO_ID or self.store.known(id)):
            return row
        shallowest = self._whole(id, below) if kind is Kind.CHUNK else None
        shallowest = shallowest or min(self.all(id), key=lambda row: row.header.depth, default=None)
        if shallowest is not None and shallowest.header.depth < below:
            return shallowest
        what = "which a snapshot needs" if below == ANY_DEPTH else f"on which a record of depth {below} rests"
        raise MissingObject(
            f"{kind.name.lower()} {id.hex()[:12]}, {what}, is in no pack. gc deleted nothing. "
            "`ciuic fsck` names the snapshots that lack something; prune them, and gc goes on without them."
        )

    def _whole(self, id: bytes, below: int) -> Row | None:
        """The first copy of a chunk that has all that it rests on."""
        try:
            row = self._in(resolve(self.store, id, {}).pack.name, id)
        except (DamagedData, MissingObject, StorageError):
            return None
        return row if row is not None and row.header.depth < below else None

    def _in(self, name: str | None, id: bytes) -> Row | None:
        if name is None:
            return None
        try:
            pack, numbers = self._opened(name)
            return Row(pack, numbers[id])
        except (KeyError, DamagedData, FileNotFoundError):
            return None

    def all(self, id: bytes) -> Iterator[Row]:
        """Every copy that a readable footer lists, the index's first."""
        for pack, _ in self.store.copies(id):
            row = self._in(pack.name, id)
            if row is not None:
                yield row

    def _opened(self, name: str) -> tuple[Pack, dict[bytes, int]]:
        found = self._open.get(name)
        if found is not None:
            self._open.move_to_end(name)
            return found
        pack = self.store.pack(name)
        found = self._open[name] = pack, {row.header.id: number for number, row in enumerate(pack.rows)}
        self._open_rows += len(pack.rows)
        while len(self._open) > OPEN_PACKS or (self._open_rows > OPEN_ROWS and len(self._open) > 1):
            self._open_rows -= len(self._open.popitem(last=False)[1][1])
        return found

    @staticmethod
    def has_recipe(header: RecordHeader) -> bool:
        return header.codec in WITH_RECIPE and header.kind is Kind.CHUNK

    def recipe(self, id: bytes) -> Recipe:
        """A recipe, verified; MissingObject or DamagedData."""
        recipe = self._recipes.get(id)
        if recipe is None:
            try:
                recipe = decode_recipe(bytes(self.store.read(Kind.RECIPE, id)))
            except EncodingError as error:
                raise DamagedData(f"recipe {id.hex()[:12]}: {error}. Run `ciuic fsck`.") from error
            if len(self._recipes) > MOST_REMEMBERED:
                self._recipes.clear()
            self._recipes[id] = recipe
        return recipe

    def bases(self, header: RecordHeader) -> tuple[bytes, ...]:
        """Ids of the chunks that a record rests on; DamagedData where that cannot be told."""
        if header.base == NO_ID:
            return ()
        if self.has_recipe(header):
            return self.recipe(header.base).bases
        if header.codec != Codec.DELTA or header.kind is not Kind.CHUNK:
            raise DamagedData(
                f"{header.kind.name.lower()} {header.id.hex()[:12]} has a base, and the unknown codec {header.codec}. "
                "A newer ciuic may have written it."
            )
        return (header.base,)

    def below(self, header: RecordHeader) -> list[Row]:
        """The copies that a record rests on, each less deep than it; MissingObject or DamagedData."""
        return [self.find(base, Kind.CHUNK, header.depth) for base in self.bases(header)]

    def others(self, id: bytes, below: int) -> Iterator[Row]:
        """Every copy that serves a record of that depth, shallow ones first: for when the one to take is damaged."""
        rows = [row for row in self.all(id) if row.header.depth < below]
        return iter(sorted(rows, key=lambda row: row.header.depth))

    def root(self, header: RecordHeader) -> bytes:
        """Where a record's chain of first bases ends: chunks of one root are worth decoding together."""
        path = []
        while header.base != NO_ID and header.id not in self._roots:
            path.append(header.id)
            first = self.bases(header)[0]
            header = self.find(first, Kind.CHUNK, header.depth).header
        root = self._roots.get(header.id, header.id)
        if len(self._roots) > MOST_REMEMBERED:
            self._roots.clear()
        self._roots.update(dict.fromkeys(path, root))
        return root


def readable(store: Store, name: str) -> Pack | None:
    """The pack; None when its footer cannot be read."""
    try:
        pack = store.pack(name)
        return pack if pack.rows else None
    except (DamagedData, StorageError, FileNotFoundError):
        return None
