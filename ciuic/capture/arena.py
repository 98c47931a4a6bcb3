"""The slots: shared memory for staged copies, made ready once and used again and again."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time

from ciuic.capture.memory import available_bytes
from ciuic.capture.shared_memory import Mapping, create

GRAIN = 256 << 10
SMALL_SLOTS_BYTES = 64 << 20
MOST_SMALL_SLOTS = 16
"""Slots of small states are cheap: so many may take so much memory, however few were asked for."""
SPARE_BYTES = 256 << 20
"""What the writer and the trainer may need beside the slots."""
UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20))

logger = logging.getLogger("ciuic")
_keys = itertools.count(1)


class Slot:
    """Room for one staged copy. ``key`` changes whenever the memory behind it does."""

    def __init__(self) -> None:
        self.key = 0
        self.mapping: Mapping | None = None

    @property
    def size(self) -> int:
        return 0 if self.mapping is None else self.mapping.size

    @property
    def descriptor(self) -> int:
        """Of the memory; another process maps it through this."""
        assert self.mapping is not None, "a slot is grown before it is used"
        return self.mapping.descriptor

    def grow(self, nbytes: int) -> None:
        """At least ``nbytes``; OSError when they cannot be had. What was in it is gone if it has to grow."""
        if nbytes <= self.size:
            return
        self.free()
        size = -(-nbytes // GRAIN) * GRAIN
        descriptor = create(size)
        try:
            self.mapping = Mapping(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        self.key = next(_keys)

    def free(self) -> None:
        """Give the memory back, as soon as no view of it is left here and in the writer."""
        mapping, self.mapping = self.mapping, None
        if mapping is not None:
            os.close(mapping.descriptor)


class Arena:
    """At most ``most`` slots (more of small states), fewer where memory is short; a snapshot uses one at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._changed = threading.Condition()
        self._usable: int | None = None

    def take(self, nbytes: int, timeout: float | None) -> Slot | None:
        """A slot of at least ``nbytes``, waiting up to ``timeout`` seconds for one; None when there was none.

        MemoryError when not even one such slot fits into memory.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            usable = self._limit(nbytes)
            while not self._free and len(self._slots) >= usable:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            if self._free:
                slot = max(self._free, key=lambda each: (each.size >= nbytes, each.mapping and each.mapping.ready))
                self._free.remove(slot)
            else:
                slot = Slot()
                self._slots.append(slot)
        try:
            slot.grow(nbytes)
        except OSError as error:
            self.give_back(slot)
            raise MemoryError(f"no shared memory of {size_text(nbytes)}: {error}") from error
        except BaseException:
            self.give_back(slot)
            raise
        return slot

    @property
    def has_free(self) -> bool:
        """Whether ``take`` would not have to wait."""
        with self._changed:
            return bool(self._free) or self._usable is None or len(self._slots) < self._usable

    def give_back(self, slot: Slot) -> None:
        with self._changed:
            self._free.append(slot)
            self._changed.notify()

    def _limit(self, nbytes: int) -> int:
        """How many slots of this size memory has room for; judged again only when the state has grown."""
        largest = max((slot.size for slot in self._slots), default=0)
        if self._usable is not None and nbytes <= largest:
            return self._usable
        most = max(self.most, min(MOST_SMALL_SLOTS, SMALL_SLOTS_BYTES // max(nbytes, GRAIN)))
        free = available_bytes()
        if free is None:
            self._usable = most
            return most
        room = (free - SPARE_BYTES + sum(slot.size for slot in self._slots)) // max(nbytes, 1)
        if room < 1:
            raise MemoryError(
                f"a slot of {size_text(nbytes)} does not fit into the {size_text(free)} of memory that are free"
            )
        if room < self.most and self._usable != room:
            logger.warning(
                "Snapshots in the background use %d slot%s of %s instead of %d: %s of memory are free.",
                room, "" if room == 1 else "s", size_text(nbytes), self.most, size_text(free),
            )  # fmt: skip
        self._usable = min(most, room)
        return self._usable

    def prepare(self, nbytes: int) -> None:
        """All slots that memory has room for, of at least ``nbytes`` each, every page there. MemoryError."""
        taken = []
        try:
            for _ in range(self._limit(nbytes)):
                slot = self.take(nbytes, 0)
                if slot is None:
                    break
                taken.append(slot)
                while slot.mapping is not None and not slot.mapping.ready:
                    slot.mapping.prepare_piece()
        finally:
            for slot in taken:
                self.give_back(slot)

    def prepare_piece(self, nbytes: int) -> bool:
        """One piece of what ``prepare`` does, in idle time; False when nothing is left to do."""
        with self._changed:
            usable = self._usable or 0
            if len(self._slots) < usable:
                slot = Slot()
                self._slots.append(slot)
            else:
                waiting = [each for each in self._free if each.mapping is None or not each.mapping.ready]
                if not waiting:
                    return False
                slot = waiting[0]
                self._free.remove(slot)
        try:
            slot.grow(nbytes)
            if slot.mapping is not None:
                slot.mapping.prepare_piece()
        except (OSError, MemoryError):
            return False
        finally:
            self.give_back(slot)
        return True

    def close(self) -> None:
        """Free every slot that is not in use."""
        with self._changed:
            for slot in self._free:
                slot.free()
            self._slots = [slot for slot in self._slots if slot not in self._free]
            self._free = []


def size_text(nbytes: int) -> str:
    for unit, size in UNITS:
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"
