"""The slots: real shared memory, seen by another mapping of it."""

import logging
import mmap
import os
import threading
from pathlib import Path

import pytest

from ciuic.capture import arena as arena_module
from ciuic.capture import shared_memory
from ciuic.capture.arena import GRAIN, Arena
from ciuic.capture.shared_memory import Mapping

MIB = 1 << 20


@pytest.fixture(autouse=True)
def slots_as_asked(monkeypatch):
    """No more slots than asked for, even though they are small."""
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 0)


@pytest.fixture
def free_memory(monkeypatch):
    """Pretend that so many MiB are free beside what is always spared."""
    return lambda mib: monkeypatch.setattr(
        arena_module, "available_bytes", lambda: mib * MIB + arena_module.SPARE_BYTES
    )


def test_another_mapping_sees_the_bytes():
    """As the writer does, through the descriptor; read-only there."""
    arena = Arena(1)
    slot = arena.take(MIB, 0)
    slot.mapping.bytes[1000:1003] = [1, 2, 3]
    with mmap.mmap(slot.descriptor, slot.size, prot=mmap.PROT_READ) as other:
        assert other[999:1004] == bytes([0, 1, 2, 3, 0])


def test_slots_are_used_again_and_grow():
    """The same memory as long as it is large enough; a new key for other memory."""
    arena = Arena(1)
    slot = arena.take(10, 0)
    key, size = slot.key, slot.size
    arena.give_back(slot)
    assert arena.take(GRAIN, 0) is slot and (slot.key, slot.size) == (key, size)
    arena.give_back(slot)
    assert arena.take(GRAIN + 1, 0) is slot and slot.key != key and slot.size == 2 * GRAIN


def test_a_busy_slot_is_waited_for_or_not():
    """None after the time-out; given back by another thread, it is had."""
    arena = Arena(1)
    slot = arena.take(10, 0)
    assert not arena.has_free and arena.take(10, 0) is None and arena.take(10, 0.01) is None
    giver = threading.Timer(0.05, arena.give_back, [slot])
    giver.start()
    assert arena.take(10, None) is slot
    giver.join()


def test_prepare_makes_every_page_ready(free_memory):
    """So that no copy meets a page fault; what is ready stays so."""
    free_memory(100)
    arena = Arena(2)
    arena.prepare(3 * MIB)
    assert [slot.mapping.ready for slot in (arena.take(3 * MIB, 0), arena.take(3 * MIB, 0))] == [True, True]
    assert arena.take(1, 0) is None


def test_idle_pieces_make_ready_what_prepare_would():
    """One piece at a time, until nothing is left; a slot in use is left alone."""
    arena = Arena(2)
    used = arena.take(MIB, 0)
    while arena.prepare_piece(MIB):
        pass
    assert not used.mapping.ready and arena.take(MIB, 0).mapping.ready


def test_making_ready_keeps_what_is_there():
    """A slot may be touched when its first copy is in it already."""
    descriptor = shared_memory.create(3 * MIB)
    mapping = Mapping(descriptor, 3 * MIB)
    mapping.bytes[:] = 7
    mapping.prepare_piece()
    assert mapping.ready and (mapping.bytes == 7).all()
    os.close(descriptor)


def test_one_slot_where_two_do_not_fit(free_memory, caplog):
    """Said once, with the sizes."""
    free_memory(15)
    arena = Arena(2)
    with caplog.at_level(logging.WARNING, "ciuic"):
        slot = arena.take(10 * MIB, 0)
        assert arena.take(10 * MIB, 0) is None
        arena.give_back(slot)
        arena.take(9 * MIB, 0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "use 1 slot of 10.0 MiB instead of 2" in message


def test_no_slot_where_none_fits(free_memory):
    """MemoryError says how much was asked for and how much there is; nothing is taken."""
    free_memory(5)
    arena = Arena(2)
    with pytest.raises(MemoryError, match=r"10\.0 MiB does not fit into the 261\.0 MiB"):
        arena.take(10 * MIB, 0)
    free_memory(50)
    assert arena.take(10 * MIB, 0) is not None


def test_no_way_to_share_memory_is_a_memory_error(monkeypatch):
    """As where neither kind of shared memory serves: the slot stays free for another try."""

    def refuse(size):
        raise OSError("not here")

    arena = Arena(1)
    with monkeypatch.context() as patch:
        patch.setattr(arena_module, "create", refuse)
        with pytest.raises(MemoryError, match="not here"):
            arena.take(10, 0)
    assert arena.take(10, 0) is not None


def test_posix_shared_memory_serves_where_memfd_is_missing(monkeypatch):
    """macOS: the same, and no name is left behind."""
    before = set(os.listdir("/dev/shm"))
    monkeypatch.delattr(os, "memfd_create")
    descriptor = shared_memory.create(MIB)
    mapping = Mapping(descriptor, MIB)
    mapping.bytes[-1] = 9
    assert os.pread(descriptor, 1, MIB - 1) == b"\x09" and not os.get_inheritable(descriptor)
    assert set(os.listdir("/dev/shm")) - before == set()
    os.close(descriptor)


def test_a_closed_arena_has_no_descriptor_left():
    """Its memory goes with the last mapping."""
    before = os.listdir("/proc/self/fd")
    arena = Arena(2)
    slots = [arena.take(MIB, 0), arena.take(MIB, 0)]
    for slot in slots:
        arena.give_back(slot)
    arena.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_forked_child_does_not_have_the_memory():
    """Neither its size nor its pages: a crowd of data loader workers must not multiply it."""
    arena = Arena(1)
    slot = arena.take(MIB, 0)
    address = f"{slot.mapping.address:x}-"
    assert address in Path("/proc/self/maps").read_text()
    child = os.fork()
    if child == 0:
        os._exit(int(address in Path("/proc/self/maps").read_text()))
    assert os.waitpid(child, 0)[1] == 0


def test_small_states_have_more_slots(monkeypatch):
    """A loop of a millisecond a step asks for many snapshots while the first is being written."""
    monkeypatch.setattr(arena_module, "SMALL_SLOTS_BYTES", 10 * MIB)
    assert [_count(Arena(2), nbytes) for nbytes in (100, MIB, 3 * MIB, 20 * MIB)] == [16, 10, 3, 2]


def _count(arena, nbytes):
    taken = []
    while slot := arena.take(nbytes, 0):
        taken.append(slot)
    return len(taken)


def staged(arena):
    """A slot taken, filled and handed on, and the one before if it still holds what it held."""
    slot = arena.take(10, 0)
    return slot, arena.follow(slot)


def test_the_copy_before_stays_until_the_next_one_is_written():
    """It is what the next one is compared with: held while that is written, and taken last afterwards."""
    arena = Arena(2)
    first, nothing = staged(arena)
    assert nothing is None
    arena.give_back(first)
    second, before = staged(arena)
    assert second is not first and before is first
    assert not arena.has_free, "both are in use: one is written, the other is read"
    arena.give_back(second)
    arena.give_back(before)
    third, before = staged(arena)
    assert third is first and before is second


def test_with_one_slot_there_is_no_copy_before():
    """Memory comes first: the slot is written over, and that is known."""
    arena = Arena(1)
    first, _ = staged(arena)
    arena.give_back(first)
    again, before = staged(arena)
    assert again is first and before is None


def test_a_copy_that_came_to_nothing_leaves_the_one_before():
    """A torn copy is given back without ever having been handed on."""
    arena = Arena(2)
    first, _ = staged(arena)
    arena.give_back(first)
    torn = arena.take(10, 0)
    arena.give_back(torn)
    again, before = staged(arena)
    assert again is torn and before is first


def test_a_slot_in_use_twice_is_free_when_both_are_done():
    """Written itself, and read by the next: whoever ends last frees it."""
    arena = Arena(3)
    first, _ = staged(arena)
    second, before = staged(arena)
    assert before is first
    arena.give_back(first)  # its own snapshot is published
    third = arena.take(10, 0)
    assert third not in (first, second)
    arena.give_back(before)
    assert arena.take(10, 0) is first
