"""What the crowd does: two trainers, one of them through a writer process, readers, gc. Each ends by being killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import training
from handle import Handle
from ledger import Ledger, digest
from trainers import Slot
from training import CHANGES, State

from ciuic.capture.placed import Placed
from ciuic.commit.pipeline import Details
from ciuic.errors import MissingObject, Pruned
from ciuic.objects.state_tree import Container, StateNode, Tensor
from ciuic.restore.stored_snapshot import StoredSnapshot
from ciuic.store.fs import FileSystem
from ciuic.store.object_reader import read_snapshot
from ciuic.store.refs import HEADS
from ciuic.writer.pending import PendingSnapshot
from ciuic.writer.process import Job, Writer

KEPT = 6
"""So many of its newest snapshots a trainer keeps whole; of those before, each third one."""
WAIT_S = 300
PAUSE_S = 0.1
"""After each thing: the crowd shall be killed more often than it works."""
KEYS = itertools.count(1)
"""Of slots: the writer process keeps what it has under a key."""


def opened(path: str) -> Handle:
    return Handle(path, FileSystem())


def resumed(handle: Handle, chance: random.Random) -> State:
    """The state of the snapshot to go on from, as it was stored; a new one where there is none, or it was pruned."""
    parent = handle.following.position.parent
    try:
        return training.fresh(chance.randrange(3)) if parent is None else training.state_of(handle.load(parent))
    except Pruned:
        return training.fresh(chance.randrange(3))


def trainer(path: str, ledger: Ledger, chance: random.Random) -> None:
    """Follows the branch that it opened; prunes what is old, and makes branches that it gives up again."""
    handle = opened(path)
    state = resumed(handle, chance)
    mine: list[str] = []
    for number in itertools.count(1):
        state = CHANGES[chance.choice(["stepped", "stepped", "nudged", "thawed", "same"])](state, chance.randrange(99))
        mine.append(handle.commit(state)[0])
        ledger.write("saved", mine[-1], digest(state.contents()))
        if len(mine) > KEPT and number % 3:
            old = mine.pop(0)
            ledger.write("frees", old)
            handle.prune(old, None)
        time.sleep(PAUSE_S)
        if number % 4 == 0:
            give_up_a_branch(handle, ledger, f"scratch-{os.getpid()}-{number}", state, chance)


def give_up_a_branch(handle: Handle, ledger: Ledger, name: str, state: State, chance: random.Random) -> None:
    state = training.thawed(training.nudged(state, chance.randrange(99)), chance.randrange(99))
    snapshot = handle.commit_to(name, state)
    ledger.write("saved", snapshot, digest(state.contents()))
    ledger.write("frees", snapshot)
    handle.delete(HEADS, name)


def background_trainer(path: str, ledger: Ledger, chance: random.Random) -> None:
    """Hands its snapshots to a writer process, and kills that now and then."""
    handle = opened(path)
    state = resumed(handle, chance)
    writer = Writer(path, moved=lambda position: None, count=lambda name: None, timeout=WAIT_S)
    position = handle.following.position
    for number in itertools.count(1):
        state = training.stepped(state, chance.randrange(99))
        job = staged(state, position if number == 1 else None)
        writer.submit(job)
        if number % 7 == 0:
            time.sleep(chance.uniform(0, 0.02))
            with contextlib.suppress(ProcessLookupError):  # it is a child that was not waited for: the number is its
                if writer.pid is not None:
                    os.kill(writer.pid, signal.SIGKILL)
                    ledger.write("killed", "writer")
        ledger.write("saved", job.pending.result(WAIT_S).id, digest(state.contents()))
        time.sleep(PAUSE_S)


def staged(state: State, position: object) -> Job:
    """The state in a slot of shared memory, and what the writer is to do with it."""
    data = bytearray()

    def place(node: StateNode) -> StateNode:
        if isinstance(node, Container):
            return replace(node, items=tuple((key, place(child)) for key, child in node.items))
        if isinstance(node, Tensor):
            start, size = len(data), node.source.nbytes
            data.extend(bytes(node.source.read(0, size)) + bytes(-size % 64))
            return replace(node, source=Placed(start, size))
        return node

    components = {name: place(node) for name, node in state.components().items()}
    slot = Slot(len(data))
    slot.key = next(KEYS)
    os.pwrite(slot.descriptor, data, 0)
    return Job(
        PendingSnapshot(state.step), Details(step=state.step), "commit", components, slot.descriptor, len(data),
        slot.key, position, lambda: os.close(slot.descriptor),
    )  # fmt: skip


def reader(path: str, ledger: Ledger, chance: random.Random) -> None:
    """Whatever was acknowledged reads as it was; what is held open does so after it was swept; fsck finds nothing."""
    handle = opened(path)
    for number in itertools.count(1):
        known = ledger.read()
        ids = list(known.saved)
        if not ids:
            time.sleep(0.01)
            continue
        for id in [*ids[-3:], *chance.sample(ids, min(3, len(ids)))]:
            try:
                found = held(handle, id, chance.choice([0.0, 0.0, 0.05]))
            except (Pruned, MissingObject):
                assert id in ledger.read().freed, f"{id} is gone"
            else:
                assert digest(found) == known.saved[id], f"{id} is not what was saved"
        if number % 8 == 0:
            report = handle.fsck(read_data=number % 16 == 0)
            assert report.ok, report.problems
        if number % 10 == 0:
            with contextlib.suppress(OSError):  # others make it anew meanwhile
                shutil.rmtree(handle.store.join("index"))
        ledger.write("looked")
        time.sleep(PAUSE_S)


def held(handle: Handle, id: str, seconds: float) -> dict[str, object]:
    """What a snapshot holds, read when its packs may have been swept: they stay open."""
    with handle.store.shared():
        stored = StoredSnapshot(handle.store, read_snapshot(handle.store, bytes.fromhex(id))).components()
    time.sleep(seconds)
    found: dict[str, object] = {}
    for component, node in stored.items():
        found |= training.contents(component, node)
    return found


def gc(path: str, ledger: Ledger, chance: random.Random) -> None:
    """Forgets what is expired, sweeps, repacks, flattens."""
    handle = opened(path)
    while True:
        what = chance.choice(["gc --expire now", "gc --expire now", "gc", "repack", "flatten"])
        upkeep(handle, what)
        ledger.write("swept")
        time.sleep(PAUSE_S)


def upkeep(handle: Handle, what: str) -> None:
    if what == "flatten":
        tip = handle.following.from_head().parent
        if tip is not None:
            with contextlib.suppress(Pruned, MissingObject):
                handle.flatten(tip)
    elif what == "repack":
        handle.repack()
    else:
        handle.gc(expire=what.endswith("now"))


Role = Callable[[str, Ledger, random.Random], None]
ROLES: dict[str, Role] = {
    "trainer": trainer, "background trainer": background_trainer, "reader": reader, "gc": gc,
}  # fmt: skip
