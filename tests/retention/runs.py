"""A run in process: snapshots of a model and an optimizer of random bytes, seven minutes apart."""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone

from ciuic.commit.earlier import Memory
from ciuic.commit.leaves import BytesSource
from ciuic.commit.pipeline import Details, commit_snapshot
from ciuic.errors import CiuicError
from ciuic.history.following import Following
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Container, StateNode, Tensor
from ciuic.retention.engine import Retention
from ciuic.retention.texts import policies_of
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.refs import TAGS
from ciuic.store.store import Store
from ciuic.testing.invariants import Contents, contents, read_contents

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
APART = timedelta(minutes=7)
TENSOR_BYTES = 4096
COMPONENTS = ("model", "optimizer")


def loss(step: int) -> float:
    """Noise, the same for the same step."""
    return random.Random(f"loss {step}").random()


def state(step: int, nbytes: int = TENSOR_BYTES) -> dict[str, StateNode]:
    """What no codec makes shorter, and the same for the same step."""
    made: dict[str, StateNode] = {}
    for name in COMPONENTS:
        data = random.Random(f"{name} {step}").randbytes(nbytes)
        made[name] = Container("module", (("w", Tensor("uint8", (len(data),), BytesSource(data))),))
    return made


def drifting(step: int, nbytes: int = TENSOR_BYTES) -> dict[str, StateNode]:
    """What is stored as a difference to the step before."""
    made: dict[str, StateNode] = {}
    for name in COMPONENTS:
        noise = random.Random(name)
        numbers = array("i", (noise.randrange(1 << 30) + step * noise.randrange(9) for _ in range(nbytes // 4)))
        made[name] = Container("module", (("w", Tensor("int32", (len(numbers),), BytesSource(numbers.tobytes()))),))
    return made


class Run:
    """One trainer with retention, or without."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        policies: Iterable[str] = (),
        fs: FileSystem = LOCAL,
        nbytes: int = 4096,
        state: Callable[[int, int], dict[str, StateNode]] = state,
    ) -> None:
        self.path = os.fspath(path)
        self.store = Store(self.path, fs) if os.path.exists(self.path) else Store.create(self.path, fs)
        self.following = Following(self.store)
        self.nbytes = nbytes
        self.state = state
        self.memory = Memory()
        self.retention = Retention(self.store, policies_of(policies))

    def commit(self, step: int) -> Snapshot:
        """One snapshot, and what retention makes of it."""
        if self.retention.policies:
            here = self.following.position
            self.retention.make_room(2 * self.nbytes, here.parent, here.branch)
        with self.store.shared():
            parent = self.following.next_parent()
            details = Details(
                step=step,
                metrics={"loss": loss(step)},
                parents=() if parent is None else (parent,),
                timestamp=BEGIN + step * APART,
            )
            snapshot = commit_snapshot(
                self.store,
                self.state(step, self.nbytes),
                details,
                lambda snapshot: self.following.advance(snapshot, "commit"),
                self.memory,
            )
        if self.retention.policies:
            self.retention.after(snapshot, self.following.position.branch)
        return snapshot

    def tag(self, name: str, snapshot: Snapshot) -> None:
        with self.store.shared():
            self.store.move_ref(f"{TAGS}{name}", snapshot.id, "tag", expected="-")

    def contents(self, snapshot: Snapshot) -> Contents | CiuicError:
        """What comes back of it."""
        try:
            return read_contents(self.store, snapshot.id)
        except CiuicError as error:
            return error

    def pack_bytes(self) -> int:
        folder = os.path.join(self.path, "packs")
        return sum(os.stat(os.path.join(folder, name)).st_size for name in os.listdir(folder))


def whole(step: int, nbytes: int = TENSOR_BYTES) -> Contents:
    """What a snapshot that lost nothing holds."""
    return contents(state(step, nbytes))
