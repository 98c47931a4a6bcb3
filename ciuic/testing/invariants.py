"""What every repository keeps, whatever has happened to its process, its disk or its index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ciuic.commit.leaves import BytesSource
from ciuic.commit.pipeline import Details, commit_snapshot
from ciuic.errors import CiuicError, MissingObject, Pruned
from ciuic.history.following import Following
from ciuic.objects.ids import short
from ciuic.objects.plain import encode_plain
from ciuic.objects.state_tree import Container, StateNode, Tensor, Value, expand
from ciuic.restore.stored_snapshot import StoredSnapshot
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.object_reader import read_snapshot
from ciuic.store.refs import HEADS
from ciuic.store.store import Store

Contents: TypeAlias = "dict[str, tuple[str, tuple[int, ...], bytes]]"
"""Path → what it is (a dtype; "plain" for a value), shape, and bytes."""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Promised:
    """What a repository owes to those who were told that it has it.

    ``snapshots``: hex id → content. ``refs``: full name → the values that it may have, None for none; refs of other
    names may not exist. ``freed``: hex id → content that may be gone, but never wrong.
    """

    snapshots: Mapping[str, Contents] = field(default_factory=dict)
    refs: Mapping[str, frozenset[str | None]] = field(default_factory=dict)
    freed: Mapping[str, Contents] = field(default_factory=dict)

    def until(self, after: Promised) -> Promised:
        """What is owed while something is under way that leads from here to ``after``."""
        everything = [self.freed, after.freed, self.snapshots, after.snapshots]
        known = {id: _union(each.get(id, {}) for each in everything) for id in set().union(*everything)}
        owed = {
            id: dict(self.snapshots[id].items() & after.snapshots[id].items())
            for id in self.snapshots.keys() & after.snapshots.keys()
        }
        nothing: frozenset[str | None] = frozenset((None,))
        refs = {
            name: self.refs.get(name, nothing) | after.refs.get(name, nothing)
            for name in self.refs.keys() | after.refs.keys()
        }
        return Promised(owed, refs, known)


def _union(contents: Iterable[Contents]) -> Contents:
    return {path: what for each in contents for path, what in each.items()}


def contents(components: Mapping[str, StateNode]) -> Contents:
    """Every leaf of a state, live or stored, down to the byte."""
    found: Contents = {}
    stack = [(name, node) for name, node in components.items()]
    while stack:
        path, node = stack.pop()
        node = expand(node)
        if isinstance(node, Container):
            found[path] = (node.kind, (len(node.items),), b"")
            stack += [(f"{path}/{key}", child) for key, child in node.items]
        elif isinstance(node, Tensor):
            found[path] = (node.dtype, tuple(node.shape), bytes(node.source.read(0, node.source.nbytes)))
        else:
            found[path] = ("plain", (), encode_plain(node.value, path))
    return found


def read_contents(store: Store, snapshot_id: str) -> Contents:
    """What a stored snapshot holds; MissingObject, Pruned, DamagedData."""
    with store.shared():
        snapshot = read_snapshot(store, bytes.fromhex(snapshot_id))
        return contents(StoredSnapshot(store, snapshot).components())


def bytes_state(state: Mapping[str, object]) -> dict[str, StateNode]:
    """A component "model": bytes become uint8 tensors, anything else plain values. No torch is needed."""
    leaves: list[tuple[str | int, StateNode]] = []
    for name, value in state.items():
        if isinstance(value, bytes):
            leaves.append((name, Tensor("uint8", (len(value),), BytesSource(value))))
        else:
            leaves.append((name, Value(value)))
    return {"model": Container("module", tuple(leaves))}


def commit(store: Store, following: Following, components: Mapping[str, StateNode], details: Details) -> str:
    """Commit to the branch that is followed, as ``Repo`` does; the snapshot's hex id."""
    with following.moving, store.shared():
        parent = following.next_parent()
        details = replace(details, parents=() if parent is None else (parent,))
        return commit_snapshot(store, components, details, lambda snapshot: following.advance(snapshot, "commit")).id


def refs_of(store: Store) -> dict[str, str]:
    """Full name → value of every ref that there is, HEAD as it is written."""
    with store.shared():
        values = {name: store.refs.value(name) for name in store.refs.names()}
    return {name: value for name, value in values.items() if value is not None}


def check_invariants(
    path: str | os.PathLike[str], promised: Promised, *, coming: Mapping[str, StateNode] | None = None
) -> None:
    """Broken, or whatever error the repository raises, unless all of this holds, in this order:

    the repository opens; each ref has one of the values that were promised; fsck reads everything and finds nothing;
    each snapshot that is owed, or that a ref names, comes back byte for byte, and what may be gone is right or gone;
    the next commit (of the state ``coming``) works and is followed; gc works; and all that was there still is.
    """
    store = Store(os.fspath(path))
    refs = refs_of(store)
    for name in refs.keys() | promised.refs.keys():
        allowed = promised.refs.get(name, frozenset((None,)))
        if refs.get(name) not in allowed:
            raise Broken(f"{name} is at {refs.get(name)}, and may be at {sorted(map(str, allowed))}")
    _check_sound(store)
    tips = {value for value in refs.values() if value in promised.snapshots or value in promised.freed}
    _check_snapshots(store, promised, tips)
    following = Following(store)
    state = bytes_state({"next": b"next" * 300}) if coming is None else coming
    snapshot = commit(store, following, state, Details(message="the next one"))
    branch = following.position.branch
    if refs_of(store).get(f"{HEADS}{branch}") != snapshot:
        raise Broken(f"the next commit is not where {branch} points to")
    later = replace(promised, snapshots={**promised.snapshots, snapshot: contents(state)})
    collect(store, trust_clock=True)
    _check_snapshots(store, later, set())
    _check_sound(store)


def _check_sound(store: Store) -> None:
    report = check(store, read_data=True)
    if not report.ok:
        raise Broken("fsck: " + " ".join(report.problems))


def _check_snapshots(store: Store, promised: Promised, tips: set[str]) -> None:
    for id in promised.freed.keys() | promised.snapshots.keys():
        owed = promised.snapshots.get(id, {})
        known = {**promised.freed.get(id, {}), **owed}
        try:
            found = read_contents(store, id)
        except CiuicError as error:
            gone = isinstance(error, Pruned) or (isinstance(error, MissingObject) and id not in tips)
            if owed or not gone:
                raise Broken(f"snapshot {short(id)} cannot be read: {error}") from error
            continue
        wrong = {path for path, what in found.items() if known.get(path) != what} | owed.keys() - found.keys()
        if wrong:
            raise Broken(f"snapshot {short(id)} came back wrong: {', '.join(sorted(wrong))}")
