"""Snapshots and trees, read, verified and decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ciuic.errors import DamagedData
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import Kind, short
from ciuic.objects.snapshot import Snapshot, decode_snapshot
from ciuic.store.store import Store

if TYPE_CHECKING:
    from ciuic.objects.tree import Tree


def read_snapshot(store: Store, id: bytes) -> Snapshot:
    """The snapshot object; MissingObject, or DamagedData for bytes that no writer of ours made."""
    try:
        return decode_snapshot(bytes(store.read(Kind.SNAPSHOT, id)), id)
    except EncodingError as error:
        raise DamagedData(f"snapshot {short(id.hex())}: {error}. Run `ciuic fsck`.") from error


def read_tree(store: Store, id: bytes) -> Tree:
    """The tree object; MissingObject, or DamagedData for bytes that no writer of ours made."""
    from ciuic.objects.tree import decode_tree  # `ciuic log` reads no tree

    try:
        return decode_tree(bytes(store.read(Kind.TREE, id)))
    except EncodingError as error:
        raise DamagedData(f"tree {id.hex()[:12]}: {error}. Run `ciuic fsck`.") from error
