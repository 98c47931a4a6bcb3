"""fsck of chunks that rest on others: what each rests on is listed, less deep, and what it is made into is right.

Depths that get smaller at every step prove that no chunk rests on itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ciuic.codec import Codec
from ciuic.errors import CiuicError, DamagedData
from ciuic.objects.ids import NO_ID
from ciuic.store.evaluation import Evaluation, NodeFailed
from ciuic.store.pack import Pack
from ciuic.store.pack_format import FooterRow
from ciuic.store.resolving import Record, made_of, resolve, rests_on, wrong_header
from ciuic.store.store import Store

BATCH_RECORDS = 1024
BATCH_BYTES = 256 << 20
BATCH_PACKS = 200
"""Of the records that are decoded together: what they share is decoded once, and their packs are open."""


class Resting(NamedTuple):
    """A row of a footer with a base. ``depth`` first: they are looked at in this order."""

    depth: int
    pack: int
    offset: int
    id: bytes
    base: bytes
    ruled: bool
    raw_length: int
    stored_length: int


class ChainChecker:
    """Collects rows with a base, pack by pack; when all have been seen, decodes what it is asked to, and judges."""

    def __init__(self, store: Store, listed: dict[bytes, int], bad: set[bytes], problems: list[str]) -> None:
        """``listed``: intact chunks and the depth of their shallowest copy; ``bad``: those met damaged. Both, and
        ``problems``, are added to."""
        self.store = store
        self.listed = listed
        self.bad = bad
        self.problems = problems
        self.damaged: set[tuple[str, bytes]] = set()
        """(pack, id) of copies that were found damaged."""
        self.unreadable: set[str] = set()
        """Packs that could not be read as a whole."""
        self.recipes: dict[bytes, tuple[bytes, ...]] = {}
        self.lost: dict[bytes, str] = {}
        """Chunks that are intact themselves, and why they cannot be read all the same. In what nobody needs that is no
        problem: gc takes a dead record's bases away, and leaves it where others of its pack live."""
        self.bytes_read = 0
        self._failed: set[tuple[int, int]] = set()
        """Pack and offset of rows that could not be decoded."""
        self._names: list[str] = []
        self._rows: list[Resting] = []

    def collect(self, pack: Pack, row: FooterRow) -> bool:
        """Note a row; whether it is one with a base, so that all else is seen to here."""
        header = row.header
        problem = wrong_header(header)
        if problem:
            self._problem(pack.path, row.offset, header.id, f"{problem}, which no writer makes.")
            return True
        if header.base == NO_ID:
            return False
        if not self._names or self._names[-1] != pack.name:
            self._names.append(pack.name)
        ruled = header.codec != Codec.DELTA
        number, lengths = len(self._names) - 1, (header.raw_length, header.stored_length)
        self._rows.append(Resting(header.depth, number, row.offset, header.id, header.base, ruled, *lengths))
        return True

    def sound(self, packs: Collection[str] | None = None) -> list[Resting]:
        """The rows, of these packs or of all, that rest on what is listed and less deep; ``lost`` has the others."""
        whole, _ = self._judged()
        if packs is None:
            return whole
        return [row for row in whole if self._names[row.pack] in packs]

    def decode(self, rows: list[Resting]) -> Iterator[tuple[int, int]]:
        """Decode the records; yields (done, total) batches of them."""
        batches = list(self._batches(rows))
        for number, batch in enumerate(batches):
            self._decode(batch)
            yield number + 1, len(batches)

    def settle(self) -> None:
        """When all has been read that is to be: list what is sound."""
        _, seen = self._judged()
        self.listed.update(seen)

    def found_damaged(self, pack: str, id: bytes, problem: str) -> None:
        """A copy that is not to be used; said once."""
        if (pack, id) not in self.damaged:
            self.damaged.add((pack, id))
            self.bad.add(id)
            self.problems.append(problem)

    def _judged(self) -> tuple[list[Resting], dict[bytes, int]]:
        """Sound rows, and every chunk that is listed then, with the depth of its shallowest copy."""
        whole: list[Resting] = []
        seen = dict(self.listed)
        for row in sorted(self._rows):
            if (row.pack, row.offset) in self._failed or (self._names[row.pack], row.id) in self.damaged:
                continue
            problem = self._unlisted(row, seen)
            if problem:
                self.lost.setdefault(row.id, problem)
            else:
                whole.append(row)
                seen[row.id] = min(row.depth, seen.get(row.id, row.depth))
        return whole, seen

    def _problem(self, path: str, offset: int, id: bytes, what: str) -> None:
        self.problems.append(f"{path} at offset {offset}: chunk {id.hex()[:12]}: {what}")
        self.bad.add(id)

    def _path(self, row: Resting) -> str:
        return self.store.join("packs", f"{self._names[row.pack]}.pack")

    def _bases(self, row: Resting) -> tuple[bytes, ...] | None:
        return self.recipes.get(row.base) if row.ruled else (row.base,)

    def _unlisted(self, row: Resting, seen: dict[bytes, int]) -> str:
        """What keeps the chunk from being read, as far as footers and recipes say; "" if nothing does."""
        bases = self._bases(row)
        if bases is None:
            return f"its recipe {row.base.hex()[:12]} is {'damaged' if row.base in self.bad else 'missing'}"
        for base in bases:
            depth = seen.get(base)
            if depth is None:
                state = "damaged" if base in self.bad else "missing"
                return f"it rests on chunk {base.hex()[:12]}, which is {state}"
            if depth >= row.depth:
                return f"of depth {row.depth}, it rests on chunk {base.hex()[:12]}, which is {depth} deep"
        return ""

    def _batches(self, rows: list[Resting]) -> Iterator[list[Resting]]:
        """Along the chains of first bases, from the bottom up: neighbours share what they rest on."""
        batch: list[Resting] = []
        nbytes = 0
        packs: set[int] = set()
        for row in self._along_chains(rows):
            if batch and (len(batch) == BATCH_RECORDS or nbytes > BATCH_BYTES or len(packs) == BATCH_PACKS):
                yield batch
                batch, nbytes, packs = [], 0, set()
            batch.append(row)
            nbytes += row.raw_length
            packs.add(row.pack)
        if batch:
            yield batch

    def _along_chains(self, rows: list[Resting]) -> Iterator[Resting]:
        above: defaultdict[bytes, list[Resting]] = defaultdict(list)
        for row in reversed(rows):
            above[(self._bases(row) or (NO_ID,))[0]].append(row)
        ids = {row.id for row in rows}
        stack = [row for base, rested in above.items() if base not in ids for row in rested]
        done: set[tuple[int, int]] = set()
        while stack:
            row = stack.pop()
            place = row.pack, row.offset
            if place not in done:
                done.add(place)
                yield row
                stack += above[row.id]
        # Copies whose first base is itself a copy that rests on others of the same chunk.
        yield from (row for row in rows if (row.pack, row.offset) not in done)

    def _decode(self, batch: list[Resting]) -> None:
        """All of them at once; where that fails one after the other, to see which."""
        known: dict[bytes, Record] = {}
        try:
            _evaluate([self._record(row, known) for row in batch])
        except (CiuicError, FileNotFoundError, NodeFailed):
            for row in batch:
                self._decode_one(row)
            return
        self.bytes_read += sum(row.stored_length for row in batch)

    def _record(self, row: Resting, known: dict[bytes, Record]) -> Record:
        """This very copy, its bases in the shallowest copies that are not damaged."""
        pack = self.store.pack(self._names[row.pack])
        found = pack.by_id[row.id]
        if found.offset != row.offset:
            raise DamagedData("its pack lists it twice.")
        recipe, ids = rests_on(self.store, pack, found)
        bases = [resolve(self.store, base, known, self.damaged, found.header) for base in ids]
        record = made_of(self.store, pack, found, recipe, bases)
        other = known.get(row.id)
        if other is None or record.header.depth < other.header.depth:
            known[row.id] = record
        return record

    def _decode_one(self, row: Resting) -> None:
        while True:  # each round knows one more damaged copy, and does without
            try:
                record = self._record(row, {})
            except (CiuicError, FileNotFoundError) as error:
                self._failed.add((row.pack, row.offset))
                self.lost[row.id] = str(error)
                return
            try:
                _evaluate([record])
            except NodeFailed as failed:
                self.found_damaged(failed.record.pack.name, failed.record.header.id, str(failed.error))
                if failed.record is record:
                    return
            except DamagedData as error:
                self._failed.add((row.pack, row.offset))
                self._problem(self._path(row), row.offset, row.id, str(error))
                return
            else:
                self.bytes_read += row.stored_length
                return


def _evaluate(records: list[Record]) -> None:
    Evaluation(records, [None] * len(records)).run(check=True, check_ids=True)
