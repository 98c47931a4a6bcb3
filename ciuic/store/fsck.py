"""fsck: read everything that can be read, change nothing, and say exactly what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ciuic.errors import CiuicError, DamagedData, DamageError
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import Kind
from ciuic.objects.recipe import decode_recipe
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry
from ciuic.store.expiry import read_logs
from ciuic.store.fsck_chains import ChainChecker
from ciuic.store.object_reader import read_snapshot, read_tree
from ciuic.store.pack_format import ALIGNMENT, HEADER, RECORD_LENGTH
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store

Progress = Callable[[int, int], None]
"""Called with (done, total): packs, and then batches of the records that rest on others."""


@dataclass(frozen=True)
class FsckReport:
    """``problems``: a line each, empty when all is well. ``read_data``: whether chunk payloads were read as well.

    ``damaged_snapshots``: hex ids of snapshots that cannot be restored whole.
    """

    problems: tuple[str, ...]
    damaged_snapshots: tuple[str, ...]
    snapshots: int
    trees: int
    chunks: int
    packs: int
    bytes_read: int
    read_data: bool
    recipes: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


def check(store: Store, *, read_data: bool = False, progress: Progress | None = None) -> FsckReport:
    """Check logs, footers, snapshots, trees, and that every chunk they need is listed, with all that it rests on; with
    ``read_data`` read all payloads too, decode them, and verify each against its checksum and its id. Changes
    nothing."""
    with store.shared():
        return _Checker(store, read_data, progress).run()


class _Checker:
    def __init__(self, store: Store, read_data: bool, progress: Progress | None) -> None:
        self.store = store
        self.read_data = read_data
        self.progress = progress
        self.problems: list[str] = []
        self.listed: dict[bytes, int] = {}
        """Id → depth of the shallowest intact copy."""
        self.bad: set[bytes] = set()
        self.chains = ChainChecker(store, self.listed, self.bad, self.problems)
        self.trees: dict[bytes, bool] = {}
        self.bytes_read = 0
        self.chunks = 0

    def run(self) -> FsckReport:
        roots = self.roots()
        self.store.refresh()  # commits go on: the packs of what the logs name by now
        self.packs()
        damaged, snapshots = self.snapshots(roots)
        return FsckReport(
            problems=tuple(self.problems),
            damaged_snapshots=tuple(damaged),
            snapshots=snapshots,
            trees=len(self.trees),
            chunks=self.chunks,
            packs=len(self.store.present),
            bytes_read=self.bytes_read + self.chains.bytes_read,
            read_data=self.read_data,
            recipes=len(self.chains.recipes),
        )

    def packs(self) -> None:
        names = sorted(self.store.present)
        for number, name in enumerate(names):
            try:
                self.pack(name)
            except (CiuicError, FileNotFoundError) as error:
                self.problems.append(str(error))
            if self.progress:
                self.progress(number + 1, len(names))
        for done, total in self.chains.check(read_data=self.read_data):
            if self.progress:
                self.progress(len(names) + done, len(names) + total)
        self.bad -= self.listed.keys()  # another copy is intact

    def pack(self, name: str) -> None:
        pack = self.store.pack(name)
        rows = pack.rows
        position = HEADER.size
        for row in rows:
            header = row.header
            self.chunks += header.kind is Kind.CHUNK
            if row.offset % ALIGNMENT or row.offset - position >= 4096 + RECORD_LENGTH:
                self.problems.append(f"{pack.path}: a record at an odd place: offset {row.offset}.")
            position = row.end
            if header.kind is Kind.CHUNK and self.chains.collect(pack, row):
                continue
            if self.read_data or header.kind is not Kind.CHUNK:
                try:
                    raw = pack.raw(row.offset, header.stored_length, header.id)
                    if header.kind is Kind.RECIPE:
                        self.chains.recipes[header.id] = self.recipe(header.id, raw)
                    self.bytes_read += header.stored_length
                except DamagedData as error:
                    self.problems.append(str(error))
                    self.bad.add(header.id)
                    self.chains.damaged.add((name, header.id))
                    continue
            self.listed[header.id] = 0

    @staticmethod
    def recipe(id: bytes, raw: Any) -> tuple[bytes, ...]:
        try:
            return decode_recipe(bytes(raw)).bases
        except EncodingError as error:
            raise DamagedData(f"recipe {id.hex()[:12]}: {error}.") from error

    def roots(self) -> list[str]:
        store = self.store
        values: list[str] = []
        try:
            logs = read_logs(store)
        except DamageError as error:
            self.problems.append(str(error))
            logs = {}
            for name in store.refs.names():
                try:
                    logs[name] = store.refs.log(name).read()
                except DamageError as problem:
                    self.problems.append(str(problem))
        for records in logs.values():
            values += [record.new for record in records]
        return [value for value in dict.fromkeys(values) if value != NOTHING and not value.startswith(SYMBOLIC)]

    def snapshots(self, stack: list[str]) -> tuple[list[str], int]:
        try:
            prunes = self.store.refs.prunes()
        except DamageError as error:
            self.problems.append(str(error))
            prunes = {}
        seen: set[str] = set()
        damaged = []
        while stack:
            id = stack.pop()
            if id in seen:
                continue
            seen.add(id)
            try:
                snapshot = read_snapshot(self.store, bytes.fromhex(id))
            except CiuicError as error:
                self.problems.append(f"snapshot {id[:12]}: {error}")
                damaged.append(id)
                continue
            stack += snapshot.parents
            gone = prunes.get(id, frozenset())
            if WHOLE in gone:
                continue
            trees = {name: tree for name, tree in snapshot.tree.items() if name not in gone}
            whole = [self.tree(bytes.fromhex(tree), name, 0) for name, tree in trees.items()]
            if not all(whole):
                damaged.append(id)
        return damaged, len(seen)

    def tree(self, id: bytes, path: str, depth: int) -> bool:
        """Whether everything below is there; each loss is named once."""
        if id in self.trees:
            return self.trees[id]
        if depth > 200:
            self.problems.append(f"{path}: trees nested too deep.")
            return False
        self.trees[id] = True  # a cycle would need a hash collision; this ends it all the same
        try:
            tree = read_tree(self.store, id)
        except CiuicError as error:
            self.problems.append(f"{path}: {error}")
            self.trees[id] = False
            return False
        whole = True
        for key, entry in tree.entries:
            if isinstance(entry, ChildEntry):
                whole &= self.tree(entry.id, f"{path}/{key}", depth + 1)
            elif isinstance(entry, (TensorEntry, BlobEntry)):
                for index, chunk in enumerate(entry.chunks):
                    if chunk not in self.listed:
                        state = "damaged" if chunk in self.bad else "missing"
                        if chunk in self.chains.lost:
                            state = f"lost: {self.chains.lost[chunk]}"
                        self.problems.append(f"{path}/{key}: chunk {index} ({chunk.hex()[:12]}) is {state}.")
                        whole = False
        for name, child in tree.modules:
            whole &= self.tree(child, f"{path}/{name}", depth + 1)
        self.trees[id] = whole
        return whole
