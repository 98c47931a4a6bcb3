"""One order after the other, from the slot to a durable snapshot."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from dataclasses import replace
from typing import Any

from ciuic.commit.earlier import Memory
from ciuic.commit.pipeline import commit_snapshot
from ciuic.errors import CiuicError, LockTimeout, StorageError, StorageFull
from ciuic.history.following import Attempt, Following, Position
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.store.fs import FileSystem
from ciuic.store.object_reader import read_snapshot
from ciuic.store.reflog import LogRecord
from ciuic.store.refs import HEADS
from ciuic.store.store import Store
from ciuic.writer.channel import Message
from ciuic.writer.counting import CountingFileSystem
from ciuic.writer.link import Link
from ciuic.writer.memory_file import contents
from ciuic.writer.retiring import Retiring
from ciuic.writer.slots import Slots
from ciuic.writer.wire import (
    attempt_fields,
    attempt_of,
    decode_order,
    error_fields,
    position_fields,
    position_of,
)

PAUSES_S = (0.5, 1.0, 2.0)
"""How long to wait before trying again what storage or memory refused."""
NO_DESCRIPTOR = "The writer process has no file descriptor left. Allow more open files (`ulimit -n`)."


class _Order:
    """``mine``: the snapshots that this order has made and tried to publish; ``published``: the one that it has."""

    def __init__(self, message: Message, descriptor: int) -> None:
        self.number: int = message["job"]
        self.key: int = message["key"]
        self.size: int = message["size"]
        self.base_key: int = message["base"]
        attempt = attempt_of(message["attempt"])
        self.mine: set[str] = {attempt.snapshot} if attempt is not None and message["own"] else set()
        self.published: list[Snapshot] = []  # one at most
        self.descriptor = descriptor


class Storing:
    """The writer's view of one repository. A failed order leaves it ready for the next."""

    def __init__(
        self,
        link: Link,
        repository: str,
        leftovers: list[str],
        fs: FileSystem | None = None,
        retention: list[str] | None = None,
    ) -> None:
        """``leftovers``: names in ``tmp/`` that belonged to a writer that died. ``retention``: policies, None for those
        of the repository."""
        self._link = link
        self._repository = repository
        self._fs = fs or CountingFileSystem(link.advance, self._temporary)
        self._slots = Slots()
        self._memory = Memory(bytes_stay=True)
        self._memory_key = 0  # of the slot that its bytes lie in
        self._following: Following | None = None
        self._order: _Order | None = None
        self._position: Position | None = None  # where to go on, and from what, as soon as the repository opens
        self._attempt: Attempt | None = None
        self._retiring = Retiring(retention, lambda: not link.orders.empty())
        for name in leftovers:
            with contextlib.suppress(StorageError, OSError):
                self._fs.remove_if_there(os.path.join(repository, "tmp", os.path.basename(name)))

    def store(self, message: Message, descriptors: list[int]) -> None:
        """Do what an order says, and answer."""
        if message["base"] != self._memory_key or not message["base"]:
            self._memory.forget_bytes()
        self._slots.drop(message["drop"])
        self._note(message)
        if len(descriptors) != 1 + message["new"]:  # the kernel drops what finds no room in the table
            for descriptor in descriptors:
                os.close(descriptor)
            self._answer(message["job"], _failed(StorageError(NO_DESCRIPTOR)))
            return
        if message["new"]:
            self._slots.receive(message["key"], descriptors[1])
        self._order = order = _Order(message, descriptors[0])
        try:
            snapshot, unchanged = self._patiently(order)
        except Exception as error:
            if not isinstance(error, (CiuicError, MemoryError)):
                traceback.print_exc()  # read by the trainer if this process dies
            answer = _failed(error)
        else:
            encoded = encode_snapshot(snapshot)
            answer = {"done": encoded, "id": snapshot.id, "unchanged": unchanged}
        finally:
            os.close(order.descriptor)
            self._order = None
        self._answer(order.number, answer)
        if order.published and self._following is not None:
            self._retiring.after(order.published[0], self._following)

    def finish(self) -> None:
        """There are no more orders: collect what is due, if the trainer has a moment to wait."""
        self._retiring.finish()

    def _answer(self, number: int, answer: Message) -> None:
        position = self._position if self._following is None else self._following.position
        self._link.post({"job": number, "position": position_fields(position), **answer})

    def _note(self, message: Message) -> None:
        """Where an order goes holds for those after it too, whatever becomes of it."""
        position, attempt = position_of(message["position"]), attempt_of(message["attempt"])
        if position is not None:
            self._position, self._attempt = position, None
        if attempt is not None:
            self._attempt = attempt

    def _patiently(self, order: _Order) -> tuple[Snapshot, bool]:
        for pause in PAUSES_S:
            try:
                return self._once(order)
            except Exception as error:
                if not _may_pass(error):
                    raise
                kind, text = error_fields(error)
                if isinstance(error, StorageFull):
                    self._make_room(order, full=True)
            self._link.post({"job": order.number, "retrying": pause, "kind": kind, "text": text})
            time.sleep(pause)
        return self._once(order)

    def _once(self, order: _Order) -> tuple[Snapshot, bool]:
        """The snapshot, durable and on a branch, and whether nothing has changed since its parent."""
        following = self._opened()
        self._make_room(order)
        try:
            self._publish(order, following)
        except Exception:
            if not order.published:
                raise
            traceback.print_exc()  # the branch has moved: what came after, the next who opens it makes good
        snapshot = order.published[0]
        return snapshot, _unchanged(following.store, snapshot)

    def _make_room(self, order: _Order, *, full: bool = False) -> None:
        """Before the disk is full: collect, and prune if that is not enough."""
        if self._following is not None:
            self._retiring.make_room(self._following, order.size, full=full)

    def _publish(self, order: _Order, following: Following) -> None:
        store = following.store
        view = self._slots.view(order.key, order.size)
        details, action, components = decode_order(contents(order.descriptor), view, self._link.advance)
        with following.moving, store.shared():
            landed = following.settle()
            if landed is not None and landed in order.mine:
                order.published.append(read_snapshot(store, bytes.fromhex(landed)))
                return
            parent = following.next_parent()

            def move(snapshot: Snapshot) -> dict[str, LogRecord]:
                records = following.advance(snapshot, action)
                order.published.append(snapshot)
                return records

            details = replace(details, parents=() if parent is None else (parent,))
            commit_snapshot(store, components, details, move, self._memory)
            self._memory_key = order.key

    def _opened(self) -> Following:
        """The repository, where the order is to go."""
        if self._following is None:
            self._following = Following(Store(self._repository, self._fs))
            self._following.before_moving = self._trying
        position, attempt, self._position, self._attempt = self._position, self._attempt, None, None
        if position is not None:
            self._following.position, self._following.attempt = position, None
        if attempt is not None:
            self._following.attempt = attempt
            # Who made it is dead, and its sync of the log may have failed: a second one would say nothing.
            self._following.store.refs.doubt(HEADS + attempt.branch)
        return self._following

    def _trying(self, attempt: Attempt) -> None:
        """The trainer knows before the branch moves, so that another writer can tell whether it did."""
        assert self._order is not None
        self._order.mine.add(attempt.snapshot)
        self._link.tell({"job": self._order.number, "trying": attempt_fields(attempt)})

    def _temporary(self, name: str) -> None:
        if self._order is not None:
            self._link.tell({"job": self._order.number, "temporary": name})


def _failed(error: Exception) -> Message:
    kind, text = error_fields(error)
    return {"failed": kind, "text": text}


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: space is freed, a lock is given up, memory is had."""
    exhausted: tuple[Any, ...] = (StorageError, LockTimeout, MemoryError)
    return isinstance(error, exhausted) or (isinstance(error, RuntimeError) and "start new thread" in str(error))


def _unchanged(store: Store, snapshot: Snapshot) -> bool:
    with contextlib.suppress(Exception):  # the snapshot is published, whatever this says
        for parent in snapshot.parents[:1]:
            return read_snapshot(store, bytes.fromhex(parent)).tree == snapshot.tree
    return False
