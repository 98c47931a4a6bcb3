"""The index kept in memory, read from the packs' footers: serves when LMDB cannot (a read-only disk, a stuck lock)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ciuic.store.index import IndexRow, LogMark, Place


class FooterIndex:
    """Answers as Index does, for one process."""

    def __init__(self) -> None:
        self._places: dict[bytes, Place] = {}
        self._packs: set[str] = set()
        self._marks: dict[str, LogMark] = {}

    def place(self, id: bytes) -> Place | None:
        return self._places.get(id)

    def packs(self) -> set[str]:
        return set(self._packs)

    def log_marks(self) -> dict[str, LogMark]:
        return dict(self._marks)

    def ids_with_prefix(self, prefix: bytes, odd: str, limit: int) -> list[bytes]:
        start = prefix.hex() + odd
        return [id for id in self._places if id.hex().startswith(start)][:limit]

    def update(
        self,
        generation: int,
        packs: Mapping[str, Iterable[IndexRow]] | None = None,
        marks: dict[str, LogMark] | None = None,
        dropped: Iterable[bytes] = (),
        dropped_packs: Iterable[str] = (),
        dropped_logs: Iterable[str] = (),
        next_generation: int | None = None,
    ) -> None:
        for id in dropped:
            self._places.pop(id, None)
        self._packs -= set(dropped_packs)
        for name, rows in (packs or {}).items():
            self._packs.add(name)
            for id, offset, length, depth in rows:
                other = self._places.get(id)
                if other is None or depth <= other.depth or other.pack not in self._packs:
                    self._places[id] = Place(name, offset, length, depth)
        self._marks.update(marks or {})
        for log in dropped_logs:
            self._marks.pop(log, None)
