"""What to go back to when a snapshot is damaged: the newest one that is whole, every byte of it read."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ciuic.errors import CiuicError, DamageError, Pruned, ReadOnlyStorage, StorageError, StorageFull
from ciuic.history.revisions import resolve, resolve_whole
from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Tensor, walk
from ciuic.store.lineage import logged, readable_line
from ciuic.store.object_reader import read_snapshot
from ciuic.store.prunes import NEEDED_TO_RESUME
from ciuic.store.refs import HEAD, HEADS
from ciuic.store.store import Store

MOST_READ = 20
"""Snapshots that are read for an error's message."""

Failure = TypeVar("Failure", bound=CiuicError)

logger = logging.getLogger("ciuic")


class Search:
    """Looks for a whole snapshot among several. ``damaged``: those that are not, and why."""

    def __init__(self, store: Store, lost: Iterable[bytes | None] = ()) -> None:
        """``lost``: chunks of which it is known: who needs one is not read."""
        self.store = store
        self.damaged: list[tuple[Snapshot, CiuicError]] = []
        self._lost = {chunk for chunk in lost if chunk is not None}

    def first(self, snapshots: Iterable[Snapshot]) -> Snapshot | None:
        """The first whole one; pruned ones are passed over. Under the shared lock."""
        for snapshot in snapshots:
            try:
                self._read(snapshot)
            except Pruned:
                continue
            except (DamageError, StorageError) as error:
                self.damaged.append((snapshot, error))
                if isinstance(error, DamageError) and error.chunk is not None:
                    self._lost.add(error.chunk)
            else:
                return snapshot
        return None

    def _read(self, snapshot: Snapshot) -> None:
        from ciuic.restore.stored_snapshot import StoredSnapshot

        stored = StoredSnapshot(self.store, snapshot)
        for tree in stored.components().values() if self._lost else ():
            for _, leaf in walk(tree):
                chunks = getattr(leaf.source, "chunks", ()) if isinstance(leaf, Tensor) else ()
                known = next((chunk for chunk in chunks if chunk in self._lost), None)
                if known is not None:
                    raise DamageError(f"it needs chunk {known.hex()[:12]}, too, which is lost")
        stored.verify()


def line_of(store: Store, tip: str, branch: str | None, lost: list[str] | None = None) -> Iterator[Snapshot]:
    """A snapshot and its ancestors, newest first, and where one cannot be read what the branch's log knows beyond."""
    return readable_line(store, [tip], lambda: logged(store, HEADS + branch) if branch else [], lost)


def newest_intact(store: Store, revision: str) -> Snapshot | None:
    """The newest snapshot of a line that has all that a resume needs, all of it read; ``Repo.newest_intact`` says more.

    Under the shared lock.
    """
    head = store.refs.head()
    branch = head.branch if revision == HEAD else revision
    tip = head.snapshot if revision == HEAD else store.refs.value(HEADS + revision)
    if tip is None and revision != HEAD:
        tip, branch = resolve_whole(store, revision).snapshot.id, None
    if tip is None:
        return None
    prunes, search, lost = store.refs.prunes(), Search(store), list[str]()
    line = line_of(store, tip, branch, lost)
    intact = search.first(each for each in line if not prunes.get(each.id, frozenset()) & NEEDED_TO_RESUME)
    for id in lost:
        logger.warning("Snapshot %s cannot be read, and is passed over.", short(id))
    for snapshot, error in search.damaged:
        logger.warning("Snapshot %s is damaged, and passed over: %s", snapshot.named, error)
    if intact is None and search.damaged:
        raise search.damaged[0][1]
    if intact is None and lost:
        read_snapshot(store, bytes.fromhex(lost[0]))  # it says what is wrong
    if intact is not None and (lost or search.damaged):
        logger.warning("The newest intact snapshot is %s; damaged ones stay in the log.", intact.named)
    return intact


def offering(store: Store, error: Failure, revision: str | Snapshot) -> Failure:
    """The error of a restore, with the newest intact snapshot of the same branch; itself where that is no help."""
    if isinstance(error, (StorageFull, ReadOnlyStorage)):
        return error
    try:
        start, branch = _start(store, revision)
        search = Search(store, [getattr(error, "chunk", None)])
        before = (each for each in line_of(store, start, branch) if each.id != start)
        intact = search.first(itertools.islice(before, MOST_READ))
    except CiuicError:
        return error
    if intact is None:
        return error
    on = f" of {branch}" if branch else " before it"
    offered = type(error)(
        f"{error}\nThe newest intact snapshot{on} is {intact.named}: restore that one. "
        f"`ciuic checkout {short(intact.id)}` has the next run resume there; `ciuic repair` says what else is lost."
    )
    if isinstance(offered, DamageError):
        offered.intact = intact.id
    return offered


def _start(store: Store, revision: str | Snapshot) -> tuple[str, str | None]:
    """The id that a revision names, though the snapshot may not be readable, and its branch if that is known."""
    if isinstance(revision, Snapshot):
        return revision.id, _branch_at(store, revision.id)
    name = revision.strip()
    if name in (HEAD, "@"):
        head = store.refs.head()
        if head.snapshot is not None:
            return head.snapshot, head.branch
    tip = store.refs.value(HEADS + name)
    if tip is not None:
        return tip, name
    snapshot = resolve(store, revision).snapshot
    return snapshot.id, _branch_at(store, snapshot.id)


def _branch_at(store: Store, snapshot: str) -> str | None:
    """HEAD's branch, or another one, when the snapshot is its tip."""
    tips = store.refs.listing(HEADS)
    head = store.refs.head().branch
    return next((name for name in ([head] if head in tips else []) + list(tips) if tips[name] == snapshot), None)
