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
from ciuic.restore import holding
from ciuic.store import copies, open_packs
from ciuic.store.pack import Pack


@pytest.fixture
def reads(monkeypatch):
    """Ids of the objects read from packs, in order."""
    ids = []
    whole, payload = Pack.raw, Pack.read_payload

    def counting(self, offset, stored_length, id, *kind):
        ids.append(id)
        return whole(self, offset, stored_length, id, *kind)

    def counting_payloads(self, record, out):
        ids.append(record.header.id)
        return payload(self, record, out)

    monkeypatch.setattr(Pack, "raw", counting)
    monkeypatch.setattr(Pack, "read_payload", counting_payloads)
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
    monkeypatch.setattr(holding, "MOST_HELD_PACKS", 10 + len(holding._held_packs))
    monkeypatch.setattr(holding, "MOST_PACKS_A_BATCH", 5)
    monkeypatch.setattr(open_packs, "OPEN_PACKS", 10)
    monkeypatch.setattr(copies, "OPEN_PACKS", 10)
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


def test_a_slice_reads_only_the_chunks_that_it_touches(repo, reads):
    """Rows, columns, steps and single positions, at and across the borders of chunks, as torch would give them."""
    wide = torch.arange(40 * 700.0).view(40, 700)  # a chunk is 1024 elements
    cube = torch.arange(6 * 5 * 1100, dtype=torch.int16).view(6, 5, 1100)
    repo.commit({"w": wide, "c": cube, "s": torch.tensor(3.0), "e": torch.zeros(0, 4)}, rng=False)
    chunks = dict(repo.components("HEAD")["model"].items)["w"].source.chunks
    model = repo.load("HEAD")["model"]
    lazy = model.get_slice("w")
    assert lazy.shape == (40, 700) and lazy.dtype == torch.float32 and len(lazy) == 40
    reads.clear()
    assert repr(lazy) == "<stored tensor of torch.float32, [40, 700]>" and reads == []
    for index, touched in [
        (slice(0, 1), {0}),
        (1, {0, 1}),
        (slice(2, 3), {1, 2}),
        ((0, slice(100, 200)), {0}),
        (slice(5, 5), set()),
        (slice(-1, None), {26, 27}),
    ]:
        reads.clear()
        assert torch.equal(lazy[index], wide[index])
        assert set(reads) <= {chunks[number] for number in touched} and bool(reads) == bool(touched), index
    for index in [
        slice(None), slice(3, 30, 4), (slice(None), slice(10, 20)), (..., 5), (slice(1, 9, 3), slice(0, 700, 13)),
        -3, ...,
    ]:  # fmt: skip
        assert torch.equal(lazy[index], wide[index]), index
    stored = model.get_slice("c")
    for index in [(2, 3, 4), (slice(1, 4), 2), (..., slice(1090, None)), (slice(0, 6, 2), slice(1, 3), slice(0, 9, 2))]:
        assert torch.equal(stored[index], cube[index]), index
    assert model.get_slice("s")[...] == 3 and model.get_slice("e")[:, 1:].shape == (0, 3)


def test_slices_say_what_they_cannot_do(repo):
    """As Python and torch do."""
    repo.commit({"w": torch.zeros(3, 2)}, extra={"a": 1, "list": [torch.ones(2), 1]}, rng=False)
    state = repo.load("HEAD")
    lazy = state["model"].get_slice("w")
    for index, error in [
        (3, IndexError),
        ((0, 0, 0), IndexError),
        (slice(None, None, -1), ValueError),
        ("a", TypeError),
    ]:
        with pytest.raises(error):
            lazy[index]
    with pytest.raises(KeyError):
        state["model"].get_slice("nope")
    with pytest.raises(TypeError, match="no torch tensor"):
        state["extra"].get_slice("a")
    assert torch.equal(state["extra"]["list"].get_slice(0)[1:], torch.ones(1))


def test_load_goes_where_it_is_told(repo):
    """``map_location`` moves tensors and keeps their dtype; what is not torch's stays."""
    import numpy

    repo.commit({"w": torch.ones(3, dtype=torch.bfloat16)}, extra={"n": numpy.ones(2)}, rng=False)
    state = repo.load("HEAD", map_location=torch.device("cpu"))
    assert state["model"]["w"].dtype == torch.bfloat16 and state["model"]["w"].device.type == "cpu"
    assert isinstance(state["extra"]["n"], numpy.ndarray)
    with pytest.raises(RuntimeError):
        repo.load("HEAD", map_location="nowhere")
