"""What was promised to whom: a file that outlives everybody who writes to it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from blake3 import blake3

from ciuic.objects.plain import encode_plain


def digest(contents: dict[str, object]) -> str:
    """Of every leaf of a snapshot, down to the byte."""
    state = blake3()
    for path, leaf in sorted(contents.items()):
        is_tensor = isinstance(leaf, tuple) and len(leaf) == 3 and isinstance(leaf[2], bytes)
        state.update(repr((path, leaf)).encode() if is_tensor else path.encode() + encode_plain(leaf, path))
    return state.hexdigest()[:32]


@dataclass
class Reading:
    """``saved``: acknowledged snapshots, id → digest. ``freed``: those that nobody is owed any more."""

    saved: dict[str, str] = field(default_factory=dict)
    freed: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Lines that are there whole or not at all, whenever their writer is killed: each is one append."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def write(self, *words: str) -> None:
        os.write(self._descriptor, (" ".join((str(os.getpid()), *words)) + "\n").encode())

    def lines_of(self, pid: int) -> int:
        """How many a process has written."""
        with open(self.path, encoding="utf-8") as file:
            return sum(line.startswith(f"{pid} ") for line in file)

    def read(self) -> Reading:
        found = Reading()
        with open(self.path, encoding="utf-8") as file:
            for line in file.read().splitlines():
                _, verb, *words = line.split(" ")
                found.counts[verb] += 1
                if verb == "saved":
                    found.saved[words[0]] = words[1]
                elif verb == "frees":
                    found.freed.add(words[0])
        return found
