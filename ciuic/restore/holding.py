"""Records looked up, with all that they rest on, and their packs kept open; as many as there are descriptors for."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ciuic.store.chains import Record
from ciuic.store.pack import Pack
from ciuic.store.store import Store

if TYPE_CHECKING:
    from ciuic.restore.stored_chunks import StoredChunks

MOST_HELD_PACKS = 256
MOST_PACKS_A_BATCH = 64
_held_packs: weakref.WeakSet[Pack] = weakref.WeakSet()


class Holder:
    """Looks chunks up, with all that they rest on, and so keeps their packs open.

    Beyond MOST_HELD_PACKS in a process it keeps nothing, and a chunk is looked up anew when it is read, since
    descriptors are few. ``known``: what several sources of one snapshot rest on is looked up once.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[bytes, Record] = {}

    def record(self, id: bytes) -> Record | None:
        """Under the shared lock. None when no more packs may be held; DamagedData, MissingObject as for a read."""
        before = len(self._known)
        record = None
        try:
            record = self.store.record(id, self._known)
        finally:
            found = list(itertools.islice(reversed(self._known.values()), len(self._known) - before))
            packs = [each for each in {each.pack for each in found} if each not in _held_packs]
            if packs and len(_held_packs) + len(packs) > MOST_HELD_PACKS:
                for _ in found:
                    self._known.popitem()
                record = None
            else:
                _held_packs.update(packs)
        return record


def looked_up(
    chunks: Iterable[tuple[StoredChunks, int]],
) -> Iterator[list[tuple[StoredChunks, int, Record]]]:
    """The records of chunks whose packs are not held open, by and by. Under the shared lock."""
    known: dict[bytes, Record] = {}
    batch: list[tuple[StoredChunks, int, Record]] = []
    for source, index in chunks:
        record = source.named(index, functools.partial(source.store.record, known=known))
        source.check_length(index, record.header.raw_length)
        batch.append((source, index, record))
        if len({each.pack for each in known.values()}) > MOST_PACKS_A_BATCH:
            yield batch
            known, batch = {}, []
    if batch:
        yield batch
