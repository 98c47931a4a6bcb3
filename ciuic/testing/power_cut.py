"""What a disk may hold after a power cut, rebuilt from the effects that were recorded.

The assumptions are those of docs/durability.md: data is durable after the file's sync, a name after the folder's; of
what was not synced, any part may be lost, sectors of 512 bytes at a time, in any order; what is lost leaves the old
bytes, or zeros. A rename is two names here: the new one and the loss of the old one may be kept or lost each by itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from blake3 import blake3

from ciuic.testing.recording import Effect

SECTOR = 512
NEVER = 1 << 62
KEPT = "all kept"
DROPPED = "unsynced dropped"
WRITE_LOST = "one unsynced write lost"
TORN = "torn"
EMPTY = "named but empty"
ENTRY_LOST = "a folder entry lost"
REORDERED = "a later effect kept without those before it"
LOSSES = (KEPT, DROPPED, WRITE_LOST, TORN, EMPTY, ENTRY_LOST, REORDERED)


@dataclass(frozen=True, eq=False)
class _Change:
    """Bytes of a file, or the entry ``name`` of a folder. ``node``: that file or folder; ``entry``: what the name is
    now, None for nothing. ``number``: of the effect."""

    number: int
    node: int
    offset: int = 0
    data: bytes | None = None
    name: str = ""
    entry: int | None = None


@dataclass(frozen=True)
class Image:
    """One state of the disk. ``prefix``: how many of the recorded effects had taken place. ``loss``: one of LOSSES.

    ``files``: path → content; ``folders``: paths.
    """

    prefix: int
    loss: str
    files: dict[str, bytes] = field(repr=False)
    folders: tuple[str, ...] = field(repr=False)

    @functools.cached_property
    def digest(self) -> str:
        """The same for images that hold the same."""
        state = blake3(repr(sorted(self.folders)).encode())
        for path, content in sorted(self.files.items()):
            state.update(f"\0{path}\0{len(content)}\0".encode())
            state.update(content)
        return state.hexdigest()

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Make the files in an empty folder."""
        for path in sorted(self.folders):
            os.mkdir(os.path.join(folder, path))
        for path, content in self.files.items():
            with open(os.path.join(folder, path), "wb", buffering=0) as file:
                file.write(content)


class Disk:
    """A disk that was empty when the recording began."""

    def __init__(self, effects: Sequence[Effect]) -> None:
        self.effects = [effect for effect in effects if effect.name not in ("note", "seen")]
        self._changes: list[_Change] = []
        self._durable: dict[_Change, int] = {}
        """The number of the effect that made a change durable."""
        self._folders = {0}
        self._pending: dict[int, list[_Change]] = {}
        self._entries: dict[int, dict[str, int]] = {0: {}}
        self._inodes: dict[int, int] = {}
        for number, effect in enumerate(self.effects):
            self._apply(number, effect)

    # What was recorded

    def _apply(self, number: int, effect: Effect) -> None:
        path, target = effect.path, effect.target
        if effect.name == "create":
            self._inodes[effect.inode] = self._enter(number, path, self._new())
        elif effect.name == "make_folder":
            folder = self._enter(number, path, self._new())
            self._folders.add(folder)
            self._entries[folder] = {}
        elif effect.name in ("write", "write_at"):
            self._add(_Change(number, self._inodes[effect.inode], effect.offset, effect.data))
        elif effect.name == "sync":
            self._settle(number, self._inodes[effect.inode])
        elif effect.name == "sync_folder":
            self._settle(number, self._node(path))
        elif effect.name in ("rename", "link"):
            self._enter(number, target, self._node(path))
        if effect.name in ("rename", "unlink"):
            self._enter(number, path, None)

    def _new(self) -> int:
        return 1 + max(self._entries.keys() | self._inodes.values())

    def _node(self, path: str) -> int:
        node = 0
        for name in path.split("/"):
            node = node if name == "." else self._entries[node][name]
        return node

    def _enter(self, number: int, path: str, entry: int | None) -> int:
        folder, _, name = path.rpartition("/")
        node = self._node(folder or ".")
        if entry is None:
            del self._entries[node][name]
        else:
            self._entries[node][name] = entry
        self._add(_Change(number, node, name=name, entry=entry))
        return entry or 0

    def _add(self, change: _Change) -> None:
        self._changes.append(change)
        self._pending.setdefault(change.node, []).append(change)

    def _settle(self, number: int, node: int) -> None:
        self._durable.update((change, number) for change in self._pending.pop(node, ()))

    # What may be left

    def images(self, prefix: int, recent: int = NEVER) -> Iterator[Image]:
        """What the disk may hold when the power fails after ``prefix`` effects; some may be the same.

        ``recent``: only of so many of the last changes one is lost, torn or kept by itself.
        """
        past = [change for change in self._changes if change.number < prefix]
        pending = [change for change in past if self._durable.get(change, NEVER) >= prefix]
        durable = [change for change in past if self._durable.get(change, NEVER) < prefix]
        make = functools.partial(self._image, prefix)
        yield make(KEPT, past)
        yield make(DROPPED, durable)
        writes = [change for change in pending if change.data is not None]
        yield make(EMPTY, [change for change in past if change not in writes])
        for change in pending[-recent:]:
            swap = functools.partial(_swapped, past, change)
            if change.data is None:
                yield make(ENTRY_LOST, swap([]))
                yield make(REORDERED, [*durable, change])
                continue
            yield make(WRITE_LOST, swap([]))
            yield make(WRITE_LOST, swap([replace(change, data=bytes(len(change.data)))]))
            yield from (make(TORN, swap(pieces)) for pieces in _torn(change))
            yield make(EMPTY, [each for each in past if each.node != change.node or each not in writes])
            names = [each for each in pending if each.entry == change.node]
            yield make(REORDERED, sorted([*durable, *names, change], key=lambda each: each.number))

    def all_images(self, recent: int = NEVER, prefixes: Iterable[int] | None = None) -> Iterator[Image]:
        """Those of every prefix, or of these, each content once."""
        seen: set[str] = set()
        for prefix in range(len(self.effects) + 1) if prefixes is None else prefixes:
            for image in self.images(prefix, recent):
                if image.digest not in seen:
                    seen.add(image.digest)
                    yield image

    def _image(self, prefix: int, loss: str, changes: Iterable[_Change]) -> Image:
        entries: dict[int, dict[str, int | None]] = {}
        writes: dict[int, list[_Change]] = {}
        for change in changes:
            if change.data is None:
                entries.setdefault(change.node, {})[change.name] = change.entry
            else:
                writes.setdefault(change.node, []).append(change)
        files: dict[str, bytes] = {}
        folders: list[str] = []
        stack = [("", 0)]
        while stack:
            above, node = stack.pop()
            for name, entry in entries.get(node, {}).items():
                if entry is None:
                    continue
                if entry in self._folders:
                    folders.append(above + name)
                    stack.append((f"{above}{name}/", entry))
                else:
                    files[above + name] = _content(writes.get(entry, ()))
        return Image(prefix, loss, files, tuple(folders))


def _content(writes: Iterable[_Change]) -> bytes:
    content = bytearray()
    for change in writes:
        assert change.data is not None
        content += bytes(max(0, change.offset - len(content)))
        content[change.offset : change.offset + len(change.data)] = change.data
    return bytes(content)


def _swapped(changes: list[_Change], one: _Change, others: list[_Change]) -> list[_Change]:
    at = changes.index(one)
    return [*changes[:at], *others, *changes[at + 1 :]]


def _torn(change: _Change) -> Iterator[list[_Change]]:
    """A write of which some sectors came to the disk, and in place of the others the old bytes, or zeros."""
    assert change.data is not None
    end = change.offset + len(change.data)
    cuts = [change.offset, *range(change.offset // SECTOR * SECTOR + SECTOR, end, SECTOR), end]
    sectors = list(pairwise(cuts))
    count = len(sectors)
    if count < 2:
        return
    half = count // 2
    kept: tuple[Callable[[int], bool], ...] = (
        lambda sector: sector < half,
        lambda sector: sector >= half,
        lambda sector: sector % 2 == 0,
        lambda sector: sector != 0,
        lambda sector: sector != count - 1,
    )
    for keeps in kept:
        for zeros in (False, True):
            pieces = []
            for number, (start, stop) in enumerate(sectors):
                data = change.data[start - change.offset : stop - change.offset]
                if keeps(number):
                    pieces.append(replace(change, offset=start, data=data))
                elif zeros:
                    pieces.append(replace(change, offset=start, data=bytes(stop - start)))
            yield pieces
