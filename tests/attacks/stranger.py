"""Somebody who writes whatever objects, packs and logs they like."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from blake3 import blake3

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
from ministore import Trainer

from ciuic.codec import Codec, zstd
from ciuic.objects.encoding import encode
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.snapshot import Snapshot, encode_snapshot
from ciuic.objects.tree import ChildEntry, Tree, encode_tree
from ciuic.store.pack_format import RecordHeader
from ciuic.store.pack_session import PackSession
from ciuic.store.reflog import CHECKSUM_DIGITS, SLOT

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
WRITTEN = Snapshot("", 9, None, NOW, "m", {"loss": 0.5}, {"lr": 1e-3}, (), {}, ("model",), {"model": 1}, 0)


class Stranger:
    """A repository with one honest snapshot, to be added to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trainer = Trainer.create(path)
        self.honest = self.trainer.commit({"w": b"12345678", "note": "honest"}, 1)

    @contextlib.contextmanager
    def session(self) -> Iterator[PackSession]:
        with self.trainer.store.shared():
            session = self.trainer.store.new_packs()
            yield session
            self.trainer.store.index_commit(session.publish(), {})

    def objects(self, *objects: tuple[Kind, bytes], packed: bool = False) -> list[bytes]:
        """Ids of objects, sound as far as hashes go; ``packed``: by zstandard."""
        with self.session() as session:
            for kind, raw in objects:
                stored = zstd.compress(memoryview(raw)) if packed else raw
                session.add(
                    kind, object_id(kind, raw), stored, codec=Codec.ZSTD if packed else Codec.RAW, raw_length=len(raw)
                )
        return [object_id(kind, raw) for kind, raw in objects]

    def record(self, raw_id: bytes, codec: int, stored: bytes, raw_length: int, base: bytes, depth: int) -> None:
        """A chunk's record that says what it is told to say."""
        with self.session() as session:
            header = RecordHeader(Kind.CHUNK, codec, 4, depth, len(stored), raw_length, raw_id, base, digest(stored))
            session.copy(header, stored)

    def tree(self, *entries: Any, kind: str = "module", packed: bool = False) -> bytes:
        """The id of a tree of [key, entry], however strange."""
        value: dict[str, Any] = {"kind": kind, "entries": list(entries)}
        if kind == "module":
            value["modules"] = []
        return self.objects((Kind.TREE, encode(value)), packed=packed)[0]

    def point(self, snapshot: bytes, *, like: str = "main") -> str:
        self.trainer.set(like, snapshot.hex())
        return snapshot.hex()

    def snapshot(self, root: bytes | None = None, name: str = "model", **said: Any) -> str:
        """On main: a snapshot of a tree, which says what it is told to say."""
        tree = {name: root.hex()} if root is not None else {}
        raw = encode_snapshot(replace(WRITTEN, parents=(self.honest,), tree=tree, **said))
        return self.point(*self.objects((Kind.SNAPSHOT, raw)))

    def chain(self, length: int, entries: int = 1, kind: str = "dict", **leaf: Any) -> bytes:
        """Trees in one another, each holding the next ``entries`` times."""
        below = Tree(kind, tuple(leaf.items()))
        objects = [(Kind.TREE, encode_tree(below))]
        for _ in range(length):
            id = object_id(Kind.TREE, objects[-1][1])
            names = [f"m{number}" for number in range(entries)]
            if kind == "module":
                objects.append((Kind.TREE, encode_tree(Tree(kind, (), tuple((name, id) for name in names)))))
            else:
                held = tuple((name, ChildEntry(id)) for name in names)
                objects.append((Kind.TREE, encode_tree(Tree(kind, held))))
        return self.objects(*objects)[-1]

    def log_record(self, name: str, *fields: str) -> bytes:
        """A sound slot of a log: sequence, time, old, new, actor, action."""
        rest = ("\t" + "\t".join(fields)).encode().ljust(SLOT - CHECKSUM_DIGITS - 1) + b"\n"
        return blake3(name.encode() + b"\0" + rest).hexdigest()[:CHECKSUM_DIGITS].encode() + rest

    def write_log(self, name: str, file: str, new: str, action: str = "a", actor: str = "b") -> None:
        path = self.path / file
        path.write_bytes(self.log_record(name, "0", "1700000000000000000", "-", new, actor, action))

    def packs(self) -> list[Path]:
        return sorted((self.path / "packs").iterdir())

    def drop_index(self) -> None:
        for path in (self.path / "index").iterdir():
            path.unlink()


def tensor(shape: list[int], chunk: int, chunks: bytes, dtype: str = "uint8", **more: Any) -> dict[str, Any]:
    return {"tensor": {"dtype": dtype, "shape": shape, "chunk": chunk, "chunks": chunks, **more}}


def sparse(path: Path, size: int) -> None:
    """A file of this length with nothing in it."""
    with path.open("r+b" if path.exists() else "wb") as file:
        os.truncate(file.fileno(), size)


__all__ = ["NO_ID", "Stranger", "sparse", "tensor"]
