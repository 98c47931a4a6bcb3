"""Garbage collection: mark under the shared lock, sweep in a short exclusive window. No clock takes part in safety."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import timedelta

import lmdb

from ciuic.errors import CiuicError, DamagedData, LockTimeout, StorageFull
from ciuic.objects.ids import Kind
from ciuic.objects.snapshot import Snapshot
from ciuic.store.decoding import Decoder
from ciuic.store.expiry import check_clock, kept, read_logs
from ciuic.store.locks import is_held
from ciuic.store.marking import Marks
from ciuic.store.pack_format import FooterRow
from ciuic.store.prunes import COLLECT, PRUNES
from ciuic.store.rebasing import Rebasing, RepackReport
from ciuic.store.reflog import NOTHING, SYMBOLIC, LogRecord
from ciuic.store.repacking import MOST_WASTE, candidates, copy_live, without_support
from ciuic.store.store import Store, index_rows

EXCLUSIVE_TIMEOUT_S = 30.0
ATTEMPTS = 5
TOO_LITTLE = 0.01
"""Of what stays: where a sweep for want of room has freed less, another one would find hardly more."""


@dataclass(frozen=True)
class GcReport:
    """What gc freed (or would free), in bytes of pack files, and why the rest stays.

    ``held_by_reflog`` and ``reflog_bytes``: snapshots, and stored bytes, that only log records keep.
    ``resting_bytes``: stored bytes kept only as bases of others. ``rebased``, ``rebased_bytes``: chunks encoded anew so
    that fewer are, and what these take.
    ``expired_records``: log → records forgotten. ``quarantined``: packs in which a damaged record was met.
    """

    dry_run: bool
    freed_bytes: int
    freed_packs: int
    repacked_packs: int
    kept_bytes: int
    snapshots: int
    held_by_refs: int
    held_by_reflog: int
    reflog_bytes: int
    pruned: int
    resting_bytes: int = 0
    rebased: int = 0
    rebased_bytes: int = 0
    expired_records: dict[str, int] = field(default_factory=dict)
    quarantined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How to go about a collection.

    ``timeout_s``: how long to wait for each of the two locks. ``between``: called between small pieces of work; what it
    raises ends the collection, with nothing deleted; never called under the exclusive lock. ``known``: snapshots that
    were read before, by hex id, so that they need not be again. ``spare``: of what snapshots need, the share that may
    be dead, and the share that may be kept only as a base. ``prunes``: of a dry run, as if these were given up too.
    """

    timeout_s: float = EXCLUSIVE_TIMEOUT_S
    between: Callable[[], None] = lambda: None
    known: Mapping[str, Snapshot] = field(default_factory=dict)
    spare: float = MOST_WASTE
    prunes: Mapping[str, frozenset[str]] = field(default_factory=dict)


Logs = dict[str, list[LogRecord]]


class _Restart(Exception):
    """Another sweep came in between: what was marked is void."""


def collect(
    store: Store,
    *,
    dry_run: bool = False,
    expire: timedelta | None = None,
    trust_clock: bool = False,
    thorough: bool = False,
    plan: Plan | None = None,
) -> GcReport:
    """Free what no ref, HEAD or unexpired log record needs. Durable on return; killed anywhere, nothing live is lost.

    ``thorough``: encode anew whatever rests on what is kept for it alone; rewrite every pack that holds anything dead.
    ``plan``: for who collects often, or asks what if.

    1. shared lock: read the logs, mark; where more than a tenth (``Plan.spare``) is kept only as a base, encode anew
       what rests on it, and mark again; copy the live records of half-empty packs into new ones;
    2. gate and exclusive lock: compare the generation, read the logs again, mark what is new;
    3. rewrite expired logs; 4. bump the generation; 5. drop index rows; 6. rename dead packs to ``trash/``, sync;
    7. release, unlink.

    Raises MissingObject, DamagedData or DamagedRef, with nothing deleted, when anything live cannot be read;
    ClockDisagrees; LockTimeout when commits and readers do not make room in time.
    """
    before: GcReport | None = None
    attempts = ATTEMPTS
    while attempts:
        collector = _Collector(store, dry_run, expire, trust_clock, thorough, plan or Plan())
        try:
            report = collector.run()
        except _Restart:
            attempts -= 1
            continue
        report = report if before is None else _together(before, report)
        gained = report.freed_bytes - (0 if before is None else before.freed_bytes)
        if not collector.short_of_room or gained <= TOO_LITTLE * report.kept_bytes:
            return report
        before = report  # there is more room now
    if before is not None:
        return before
    raise LockTimeout("Other gc runs kept coming in between. Nothing was lost; try again later.")


def repack(store: Store, *, dry_run: bool = False) -> RepackReport:
    """``collect`` without any threshold, and without forgetting a log record."""
    report = collect(store, dry_run=dry_run, expire=timedelta.max, trust_clock=True, thorough=True)
    return RepackReport(report.rebased, report.rebased_bytes, gc=report)


def _together(first: GcReport, then: GcReport) -> GcReport:
    """Of two sweeps, one after the other."""
    return replace(
        then,
        freed_bytes=first.freed_bytes + then.freed_bytes,
        freed_packs=first.freed_packs + then.freed_packs,
        repacked_packs=first.repacked_packs + then.repacked_packs,
        rebased=first.rebased + then.rebased,
        rebased_bytes=first.rebased_bytes + then.rebased_bytes,
        expired_records=first.expired_records or then.expired_records,
        quarantined=tuple(sorted({*first.quarantined, *then.quarantined})),
    )


class _Collector:
    """One sweep. ``short_of_room``: the disk was too full for all that was to be copied."""

    def __init__(
        self, store: Store, dry_run: bool, expire: timedelta | None, trust_clock: bool, thorough: bool, plan: Plan
    ) -> None:
        self.store = store
        self.dry_run = dry_run
        self.expire = expire
        self.trust_clock = trust_clock
        self.thorough = thorough
        self.plan = plan
        self.copied: dict[bytes, str] = {}
        self.rebased = self.rebased_bytes = 0
        self.short_of_room = False
        self.fresh_packs: set[str] = set()
        self.bad_records: set[tuple[str, bytes]] = set()

    def run(self) -> GcReport:
        store = self.store
        with store.shared():
            generation = store.generation
            logs = read_logs(store)
            store.refresh()  # commits go on: the packs of what the logs name by now
            if not self.trust_clock:
                check_clock(logs, store.config)
            marks = self._mark(logs)
            marks.spare_copies()
            if self.dry_run:
                return self._report(marks, logs, self._dead(marks))
            marks = self._rebase_if_worth_it(marks, logs)
            repacked = self._repack_if_there_is_room(marks)
        self.plan.between()
        with store.exclusive(self.plan.timeout_s):
            store.refresh()
            if store.generation != generation:
                raise _Restart
            logs = read_logs(store)
            marks.prunes = store.refs.prunes()
            marks.between = lambda: None
            marks.walk(self._values(logs))
            dead = without_support(marks, self._dead(marks))
            report = self._report(marks, logs, dead, repacked)
            self._empty("tmp")  # no commit is under way: it is all left-overs, but for what a writer process holds
            self._expire(logs)
            self._bury(marks, dead)
            self._sweep(generation, dead)
        self._empty("trash")
        return report

    @property
    def _bad_packs(self) -> set[str]:
        return {name for name, _ in self.bad_records}

    # Marking

    def _kept(self, logs: Logs) -> Logs:
        return kept(logs, self.store.config, self.expire)

    def _values(self, logs: Logs) -> list[str]:
        """Every snapshot that an unexpired record names."""
        values = {record.new for records in self._kept(logs).values() for record in records}
        return [value for value in values if value != NOTHING and not value.startswith(SYMBOLIC)]

    def _prunes(self) -> dict[str, frozenset[str]]:
        prunes = self.store.refs.prunes()
        if self.dry_run:
            for id, gone in self.plan.prunes.items():
                prunes[id] = prunes.get(id, frozenset()) | gone
        return prunes

    def _mark(self, logs: Logs) -> Marks:
        marks = Marks(self.store, self._prunes(), self.copied, self.plan.known)
        marks.between = self.plan.between
        tips = {records[-1].new for records in logs.values() if records}
        marks.walk(tip for tip in tips if tip != NOTHING and not tip.startswith(SYMBOLIC))
        self.held_by_refs, self.refs_bytes = marks.snapshots, marks.live_bytes
        marks.walk(self._values(logs))
        # Now: the walk after a repack meets the copies, and would count what they hold twice.
        self.snapshots, self.live_bytes, self.pruned = marks.snapshots, marks.live_bytes, marks.pruned
        self.resting_bytes = marks.resting_bytes
        return marks

    def _dead(self, marks: Marks) -> set[str]:
        """Packs of which every live record, judged by the pack's own footer, has a verified copy elsewhere."""
        dead = set()
        for name in self.store.present - self.fresh_packs:
            try:
                pack = self.store.pack(name)
                live = marks.live_rows(pack)
            except DamagedData:
                continue  # salvage is a person's decision
            if all(row.header.id in self.copied or (name, row.header.id) in self.bad_records for row in live):
                dead.add(name)
        return dead

    # Re-basing and repacking

    def _rebase_if_worth_it(self, marks: Marks, logs: Logs) -> Marks:
        """Where much is kept only as a base: encode anew what rests on it, and mark again, the new copies first."""
        if not marks.resting_bytes or not (self.thorough or marks.resting_bytes > self.plan.spare * marks.needed_bytes):
            return marks
        session = self.store.new_packs()
        try:
            rebasing = Rebasing(marks, session)
            rebasing.rebase()
            published = session.publish()
        except StorageFull:
            session.abandon()
            self.short_of_room = True
            return marks
        except BaseException:
            session.abandon()
            raise
        self.bad_records |= rebasing.decoder.damaged
        if not published:
            return marks
        self.rebased, self.rebased_bytes = rebasing.chunks, rebasing.stored_bytes
        self._took(published)
        marks = self._mark(logs)
        marks.spare_copies(trusted=self.fresh_packs)
        return marks

    def _took(self, published: dict[str, list[FooterRow]]) -> None:
        self.fresh_packs |= published.keys()
        self.copied.update((row.header.id, name) for name, rows in published.items() for row in rows)
        self.store.index_commit(published, {})

    def _repack_if_there_is_room(self, marks: Marks) -> set[str]:
        """Copy what is live in sparse and in many small packs, verified, into new packs, durable on return.

        A full disk is when gc is needed most. Each pack holds a small object that stays, so without any copy hardly one
        is free to go: of those that may go then, the ones of which least lives are copied, as many as there is room
        for. The sweep makes more room.
        """
        names = candidates(marks, thorough=self.thorough, without=self.fresh_packs, spare=self.plan.spare)
        names += sorted((self._bad_packs & self.store.present) - set(names))
        while names:
            try:
                return self._repack(marks, names)
            except StorageFull:
                self.bad_records.clear()
                self.short_of_room = True
                names = self._cheapest_half(marks, names)
        return set()

    def _cheapest_half(self, marks: Marks, names: list[str]) -> list[str]:
        """Of which least lives, and which nothing in the packs that stay leans on."""
        live = {name: sum(row.header.stored_length for row in marks.live(self.store.pack(name))) for name in names}
        half = sorted(names, key=lambda name: (live[name], name))[: len(names) // 2]
        may_go = without_support(marks, {*half, *self._dead(marks)})
        return [name for name in half if name in may_go]

    def _repack(self, marks: Marks, names: list[str]) -> set[str]:
        session = self.store.new_packs()
        decoder = Decoder(marks.copies)
        try:
            published = copy_live(marks, names, session, decoder)
        except BaseException:
            session.abandon()
            raise
        self.bad_records |= {(name, id) for name, id in decoder.damaged if name in names}
        self._took(published)
        return set(names)

    # Sweeping, under the exclusive lock

    def _expire(self, logs: Logs) -> None:
        for name, left in self._kept(logs).items():
            if len(left) < len(logs[name]):
                log = self.store.refs.log(name)
                if left:
                    log.rewrite(left)
                    continue
                self.store.forget_log(name)
                log.remove()

    def _bury(self, marks: Marks, dead: set[str]) -> None:
        """Nobody may name a dead snapshot whose record stays, in a pack that lives on, while what it needs goes."""
        refs = self.store.refs
        known = set(refs.buried())
        found: list[str] = []
        for name in self.store.present:
            known.update(id.hex() for id in self._snapshots(marks, name, live=True))
        for name in self.store.present - dead - self.fresh_packs:
            for id in self._snapshots(marks, name):
                if id.hex() not in known:
                    found.append(id.hex())
                    known.add(id.hex())
        try:
            refs.add_prunes([(each, COLLECT) for each in found])
        except StorageFull:  # one sector after the other may find room
            for each in found:
                refs.set(PRUNES, each, COLLECT)

    def _snapshots(self, marks: Marks, name: str, *, live: bool = False) -> list[bytes]:
        """Ids of the snapshots in a pack; with ``live`` the marked ones; other packs may hold copies of those."""
        try:
            pack = self.store.pack(name)
            rows = marks.live_rows(pack) if live else pack.rows
        except DamagedData:
            return []
        return [row.header.id for row in rows if row.header.kind is Kind.SNAPSHOT]

    def _sweep(self, generation: int, dead: set[str]) -> None:
        store = self.store
        self._bump(generation + 1)
        dropped = [
            row[0] for name in dead for row in index_rows(store.pack(name).rows) if self._indexed_in(row[0], name)
        ]
        with contextlib.suppress(CiuicError, OSError, lmdb.Error):
            # Anew: a dead pack may have held a damaged copy less deep than the intact one.
            fresh = {name: index_rows(store.pack(name).rows) for name in self.fresh_packs}
            store.index.update(generation, fresh, {}, dropped, dead, next_generation=generation + 1)
        for name in sorted(dead):
            aside = f"quarantine/{name}-{generation}" if name in self._bad_packs else f"trash/{name}"
            store.fs.rename(store.join("packs", f"{name}.pack"), store.join(f"{aside}.pack"))
        for folder in ("packs", "trash", "quarantine"):
            store.fs.sync_folder(store.join(folder))

    def _bump(self, generation: int) -> None:
        """Durable on return. Where there is no room for another file, in place: one sector is written whole or not."""
        fs, path, temporary = self.store.fs, self.store.join("generation"), self.store.join("tmp", "generation")
        data = f"{generation}\n".encode()
        try:
            fs.write_file(path, data, temporary)
        except StorageFull:
            fs.remove_if_there(temporary)
            descriptor = fs.open(path, write=True)
            try:
                fs.write_at(descriptor, data, 0, path)
                fs.sync(descriptor, path)
            finally:
                fs.close(descriptor)

    def _indexed_in(self, id: bytes, pack: str) -> bool:
        place = self.store.index.place(id)
        return place is not None and place.pack == pack

    def _empty(self, folder: str) -> None:
        for name in self.store.fs.list_folder(self.store.join(folder)):
            path = self.store.join(folder, name)
            with contextlib.suppress(CiuicError, OSError):
                if not (name.startswith("run-") and is_held(self.store.fs, path)):
                    self.store.fs.unlink(path)

    # Reporting

    def _report(self, marks: Marks, logs: Logs, dead: set[str], repacked: Set[str] = frozenset()) -> GcReport:
        store = self.store
        kept = self._kept(logs)
        sizes = {name: os.stat(store.join("packs", f"{name}.pack")).st_size for name in store.present}
        added = sum(sizes[name] for name in self.fresh_packs & store.present)
        freed = sum(sizes[name] for name in dead) - added
        if self.dry_run:
            freed += self._repack_forecast(marks, dead)
        return GcReport(
            dry_run=self.dry_run,
            freed_bytes=freed,
            freed_packs=len(dead - repacked),
            repacked_packs=len(dead & repacked),
            kept_bytes=sum(sizes.values()) - added - freed,
            snapshots=self.snapshots,
            held_by_refs=self.held_by_refs,
            held_by_reflog=self.snapshots - self.held_by_refs,
            reflog_bytes=self.live_bytes - self.refs_bytes,
            pruned=self.pruned,
            resting_bytes=self.resting_bytes,
            rebased=self.rebased,
            rebased_bytes=self.rebased_bytes,
            expired_records={
                name: len(records) - len(kept[name]) for name, records in logs.items() if len(kept[name]) < len(records)
            },
            quarantined=tuple(sorted(self._bad_packs & dead)),
        )

    def _repack_forecast(self, marks: Marks, dead: set[str]) -> int:
        """Bytes that copying the live part of sparse packs would give back."""
        return sum(
            sum(row.header.stored_length for row in pack.rows)
            - sum(row.header.stored_length for row in marks.live_rows(pack))
            for pack in map(self.store.pack, candidates(marks, thorough=self.thorough, spare=self.plan.spare))
            if pack.name not in dead
        )
