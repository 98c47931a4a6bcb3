"""Which branch a process writes to: the one it opened. Nothing it commits is orphaned in silence."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

from ciuic.errors import CiuicError, DamageError, RefConflict
from ciuic.objects.ids import short
from ciuic.objects.snapshot import Snapshot
from ciuic.store.reflog import NOTHING, SYMBOLIC, LogRecord
from ciuic.store.refs import HEAD, HEADS, fits_limit
from ciuic.store.store import Store

SUFFIX_ROOM = 40  # for "-step-123456-2"


@dataclass(frozen=True)
class Position:
    """``branch`` is None when the next commit goes on on a new branch; ``origin`` is the branch it is named after.

    ``parent``: the next commit's parent, hex. ``head``: HEAD's value when it was read, None for an untouched one.
    """

    branch: str | None
    origin: str
    parent: str | None
    head: str | None


@dataclass(frozen=True)
class Attempt:
    """A branch's move to a snapshot that may have come about or not; ``with_head``: HEAD is to go along."""

    branch: str
    snapshot: str
    with_head: bool


_all: weakref.WeakSet[Following] = weakref.WeakSet()


def _unlock_in_child() -> None:
    """The thread that held a lock is not there after a fork."""
    for following in _all:
        following.moving = threading.RLock()


os.register_at_fork(after_in_child=_unlock_in_child)


class Following:
    """The branch that one repository object follows, and how it moves."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.moving = threading.RLock()  # what one object commits and restores, it does in call order
        self._position: Position | None = None
        with contextlib.suppress(CiuicError):  # whoever needs it is told: fsck and the other branches do not
            self._position = self.from_head()
        self.attempt: Attempt | None = None  # the last move, unless its end is known
        self.before_moving: Callable[[Attempt], None] | None = None
        self._generation = store.generation
        _all.add(self)

    @property
    def position(self) -> Position:
        """Where this object is; DamagedRef as long as HEAD or its branch could not be read."""
        if self._position is None:
            self._position = self.from_head()
        return self._position

    @position.setter
    def position(self, position: Position) -> None:
        self._position = position

    def from_head(self) -> Position:
        """HEAD as it is now."""
        head = self.store.refs.head()
        raw = self.store.refs.value(HEAD)
        return Position(head.branch, head.branch or "detached", head.snapshot, raw)

    def restored(self, snapshot: Snapshot, branch: str | None) -> None:
        """Go on from a restored snapshot: on its branch when it is the tip, on a new one otherwise."""
        self.attempt = None
        here = self.from_head()
        candidate = branch or here.branch
        tip = self.store.refs.value(HEADS + candidate) if candidate else None
        self.position = Position(
            candidate if tip == snapshot.id else None,
            candidate or self.position.origin,
            snapshot.id,
            here.head,
        )

    def head_moved(self, origin: str | None = None) -> None:
        """HEAD was moved by this object: follow it."""
        self.attempt = None
        before = self.position
        here = self.from_head()
        named = origin or (before.branch or before.origin)
        self.position = Position(here.branch, here.branch or named, here.parent, here.head)

    def reset(self, branch: str, snapshot_id: str) -> None:
        """A branch was moved by this object: stay on it, or go back on it if this is the snapshot that was restored."""
        here = self.position
        if here.branch == branch or (here.branch is None and here.origin == branch and here.parent == snapshot_id):
            self.position = replace(here, branch=branch, parent=snapshot_id)

    def settle(self) -> str | None:
        """After an interruption between the log's record and this object's knowing of it: under the shared lock.

        When the branch's log holds the attempted snapshot, it is durable on return, this object is on it, and its id
        is returned. None when there was no attempt, or nothing came of it.
        """
        attempt = self.attempt
        if attempt is None or self.store.refs.suspect:  # a log whose sync failed says nothing yet
            return None
        full = HEADS + attempt.branch
        if all(record.new != attempt.snapshot for record in reversed(self.store.refs.records(full))):
            self.attempt = None
            return None
        self._make_durable(full)
        elsewhere = attempt.branch != self.position.branch
        self.position = Position(attempt.branch, attempt.branch, attempt.snapshot, self.position.head)
        if elsewhere:
            _say("A commit was interrupted: this run goes on on the new branch %s", attempt.branch)
        if attempt.with_head:
            self._attach_head(attempt.branch)
        self.attempt = None
        return attempt.snapshot

    def _make_durable(self, full: str) -> None:
        """Whoever wrote the log's last record may have died before its sync."""
        fs, path = self.store.fs, self.store.refs.log(full).path
        descriptor = fs.open(path, write=True)
        try:
            fs.sync(descriptor, path)
        finally:
            fs.close(descriptor)
        fs.sync_folder(os.path.dirname(path))

    def next_parent(self) -> str | None:
        """The parent of the next commit; None, and a word about it, when gc has collected it. Under the shared lock."""
        self.settle()
        parent = self.position.parent
        if parent is None or self._generation == self.store.generation:
            return parent
        if not self.store.known(bytes.fromhex(parent)) or parent in self.store.refs.buried():
            _say(
                "the snapshot %s, which this run comes from, was collected: the next one begins a new history",
                short(parent),
            )
            return None
        self._generation = self.store.generation
        return parent

    def advance(self, snapshot: Snapshot, action: str) -> dict[str, LogRecord]:
        """Move the branch to a new snapshot, durably; the records written, by log."""
        here = self.position
        if here.branch is not None:
            full = HEADS + here.branch
            self._begin(Attempt(here.branch, snapshot.id, False))
            try:
                record = self.store.refs.set(full, snapshot.id, action, expected=here.parent or NOTHING)
            except RefConflict:
                self.attempt = None
                if self.store.refs.value(full) is None:
                    return self._leave(snapshot, action, f"the branch {here.branch} was deleted")
                return self._leave(snapshot, action, f"another process has moved {here.branch}", raced=True)
            self._moved(Position(here.branch, here.branch, snapshot.id, here.head))
            return {full: record}
        return self._leave(snapshot, action, "the snapshot restored is not the end of a branch")

    def _leave(self, snapshot: Snapshot, action: str, reason: str, *, raced: bool = False) -> dict[str, LogRecord]:
        """Go on on a new branch, named after the point that was left, and say so."""
        here = self.position
        name, record = self._new_branch(snapshot, action, raced)
        records = {HEADS + name: record}
        _say("%s: this run goes on on the new branch %s", reason[0].upper() + reason[1:], name)
        # A lost race leaves HEAD with the winner; and whoever moved HEAD since decides where the next run resumes.
        self.position = Position(name, name, snapshot.id, here.head)
        if not raced:
            records |= self._attach_head(name)
        self._moved(self.position)
        return records

    def _attach_head(self, name: str) -> dict[str, LogRecord]:
        """HEAD goes along to a new branch; a failure is said, since the snapshot is durable all the same."""
        here, value = self.position, f"{SYMBOLIC}{HEADS}{name}"
        try:
            if self.store.refs.value(HEAD) == value:  # done, and interrupted then
                self.position = replace(here, head=value)
                return {}
            moved = self.store.refs.set(HEAD, value, f"commit: attached to {name}", expected=here.head or NOTHING)
            self.position = replace(here, head=moved.new)
            return {HEAD: moved}
        except RefConflict:
            _say("HEAD was moved meanwhile and stays; `ciuic checkout %s` resumes this run", name)
        except CiuicError as error:
            _say("HEAD stays where it was (%s); `ciuic checkout %s` resumes this run", str(error), name)
        return {}

    def _begin(self, attempt: Attempt) -> None:
        self.attempt = attempt
        if self.before_moving is not None:
            self.before_moving(attempt)

    def _moved(self, position: Position) -> None:
        self.position = position
        self.attempt = None
        self._generation = self.store.generation

    def _new_branch(self, snapshot: Snapshot, action: str, raced: bool) -> tuple[str, LogRecord]:
        base = re.sub(r"-step-\d+(-\d+)?$", "", self.position.origin)
        if self.position.parent is not None:
            while not fits_limit(base, SUFFIX_ROOM):
                base = base[:-1].rstrip("./")
            parent = self._parent_step()
            fits = parent is not None and 0 <= parent < 10**18
            base += f"-step-{parent}" if fits else f"-{short(self.position.parent)}"
        number = 1
        while True:
            name = base if number == 1 and base != self.position.origin else f"{base}-{number + 1}"
            self._begin(Attempt(name, snapshot.id, not raced))
            try:
                return name, self.store.refs.set(HEADS + name, snapshot.id, action, expected=NOTHING)
            except RefConflict:
                number += 1

    def _parent_step(self) -> int | None:
        from ciuic.store.object_reader import read_snapshot

        try:
            return read_snapshot(self.store, bytes.fromhex(str(self.position.parent))).step
        except DamageError:  # collected meanwhile
            return None


def _say(message: str, *arguments: str) -> None:
    import logging  # 8 ms that `ciuic log` need not spend

    logging.getLogger("ciuic").warning(message, *arguments)
