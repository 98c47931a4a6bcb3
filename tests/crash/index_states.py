"""What may stand where the index was: LMDB's file is nobody's truth, and whatever it holds, answers stay right."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from histories import History, IndexFile

from ciuic.store.fs import LOCAL
from ciuic.store.index import Index
from ciuic.testing.recording import Effect

State = Callable[[Path], None]
"""Fills a repository's empty index folder."""
NOISE = random.Random(0).randbytes(40_960)


def vouched(file: IndexFile) -> State:
    """The file, and a stamp of its generation that fits it: a power cut leaves that when it comes between two syncs."""

    def fill(repository: Path) -> None:
        folder = repository / "index"
        (folder / "data.mdb").write_bytes(file.data)
        (folder / "lock.mdb").touch()
        Index(LOCAL, str(folder), str(folder)).write_stamp(file.generation)

    return fill


def truncated(file: IndexFile) -> State:
    def fill(repository: Path) -> None:
        vouched(file)(repository)
        (repository / "index" / "data.mdb").write_bytes(file.data[: len(file.data) // 2])

    return fill


def noise(repository: Path) -> None:
    for name in ("data.mdb", "lock.mdb", "stamp"):
        (repository / "index" / name).write_bytes(NOISE)


def missing(repository: Path) -> None:
    (repository / "index").rmdir()


def states(history: History, prefix: int, foreign: IndexFile) -> dict[str, State]:
    """By name, those that an image of so many effects may meet."""
    files = history.index_files(prefix)
    found: dict[str, State] = {"missing": missing, "random": noise, "foreign": vouched(foreign)}
    if files:
        found |= {"as it was": vouched(files[-1]), "truncated": truncated(files[-1])}
        older = files[max(0, len(files) - 4)]
        # An index that remembers a removed log is the trip-wire: gc makes it forget that durably, and then removes it.
        if not any(_removes_a_log(effect) for effect in history.disk.effects[older.prefix : prefix]):
            found["older"] = vouched(older)
    return found


def _removes_a_log(effect: Effect) -> bool:
    return effect.name == "unlink" and "/refs/" in effect.path
