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
_turns = itertools.count(1)


class Slot:
    """Room for one staged copy. ``key`` changes whenever the memory behind it does; ``turn`` whenever it is taken."""

    def __init__(self) -> None:
        self.key = 0
        self.turn = 0
        self.users = 0
        self.mapping: Mapping | None = None

    @property
    def size(self) -> int:
        return 0 if self.mapping is None else self.mapping.size

    @property
    def ready(self) -> bool:
        return self.mapping is not None and self.mapping.ready

    @property
    def descriptor(self) -> int:
        """Of the memory; another process maps it through this."""
        assert self.mapping is not None, "a slot is grown before it is used"
        return self.mapping.descriptor

    def grow(self, nbytes: int) -> None:
        """At least ``nbytes``; OSError when they cannot be had. What was in it is gone if it has to grow."""
        if 0 < nbytes <= self.size:
            return
        self.free()
        size = max(1, -(-nbytes // GRAIN)) * GRAIN
        descriptor = create(size)
        try:
            self.mapping = Mapping(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        self.key = next(_keys)

    def free(self) -> None:
        """Give the memory back; the writer does so when it needs room for other slots."""
        mapping, self.mapping = self.mapping, None
        if mapping is not None:
            mapping.close()


class Arena:
    """At most ``most`` slots (more of small states), fewer where memory is short; a snapshot uses one at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._preparing: Slot | None = None
        self._wanted = 0  # how many wait for a slot
        self._changed = threading.Condition()
        self._usable: int | None = None
        self._latest: Slot | None = None
        self._latest_turn = 0
        self._closed = False

    def take(self, nbytes: int, timeout: float | None, into: list[Slot] | None = None) -> Slot | None:
        """A slot of at least ``nbytes``, waiting up to ``timeout`` seconds for one; None when there was none.

        ``into`` gets the slot before anybody else could lose it: whoever is interrupted gives back what is in there.
        MemoryError when not even one such slot fits into memory.
        """
        into = [] if into is None else into
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            usable = self._limit(nbytes)
            self._wanted += 1
            try:
                while not self._free and len(self._slots) >= usable:
                    left = None if deadline is None else deadline - time.monotonic()
                    if self._preparing is not None:
                        left = None  # its piece is ready in a moment
                    elif left is not None and left <= 0:
                        return None
                    self._changed.wait(left)
            finally:
                self._wanted -= 1
            free = [each for each in self._free if each is not self._latest or len(self._slots) >= usable]
            if free:
                slot = max(free, key=lambda each: (each is not self._latest, each.size >= nbytes, each.ready))
                into.append(slot)
                self._free.remove(slot)
            else:
                slot = Slot()
                into.append(slot)
                self._slots.append(slot)
            slot.turn = next(_turns)
            slot.users = 1
        try:
            slot.grow(nbytes)
        except BaseException as error:
            into.clear()
            self.give_back(slot)
            if isinstance(error, OSError):
                raise MemoryError(f"no shared memory of {size_text(nbytes)}: {error}") from error
            raise
        return slot

    def follow(self, slot: Slot) -> Slot | None:
        """``slot`` holds a staged copy that the next one is to be compared with. The one before, which is the caller's
        too until it gives it back; None when that has been written to since.

        Of the free slots the latest is taken last, so that it stays what it is as long as there are others.
        """
        with self._changed:
            before, turn = self._latest, self._latest_turn
            self._latest, self._latest_turn = slot, slot.turn
            if before is None or before is slot or before.turn != turn or before.mapping is None:
                return None
            before.users += 1
            if before in self._free:
                self._free.remove(before)
            return before

    @property
    def has_free(self) -> bool:
        """Whether ``take`` would not have to wait for another snapshot."""
        with self._changed:
            free = bool(self._free) or self._preparing is not None
            return free or self._usable is None or len(self._slots) < self._usable

    def give_back(self, slot: Slot) -> None:
        with self._changed:
            slot.users = max(0, slot.users - 1)
            if not slot.users and slot not in self._free:
                self._free.append(slot)
            if self._closed:
                self._free_all()
            self._changed.notify_all()

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
        here = sum(slot.mapping.ready_bytes for slot in self._slots if slot.mapping is not None)
        room = (free - SPARE_BYTES + here) // max(nbytes, 1)
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
                while slot.mapping is not None and not slot.ready:
                    slot.mapping.prepare_piece()
        finally:
            for slot in taken:
                self.give_back(slot)

    def prepare_piece(self, nbytes: int) -> bool:
        """One piece of what ``prepare`` does, in idle time; False when there is nothing to do."""
        with self._changed:
            if self._closed or self._wanted:
                return False
            if len(self._slots) < (self._usable or 0):
                slot = Slot()
                self._slots.append(slot)
            else:
                unready = [each for each in self._free if not each.ready]
                if not unready:
                    return False
                slot = unready[0]
                self._free.remove(slot)
            self._preparing = slot
        try:
            slot.grow(max(nbytes, slot.size))
            if slot.mapping is not None:
                slot.mapping.prepare_piece()
        except (OSError, MemoryError):
            return False
        finally:
            with self._changed:
                self._preparing = None
                self.give_back(slot)
        return True

    @property
    def mappings(self) -> list[Mapping]:
        """The memory of every slot that has some."""
        with self._changed:
            return [slot.mapping for slot in self._slots if slot.mapping is not None]

    def close(self) -> None:
        """Free every slot, those in use when they are given back."""
        with self._changed:
            self._closed = True
            self._free_all()

    def _free_all(self) -> None:
        for slot in self._free:
            slot.free()

    def forget(self) -> None:
        """In a forked child, which has none of the memory: close its descriptors."""
        for slot in self._slots:
            slot.free()


def size_text(nbytes: int) -> str:
    for unit, size in UNITS:
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"
