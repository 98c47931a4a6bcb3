"""The commit, in the order that makes a crash at any point harmless (docs/durability.md cites the numbers)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from ciuic.commit.earlier import Memory
from ciuic.commit.trees import TreeWriter
from ciuic.errors import UnsupportedState
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.objects.state_tree import Plain, StateNode
from ciuic.store.reflog import LogRecord
from ciuic.store.store import Store, log_mark


@dataclass(frozen=True)
class Details:
    """What a snapshot says besides its components.

    ``timestamp``: None for the moment at which it is written. ``cost``: seconds by name, those that the caller knows;
    the commit adds "encode", "check" and "write".
    """

    step: int | None = None
    epoch: int | None = None
    message: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Plain] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    timestamp: datetime | None = None
    cost: dict[str, float] = field(default_factory=dict)


MoveRef = Callable[[Snapshot], Mapping[str, LogRecord]]
"""Moves the branch to the snapshot, durably; returns the record of each log that it changed."""


def commit_snapshot(
    store: Store,
    components: Mapping[str, StateNode],
    details: Details,
    move_ref: MoveRef,
    memory: Memory | None = None,
) -> Snapshot:
    """Write a snapshot and move a ref to it. On return it is durable; on any error the ref is where it was.

    ``memory``: of the committer, kept from one snapshot to the next; without it the parent is looked up.

    0. the shared lock, before anything is looked up;
    1. append what is missing to packs in ``tmp/``: chunks, trees, snapshot. A large pack is synced before the snapshot
       goes in, so that the snapshot can say what writing took;
    2. footer, sync, rename into ``packs/``, sync the folder;
    3. the ref log: compare, append, sync. This is the commit point;
    4. index rows, best effort;
    5. return.
    """
    memory = Memory() if memory is None else memory
    with store.shared():
        session = store.new_packs()
        try:
            earlier = memory.before(store, details.parents)
            trees = TreeWriter(store, session, earlier, memory.groups)
            roots = trees.write(components)
            session.settle()
            chunks = trees.chunks
            cost = {**details.cost, "encode": chunks.encode_s, "check": chunks.check_s, "write": session.write_s}
            snapshot = Snapshot(
                id="",
                step=details.step,
                epoch=details.epoch,
                timestamp=details.timestamp or datetime.now(timezone.utc),
                message=details.message,
                metrics=details.metrics,
                config=details.config,
                parents=details.parents,
                tree={name: root.hex() for name, root in roots.items()},
                contains=details.contains,
                raw_bytes=trees.raw_bytes,
                added_bytes=session.stored_bytes,
                versions=details.versions,
                cost={name: float(seconds) for name, seconds in cost.items()},
                storage={
                    part: {kind: (raw, stored) for kind, (raw, stored) in kinds.items()}
                    for part, kinds in chunks.storage.items()
                },
            )
            raw = encode_snapshot(snapshot)
            snapshot_id = object_id(Kind.SNAPSHOT, raw)
            snapshot = replace(snapshot, id=snapshot_id.hex())
            session.add(Kind.SNAPSHOT, snapshot_id, raw, codec=0, raw_length=len(raw))
            packs = session.publish()
        except (EncodingError, RecursionError) as error:
            session.abandon()
            raise UnsupportedState(f"A name, the message or the config: {error}. Choose a plainer one.") from error
        except BaseException:
            session.abandon()
            raise
        records = move_ref(snapshot)
        memory.remember(store, snapshot.id, trees.leaves, trees.ids, trees.groups)
        store.index_commit(packs, {log: log_mark(log, record) for log, record in records.items()})
    return snapshot
