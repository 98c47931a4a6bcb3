"""fsck: read everything that can be read, or a share of it, change nothing, and say exactly what is wrong."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ciuic.errors import CiuicError, DamagedData, DamageError, StorageError
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import NO_ID, Kind, short
from ciuic.objects.recipe import decode_recipe
from ciuic.store.expiry import read_logs
from ciuic.store.fsck_chains import ChainChecker
from ciuic.store.losses import Loss, Losses
from ciuic.store.object_reader import read_snapshot
from ciuic.store.pack_format import ALIGNMENT, HEADER, RECORD_LENGTH
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store
from ciuic.store.verification import EVERYTHING, Budget, last_verified, longest_ago_first, remember

Progress = Callable[[int, int], None]
"""Called with (done, total): packs, then packs whose data is read, then batches of records that rest on others."""
FIRST_ROUND_BYTES = 64 << 20
"""Of what is read against the clock, which is looked at between rounds."""


@dataclass(frozen=True)
class FsckReport:
    """``problems``: a line each, empty when all is well. ``read_data``: whether every chunk's payload was read as well.

    ``damaged_snapshots``: hex ids of snapshots that cannot be restored whole. ``verified_packs``: read whole, and
    sound; ``verified_bytes`` of ``pack_bytes`` are theirs. ``never_verified``: packs of which no check that is
    remembered says so; ``oldest_verification``: of the others, when the one was read that was read longest ago.
    """

    problems: tuple[str, ...]
    damaged_snapshots: tuple[str, ...]
    snapshots: int
    trees: int
    chunks: int
    packs: int
    bytes_read: int
    read_data: bool
    recipes: int = 0
    verified_packs: int = 0
    verified_bytes: int = 0
    pack_bytes: int = 0
    never_verified: int = 0
    oldest_verification: datetime | None = None

    @property
    def ok(self) -> bool:
        return not self.problems


def check(
    store: Store,
    *,
    read_data: bool | Budget = False,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FsckReport:
    """Check logs, footers, snapshots, trees, and that every chunk they need is listed, with all that it rests on; with
    ``read_data`` read payloads too, decode them, and verify each against its checksum and its id: all of them, or as
    many as a Budget says, by pack, those read longest ago first.

    Changes nothing but the memory of when each pack was read, best effort.
    """
    with store.shared():
        return Checker(store, progress, clock).run(read_data)


class Checker:
    """One run over a store, under the shared lock. ``chains.damaged`` has the copies that were found damaged, and
    ``losses`` what each damaged snapshot lacks, by its hex id; None where the snapshot itself cannot be read.
    """

    def __init__(
        self, store: Store, progress: Progress | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.progress = progress
        self.clock = clock
        self.problems: list[str] = []
        self.losses: dict[str, tuple[Loss, ...] | None] = {}
        self.reached: set[str] = set()
        self.listed: dict[bytes, int] = {}
        """Id → depth of the shallowest intact copy."""
        self.lengths: dict[bytes, int] = {}
        """Of chunks, before coding."""
        self.bad: set[bytes] = set()
        self.chains = ChainChecker(store, self.listed, self.bad, self.problems)
        self.trees = Losses(store, self.listed, self.lengths, self._state, self.problems.append)
        self.bytes_read = 0
        self.chunks = 0
        self._copies: Counter[bytes] = Counter()
        """Of objects that rest on nothing, beyond the first."""

    def run(self, read_data: bool | Budget = False, *, remembering: bool = True) -> FsckReport:
        roots = self._roots()
        self.store.refresh()  # commits go on: the packs of what the logs name by now
        names = sorted(self.store.present)
        sizes = {name: _size(self.store, name) for name in names}
        for number, name in enumerate(names):
            self._guarded(self._structure, name)
            self._advance(number + 1, len(names))
        budget = read_data if isinstance(read_data, Budget) else EVERYTHING if read_data else None
        read = self._data(budget, sizes) if budget is not None else []
        self.chains.settle()
        self.bad -= self.listed.keys()  # another copy is intact
        self._snapshots(roots)
        damaged = {name for name, _ in self.chains.damaged} | self.chains.unreadable
        verified = [name for name in read if name not in damaged]
        if read and remembering:
            remember(self.store, read, damaged)
        times = last_verified(self.store)
        return FsckReport(
            problems=tuple(dict.fromkeys(map(_without_advice, self.problems))),
            damaged_snapshots=tuple(self.losses),
            snapshots=len(self.reached),
            trees=len(self.trees.trees),
            chunks=self.chunks,
            packs=len(names),
            bytes_read=self.bytes_read + self.chains.bytes_read,
            read_data=budget is not None and len(read) == len(names),
            recipes=len(self.chains.recipes),
            verified_packs=len(verified),
            verified_bytes=sum(sizes[name] for name in verified),
            pack_bytes=sum(sizes.values()),
            never_verified=len(sizes.keys() - times.keys()),
            oldest_verification=_oldest(times, sizes),
        )

    def _advance(self, done: int, total: int) -> None:
        if self.progress:
            self.progress(done, total)

    def _guarded(self, look: Callable[[str], None], name: str) -> None:
        try:
            look(name)
        except (CiuicError, FileNotFoundError) as error:
            self.chains.unreadable.add(name)
            self.problems.append(str(error))

    # What packs list, and the small objects

    def _structure(self, name: str) -> None:
        pack = self.store.pack(name)
        position = HEADER.size
        for row in pack.rows:
            header = row.header
            if header.kind is Kind.CHUNK:
                self.chunks += 1
                self.lengths[header.id] = header.raw_length
            if row.offset % ALIGNMENT or row.offset - position >= 4096 + RECORD_LENGTH:
                self.problems.append(f"{pack.path}: a record at an odd place: offset {row.offset}.")
            position = row.end
            if header.kind is Kind.CHUNK and self.chains.collect(pack, row):
                continue
            if header.kind is not Kind.CHUNK:
                try:
                    raw = pack.raw(row.offset, header.stored_length, header.id)
                    if header.kind is Kind.RECIPE:
                        self.chains.recipes[header.id] = self._recipe(header.id, raw)
                    self.bytes_read += header.stored_length
                except (DamagedData, StorageError) as error:
                    self.chains.found_damaged(name, header.id, str(error))
                    continue
            self._copies[header.id] += header.id in self.listed
            self.listed[header.id] = 0

    @staticmethod
    def _recipe(id: bytes, raw: Any) -> tuple[bytes, ...]:
        try:
            return decode_recipe(bytes(raw)).bases
        except EncodingError as error:
            raise DamagedData(f"recipe {id.hex()[:12]}: {error}.") from error

    # Payloads

    def _data(self, budget: Budget, sizes: dict[str, int]) -> list[str]:
        """Read chunks as far as the budget goes; the packs that were read."""
        began = self.clock()
        read: list[str] = []
        for names in _rounds(budget, longest_ago_first(self.store), sizes):
            if read and budget.seconds is not None and self.clock() - began >= budget.seconds:
                break
            for number, name in enumerate(names):
                if name not in self.chains.unreadable:
                    self._guarded(self._chunks, name)
                self._advance(len(sizes) + len(read) + number + 1, len(sizes) + len(read) + len(names))
            read += names
            for done, total in self.chains.decode(self.chains.sound(set(names))):
                self._advance(len(sizes) + len(read) + done, len(sizes) + len(read) + total)
        return read

    def _chunks(self, name: str) -> None:
        """Read a pack's chunks that rest on nothing."""
        pack = self.store.pack(name)
        for row in pack.rows:
            header = row.header
            if header.kind is not Kind.CHUNK or header.base != NO_ID or (name, header.id) in self.chains.damaged:
                continue
            try:
                pack.raw(row.offset, header.stored_length, header.id)
                self.bytes_read += header.stored_length
            except (DamagedData, StorageError) as error:
                self.chains.found_damaged(name, header.id, str(error))
                if self._copies[header.id]:
                    self._copies[header.id] -= 1
                else:
                    self.listed.pop(header.id, None)

    # What needs them

    def _roots(self) -> list[str]:
        store = self.store
        values: list[str] = []
        try:
            logs = read_logs(store)
        except DamageError as error:
            self.problems.append(str(error))
            logs = {}
            for name in store.refs.names():
                try:
                    logs[name] = store.refs.log(name).read()
                except DamageError as problem:
                    self.problems.append(str(problem))
        for records in logs.values():
            values += [record.new for record in records]
        return [value for value in dict.fromkeys(values) if value != NOTHING and not value.startswith(SYMBOLIC)]

    def _snapshots(self, stack: list[str]) -> None:
        try:
            prunes = self.store.refs.prunes()
        except DamageError as error:
            self.problems.append(str(error))
            prunes = {}
        while stack:
            id = stack.pop()
            if id in self.reached:
                continue
            self.reached.add(id)
            try:
                snapshot = read_snapshot(self.store, bytes.fromhex(id))
            except CiuicError as error:
                self.problems.append(f"snapshot {short(id)}: {error}")
                self.losses[id] = None
                continue
            stack += snapshot.parents
            gone = prunes.get(id, frozenset())
            if WHOLE in gone:
                continue
            lost: list[Loss] = []
            for name, tree in snapshot.tree.items():
                if name not in gone:
                    lost += self.trees.of_component(name, bytes.fromhex(tree))
            if lost:
                self.losses[id] = tuple(lost)

    def _state(self, chunk: bytes) -> str:
        if chunk in self.chains.lost:
            return f"lost: {self.chains.lost[chunk]}"
        return "damaged" if chunk in self.bad else "missing"


def _rounds(budget: Budget, order: list[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """What is read together, so that what records share is decoded once: all, or growing parts against the clock."""
    room = FIRST_ROUND_BYTES if budget.seconds is not None else budget.bytes_of(sum(sizes.values()))
    names: list[str] = []
    nbytes = 0
    for name in order:
        names.append(name)
        nbytes += sizes.get(name, 0)
        if nbytes >= room:
            yield names
            if budget.seconds is None:
                return
            names, nbytes, room = [], 0, 2 * room
    if names:
        yield names


def _size(store: Store, name: str) -> int:
    try:
        return os.stat(store.join("packs", f"{name}.pack")).st_size
    except OSError:
        return 0


def _oldest(times: dict[str, int], packs: dict[str, int]) -> datetime | None:
    known = [at for name, at in times.items() if name in packs]
    return datetime.fromtimestamp(min(known), timezone.utc) if known else None


def _without_advice(problem: str) -> str:
    """Errors say that fsck tells more; this is it."""
    for advice in (" Run `ciuic fsck`.", " `ciuic fsck` lists what is lost."):
        problem = problem.removesuffix(advice)
    return problem
