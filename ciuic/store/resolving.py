"""A chunk's record with all that it rests on: from footers and recipes, reading no payload of a chunk.

Whatever a repository lists, this ends: a base is taken in a copy of smaller depth only, and depths end at 255.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ciuic.codec import Codec
from ciuic.errors import CiuicError, DamagedData, MissingObject, StorageError
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import ID_LENGTH, NO_ID, Kind, object_id
from ciuic.objects.recipe import Recipe, decode_recipe
from ciuic.store.pack import Pack
from ciuic.store.pack_format import MOST_DEPTH, FooterRow, RecordHeader

if TYPE_CHECKING:
    from ciuic.store.store import Store

MOST_NODES = 100_000
"""Copies that are looked at for one chunk: far above what a writer makes (some 1,000 at the largest depth)."""
MOST_REMEMBERED = 1 << 18
MOST_RECIPE_BYTES = 1 << 14
BASES_KEY, BYTES_OF_ONE_LENGTH_BYTE = b"\x65bases", b"\x58"
_recipes: dict[tuple[bytes, bytes], Recipe] = {}
"""What stands before the bases of a recipe, and after them → such a recipe."""
ANY_DEPTH = MOST_DEPTH + 1
BASED = frozenset((Codec.DELTA, Codec.DERIVED, Codec.PREDICTED))


@dataclass(slots=True, eq=False)
class Record:
    """One copy of a chunk, and copies of its bases, in the order of the rule; never changed. Holds its pack open."""

    store: Store
    pack: Pack
    offset: int
    header: RecordHeader
    recipe: Recipe | None
    bases: tuple[Record, ...]

    @property
    def where(self) -> str:
        return f"{self.pack.path} at offset {self.offset}"


def made_of(store: Store, pack: Pack, row: FooterRow, recipe: Recipe | None, bases: Sequence[Record]) -> Record:
    """A copy and what it rests on; DamagedData where lengths do not fit (recipes are judged by their rule)."""
    header = row.header
    if header.codec == Codec.DELTA and bases[0].header.raw_length != header.raw_length:
        raise DamagedData(f"{pack.path} at offset {row.offset}: a delta to a base of another length. Run `ciuic fsck`.")
    return Record(store, pack, row.offset, header, recipe, tuple(bases))


def resolve(
    store: Store,
    id: bytes,
    known: dict[bytes, Record],
    avoid: Collection[tuple[str, bytes]] = frozenset(),
    above: RecordHeader | None = None,
) -> Record:
    """The record of a chunk; see Store.record.

    ``avoid``: (pack, id) of copies that are not to be used. ``above``: what rests on it, and is deeper.
    """
    while True:
        searched = store.present
        try:
            return _Resolver(store, known, avoid).run(id, above)
        except MissingObject:
            if not store.look_again(searched):
                raise


Search = Generator[tuple[bytes, RecordHeader], "Record", "Record"]
"""Asks for bases by (id, header of what rests on it)."""


class _Resolver:
    def __init__(self, store: Store, known: dict[bytes, Record], avoid: Collection[tuple[str, bytes]]) -> None:
        self.store = store
        self.known = known
        self.avoid = avoid
        self._nodes = 0
        self._lost: dict[bytes, tuple[int, CiuicError]] = {}
        """Id → the largest depth of what rests on it for which no copy served, and why."""

    def run(self, id: bytes, above: RecordHeader | None) -> Record:
        found: Record | None = self.known.get(id)
        if found is not None and (above is None or found.header.depth < above.depth):
            return found
        searches = [self._search(id, above)]
        found = None
        problem: CiuicError | None = None
        while searches:
            try:
                if problem is not None:
                    wanted = searches[-1].throw(problem)
                else:
                    wanted = searches[-1].send(found)  # type: ignore[arg-type]  # None starts a search
            except StopIteration as end:
                searches.pop()
                found, problem = end.value, None
            except (DamagedData, MissingObject, StorageError) as error:
                searches.pop()
                problem = error
            else:
                found, problem = None, None
                below, why = self._lost.get(wanted[0], (-1, None))
                if wanted[1].depth <= below:
                    problem = why
                else:
                    searches.append(self._search(*wanted))
        if problem is not None:
            raise problem
        assert found is not None
        return found

    def _search(self, id: bytes, above: RecordHeader | None) -> Search:
        """The first copy whose bases are there, and less deep than ``above``, the header of what rests on it."""
        store = self.store
        below = ANY_DEPTH if above is None else above.depth
        problem: CiuicError | None = None
        for pack, row in self._copies(id):
            header = row.header
            self._nodes += 1
            if self._nodes > MOST_NODES:
                raise DamagedData(
                    f"chunk {id.hex()[:12]} rests on more than {MOST_NODES} records, which no writer makes."
                )
            try:
                if header.depth >= below:
                    raise DamagedData(
                        f"{pack.path} at offset {row.offset}: chunk {id.hex()[:12]} has depth {header.depth}, and what "
                        f"rests on it only {below}. Run `ciuic fsck`."
                    )
                recipe, ids = rests_on(store, pack, row)
                bases: list[Record] = []
                for base in ids:
                    there = self.known.get(base)
                    if there is None or there.header.depth >= header.depth:
                        there = yield base, header
                    bases.append(there)
                record = made_of(store, pack, row, recipe, bases)
            except (DamagedData, MissingObject, StorageError) as error:
                problem = problem or error
                continue
            other = self.known.get(id)
            if other is None or header.depth < other.header.depth:
                self.known[id] = record
            return record
        if problem is None:
            needs = "" if above is None else f", on which chunk {above.id.hex()[:12]} rests,"
            problem = MissingObject(
                f"chunk {id.hex()[:12]}{needs} is in no pack of {store.path}. `ciuic fsck` lists what is lost."
            )
        self._lost[id] = below, problem
        raise problem

    def _copies(self, id: bytes) -> Iterator[tuple[Pack, FooterRow]]:
        """Copies to try: the index's, which is the shallowest, then the others, those found damaged before last."""
        store = self.store
        first = ""
        place = store.place(id)
        if place is not None and not self._doubted(place.pack, id):
            try:
                pack = store.pack(place.pack)
                row = pack.by_id.get(id)
            except (DamagedData, StorageError, FileNotFoundError):
                row = None
            if row is not None:
                first = place.pack
                yield pack, row
        others = [copy for copy in store.copies(id) if copy[0].name != first and (copy[0].name, id) not in self.avoid]
        others.sort(key=lambda copy: ((copy[0].name, id) in store.damaged_records, copy[1].header.depth))
        yield from others

    def _doubted(self, pack: str, id: bytes) -> bool:
        return (pack, id) in self.avoid or (pack, id) in self.store.damaged_records


def stands(store: Store, id: bytes, memo: dict[bytes, int]) -> bool:
    """Whether footers list a chunk and all that it rests on, each less deep, in the copies that the index names.

    ``memo``: id → depth of those that do, from earlier calls.
    """
    if len(memo) > MOST_REMEMBERED:
        memo.clear()
    path: list[tuple[bytes, int, tuple[bytes, ...]]] = []  # each a base of one below it in the list
    waiting = [(id, ANY_DEPTH)]
    looked = 0
    while waiting:
        here, below = waiting[-1]
        if path and path[-1][0] == here:  # its bases stand
            waiting.pop()
            _, depth, bases = path.pop()
            if any(memo.get(base, ANY_DEPTH) >= depth for base in bases):  # what rests on itself is in none
                return False
            memo[here] = depth
        elif here in memo:
            waiting.pop()
        else:
            found = store.listed(here)
            looked += 1
            if found is None or found[1].header.depth >= below or looked > MOST_NODES:
                return False
            try:
                pack, row = found
                _, bases = rests_on(store, pack, row)
            except (DamagedData, MissingObject, StorageError):
                return False
            depth = found[1].header.depth
            path.append((here, depth, bases))
            waiting += [(base, depth) for base in bases if base not in memo]
    return True


def wrong_header(header: RecordHeader) -> str:
    """What a chunk's header says that no writer of ours makes; "" if nothing."""
    if header.base == NO_ID:
        if header.depth:
            return f"a record of depth {header.depth} without a base"
        return f"codec {header.codec} without a base" if header.codec in BASED else ""
    if not header.depth:
        return "a record with a base, and of depth 0"
    if header.codec not in BASED:
        return f"codec {header.codec} with a base"
    if header.codec == Codec.DERIVED and header.stored_length:
        return "a derived record with stored bytes"
    return ""


def rests_on(store: Store, pack: Pack, row: FooterRow) -> tuple[Recipe | None, tuple[bytes, ...]]:
    """A chunk's recipe, if it has one, and the ids of its bases; DamagedData, MissingObject or StorageError."""
    header = row.header
    problem = wrong_header(header) if header.kind is Kind.CHUNK else f"a {header.kind.name.lower()}, and no chunk"
    if problem:
        where = f"{pack.path} at offset {row.offset}"
        raise DamagedData(f"{where}: {header.id.hex()[:12]}: {problem}, which no writer makes. Run `ciuic fsck`.")
    if header.base == NO_ID:
        return None, ()
    if header.codec == Codec.DELTA:
        return None, (header.base,)
    recipe = _recipe(store, pack, header.base)
    return recipe, recipe.bases


def _recipe(store: Store, pack: Pack, id: bytes) -> Recipe:
    """Mostly in the pack of what it makes."""
    row = pack.by_id.get(id)
    raw = None
    if row is not None and row.header.codec == Codec.RAW and row.header.stored_length <= MOST_RECIPE_BYTES:
        with contextlib.suppress(DamagedData, StorageError):
            here = bytearray(row.header.stored_length)
            pack.read_payload(row, memoryview(here))
            if object_id(Kind.RECIPE, here) == id:
                raw = bytes(here)
    if raw is None:
        raw = bytes(store.read(Kind.RECIPE, id))
    try:
        return _decode_recipe(raw)
    except EncodingError as error:
        raise DamagedData(f"recipe {id.hex()[:12]}: {error}. Run `ciuic fsck`.") from error


def _decode_recipe(raw: bytes) -> Recipe:
    """As decode_recipe has it, at a tenth of the cost: the recipes of one step differ in their bases only."""
    start = raw.find(BASES_KEY) + len(BASES_KEY) + 2
    stop = start + raw[start - 1] if start <= len(raw) else start
    key = raw[:start], raw[stop:]
    same = _recipes.get(key)
    if same is None:
        same = decode_recipe(raw)
        if raw[start - 2 : start - 1] == BYTES_OF_ONE_LENGTH_BYTE and b"".join(same.bases) == raw[start:stop]:
            if len(_recipes) >= 64:
                _recipes.clear()
            _recipes[key] = same
        return same
    bases = tuple(raw[at : at + ID_LENGTH] for at in range(start, stop, ID_LENGTH))
    if NO_ID in bases:
        return decode_recipe(raw)  # which says what is wrong
    return Recipe(same.rule, bases, same.numbers)
