"""One process's hold on a repository, and what it does with it. No torch, so that a process of its own starts fast."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from faulty import Faulty
from training import State, contents

from ciuic.commit.earlier import Memory
from ciuic.commit.pipeline import Details, commit_snapshot
from ciuic.errors import Pruned
from ciuic.history import branches
from ciuic.history.following import Following, Position
from ciuic.objects.snapshot import Snapshot
from ciuic.restore.stored_snapshot import StoredSnapshot
from ciuic.store.flattening import flatten
from ciuic.store.fs import FileSystem
from ciuic.store.fsck import FsckReport, check
from ciuic.store.gc import GcReport, collect, repack
from ciuic.store.object_reader import read_snapshot
from ciuic.store.refs import HEADS
from ciuic.store.store import Store

CHUNK = 4096


class Handle:
    """A store, the branch that is followed, and what the last commit remembers. Its file system fails on demand."""

    def __init__(self, path: str, fs: FileSystem | None = None) -> None:
        self.fs = Faulty()
        self.store = Store(path, self.fs if fs is None else fs)
        self.following = Following(self.store)
        self.memory = Memory(bytes_stay=True)

    @staticmethod
    def create(path: str) -> Handle:
        Store.create(path, chunk_size=CHUNK)
        return Handle(path)

    def arm_to_die(self, at: int, how: str) -> None:
        """The process ends "before", in the middle of ("half") or "after" the ``at``-th file effect from now."""
        self.fs.at, self.fs.die, self.fs.short = self.fs.count + at, how, False

    def arm_to_fail(self, at: int, number: int, short: bool) -> None:
        """The ``at``-th file effect from now fails, once; ``short``: when it has written half."""
        self.fs.at, self.fs.die = self.fs.count + at, ""
        self.fs.number, self.fs.short = number, short

    def disarm(self) -> None:
        self.fs.at = -1

    # Saving and reading

    def commit(self, state: State) -> tuple[str, Position, Position]:
        """To the branch that is followed: the snapshot's id, where this was before, and where it is now."""
        with self.store.shared():
            parent = self.following.next_parent()
            before = self.following.position
            details = Details(step=state.step, parents=() if parent is None else (parent,))
            snapshot = self._commit(state, details, lambda each: self.following.advance(each, "commit"))
            return snapshot.id, before, self.following.position

    def commit_to(self, branch: str, state: State) -> str:
        """To any branch, on top of what it points to."""
        full = HEADS + branch
        with self.store.shared():
            parent = self.store.refs.value(full)
            details = Details(step=state.step, parents=() if parent is None else (parent,))
            move = lambda each: {full: self.store.refs.set(full, each.id, "commit", expected=parent or "-")}  # noqa: E731
            return self._commit(state, details, move).id

    def _commit(self, state: State, details: Details, move: Any) -> Snapshot:
        return commit_snapshot(self.store, state.components(), details, move, self.memory)

    def load(self, snapshot: str) -> dict[str, object]:
        """Every leaf that was not pruned."""
        with self.store.shared():
            stored = StoredSnapshot(self.store, read_snapshot(self.store, bytes.fromhex(snapshot)))
            found: dict[str, object] = {}
            for component, node in stored.components().items():
                found |= contents(component, node)
            return found

    def is_pruned(self, snapshot: str) -> bool:
        try:
            self.load(snapshot)
        except Pruned:
            return True
        return False

    def parents(self, snapshot: str) -> tuple[str, ...]:
        with self.store.shared():
            return read_snapshot(self.store, bytes.fromhex(snapshot)).parents

    def logs(self) -> dict[str, list[str]]:
        """Every log that holds anything: full name → the values of its records."""
        with self.store.shared():
            refs = self.store.refs
            logs = {name: [record.new for record in refs.log(name).read()] for name in refs.names()}
            return {name: values for name, values in logs.items() if values}

    def prunes(self) -> dict[str, frozenset[str]]:
        with self.store.shared():
            return self.store.refs.prunes()

    # Refs

    def create_ref(self, prefix: str, name: str, snapshot: str) -> None:
        with self.store.shared():
            branches.create(self.store, prefix, name, snapshot, snapshot[:12])

    def delete(self, prefix: str, name: str) -> None:
        with self.store.shared():
            branches.delete(self.store, prefix, name)

    def reset(self, branch: str, snapshot: str) -> None:
        with self.store.shared():
            branches.reset(self.store, branch, snapshot, snapshot[:12], dry_run=False)
            self.following.reset(branch, snapshot)

    def switch(self, branch: str | None, snapshot: str) -> None:
        with self.store.shared():
            origin = self.store.refs.head().branch
            branches.move_head(self.store, branch, snapshot, branch or snapshot[:12])
            self.following.head_moved(origin)

    def restored(self, snapshot: str, branch: str | None) -> None:
        with self.store.shared():
            self.following.restored(read_snapshot(self.store, bytes.fromhex(snapshot)), branch)

    # Upkeep

    def prune(self, snapshot: str, component: str | None) -> None:
        with self.store.shared():
            self.store.refs.prune(snapshot, component)

    def gc(self, expire: bool, dry_run: bool = False) -> GcReport:
        return collect(self.store, expire=timedelta(0) if expire else None, dry_run=dry_run)

    def repack(self) -> GcReport:
        report = repack(self.store).gc
        assert report is not None
        return report

    def flatten(self, snapshot: str) -> None:
        flatten(self.store, snapshot)

    def vouch(self) -> None:
        """For the index as it is, as only a stranger does."""
        with contextlib.suppress(OSError):
            index = self.store._lmdb_index
            stamp = index._stamp(os.stat(index.data_path), self.store.read_generation())
            Path(index.stamp_path).write_bytes(stamp)

    def fsck(self, read_data: bool = True) -> FsckReport:
        return check(self.store, read_data=read_data)
