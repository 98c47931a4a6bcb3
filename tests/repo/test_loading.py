"""``load``: a tensor is read when it is asked for, and stays readable."""

import os
import pickle
import resource
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import ciuic
from ciuic.restore import stored_state
from ciuic.store import store
from ciuic.store.pack import Pack


@pytest.fixture
def reads(monkeypatch):
    """Ids of the objects read from packs, in order."""
    ids = []
    original = Pack.raw

    def counting(self, offset, stored_length, id):
        ids.append(id)
        return original(self, offset, stored_length, id)

    monkeypatch.setattr(Pack, "raw", counting)
    return ids


def test_only_the_chunks_of_the_tensor_are_read(repo, reads):
    """Opening reads trees; a tensor its own chunks, once; a slice of a source only the chunks that it touches."""
    big, small = torch.arange(10_000.0), torch.arange(300.0)
    repo.commit({"a": big, "b": small, "c": big + 1}, rng=False)
    tree = dict(repo.components("HEAD")["model"].items)
    chunks = {name: set(node.source.chunks) for name, node in tree.items()}
    assert len(chunks["a"]) == 10 and len(chunks["b"]) == 1
    reads.clear()
    state = repo.load("HEAD")
    assert list(state) == ["model"] and list(state["model"]) == ["a", "b", "c"] and len(state["model"]) == 3
    assert not set(reads) & set.union(*chunks.values())
    reads.clear()
    assert "a" in state["model"] and reads == [], "asking for a name reads nothing"
    assert torch.equal(state["model"]["b"], small)
    assert set(reads) == chunks["b"]
    reads.clear()
    assert torch.equal(state["model"]["a"], big)
    assert set(reads) == chunks["a"] and len(reads) == 10
    reads.clear()
    piece = tree["c"].source.read(4096 + 40, 2 * 4096 + 80)
    assert bytes(piece) == (big + 1).numpy().tobytes()[4096 + 40 : 2 * 4096 + 80]
    assert reads == [tree["c"].source.chunks[1], tree["c"].source.chunks[2]]
    assert bytes(tree["c"].source.read(8, 8)) == b""


def test_a_loaded_state_outlives_gc(repo):
    """It holds its packs open, also after the snapshot is gone and swept."""
    tensor = torch.arange(10_000.0)
    repo.commit(extra={"keep": 1}, rng=False)
    repo.commit({"w": tensor}, extra={"note": "x" * 10_000}, rng=False)
    state = repo.load("HEAD")
    repo.reset("HEAD~1")
    repo.gc(expire=timedelta(0))
    with pytest.raises(ciuic.CiuicError):
        repo.resolve("HEAD@{1}")
    assert torch.equal(state["model"]["w"], tensor)
    assert state["extra"]["note"] == "x" * 10_000


def test_a_loaded_state_outlives_a_prune(repo):
    """What was opened before stays; what is opened after is pruned."""
    tensor = torch.arange(10_000.0)
    repo.commit({"w": tensor}, rng=False)
    state = repo.load("HEAD")
    repo.prune("HEAD")
    repo.gc()
    assert torch.equal(state["model"]["w"], tensor)


def test_the_mappings_behave(repo):
    """They are Mappings and Sequences with readable reprs; ``dict`` of a model is a state dict."""
    layer = torch.nn.Linear(3, 2)
    repo.commit(
        layer, extra={"list": [torch.ones(1), 2, [torch.zeros(2)]], 3: "three", "plain": {"a": (1,)}}, rng=False
    )
    state = repo.load("HEAD")
    assert len(state) == 2 and "model" in state and "optimizer" not in state and state.get("nope") is None
    assert repr(state) == "<state with model, extra>"
    assert repr(state["model"]) == "<2 entries: weight, bias>"
    torch.nn.Linear(3, 2).load_state_dict(dict(state["model"]))
    extra = state["extra"]
    assert extra[3] == "three" and extra["plain"] == {"a": (1,)}
    assert len(extra["list"]) == 3 and extra["list"][-1][0].shape == (2,)
    assert [type(item).__name__ for item in extra["list"][:2]] == ["Tensor", "int"]
    with pytest.raises(KeyError):
        extra["3"]
    with pytest.raises(IndexError):
        extra["list"][3]


def test_nothing_is_unpickled(repo, monkeypatch):
    """Not on the way in and not on the way out."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())

    def refuse(*_, **__):
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    repo.commit(model, optimizer, extra={"x": (1, {2: torch.ones(1)})})
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert repo.load("HEAD")["extra"]["x"][0] == 1


def test_a_second_commit_of_the_same_state_adds_next_to_nothing(repo):
    """Identical chunks and trees are stored once."""
    state = {"w": torch.rand(50_000)}
    first = repo.commit(state, rng=False)
    second = repo.commit(state, rng=False)
    state["w"][7] = 5
    third = repo.commit(state, rng=False)
    assert first.added_bytes > 150_000 and second.added_bytes == 0
    assert 0 < third.added_bytes < 4096 + 4096
    assert second.tree == first.tree and first.raw_bytes == {"model": 200_000}


def test_the_index_may_be_deleted_between_any_two_calls(repo):
    """It is rebuilt from the packs."""
    tensor = torch.arange(3000.0)
    repo.commit({"w": tensor}, step=1, rng=False)
    shutil.rmtree(Path(repo.path, "index"))
    assert ciuic.Repo(repo.path).resolve("HEAD").step == 1
    shutil.rmtree(Path(repo.path, "index"))
    assert torch.equal(repo.load("HEAD")["model"]["w"], tensor)
    shutil.rmtree(Path(repo.path, "index"))
    assert repo.commit({"w": tensor}, step=2, rng=False).added_bytes == 0


def test_a_state_spread_over_more_packs_than_there_are_descriptors(repo, monkeypatch):
    """A snapshot each step leaves each chunk of a slowly changing tensor in a pack of its own.

    Such a run could once neither be restored nor loaded: every pack was held open. Here with small numbers.
    """
    monkeypatch.setattr(stored_state, "MOST_HELD_PACKS", 10 + len(stored_state._held_packs))
    monkeypatch.setattr(store, "OPEN_PACKS", 10)
    tensor = torch.zeros(60 * 1024)
    for step in range(60):
        tensor[step * 1024] = step + 1
        repo.commit({"w": tensor}, step=step, rng=False)
    again = ciuic.Repo(repo.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40 + len(os.listdir("/proc/self/fd")), hard))
    try:
        states = [again.load("HEAD") for _ in range(3)]
        live = torch.zeros_like(tensor)
        again.restore("HEAD", model={"w": live}, rng=False)
        assert torch.equal(live, tensor)
        assert all(torch.equal(state["model"]["w"], tensor) for state in states)
        again.gc()
        assert torch.equal(again.load("HEAD")["model"]["w"], tensor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
