"""Files cut at every length, removed, swapped, and replaced by another repository's: right answers, or our errors."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from pathlib import Path

import pytest
from ministore import Trainer, noise
from smallrepo import Small, copied, is_clean, opened, report, wrong_answers, wrong_refs
from test_every_byte import EVERY, FULL, PARTS, object_at, rows_of

from ciuic.errors import CiuicError, DamagedData
from ciuic.objects.ids import object_id
from ciuic.store.gc import collect
from ciuic.store.pack import Pack

LOGS = ["HEAD", "prunes", "refs/heads/main", "refs/heads/side", "refs/tags/v1"]
NAMED = ["format", "config.toml", "generation", "lock", "gate", *LOGS]
"""Every file but packs, whose names differ from run to run."""


def nothing_wrong(small: Small, *, older: bool = False) -> None:
    """Whatever is asked, with the index that is there and by footers alone; then a commit, which may be refused."""
    for index in (True, False):
        with contextlib.suppress(CiuicError):
            assert wrong_answers(small, opened(small.path, index=index)) == []
            assert wrong_refs(small, opened(small.path, index=index), older=older) == []
            report(opened(small.path, index=index))
    with contextlib.suppress(CiuicError):
        trainer = Trainer(small.path)
        state = {"new": noise("new", 50)}
        assert trainer.load(trainer.commit(state)) == state
        assert wrong_answers(small, trainer.store) == []


@pytest.mark.parametrize("part", range(PARTS))
def test_packs_cut_at_every_length(small: Small, part: int) -> None:
    """From the last byte to the first. What the index leads to may still be whole; a footer is no longer there."""
    for path in small.files("packs"):
        rows = rows_of(small, path)
        data = path.read_bytes()
        for length in reversed(range(part, len(data), PARTS)):
            os.truncate(path, length)
            row = object_at(rows, length)
            fresh = opened(small.path, index=True)
            pack = Pack(fresh.fs, str(path), path.stem, fresh.repository_id)
            with pytest.raises(DamagedData):
                _ = pack.rows
            if row.offset <= length < row.end:
                with pytest.raises(DamagedData):
                    pack.stored(row.offset, row.header.stored_length)
            if length // PARTS % 8 == 0 or FULL:
                for index in (True, False):
                    store = opened(small.path, index=index)
                    with contextlib.suppress(CiuicError), store.shared():
                        assert object_id(row.header.kind, store.read(row.header.kind, row.header.id)) == row.header.id
            if length // PARTS % (4 * EVERY) == 0 or FULL:
                for index in (True, False):
                    assert wrong_answers(small, opened(small.path, index=index)) == []
                    assert not is_clean(report(opened(small.path, index=index)))
        path.write_bytes(data)
    assert is_clean(report(opened(small.path, index=True)))


@pytest.mark.parametrize("name", LOGS)
def test_logs_cut_at_every_length(small: Small, name: str) -> None:
    """An end that is missing looks as if it had never been acknowledged, so an older value stands. The index remembers:
    fsck says so, and gc does not run. Of prunes it does not: what was given up would be missing."""
    path = small.path / name
    data = path.read_bytes()
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        store = opened(small.path, index=True)
        assert wrong_refs(small, store, older=True) == []
        if length % (EVERY // 4 or 1) == 0:
            assert wrong_answers(small, store) == []
            assert name == "prunes" or not is_clean(report(opened(small.path, index=True)))
            with pytest.raises(CiuicError) if name != "prunes" else contextlib.suppress(CiuicError):
                collect(opened(small.path, index=True))
    path.write_bytes(data)
    assert is_clean(report(opened(small.path, index=True)))


@pytest.mark.parametrize("name", ["format", "config.toml", "generation"])
def test_small_files_cut_at_every_length(small: Small, name: str) -> None:
    """What is stored does not depend on the settings."""
    path = small.path / name
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with contextlib.suppress(CiuicError):
            store = opened(small.path, index=length % 2 == 0)
            assert wrong_refs(small, store) == []
            assert wrong_answers(small, store) == []


@pytest.mark.parametrize("name", ["stamp", "data.mdb", "lock.mdb", "lock"])
def test_index_files_cut(small: Small, name: str) -> None:
    """LMDB never sees a file that was cut, at any length."""
    path = small.path / "index" / name
    size = path.stat().st_size
    for length in {0, 1, 4095, 4096, 8192, size // 2, size - 1} & set(range(size)):
        os.truncate(path, length)
        store = opened(small.path, index=True)
        del store._lmdb_index.update
        assert wrong_answers(small, store) == wrong_refs(small, store) == []


def removable(small: Small) -> list[Path]:
    return [*small.files(), *small.files("index")]


def test_each_file_removed(small: Small, intact: Small, tmp_path: Path) -> None:
    """One after the other, from a repository that is whole otherwise."""
    for number, path in enumerate(removable(small)):
        hurt = copied(intact, tmp_path / f"hurt-{number}")
        (hurt.path / path.relative_to(small.path)).unlink()
        nothing_wrong(hurt, older=True)
        shutil.rmtree(hurt.path)


def test_each_file_swapped_with_each_other_of_its_kind(small: Small, intact: Small, tmp_path: Path) -> None:
    """Two packs, two logs: each says whose it is, so neither serves under the name of the other."""
    packs = [path.relative_to(small.path) for path in small.files("packs")]
    pairs = [*itertools.combinations(packs, 2), *itertools.combinations(map(Path, LOGS), 2)]
    for number, (a, b) in enumerate(pairs):
        hurt = copied(intact, tmp_path / f"hurt-{number}")
        one, two = hurt.path / a, hurt.path / b
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
        assert not is_clean(report(opened(hurt.path, index=True))), (a, b)
        nothing_wrong(hurt)
        shutil.rmtree(hurt.path)


@pytest.mark.parametrize("name", NAMED)
def test_each_file_replaced_by_another_repositorys(small: Small, foreign: Small, name: str) -> None:
    """A log of the same name holds sound records of snapshots that are not here: they are missing, and nothing else."""
    shutil.copy(foreign.path / name, small.path / name)
    either = {each: [*foreign.refs[each], *values] if each == name else values for each, values in small.refs.items()}
    nothing_wrong(small._replace(refs=either), older=True)


def test_packs_replaced_by_another_repositorys(small: Small, foreign: Small) -> None:
    """Under our name and under its own."""
    for ours, theirs in zip(small.files("packs"), foreign.files("packs"), strict=True):
        data = ours.read_bytes()
        shutil.copy(theirs, ours)
        shutil.copy(theirs, ours.with_name(theirs.name))
        assert wrong_answers(small, opened(small.path, index=False)) == []
        assert not is_clean(report(opened(small.path, index=False)))
        ours.write_bytes(data)
    assert wrong_answers(small, opened(small.path, index=False)) == []
    for path in foreign.files("packs"):
        (small.path / "packs" / path.name).unlink()
    assert is_clean(report(opened(small.path, index=True)))
    nothing_wrong(small)


def test_index_of_another_repository(small: Small, foreign: Small) -> None:
    """With its stamp and all."""
    shutil.rmtree(small.path / "index")
    shutil.copytree(foreign.path / "index", small.path / "index")
    nothing_wrong(small)


def test_folders_removed(small: Small, intact: Small, tmp_path: Path) -> None:
    """Copying tools drop empty folders, and people drop others."""
    for folder in [path.relative_to(small.path) for path in small.path.rglob("*") if path.is_dir()]:
        hurt = copied(intact, tmp_path / "hurt")
        shutil.rmtree(hurt.path / folder)
        nothing_wrong(hurt, older=True)
        shutil.rmtree(hurt.path)
