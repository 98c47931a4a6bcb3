"""A repository small enough to be damaged at every byte, with one of everything in it, and what it must answer."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
from chained import CAST, GRADIENT, STEP, applied
from ministore import Trainer

from ciuic.codec import Codec, choice, encode_residual, planes, zstd
from ciuic.errors import CiuicError, StorageError
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.recipe import Recipe, encode_recipe
from ciuic.objects.state_tree import Target, Tensor, Value, walk
from ciuic.restore.checking import check
from ciuic.restore.filling import fill
from ciuic.restore.stored_snapshot import StoredSnapshot
from ciuic.store.fsck import FsckReport
from ciuic.store.fsck import check as fsck
from ciuic.store.object_reader import read_snapshot
from ciuic.store.pack_format import RecordHeader
from ciuic.store.pack_session import PackSession
from ciuic.store.store import Store

FLOATS = 24
Components = dict[str, dict[str, object]]


class Small(NamedTuple):
    """``states``: hex id of a snapshot → component → name → bytes or value. ``refs``: full name → every value that it
    ever had, the newest last. ``pruned``: (snapshot, component) that was given up."""

    path: Path
    states: dict[str, Components]
    refs: dict[str, list[str]]
    pruned: tuple[str, str]

    def at(self, path: Path) -> Small:
        """The same elsewhere; what a test does to it happens to no other."""
        return copy.deepcopy(self)._replace(path=path)

    def files(self, *folders: str) -> list[Path]:
        """What holds the repository's truth, or what is in the named folders."""
        everything = sorted(path for path in self.path.rglob("*") if path.is_file())
        disposable = {"index", "tmp", "trash", "quarantine"}
        inside = [path for path in everything if path.relative_to(self.path).parts[0] not in disposable]
        return [path for path in everything if path.parent.name in folders] if folders else inside


def build(path: Path, seed: int = 0) -> Small:
    """Two branches, a tag, HEAD, a prune; records of every codec, chains, a chunk that has two copies."""
    trainer = Trainer.create(path)
    states: dict[str, Components] = {}
    numbers = np.random.default_rng(seed)
    m, v, w = (numbers.standard_normal(FLOATS).astype(np.float32).tobytes() for _ in "mvw")
    refs: dict[str, list[str]] = {"refs/heads/main": [], "refs/heads/side": [], "refs/tags/v1": [], "HEAD": []}
    depth = 0
    for step in range(3):
        before = m, v, w
        if step:
            m = (np.frombuffer(m, np.float32) * np.float32(0.9)).tobytes()
            v = applied("adamw.second_moment", GRADIENT, [before[1], before[0], m], len(m))
            w = applied("adamw.weight", STEP, [before[2], m, v], len(m))
            w = w[:40] + numbers.bytes(2) + w[42:]
        half = applied("cast", CAST, [w], len(w) // 2)
        with records(trainer) as session:
            if not step:
                add(session, m, Codec.PLANES, in_planes(m))
                add(session, v, Codec.RAW, v)
                add(session, w, Codec.ZSTD, zstd.compress(memoryview(w)))
            else:
                delta = encode_residual(m, before[0], 4).stored
                add(session, m, Codec.DELTA, delta, digest(before[0]), depth := depth + 1)
                made(session, v, "adamw.second_moment", GRADIENT, [before[1], before[0], m], depth := depth + 1)
                made(session, w, "adamw.weight", STEP, [before[2], m, v], depth := depth + 1)
            made(session, half, "cast", CAST, [w], depth + 1)
        model = {"w": w, "half": half, "frozen": b"frozen" * 5, "step": step}
        optimizer: dict[str, object] = {"m": m, "v": v, "note": "n" * 5000 if step == 1 else None}
        if step == 2:
            with trainer.store.shared():
                parent = refs["refs/heads/main"][0]
                trainer.store.move_ref("refs/heads/side", parent, "branch")
                trainer.store.move_ref("HEAD", "ref:refs/heads/side", "checkout")
            trainer = Trainer(path)
            refs["refs/heads/side"].append(parent)
        snapshot = trainer.commit(model, step, optimizer=optimizer)
        refs["refs/heads/side" if step == 2 else "refs/heads/main"].append(snapshot)
        states[snapshot] = {"model": model, "optimizer": optimizer}
    with trainer.store.shared():
        trainer.store.move_ref("refs/tags/v1", snapshot, "tag")
        trainer.store.move_ref("HEAD", "ref:refs/heads/main", "checkout")
        first = refs["refs/heads/main"][0]
        trainer.store.refs.prune(first, "optimizer")
    with records(trainer) as session:
        add(session, half, Codec.RAW, half, width=2)  # a second copy, which rests on nothing
    del states[first]["optimizer"]
    refs["refs/tags/v1"].append(snapshot)
    refs["HEAD"] += ["ref:refs/heads/side", "ref:refs/heads/main"]
    return Small(path, states, refs, (first, "optimizer"))


@contextlib.contextmanager
def records(trainer: Trainer) -> Iterator[PackSession]:
    """Records of one's choice, in a pack of their own."""
    with trainer.store.shared():
        session = trainer.store.new_packs()
        yield session
        trainer.store.index_commit(session.publish(), {})


def add(
    session: PackSession, raw: bytes, codec: int, stored: object, base: bytes = NO_ID, depth: int = 0, width: int = 4
) -> None:
    """A chunk's record, as it is told."""
    data = bytes(stored)  # type: ignore[call-overload]
    id = digest(raw)
    session.copy(RecordHeader(Kind.CHUNK, codec, width, depth, len(data), len(raw), id, base, digest(data)), data)


def made(
    session: PackSession, raw: bytes, rule: str, numbers: Mapping[str, object], bases: list[bytes], depth: int
) -> None:
    """A recipe, and the chunk that it makes or predicts."""
    recipe = encode_recipe(Recipe(rule, tuple(map(digest, bases)), dict(numbers)))
    id = object_id(Kind.RECIPE, recipe)
    session.copy(RecordHeader(Kind.RECIPE, 0, 1, 0, len(recipe), len(recipe), id, NO_ID, digest(recipe)), recipe)
    guess = applied(rule, dict(numbers), bases, len(raw))
    if rule == "cast":
        assert guess == raw
        add(session, raw, Codec.DERIVED, b"", id, depth, 2)
    else:
        add(session, raw, Codec.PREDICTED, encode_residual(raw, guess, 4).stored, id, depth)


def in_planes(raw: bytes) -> object:
    view = memoryview(raw)
    return planes.encode(view, 4, choice.alone(view, 4), None, True)[0]


def copied(small: Small, to: Path) -> Small:
    """The same repository elsewhere, its index built anew there."""
    shutil.copytree(small.path, to)
    Trainer(to).tip()
    return small.at(to)


# What a repository answers


def opened(path: Path, *, index: bool) -> Store:
    """As a new process sees it; ``index=False``: as where no index can be made, so that footers are read.

    The index is not written to, so that each damage meets it as it was.
    """
    store = Store(str(path))
    if not index:
        store._lmdb_index.open = lambda generation: False  # type: ignore[method-assign]
        store._rebuild_index = lambda: False  # type: ignore[method-assign]
    else:
        store._lmdb_index.update = _refuse  # type: ignore[method-assign]
    return store


def _refuse(*arguments: object, **more: object) -> None:
    raise StorageError("the index cannot be written now")


def restored(store: Store, snapshot: str) -> Components:
    """Every component as a restore makes it: all stored bytes checked first, then decoded into place."""
    with store.shared():
        stored = StoredSnapshot(store, read_snapshot(store, bytes.fromhex(snapshot)))
        trees = stored.components()
        leaves = [(name, str(path[0]), leaf) for name, tree in trees.items() for path, leaf in walk(tree)]
        tensors = [leaf.source for _, _, leaf in leaves if isinstance(leaf, Tensor)]
        check(tensors)  # type: ignore[arg-type]  # what is stored
        found: Components = {name: {} for name in trees}
        targets = []
        for component, name, leaf in leaves:
            if isinstance(leaf, Value):
                found[component][name] = leaf.value
                continue
            memory = found[component][name] = bytearray(leaf.source.nbytes)
            targets.append(Target(leaf.source, memoryview(memory)))
        try:
            fill(targets)
        except CiuicError as error:
            raise AssertionError(f"what had been checked could not be decoded: {error}") from error
        return found


def wrong_answers(small: Small, store: Store) -> list[str]:
    """Snapshots that come back other than they were. Our errors are right answers, too."""
    wrong = []
    for snapshot, state in small.states.items():
        with contextlib.suppress(CiuicError):
            found = restored(store, snapshot)
            # A prune that was lost gives back what was not yet collected.
            if found.keys() - state.keys() <= {small.pruned[1]} and all(found[name] == state[name] for name in state):
                continue
            wrong.append(f"{snapshot[:8]} came back other than it was")
    return wrong


def wrong_refs(small: Small, store: Store, *, older: bool = False) -> list[str]:
    """Refs that name what they do not; ``older``: what they named before is right, too."""
    wrong = []
    for name, values in small.refs.items():
        with contextlib.suppress(CiuicError), store.shared():
            value = store.refs.value(name)
            if value != values[-1] and not (older and (value is None or value in values)):
                wrong.append(f"{name} is at {value}")
    return wrong


def report(store: Store) -> FsckReport | CiuicError:
    try:
        return fsck(store, read_data=True)
    except CiuicError as error:
        return error


def is_clean(outcome: FsckReport | CiuicError) -> bool:
    return isinstance(outcome, FsckReport) and outcome.ok


def write_at(path: Path | str, data: bytes, position: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, data, position)
    os.close(descriptor)
