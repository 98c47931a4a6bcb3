"""Which chunk a new one may rest on, and how deep it may get."""

from __future__ import annotations

from typing import Any, NamedTuple

from ciuic.codec import Codec
from ciuic.commit.earlier import Earlier, EarlierLeaf
from ciuic.commit.leaves import Leaf
from ciuic.errors import CiuicError
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import Kind
from ciuic.objects.recipe import decode_recipe
from ciuic.store.pack_format import RecordHeader
from ciuic.store.store import Store

# A chain is as long as reading it back is worth: what is saved grows little beyond these, what a restore takes grows
# with every link. docs/design/003 has the figures.
DEPTHS = ((3, 1.0), (5, 0.5), (16, 0.35), (32, 0.2), (48, 0.12))
"""(depth, share of the raw bytes): up to that depth a delta may take so much."""
PREDICTED_DEPTH = 24
MOST_DEPTH = 255


class Base(NamedTuple):
    """A chunk to subtract. ``most_ratio``: stored bytes against raw up to which a delta on it is wanted."""

    id: bytes
    raw: Any
    most_ratio: float


def most_ratio(depth: int) -> float:
    """What a delta of that depth may take, as a share of its raw bytes; 0 where none is wanted."""
    return next((ratio for most, ratio in DEPTHS if depth <= most), 0.0)


class Bases:
    """Looks up, for chunks of this commit, what the parent snapshot has in their place. Used by several threads."""

    def __init__(self, store: Store, earlier: Earlier) -> None:
        self.store = store
        self.earlier = earlier if "deltas" in store.features else {}

    def leaf(self, leaf: Leaf) -> EarlierLeaf | None:
        """The parent's leaf, if its chunks can be compared with this one's."""
        before = self.earlier.get(leaf.path)
        return before if before is not None and before.fits(leaf, self.store.config.chunk_size) else None

    def of(self, leaf: Leaf, index: int, start: int, stop: int) -> Base | None:
        """A base for the chunk ``index``, bytes ``[start, stop)`` of the leaf.

        First moments gain nothing from one. Bytes in memory are compared with the parent's chunk, so that chains
        grow; without, the chunk at the bottom of its chain is read, which costs one decoding and not one a link.
        """
        before = self.leaf(leaf)
        if before is None or leaf.part == "first moment":
            return None
        id = before.chunks[index]
        header = self.store.header(id)
        if before.source is not None:
            ratio = most_ratio(header.depth + 1) if header is not None else 0.0
            return Base(id, before.source.read(start, stop), ratio) if ratio else None
        try:
            while header is not None and header.depth:
                id = self._below(header)
                header = self.store.header(id)
            if header is None or header.raw_length != stop - start:
                return None
            return Base(id, self.store.read(Kind.CHUNK, id), most_ratio(1))
        except (CiuicError, EncodingError):  # damaged or lost: this chunk stands by itself
            return None

    def _below(self, header: RecordHeader) -> bytes:
        """What the same tensor held where a record with a base was made from."""
        if header.codec in (Codec.DERIVED, Codec.PREDICTED):
            return decode_recipe(bytes(self.store.read(Kind.RECIPE, header.base))).bases[0]
        return header.base
