"""One order after the other, from the slot to a durable snapshot."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from dataclasses import replace
from typing import Any

from ciuic.commit.pipeline import commit_snapshot
from ciuic.errors import CiuicError, LockTimeout, StorageError
from ciuic.history.following import Attempt, Following
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.store.fs import FileSystem
from ciuic.store.object_reader import read_snapshot
from ciuic.store.store import Store
from ciuic.writer.channel import Message
from ciuic.writer.counting import CountingFileSystem
from ciuic.writer.link import Link
from ciuic.writer.memory_file import contents
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


class _Order:
    """``mine``: the snapshots that this order has made and tried to publish."""

    def __init__(self, message: Message, descriptor: int) -> None:
        self.number: int = message["job"]
        self.key: int = message["key"]
        self.size: int = message["size"]
        self.position = position_of(message["position"])
        self.attempt = attempt_of(message["attempt"])
        self.mine: set[str] = {self.attempt.snapshot} if self.attempt is not None and message["own"] else set()
        self.placed = False
        self.descriptor = descriptor


class Storing:
    """The writer's view of one repository. A failed order leaves it ready for the next."""

    def __init__(self, link: Link, repository: str, leftovers: list[str], fs: FileSystem | None = None) -> None:
        """``leftovers``: names in ``tmp/`` that belonged to a writer that died."""
        self._link = link
        self._repository = repository
        self._fs = fs or CountingFileSystem(link.advance, self._temporary)
        self._slots = Slots()
        self._following: Following | None = None
        self._order: _Order | None = None
        for name in leftovers:
            with contextlib.suppress(StorageError, OSError):
                self._fs.remove_if_there(os.path.join(repository, "tmp", os.path.basename(name)))

    def store(self, message: Message, descriptors: list[int]) -> None:
        """Do what an order says, and answer."""
        self._slots.drop(message["drop"])
        if len(descriptors) > 1:
            self._slots.receive(message["key"], descriptors[1])
        self._order = order = _Order(message, descriptors[0])
        try:
            snapshot, unchanged = self._patiently(order)
        except Exception as error:
            if not isinstance(error, (CiuicError, MemoryError)):
                traceback.print_exc()  # read by the trainer if this process dies
            kind, text = error_fields(error)
            answer: Message = {"failed": kind, "text": text}
        else:
            encoded = encode_snapshot(snapshot)
            answer = {"done": encoded, "id": snapshot.id, "unchanged": unchanged}
        finally:
            os.close(order.descriptor)
            self._order = None
        position = None if self._following is None else self._following.position
        self._link.post({"job": order.number, "position": position_fields(position), **answer})

    def _patiently(self, order: _Order) -> tuple[Snapshot, bool]:
        for pause in PAUSES_S:
            try:
                return self._once(order)
            except Exception as error:
                if not _may_pass(error):
                    raise
                kind, text = error_fields(error)
            self._link.post({"job": order.number, "retrying": pause, "kind": kind, "text": text})
            time.sleep(pause)
        return self._once(order)

    def _once(self, order: _Order) -> tuple[Snapshot, bool]:
        """The snapshot, durable and on a branch, and whether nothing has changed since its parent."""
        following = self._opened(order)
        store = following.store
        view = self._slots.view(order.key, order.size)
        details, action, components = decode_order(contents(order.descriptor), view, self._link.advance)
        with following.moving, store.shared():
            landed = following.settle()
            if landed is not None and landed in order.mine:
                snapshot = read_snapshot(store, bytes.fromhex(landed))
            else:
                parent = following.next_parent()
                snapshot = commit_snapshot(
                    store,
                    components,
                    replace(details, parents=() if parent is None else (parent,)),
                    lambda each: following.advance(each, action),
                )
            return snapshot, _unchanged(store, snapshot)

    def _opened(self, order: _Order) -> Following:
        """The repository, where this order is to go."""
        if self._following is None:
            self._following = Following(Store(self._repository, self._fs))
            self._following.before_moving = self._trying
        if not order.placed:
            if order.position is not None:
                self._following.position, self._following.attempt = order.position, None
            if order.attempt is not None:
                self._following.attempt = order.attempt
            order.placed = True
        return self._following

    def _trying(self, attempt: Attempt) -> None:
        """The trainer knows before the branch moves, so that another writer can tell whether it did."""
        assert self._order is not None
        self._order.mine.add(attempt.snapshot)
        self._link.tell({"job": self._order.number, "trying": attempt_fields(attempt)})

    def _temporary(self, name: str) -> None:
        if self._order is not None:
            self._link.tell({"job": self._order.number, "temporary": name})


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: space is freed, a lock is given up, memory is had."""
    exhausted: tuple[Any, ...] = (StorageError, LockTimeout, MemoryError)
    return isinstance(error, exhausted) or (isinstance(error, RuntimeError) and "start new thread" in str(error))


def _unchanged(store: Store, snapshot: Snapshot) -> bool:
    with contextlib.suppress(CiuicError):
        for parent in snapshot.parents[:1]:
            return read_snapshot(store, bytes.fromhex(parent)).tree == snapshot.tree
    return False
