"""P1, P2, P3 on real file systems: full ones, and one whose power fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from ministore import Trainer, noise, output, python
from small_disk import KINDS, SmallDisk, mounted

from ciuic.errors import StorageFull
from ciuic.store.fsck import check
from ciuic.store.gc import collect
from ciuic.store.reflog import NOTHING

STATE: dict[str, object] = {"w": noise("w", 9000), "v": 1}


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 2 MiB, or what of it ext4 leaves for files."""
    with mounted(request.param, tmp_path, 2) as disk:
        yield disk


def fill_with_commits(trainer: Trainer) -> dict[str, object]:
    """Commits to another branch until the disk is full: what was acknowledged."""
    saved: dict[str, object] = {}
    with pytest.raises(StorageFull, match="Nothing that was saved is lost"):
        while True:
            state = {"w": noise(("scratch", len(saved)), 50_000)}
            saved[trainer.commit_to("scratch", state)] = state
    return saved


def test_full(disk: SmallDisk) -> None:
    """StorageFull; all that was acknowledged reads, gc frees what was given up, and training goes on."""
    path = disk.folder / "repo"
    trainer = Trainer.create(path)
    kept = trainer.commit(STATE)
    saved = fill_with_commits(trainer)
    assert len(saved) > 3
    filler = disk.fill()
    with pytest.raises(StorageFull):
        trainer.commit({"w": noise("full", 20_000)})
    assert trainer.tip() == kept
    again = Trainer(path)
    assert {id: again.load(id) for id in saved} == saved and again.load(kept) == STATE
    report = check(again.store, read_data=True)
    assert report.ok, report.problems
    filler.unlink()
    again.set("scratch", NOTHING)
    assert collect(again.store, expire=timedelta(0)).freed_bytes > 150_000
    assert again.commit_to("main", {"w": noise("after", 50_000)}) == trainer.tip()
    assert check(again.store, read_data=True).ok


def test_full_to_the_last_byte(disk: SmallDisk) -> None:
    """Not even a log's next record fits: reading, fsck and the removal of a branch that gc needs still work, or say so.

    gc itself needs a little room, for its generation. With none it says StorageFull and has deleted nothing.
    """
    path = disk.folder / "repo"
    trainer = Trainer.create(path)
    kept = trainer.commit(STATE)
    saved = fill_with_commits(trainer)
    trainer.set("scratch", NOTHING)
    filler = disk.fill()
    view = Trainer(path)
    try:
        freed = collect(view.store, expire=timedelta(0)).freed_bytes
    except StorageFull:
        assert {id: view.load(id) for id in saved} == saved
        filler.unlink()
        freed = collect(view.store, expire=timedelta(0)).freed_bytes
    assert freed > 150_000
    assert view.load(kept) == STATE
    assert view.load(view.commit_to("main", {"w": noise("after", 50_000)})) == {"w": noise("after", 50_000)}
    report = check(view.store, read_data=True)
    assert report.ok, report.problems


COMMITTING = """
import sys
from ministore import Trainer, noise
trainer = Trainer(sys.argv[1])
number = int(sys.argv[2])
while True:
    number += 1
    print(trainer.commit({"w": noise(number, 9000), "same": noise("same", 9000)}), number, flush=True)
"""
LOOKING = """
import sys
from datetime import timedelta
from ministore import Trainer, noise
from ciuic.store.fsck import check
from ciuic.store.gc import collect
trainer = Trainer(sys.argv[1])
for line in sys.stdin:
    id, number = line.split()
    assert trainer.load(id) == {"w": noise(int(number), 9000), "same": noise("same", 9000)}
    assert trainer.tip() is not None
for again in range(2):
    report = check(trainer.store, read_data=True)
    assert report.ok, report.problems
    collect(trainer.store, expire=timedelta(0))
"""


def test_the_power_fails(tmp_path: Path) -> None:
    """ext4 is shut down while a process commits: every acknowledged commit is on the disk, and nothing needs repair."""
    with mounted("ext4", tmp_path, 16) as disk:
        path = disk.folder / "repo"
        output(python("import sys; from ministore import Trainer; Trainer.create(sys.argv[1])", path))
        os.sync()
        acknowledged: list[str] = []
        for cut in range(6):
            child = python(COMMITTING, path, 1000 * cut)
            assert child.stdout is not None
            acknowledged += [child.stdout.readline() for _ in range(1 + 3 * cut)]
            disk.cut_the_power()
            acknowledged += child.stdout.readlines()
            _, errors = child.communicate()
            assert child.returncode == 1 and "Error" in errors
            disk.unmount()
            assert disk.mount().returncode == 0
            look = python(LOOKING, path, stdin=-1)
            _, errors = look.communicate("".join(acknowledged))
            assert look.returncode == 0, errors
        assert len(acknowledged) > 40
