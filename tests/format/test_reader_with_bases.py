"""Snapshots whose chunks rest on others are read by the independent reader, and go on being read."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from blake3 import blake3

import ciuic

sys.path.insert(0, str(Path(__file__).parent))
from independent_reader import Reader
from make_golden import records, trained

from ciuic.errors import Pruned
from ciuic.store.layout import FOLDERS

GOLDEN = Path(__file__).with_name("golden") / "repository"
EVERY_CODEC = {0, 1, 2, 3, 4, 5}


def hashes(tree):
    """Dotted paths of a tree's tensors → BLAKE3 of their bytes."""
    found = {}
    for key, leaf in tree.items():
        if isinstance(leaf, dict):
            found.update({f"{key}/{path}": value for path, value in hashes(leaf).items()})
        elif isinstance(leaf, tuple) and len(leaf) == 3 and isinstance(leaf[2], bytes):
            found[str(key)] = blake3(leaf[2]).hexdigest()
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(repository, its snapshots as the reader has them by step, what was committed)."""
    path = tmp_path_factory.mktemp("bases") / "repository"
    states = trained(path)
    return path, {snapshot["step"]: snapshot for snapshot in Reader(path).history("main")}, states


def test_every_codec_is_read(written):
    """Deltas on deltas, predictions on predictions, casts of either: every tensor of every snapshot."""
    path, snapshots, states = written
    reader = Reader(path)
    assert {codec for codec, _ in records(reader)} == EVERY_CODEC and max(depth for _, depth in records(reader)) > 2
    assert sorted(snapshots) == sorted(states)
    for step, state in states.items():
        components = snapshots[step]["components"]
        found = {name: hashes(reader.tree(components[name])) for name in ("model", "optimizer", "extra")}
        assert found == state


def test_the_golden_repository_with_branches_is_read(tmp_path):
    """Branches and tags, a deleted one, a detached HEAD, prunes, a chunked value, packs as gc and repack write them: by
    the independent reader and by ciuic."""
    path = tmp_path / "repository"
    shutil.copytree(GOLDEN.with_name("branches"), path)
    for folder in FOLDERS:
        (path / folder).mkdir(parents=True, exist_ok=True)
    expected = {int(step): state for step, state in json.loads((path / "expected.json").read_text()).items()}
    (path / "expected.json").unlink()
    reader = Reader(path)
    own = next(reader.history("läufe/a+b"))
    assert own["step"] == 100 and own["message"] == "auf dem Zweig\n\nzweite Zeile"
    extra = reader.tree(own["components"]["extra"])
    assert {"extra": {"tensor": hashes(extra)["tensor"]}} == expected[100]
    assert [snapshot["step"] for snapshot in reader.history("main")] == [3, 2, 1, 0]
    for snapshot in reader.history("main"):
        state = expected[snapshot["step"]]
        assert state == {name: hashes(reader.tree(snapshot["components"][name])) for name in state}
    repo = ciuic.Repo.open(path)
    assert repo.branches().keys() == {"main", "läufe/a+b"} and repo.tags().keys() == {"v1.0"}
    assert repo.head().branch is None and repo.resolve("HEAD").step == 5
    assert repo.reflog("gone")[0].new is None and repo.resolve("v1.0").step == repo.resolve("main").step == 3
    by_step = {snapshot.step: snapshot for snapshot in repo.log("HEAD")}
    assert repo.prune_state(by_step[0].id) == {"optimizer"} and repo.prune_state(by_step[4].id) == {"*"}
    with pytest.raises(Pruned):
        repo.load(by_step[4])
    assert repo.load("läufe/a+b")["extra"]["values"]["m"] == {3: b"\0", "k": [1.5, True]}
    for step, state in expected.items():
        if "model" in state:
            model = repo.load(by_step[step].id)["model"]
            tensors = {name: bytes(value[...].contiguous().view(torch.uint8).numpy()) for name, value in model.items()}
            assert {name: blake3(data).hexdigest() for name, data in tensors.items()} == state["model"]
    assert repo.fsck(read_data=True).ok


def test_the_golden_repository_is_read(tmp_path):
    """By the independent reader and by ciuic, with every codec in it: the same tensors as when it was made."""
    path = tmp_path / "repository"
    shutil.copytree(GOLDEN, path)
    for folder in FOLDERS:  # version control keeps no empty ones
        (path / folder).mkdir(parents=True, exist_ok=True)
    expected = {int(step): state for step, state in json.loads((path / "expected.json").read_text()).items()}
    (path / "expected.json").unlink()
    reader = Reader(path)
    assert {codec for codec, _ in records(reader)} == EVERY_CODEC
    assert [snapshot["step"] for snapshot in reader.history("main")] == sorted(expected, reverse=True)
    for snapshot in reader.history("main"):
        state = expected[snapshot["step"]]
        assert state == {name: hashes(reader.tree(snapshot["components"][name])) for name in state}
    repo = ciuic.Repo.open(path)
    assert len(list(repo.log())) == len(expected)
    for snapshot in repo.log():
        model = repo.load(snapshot.id)["model"]
        tensors = {name: bytes(value[...].contiguous().view(torch.uint8).numpy()) for name, value in model.items()}
        assert {name: blake3(data).hexdigest() for name, data in tensors.items()} == expected[snapshot.step]["model"]
    assert repo.fsck().ok
