"""Making one snapshot self-contained: each of its chunks gets a copy that rests on no other."""

from __future__ import annotations

from ciuic.errors import Pruned
from ciuic.objects.ids import short
from ciuic.store.marking import Marks
from ciuic.store.object_reader import read_snapshot
from ciuic.store.rebasing import Rebasing, RepackReport
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store


def flatten(store: Store, snapshot_id: str) -> RepackReport:
    """Store every chunk of the snapshot that rests on another anew, by itself, decoded and verified. Durable on return.

    What was pruned of it stays pruned. Raises Pruned for a snapshot without any state, DamagedData and MissingObject
    when something it needs cannot be read: then nothing has changed.
    """
    with store.shared():
        snapshot = read_snapshot(store, bytes.fromhex(snapshot_id))
        gone = store.refs.prunes().get(snapshot_id, frozenset())
        if WHOLE in gone:
            raise Pruned(f"The state of {short(snapshot_id)} was pruned: there is nothing to flatten.")
        marks = Marks(store, {}, {})
        marks.walk_trees([bytes.fromhex(tree) for name, tree in snapshot.tree.items() if name not in gone])
        session = store.new_packs()
        try:
            rebasing = Rebasing(marks, session)
            rebasing.flatten()
            published = session.publish()
        except BaseException:
            session.abandon()
            raise
        store.index_commit(published, {})
        return RepackReport(rebasing.chunks, rebasing.stored_bytes, flattened=snapshot_id)
