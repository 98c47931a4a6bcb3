"""Raw bytes of chunks that rest on others; where a copy is damaged, by way of other copies."""

from __future__ import annotations

from collections.abc import Sequence

from ciuic.errors import CiuicError
from ciuic.store.evaluation import Evaluation, NodeFailed, WrongId
from ciuic.store.resolving import Record, resolve
from ciuic.store.store import Store

__all__ = ["Record", "decode_records", "read_chunk"]

ATTEMPTS = 16


def decode_records(records: Sequence[Record], outs: Sequence[memoryview | None], *, check: bool = True) -> None:
    """Each record's raw bytes into its buffer, verified against its id; what they share is decoded once.

    ``outs``: writable, of the raw length; None: only verify. ``check``: compare stored bytes with their checksums;
    not needed by those who have done so before, since ids are compared in any case.

    Threads may call this at the same time. A copy that turns out to be damaged is replaced by another one, under the
    shared lock; DamagedData, MissingObject or StorageError when none serves, and then the outs hold anything.
    """
    damaged: set[tuple[str, bytes]] = set()
    first: CiuicError | None = None
    check_ids = False
    for _ in range(ATTEMPTS):
        evaluation = Evaluation(records, outs)
        try:
            return evaluation.run(check=check or check_ids, check_ids=check_ids)
        except WrongId:  # once more, to see whose fault it is
            check_ids = True
        except NodeFailed as failed:
            first = first or failed.error
            records = _by_other_copies(records, evaluation, failed, damaged, first)
    assert first is not None, "with every id compared something is named"
    raise first


def _by_other_copies(
    records: Sequence[Record],
    evaluation: Evaluation,
    failed: NodeFailed,
    damaged: set[tuple[str, bytes]],
    first: CiuicError,
) -> list[Record]:
    """The records again, without the copies that were found damaged; ``first`` when that is not possible."""
    bad = failed.record
    store = bad.store
    with store.shared():
        damaged.add((bad.pack.name, bad.header.id))
        store.forget(bad.header.id, bad.pack.name)
        store.close_pack(bad.pack.name)
        known: dict[bytes, Record] = {}
        try:
            return [resolve(store, record.header.id, known, damaged) for record in records]
        except CiuicError:
            lost = {bad}
            for node in evaluation.order:  # a commit must not rely on what cannot be read
                if not lost.isdisjoint(node.bases):
                    lost.add(node)
            store.forget_copies((node.pack.name, node.header.id) for node in lost)
            raise first from failed


def read_chunk(store: Store, id: bytes) -> memoryview:
    """A chunk's raw bytes, verified, by whatever copies serve. Under the shared lock."""
    try:
        record = store.record(id)
    except CiuicError:
        store.forget(id)
        raise
    out = memoryview(bytearray(record.header.raw_length))
    decode_records([record], [out])
    return out.toreadonly()
