"""repair: save what can be saved of a damaged repository, set aside what is damaged, and say exactly what is lost.

Nothing is deleted. Damaged packs and logs go to ``quarantine/`` as they are, after what is intact in them is durable
elsewhere. Killed anywhere, it is run again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

import lmdb

from ciuic.errors import CiuicError, LockTimeout
from ciuic.objects.ids import Kind, short
from ciuic.objects.snapshot import Snapshot
from ciuic.store.fsck import Checker, Progress
from ciuic.store.layout import FOLDERS
from ciuic.store.lineage import logged, readable_line
from ciuic.store.losses import Loss
from ciuic.store.object_reader import read_snapshot
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import HEAD, HEADS, NOTES, PRUNES, TAGS, WHOLE, is_stray
from ciuic.store.salvage import SalvagedLog, SalvageStore
from ciuic.store.store import Store, log_mark

EXCLUSIVE_TIMEOUT_S = 30.0
ATTEMPTS = 5
LOG_FOLDERS = ("refs", HEADS.rstrip("/"), TAGS.rstrip("/"))


@dataclass(frozen=True)
class PackRepair:
    """A damaged pack: ``saved`` intact records; ``lost``: damaged ones, None where not even their number is known."""

    name: str
    problem: str
    saved: int
    lost: int | None


@dataclass(frozen=True)
class LogRepair:
    """A damaged log. ``kept`` and ``lost`` records, ``corrected`` ones in which one bit was wrong. ``end_lost``: its
    newest record is lost, and it goes back to ``value`` (hex id or HEAD's branch; None: nothing)."""

    name: str
    kept: int
    lost: int
    corrected: int
    end_lost: bool
    value: str | None


@dataclass(frozen=True)
class LostSnapshot:
    """A snapshot that cannot be restored whole. ``losses`` is None when not even the snapshot itself can be read."""

    id: str
    step: int | None
    losses: tuple[Loss, ...] | None


@dataclass(frozen=True)
class BranchState:
    """Where a branch points, and the newest snapshot on it that is whole and not pruned; None for none."""

    name: str
    tip: str
    intact: str | None
    step: int | None


@dataclass(frozen=True)
class Found:
    """A snapshot that no log names any more: its new ``branch`` when it is whole, its ``losses`` when it is not."""

    id: str
    step: int | None
    branch: str | None
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What was wrong and is mended, or with ``dry_run`` would be. ``aside``: files that are no logs, moved away;
    ``made``: folders that were missing. ``unreadable``: packs that cannot be opened, and why; they stay."""

    dry_run: bool
    packs: tuple[PackRepair, ...]
    logs: tuple[LogRepair, ...]
    aside: tuple[str, ...]
    made: tuple[str, ...]
    unreadable: dict[str, str]
    lost: tuple[LostSnapshot, ...]
    branches: tuple[BranchState, ...]
    found: tuple[Found, ...]

    @property
    def needed(self) -> bool:
        """Whether there is anything to mend."""
        branches = any(found.branch for found in self.found)
        return bool(self.packs or self.logs or self.aside or self.made or branches)

    @property
    def whole(self) -> bool:
        """Whether every snapshot is, once this is done."""
        return not self.lost and not self.unreadable


class _Restart(Exception):
    """A sweep came in between: what was found out is void."""


def repair(store: Store, *, dry_run: bool = False, progress: Progress | None = None) -> RepairReport:
    """Mend what can be mended; everything is durable on return. ``dry_run`` only says what it would do.

    1. shared lock: read every byte; copy the intact records of damaged packs into new ones, as they are stored;
    2. exclusive lock: branches for what only lost log records named; bump the generation; move the damaged packs to
       ``quarantine/``; write damaged logs anew, the old files beside those packs; drop the index, which is built anew.

    A record goes into a new pack only with its own checksums verified, and its id too where it rests on no other.
    Raises StorageFull, with nothing moved, when there is no room for the copies; LockTimeout.
    """
    if not dry_run:
        store.check_writable()
    _make_parts(store)
    for _ in range(ATTEMPTS):
        try:
            return _Repair(store, progress).run(dry_run)
        except _Restart:
            continue
    raise LockTimeout("gc runs kept coming in between. Nothing was lost; try again later.")


def _make_parts(store: Store) -> None:
    """What may be missing without any loss: locks and empty folders."""
    for folder in FOLDERS:
        if folder not in LOG_FOLDERS and not os.path.isdir(store.join(folder)):
            store.fs.make_folder(store.join(folder))
    for name in ("lock", "gate"):
        if not os.path.exists(store.join(name)):
            with contextlib.suppress(FileExistsError):
                store.fs.close(store.fs.create(store.join(name)))


class _Repair:
    def __init__(self, store: Store, progress: Progress | None) -> None:
        self.store = store
        self.fs = store.fs
        with store.shared():
            self.marks = store.index.log_marks()
        self.view = SalvageStore(store.path, store.fs)
        self.checker = Checker(self.view, progress)

    def run(self, dry_run: bool) -> RepairReport:
        with self.view.shared():
            self.checker.run(read_data=True, remembering=False)
            report = self._report(dry_run)
            if dry_run:
                return report
            if not report.needed:
                self._drop_index()
                return report
            identities = {pack.name: self._identity(pack.name) for pack in report.packs}
            self._copy([pack.name for pack in report.packs])
            generation = self.view.generation
        with self.store.exclusive(EXCLUSIVE_TIMEOUT_S):
            if self.store.read_generation() != generation:
                raise _Restart
            self._mend_refs_folders(report)
            for found in report.found:
                if found.branch is not None and self.store.refs.value(HEADS + found.branch) is None:
                    self.store.refs.set(HEADS + found.branch, found.id, "repair: no log named it")
            following = self._bump(generation)
            self._set_packs_aside(identities, following)
            for log in report.logs:
                self._mend_log(log.name, following)
            self._drop_index()
        return report

    # Finding out

    def _report(self, dry_run: bool) -> RepairReport:
        prunes = self.view.refs.prunes()
        logs = tuple(self._logs())
        lost = [self._lost(id) for id in self.checker.losses]
        return RepairReport(
            dry_run=dry_run,
            packs=tuple(self._packs()),
            logs=logs,
            aside=tuple(self._strays()),
            made=tuple(folder for folder in LOG_FOLDERS if not os.path.isdir(self.store.join(folder))),
            unreadable=self.view.unreadable(),
            lost=tuple(sorted(lost, key=lambda each: (each.step is None, -(each.step or 0), each.id))),
            branches=tuple(self._branches(prunes)),
            found=tuple(self._found(logs, prunes)),
        )

    def _packs(self) -> Iterator[PackRepair]:
        damaged: dict[str, list[bytes]] = {}
        for name, id in sorted(self.checker.chains.damaged):
            damaged.setdefault(name, []).append(id)
        headless = {name for name, ids in self.view.headless.items() if ids}
        for name in sorted({*damaged, *headless, *self.view.broken}):
            pack = self.view.pack(name)
            bad = len(damaged.get(name, ()))
            broken = self.view.broken.get(name)
            problem = broken.problem if broken is not None else f"{pack.path}: damaged records"
            yield PackRepair(name, problem, len(pack.rows) - bad, None if broken is not None else bad)

    def _logs(self) -> Iterator[LogRepair]:
        for name in dict.fromkeys([*self.view.refs.names(), *self.marks, PRUNES, NOTES]):
            mark = self.marks.get(name)
            try:
                log = self.view.refs.log(name).salvaged()
            except FileNotFoundError:
                if mark is None:
                    continue
                log = SalvagedLog((), lost=mark.sequence + 1, end_lost=True)
            last = log.records[-1] if log.records else None
            if mark is not None and last is not None and last.sequence < mark.sequence and not log.end_lost:
                log = replace(log, lost=log.lost + mark.sequence - last.sequence, end_lost=True)
            other = mark is not None and any(
                record.sequence == mark.sequence and log_mark(name, record) != mark for record in log.records
            )
            if log.damaged or log.end_lost or other:
                value = None if last is None or last.new == NOTHING else last.new
                yield LogRepair(name, len(log.records), log.lost, log.corrected, log.end_lost, value)

    def _strays(self) -> Iterator[str]:
        for prefix in (HEADS, TAGS):
            for file in sorted(self.fs.list_folder(self.store.join(prefix.rstrip("/")))):
                if is_stray(file):
                    yield prefix + file

    def _lost(self, id: str) -> LostSnapshot:
        losses = self.checker.losses[id]
        step = None if losses is None else read_snapshot(self.view, bytes.fromhex(id)).step
        return LostSnapshot(id, step, losses)

    def _intact(self, snapshot: Snapshot, prunes: dict[str, frozenset[str]]) -> bool:
        return snapshot.id not in self.checker.losses and WHOLE not in prunes.get(snapshot.id, frozenset())

    def _branches(self, prunes: dict[str, frozenset[str]]) -> Iterator[BranchState]:
        refs = self.view.refs
        tips = refs.listing(HEADS)
        head = refs.value(HEAD)
        if head is not None and not head.startswith(SYMBOLIC):
            tips[HEAD] = head
        for name, tip in tips.items():
            log = name if name == HEAD else HEADS + name
            line = readable_line(self.view, [tip], lambda log=log: logged(self.view, log))  # type: ignore[misc]
            intact = next((each for each in line if self._intact(each, prunes)), None)
            yield BranchState(name, tip, intact.id if intact else None, intact.step if intact else None)

    def _found(self, logs: tuple[LogRepair, ...], prunes: dict[str, frozenset[str]]) -> Iterator[Found]:
        """Snapshots that no log names any more, where a log has lost its end, or a snapshot is lost; the newest."""
        refs = self.view.refs
        named = any(refs.listing(HEADS)) or any(refs.listing(TAGS))
        if named and not any(log.end_lost for log in logs) and None not in self.checker.losses.values():
            return
        buried = refs.buried()
        unreached: list[Snapshot] = []
        for name in sorted(self.view.present):
            for row in self.view.pack(name).rows:
                id = row.header.id
                if row.header.kind is not Kind.SNAPSHOT or (name, id) in self.checker.chains.damaged:
                    continue
                if id.hex() not in self.checker.reached and id.hex() not in buried:
                    unreached.append(read_snapshot(self.view, id))
        covered: set[str] = set()
        for snapshot in sorted(unreached, key=lambda each: (-each.timestamp.timestamp(), each.id)):
            if snapshot.id in covered or WHOLE in prunes.get(snapshot.id, ()):
                continue
            losses = self._losses(snapshot, prunes.get(snapshot.id, frozenset()))
            if losses:
                yield Found(snapshot.id, snapshot.step, None, losses)
                continue
            covered.update(each.id for each in readable_line(self.view, [snapshot.id], list))
            yield Found(snapshot.id, snapshot.step, f"rescued-{short(snapshot.id)}")

    def _losses(self, snapshot: Snapshot, gone: frozenset[str]) -> tuple[Loss, ...]:
        trees = [(name, tree) for name, tree in snapshot.tree.items() if name not in gone]
        return tuple(
            loss for name, tree in trees for loss in self.checker.trees.of_component(name, bytes.fromhex(tree))
        )

    # Mending

    def _identity(self, name: str) -> tuple[int, int]:
        status = os.stat(self.store.join("packs", f"{name}.pack"))
        return status.st_dev, status.st_ino

    def _copy(self, names: list[str]) -> None:
        """The intact records of damaged packs go into new packs, durable on return, unless a sound pack has them.

        Of several copies the shallowest: whatever rests on the chunk can be read with it.
        """
        damaged = self.checker.chains.damaged
        best: dict[bytes, int] = {}
        for name in names:
            for row in self.view.pack(name).rows:
                header = row.header
                if (name, header.id) not in damaged:
                    best[header.id] = min(header.depth, best.get(header.id, header.depth))
        for name in self.view.present.difference(names):
            for row in self.view.pack(name).rows:
                if row.header.depth <= best.get(row.header.id, -1):
                    del best[row.header.id]
        session = self.store.new_packs()
        try:
            for name in names:
                pack = self.view.pack(name)
                for row in pack.rows:
                    header = row.header
                    if (name, header.id) not in damaged and best.get(header.id) == header.depth:
                        session.copy(*pack.stored(row.offset, header.stored_length))
                        del best[header.id]
            session.publish()
        except BaseException:
            session.abandon()
            raise

    def _bump(self, generation: int) -> int:
        """What other processes remember of the repository is void from now on."""
        # A lost number is replaced by one that nobody can have seen.
        following = generation + 1 if generation >= 0 else int.from_bytes(os.urandom(5), "big") + 1
        self.fs.write_file(
            self.store.join("generation"), f"{following}\n".encode(), self.store.join("tmp", "generation")
        )
        return following

    def _set_packs_aside(self, identities: dict[str, tuple[int, int]], generation: int) -> None:
        for name, identity in identities.items():
            path = self.store.join("packs", f"{name}.pack")
            if os.path.exists(path) and self._identity(name) == identity:  # else an intact one has taken its place
                self.fs.rename(path, self._place_aside(f"{name}-{generation}", ".pack"))
        for folder in ("packs", "quarantine"):
            self.fs.sync_folder(self.store.join(folder))

    def _place_aside(self, name: str, ending: str) -> str:
        path = self.store.join("quarantine", name + ending)
        return self.store.join("quarantine", f"{name}-{os.urandom(4).hex()}{ending}") if os.path.lexists(path) else path

    def _mend_refs_folders(self, report: RepairReport) -> None:
        for folder in report.made:
            path = self.store.join(folder)
            self.fs.make_folder_if_missing(path)
            self.fs.sync_folder(os.path.dirname(path))
        for file in report.aside:
            path = self.store.join(file)
            if os.path.lexists(path):
                self.fs.rename(path, self._place_aside(quote(os.path.basename(path), safe=""), ".stray"))
                self.fs.sync_folder(self.store.join("quarantine"))
                self.fs.sync_folder(os.path.dirname(path))

    def _mend_log(self, name: str, generation: int) -> None:
        """Write it anew with what can be saved of it now; the damaged file is kept."""
        log = self.view.refs.log(name)
        try:
            salvaged = log.salvaged()
        except FileNotFoundError:
            return
        if not salvaged.damaged:
            return
        aside = self._place_aside(f"{quote(name, safe='')}-{generation}", ".log")
        if salvaged.records:
            self.fs.link(log.path, aside)
            self.fs.sync_folder(self.store.join("quarantine"))
            log.rewrite(list(salvaged.records))
            return
        self.fs.rename(log.path, aside)
        self.fs.sync_folder(self.store.join("quarantine"))
        self.fs.sync_folder(os.path.dirname(log.path))

    def _drop_index(self) -> None:
        """It is built anew at once, or by the next command where that fails."""
        self.fs.remove_if_there(self.store.join("index", "stamp"))
        with contextlib.suppress(CiuicError, OSError, lmdb.Error):
            self.store.refresh()
