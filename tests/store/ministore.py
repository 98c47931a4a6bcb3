"""A small trainer over the store alone: no torch, so that a test may fork, kill and start a hundred processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ciuic.commit.leaves import BytesSource
from ciuic.commit.pipeline import Details, commit_snapshot
from ciuic.history.following import Following
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import Container, StateNode, Tensor, Value, walk
from ciuic.restore.stored_state import read_component
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.object_reader import read_snapshot
from ciuic.store.refs import HEADS
from ciuic.store.store import Store

CHUNK = 4096
HERE = Path(__file__).parent


def noise(seed: object, length: int = 1000) -> bytes:
    """Bytes that no codec makes shorter; the same for the same seed."""
    return random.Random(str(seed)).randbytes(length)


def node(state: Mapping[str, object]) -> StateNode:
    """Bytes become uint8 tensors of a module, anything else plain values."""
    leaves: list[tuple[str | int, StateNode]] = []
    for name, value in state.items():
        is_tensor = isinstance(value, bytes)
        leaves.append((name, Tensor("uint8", (len(value),), BytesSource(value)) if is_tensor else Value(value)))
    return Container("module", tuple(leaves))


class Trainer:
    """One process's view of a repository: commits, loads, moves refs."""

    def __init__(self, path: str | os.PathLike[str], fs: FileSystem = LOCAL) -> None:
        self.store = Store(os.fspath(path), fs)
        self.following = Following(self.store)

    @staticmethod
    def create(path: str | os.PathLike[str], fs: FileSystem = LOCAL) -> Trainer:
        Store.create(os.fspath(path), fs, chunk_size=CHUNK)
        return Trainer(path, fs)

    def commit(self, state: Mapping[str, object], step: int | None = None, **components: Mapping[str, object]) -> str:
        """Commit to the branch that is followed; the snapshot's hex id."""
        parent = self.following.position.parent
        nodes = {"model": node(state)} | {name: node(each) for name, each in components.items()}
        details = Details(step=step, parents=() if parent is None else (parent,))
        return commit_snapshot(
            self.store, nodes, details, lambda snapshot: self.following.advance(snapshot, f"commit: step {step}")
        ).id

    def commit_to(self, branch: str, state: Mapping[str, object]) -> str:
        """Commit to any branch, on top of what it points to."""
        full = HEADS + branch
        with self.store.shared():
            parent = self.store.refs.value(full)
            details = Details(parents=() if parent is None else (parent,))

            def move(snapshot: Snapshot) -> dict[str, object]:
                return {full: self.store.refs.set(full, snapshot.id, "commit", expected=parent or "-")}

            return commit_snapshot(self.store, {"model": node(state)}, details, move).id

    def load(self, snapshot: str, component: str = "model") -> dict[str, object]:
        """Every tensor's bytes and every value of one component."""
        with self.store.shared():
            tree = read_component(
                self.store, component, bytes.fromhex(read_snapshot(self.store, bytes.fromhex(snapshot)).tree[component])
            )
            found: dict[str, object] = {}
            for path, leaf in walk(tree):
                is_tensor = isinstance(leaf, Tensor)
                found[str(path[0])] = bytes(leaf.source.read(0, leaf.source.nbytes)) if is_tensor else leaf.value
            return found

    def tip(self, branch: str = "main") -> str | None:
        with self.store.shared():
            return self.store.refs.value(HEADS + branch)

    def set(self, branch: str, value: str, **expected: str) -> None:
        with self.store.shared():
            self.store.move_ref(HEADS + branch, value, "set", **expected)

    def packs(self) -> list[Path]:
        return sorted(Path(self.store.path, "packs").iterdir())


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """A child Python that can import this module. Unbuffered: a fork would print what it inherits a second time."""
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def output(process: subprocess.Popen[str]) -> str:
    """What a child printed; its traceback when it failed."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out.strip()
