"""What the repository holds and what storing it once, and coding it, has saved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ciuic.codec import Codec
from ciuic.errors import DamagedData
from ciuic.history.graph import ancestors
from ciuic.objects.ids import Kind
from ciuic.objects.snapshot import COSTS, KINDS, PARTS, Snapshot, Storage
from ciuic.store.refs import HEADS, TAGS, WHOLE
from ciuic.store.store import Store

CODEC_NAMES = {int(codec): codec.name.lower() for codec in Codec}


@dataclass(frozen=True)
class Cost:
    """What one part of taking snapshots took, in seconds, over the ``snapshots`` that say so."""

    snapshots: int
    median: float
    worst: float

    @staticmethod
    def of(seconds: list[float]) -> Cost:
        """Of an even number the median is the upper of the two in the middle: a time that was measured."""
        return Cost(len(seconds), sorted(seconds)[len(seconds) // 2], max(seconds))


@dataclass(frozen=True)
class Stats:
    """All sizes in bytes.

    ``raw_bytes``: what the snapshots reachable from refs would take as whole files, ``raw_by_component`` the same by
    component. ``unique_bytes``: raw bytes of the distinct chunks; ``stored_bytes``: the same as stored;
    ``by_codec``: codec name → (raw, stored). ``pack_bytes``: the files, with trees, recipes, headers, footers and what
    gc has not collected yet. ``identical_bytes`` and ``coded_bytes`` are what dedup and coding have saved.
    ``saving``: what the commits of these snapshots said (``Snapshot.storage``, summed): part → kind → (raw, stored).
    A snapshot pruned whole counts nothing; one pruned in part counts whole, since parts are not components.
    ``silent``: snapshots that hold something and do not say how it was stored.
    ``costs``: what the snapshots took, by the names of ``Snapshot.cost``.
    """

    snapshots: int
    pruned: int
    branches: int
    tags: int
    packs: int
    chunks: int
    raw_bytes: int
    unique_bytes: int
    stored_bytes: int
    pack_bytes: int
    raw_by_component: dict[str, int]
    by_codec: dict[str, tuple[int, int]]
    saving: Storage
    silent: int
    costs: dict[str, Cost]

    @property
    def identical_bytes(self) -> int:
        return max(0, self.raw_bytes - self.unique_bytes)

    @property
    def coded_bytes(self) -> int:
        return self.unique_bytes - self.stored_bytes


class _Saving:
    """Sums up what snapshots say of their storage."""

    def __init__(self) -> None:
        self.sums: Storage = {}
        self.silent = 0

    def add(self, snapshot: Snapshot) -> None:
        self.silent += not snapshot.storage and any(snapshot.raw_bytes.values())
        for part, kinds in snapshot.storage.items():
            sums = self.sums.setdefault(part, {})
            for kind, (raw, stored) in kinds.items():
                before = sums.get(kind, (0, 0))
                sums[kind] = before[0] + raw, before[1] + stored

    def in_order(self) -> Storage:
        """Parts and kinds as people expect them, unknown ones last."""
        return {part: _ordered(self.sums[part], KINDS) for part in _ordered(self.sums, PARTS)}


def _ordered(sums: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: sums[name] for name in (*names, *sums) if name in sums}


def statistics(store: Store) -> Stats:
    """Read footers and snapshots, nothing larger."""
    with store.shared():
        branches, tags = store.refs.listing(HEADS), store.refs.listing(TAGS)
        head = store.refs.head().snapshot
        prunes = store.refs.prunes()
        raw: dict[str, int] = {}
        seconds: dict[str, list[float]] = {name: [] for name in COSTS}
        saving = _Saving()
        count = pruned = 0
        for snapshot in ancestors(store, {*branches.values(), *tags.values(), *([head] if head else [])}):
            count += 1
            gone = prunes.get(snapshot.id, frozenset())
            pruned += bool(gone)
            for name, duration in snapshot.cost.items():
                seconds.setdefault(name, []).append(duration)
            if WHOLE not in gone:
                saving.add(snapshot)
            for name, size in snapshot.raw_bytes.items():
                if WHOLE not in gone and name not in gone:
                    raw[name] = raw.get(name, 0) + size
        seen: set[bytes] = set()
        by_codec: dict[str, tuple[int, int]] = {}
        chunks = pack_bytes = 0
        for name in store.present:
            pack_bytes += os.stat(store.join("packs", f"{name}.pack")).st_size
            try:
                rows = store.pack(name).rows
            except DamagedData:
                continue
            for row in rows:
                header = row.header
                if header.kind is not Kind.CHUNK or header.id in seen:
                    continue
                seen.add(header.id)
                chunks += 1
                codec = CODEC_NAMES.get(header.codec) or f"codec {header.codec}"
                raw_sum, stored_sum = by_codec.get(codec, (0, 0))
                by_codec[codec] = (raw_sum + header.raw_length, stored_sum + header.stored_length)
        return Stats(
            snapshots=count,
            pruned=pruned,
            branches=len(branches),
            tags=len(tags),
            packs=len(store.present),
            chunks=chunks,
            raw_bytes=sum(raw.values()),
            unique_bytes=sum(pair[0] for pair in by_codec.values()),
            stored_bytes=sum(pair[1] for pair in by_codec.values()),
            pack_bytes=pack_bytes,
            raw_by_component=raw,
            by_codec=by_codec,
            saving=saving.in_order(),
            silent=saving.silent,
            costs={name: Cost.of(durations) for name, durations in seconds.items() if durations},
        )
