"""``ciuic.testing``: its page tells the truth, and its invariants notice what is broken."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ciuic.commit.pipeline import Details
from ciuic.history.following import Following
from ciuic.store.store import Store
from ciuic.testing import (
    Broken,
    Disk,
    EffectLog,
    FaultyFileSystem,
    Promised,
    bytes_state,
    check_invariants,
    commit,
    contents,
    read_log,
    recording,
    refs_of,
)

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its examples run as they stand, one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {"folder": folder}
    for number, block in enumerate(blocks):
        file = folder / f"example{number}.py"  # hypothesis looks at the source of what it calls
        file.write_text(block, encoding="utf-8")
        exec(compile(block, str(file), "exec"), names)
    checked = int(str(names["checked"]))
    assert checked > 50
    assert f"{checked} disks, none of which needed repair" in capsys.readouterr().out


@pytest.fixture
def made(folder: Path) -> tuple[Path, Promised]:
    """A repository, and what it owes."""
    store = Store.create(str(folder / "repo"))
    following = Following(store)
    saved = {}
    for number in range(3):
        state = bytes_state({"w": bytes([number]) * 5000, "n": number})
        saved[commit(store, following, state, Details())] = contents(state)
    return folder / "repo", Promised(saved, {name: frozenset([value]) for name, value in refs_of(store).items()})


def test_what_holds(made: tuple[Path, Promised]) -> None:
    """Nothing is raised, and the repository has one more snapshot."""
    path, promised = made
    check_invariants(path, promised)
    assert len(list((path / "packs").iterdir())) >= 1


def test_a_ref_that_is_elsewhere(made: tuple[Path, Promised]) -> None:
    """A branch that lost its newest record has a value that nobody promised."""
    path, promised = made
    log = path / "refs" / "heads" / "main"
    os.truncate(log, log.stat().st_size - 512)
    with pytest.raises(Broken, match="refs/heads/main is at"):
        check_invariants(path, promised)


def test_a_snapshot_that_comes_back_wrong(made: tuple[Path, Promised]) -> None:
    """What is owed is compared byte for byte."""
    path, promised = made
    id = next(iter(promised.snapshots))
    other = {**promised.snapshots, id: contents(bytes_state({"w": b"\xff" * 5000, "n": 0}))}
    with pytest.raises(Broken, match=f"{id[:8]} came back wrong: model/w"):
        check_invariants(path, Promised(other, promised.refs))


def test_a_flipped_bit(made: tuple[Path, Promised]) -> None:
    """fsck reads everything."""
    path, promised = made
    pack = max((path / "packs").iterdir(), key=lambda each: each.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(Broken, match="fsck"):
        check_invariants(path, promised)


def test_a_store_that_forgets_to_sync_is_found(folder: Path) -> None:
    """The kit would notice: a file system whose syncs do nothing loses what was acknowledged."""
    root = folder / "disk"
    root.mkdir()
    log = EffectLog(folder / "log", root)
    with recording(log):
        store = Store.create(str(root / "repo"))
        state = bytes_state({"w": b"w" * 5000})
        snapshot = commit(store, Following(store), state, Details())
    promised = Promised(
        {snapshot: contents(state)}, {name: frozenset([value]) for name, value in refs_of(store).items()}
    )
    effects = read_log(log.path)
    synced = [number for number, effect in enumerate(effects) if effect.name == "sync" and "tmp/pack-" in effect.path]
    honest, forgetful = Disk(effects), Disk([effect for n, effect in enumerate(effects) if n not in synced])
    assert synced
    found = []
    for name, disk in (("honest", honest), ("forgetful", forgetful)):
        for number, image in enumerate(disk.images(len(disk.effects))):
            there = folder / f"{name}-{number}"
            there.mkdir()
            image.write(there)
            try:
                check_invariants(there / "repo", promised)
            except Exception:
                found.append(name)
    assert found and set(found) == {"forgetful"}


def test_a_failing_file_system(folder: Path) -> None:
    """It counts what it is told to count, fails once or from then on, and says what there was."""
    fs = FaultyFileSystem(1, effects=("create",))
    fs.close(fs.create(str(folder / "a")))
    with pytest.raises(Exception, match="Input/output error"):
        fs.create(str(folder / "b"))
    fs.close(fs.create(str(folder / "c")))
    fs.make_folder(str(folder / "d"))
    assert fs.count == 3 and [line.split()[0] for line in fs.log] == ["create"] * 3
    assert sorted(os.listdir(folder)) == ["a", "c", "d"]
